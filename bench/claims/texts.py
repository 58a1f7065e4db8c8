"""Texts of one line: networks, figures, effect and verdict."""

from __future__ import annotations

from collections.abc import Sequence

from bench.claims.answers import Line
from bench.claims.effects import LARGER_IS_BETTER, NOTHING, Compare
from bench.claims.evidence import BIT, QUALITY
from bench.claims.verdict import Bound, Expects, Verdict
from bench.energy.accountings import ACCOUNTINGS
from bench.quality.metrics import heading
from bench.registry import SYSTEMS
from bench.report.boards import Row, Stat
from bench.report.tables import metric_text, significant
from bench.tables.rows import size_text
from bench.tables.text import DASH

EFFECTS: dict[Compare, str] = {
    "ratio": "ratio", "share": "%", "times": "times better", "less": "% less",
    "difference": "difference", "value": "value",
}  # fmt: skip
"""Units of effects."""
ANSWERS: dict[Verdict, str] = {
    "holds": "yes", "holds in direction": "yes, by less", "not seen": "not decided",
    "contradicted": "no", "not tested here": "not tested",
}  # fmt: skip
"""Verdicts as answers to a question."""
_BOUNDS: dict[Bound, str] = {
    "cheaper": "every rival is cheaper, so beside the dearest",
    "dearer": "every rival is dearer, so beside the cheapest",
}


def data(line: Line) -> str:
    """Data set, size and sampler."""
    if line.comparison.table is not None:
        return line.comparison.table.about
    if line.of is None:
        cell = line.comparison.of
        return DASH if cell is None else cell.dataset or cell.folder
    first = line.of.records[0]
    parts = [first.dataset]
    parts += [] if first.manifold else [size_text(first.image_size, None)]
    parts += [line.of.solver] if line.of.solver and _one_solver(line) else []
    return ", ".join(parts)


def own(line: Line) -> str:
    """The network that the claim is about, with its figure."""
    table, cell = line.comparison.table, line.comparison.of
    if table is not None:
        return f"{next(iter(table.of.values()))}: {_figure(line, line.own)}"
    if line.of is None:
        return DASH if cell is None else _system(cell.system, cell.time_steps)
    at = "" if line.energy is None else f" at {significant(line.energy)} mJ"
    return f"{_name(line, line.of)}: {_figure(line, line.own)}{at}"


def rival(line: Line) -> str:
    """The network beside it, with its figure."""
    table, cell = line.comparison.table, line.comparison.against
    if table is not None:
        return f"{next(iter(table.against.values()))}: {_figure(line, line.rival)}"
    if line.of is None:
        return DASH if cell is None else _system(cell.system, cell.time_steps)
    if not line.rivals:
        return DASH
    if line.energy is None:
        return f"{_name(line, line.rivals[0])}: {_figure(line, line.rival)}"
    span = f"{significant(line.costs[0])} to {significant(line.costs[-1])} mJ"
    bound = f" ({_BOUNDS[line.bound]})" if line.bound else ""
    return f"{_rivals(line)}, {span}: {_figure(line, line.rival)}{bound}"


def measure(line: Line) -> str:
    """Name of what is compared."""
    if line.measure == QUALITY:
        return heading(line.column)[:-2] if line.column else "FD"
    if line.measure.endswith(BIT):
        return f"{line.measure} mJ/image"
    return f"{ACCOUNTINGS[line.measure].title} mJ/image"


def effect(line: Line) -> str:
    """The effect with its spread; a spread that is not the line's own in square brackets."""
    if line.effect is None:
        return DASH
    compare, mean = line.comparison.compare, line.effect.mean
    spread = f"[± {_rounded(compare, line.spread)}]" if line.borrowed else ""
    spread = spread or f"± {_rounded(compare, line.spread)}"
    return f"{_rounded(compare, mean)} {spread}"


