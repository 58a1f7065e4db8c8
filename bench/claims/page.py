"""The page of claims as Markdown, and the table of claims for a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from bench.claims import texts
from bench.claims.answers import Answer, Line
from bench.claims.verdict import RULES
from bench.records.identity import SEEDS_OF_A_RESULT
from bench.report.markdown import escape, table_text
from bench.report.tables import Column, Entry, TableText
from bench.report.tables import Line as TableLine
from bench.tables.text import DASH
from bench.visible import visible

TITLE = "# Claims of the literature, and what was measured here"
INTRODUCTION = """\
Each claim of the papers is compared with the records of this folder. This command makes the page:
`sddpm-bench claims results --out results/claims.md`. No figure of this project and no verdict on it
is typed: the figures come from the records, the verdicts from the rules below. The budgets are far
below the papers', so a verdict is about networks of this size after this training, and not about
the papers' networks."""
HOW = """\
*Images* says how many images the first network was trained on, repeats counted; a sum begins
with its parent's training. The effect is computed at each seed that both networks have, then
averaged. ± is the standard deviation over seeds (n - 1 in the denominator), and the *spread* of
the rules is that of the effect. One seed has no spread. In its place, in square brackets, stands
what two independent trainings would cause: each side is taken to vary as much as the median
network with three seeds on the same data. If there is none, the error that the metric states is
used, or 0.

At equal energy, a network that is better than dearer rivals is better than an equal one, and one
that is worse than cheaper rivals is worse. If all rivals are cheaper or dearer and it is not so,
nothing was seen."""
COMMON = ("Data", "Network", "Beside")


def to_page(answers: Sequence[Answer]) -> str:
    """The whole page in Markdown."""
    return visible("\n\n".join(_parts(answers)) + "\n", keep="\n")


def report_table(answers: Sequence[Answer]) -> TableText | None:
    """One line for each comparison, for a report; None where the records answer no claim."""
    lines = []
    for answer in answers:
        for line in answer.tested:
            words = [answer.claim.title, *_sides(line), texts.effect(line), _unit(line),
                     texts.claimed([line], answer.claim.expects), texts.verdict(line)]  # fmt: skip
            lines.append(TableLine([Entry(word, word) for word in words]))
    if not lines:
        return None
    rules = " ".join(f"{name}: {text}" for name, text in RULES.items() if name != "not tested here")
    headings = ["Claim", *COMMON, "Measured", "Unit", "Claimed", "Verdict"]
    return TableText(
        name="claims",
        caption="Claims of the literature that these records answer. Where one seed was run, the "
        "spread of typical networks stands in square brackets.",
        columns=[Column(text, figures=False) for text in headings],
        lines=lines,
        notes=[rules],
    )


def _parts(answers: Sequence[Answer]) -> Iterator[str]:
    yield TITLE
    yield INTRODUCTION
    yield "## How a verdict is found"
    yield "\n".join(f"- **{name}**: {text}" for name, text in RULES.items())
    yield f"Fewer than {SEEDS_OF_A_RESULT} seeds are marked as a lead: they are no result."
    yield HOW
    yield "## At a glance"
    yield table_text(_glance(answers))
    number = 0
    for group, members in groupby(answers, key=lambda answer: answer.claim.group):
        yield f"## {escape(group)}"
        for answer in members:
            number += 1
            yield f"### {number}. {escape(answer.claim.title)}"
            yield from _section(answer)
    yield "## Commands that made the records"
    yield from _commands(answers)


def _glance(answers: Sequence[Answer]) -> TableText:
    """One line for each claim: how many of its comparisons have which verdict."""
    lines = []
    for number, answer in enumerate(answers, start=1):
        tested = len(answer.tested)
        results = sum(line.lead is None for line in answer.tested)
        verdicts = [
            name if tested < 2 else f"{name} ({count} of {tested})"
            for name, count in answer.verdicts.items()
        ]
        of = f"{results} of {tested}" if tested else DASH
        claimed = texts.claimed(answer.tested, answer.claim.expects)
        words = [str(number), answer.claim.title, claimed, texts.span(answer.tested),
                 "; ".join(verdicts), of]  # fmt: skip
        lines.append(TableLine([Entry(word) for word in words]))
    headings = ["No.", "Claim", "Claimed", "Measured", "Verdict", f"{SEEDS_OF_A_RESULT} seeds"]
    return TableText("glance", "", [Column(text, figures=False) for text in headings], lines)


def _section(answer: Answer) -> Iterator[str]:
    claim = answer.claim
    yield f"{escape(claim.claim)} *Source: {escape(claim.source)}.*"
    if claim.untested:
        yield f"**not tested here**: {escape(claim.untested)}"
        return
    if claim.question:
        found = "\n".join(f"- {escape(texts.answer(line))}" for line in answer.lines)
        yield f"**{escape(claim.question)}**\n\n{found}"
    yield table_text(_table(answer))
    if claim.notes:
        yield "\n".join(f"- {escape(note)}" for note in claim.notes)


def _table(answer: Answer) -> TableText:
    """Every comparison of a claim."""
    lines = []
    for line in answer.lines:
        words = [*_sides(line), texts.effect(line), _unit(line),
                 texts.claimed([line], answer.claim.expects),
                 ", ".join(map(str, line.seeds)) or DASH,
                 " + ".join(f"{count:,}" for count in line.images) or DASH,
                 texts.verdict(line), texts.records(line)]  # fmt: skip
        lines.append(TableLine([Entry(word) for word in words]))
    headings = [*COMMON, "Measured", "Unit", "Claimed", "Seeds", "Images", "Verdict",
                "Records"]  # fmt: skip
    return TableText(answer.claim.id, "", [Column(text, figures=False) for text in headings], lines)


def _sides(line: Line) -> list[str]:
    return [texts.data(line), texts.own(line), texts.rival(line)]


def _unit(line: Line) -> str:
    if line.verdict == "not tested here":
        return DASH
    return f"{texts.measure(line)}, {texts.EFFECTS[line.comparison.compare]}"


def _commands(answers: Sequence[Answer]) -> Iterator[str]:
    """Every command that made a figure of the page, under the folder of its records, with the
    networks that it made."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for line in (line for answer in answers for line in answer.tested):
        table = line.comparison.table
        if table is not None:
            found.setdefault(table.file, {}).setdefault(table.command, {})[table.about] = None
        for folder, row in line.origins:
            for record in row.records:
                made = found.setdefault(folder, {}).setdefault(record.command, {})
                made[row.title] = None
    for folder, commands in sorted(found.items()):
        yield f"`{_code(folder)}`"
        yield "\n".join(
            f"- {escape(', '.join(made))}: `{_code(command)}`"
            for command, made in sorted(commands.items())
        )


def _code(text: str) -> str:
    """Text between backticks, in which only a backtick is markup."""
    return visible(" ".join(text.split())).replace("`", "'")