def claimed(lines: Sequence[Line], expects: Expects) -> str:
    """The claimed effect of one line, or the least and the greatest of several, in the unit of
    what was measured."""
    found: dict[Compare, list[float]] = {}
    for line in lines:
        compare = line.comparison.compare
        value = NOTHING[compare] if line.claimed is None else line.claimed
        if value is not None and not (line.claimed is None and expects == "better"):
            found.setdefault(compare, []).append(value)
    words = []
    for compare, values in found.items():
        bound = "at least" if compare in LARGER_IS_BETTER else "at most"
        ends = (_rounded(compare, end, claimed=True) for end in (min(values), max(values)))
        words.append(f"{bound} {' to '.join(dict.fromkeys(ends))}")
    return "; ".join(words) or ("better" if lines else DASH)


def span(lines: Sequence[Line]) -> str:
    """Least and greatest effect of these lines, for each kind of comparison."""
    found: dict[Compare, list[float]] = {}
    for line in lines:
        if line.effect is not None:
            found.setdefault(line.comparison.compare, []).append(line.effect.mean)
    words = []
    for compare, values in found.items():
        ends = dict.fromkeys(_rounded(compare, value) for value in (min(values), max(values)))
        words.append(f"{' to '.join(ends)} ({EFFECTS[compare]})")
    return "; ".join(words) or DASH


def records(line: Line) -> str:
    """Folders of the records, or the file."""
    if line.comparison.table is not None:
        return line.comparison.table.file
    return ", ".join(dict.fromkeys(folder for folder, _ in line.origins)) or DASH


def verdict(line: Line) -> str:
    """The verdict, the mark of a lead, and the reason for none."""
    return "; ".join(part for part in (line.verdict, line.lead, line.reason) if part)


def answer(line: Line) -> str:
    """The line as the answer to a question."""
    about = data(line)
    if line.comparison.table is None:
        of = line.comparison.of
        name = _system(of.system, of.time_steps) if of else DASH
        about = f"{_name(line, line.of) if line.of else name} on {about}"
    beside = f", beside {_rivals(line)}" if line.comparison.curve and line.rivals else ""
    word = ANSWERS[line.verdict]
    if line.verdict == "holds" and line.effect is not None and line.claimed is not None:
        sign = 1 if line.comparison.compare in LARGER_IS_BETTER else -1
        word += ", within the spread" if sign * (line.effect.mean - line.claimed) < 0 else ""
    mark = f" ({line.lead})" if line.lead else ""
    return f"{about}{beside}: {word}{mark}"


def _name(line: Line, row: Row) -> str:
    """Title and T; the sampler, or the folder, where the two sides differ in it alone."""
    name = row.title + (f", T = {row.time_steps}" if row.time_steps else "")
    name += "" if _one_solver(line) or not row.solver else f", {row.solver}"
    alike = {(r.title, r.time_steps, r.solver) for _, r in line.origins}
    if len(line.origins) == 2 and len(alike) == 1:
        name += f" ({next(folder for folder, r in line.origins if r is row)})"
    return name


def _rivals(line: Line) -> str:
    """Title of the rivals of a curve; their folder where it is another one and theirs alone."""
    own, *others = dict.fromkeys(folder for folder, _ in line.origins)
    title = line.rivals[0].system_title
    away = len(others) == 1 and all(row is line.of or f != own for f, row in line.origins)
    return f"{title} ({others[0]})" if away else title


def _system(system: str, time_steps: int | None) -> str:
    title = SYSTEMS[system].title if system in SYSTEMS else system
    return title + (f", T = {time_steps}" if time_steps else "")


def _one_solver(line: Line) -> bool:
    """Whether both sides sampled alike, or one of them has no sampler."""
    rows = [*([line.of] if line.of else []), *line.rivals]
    return len({row.solver for row in rows} - {None}) < 2


def _figure(line: Line, stat: Stat | None) -> str:
    if stat is None:
        return DASH
    if line.measure == QUALITY:
        return metric_text(line.column, stat) if line.column else f"{stat.mean:.2f}"
    spread = f" ± {significant(stat.spread, like=stat.mean)}" if stat.spread else ""
    return f"{significant(stat.mean)}{spread} mJ"


def _rounded(compare: Compare, value: float, claimed: bool = False) -> str:
    """Percentages have one decimal, and two where a paper prints them."""
    coarse = compare == "share" or (compare == "less" and not claimed)
    return f"{value:.{1 if coarse else 2}f}"
