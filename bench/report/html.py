"""A report as one HTML page that loads nothing: style, script, pictures and figures are in it.

The page forbids every request by its content security policy, and every script but its own, so
that a hostile name in a record does no harm even if it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from bench.report.agreement import agreement_tables
from bench.report.boards import Report
from bench.report.densities import Density
from bench.report.glance import glance
from bench.report.pivots import conversion_pivots, pivots
from bench.report.provenance import provenance
from bench.report.samples import Samples
from bench.report.style import FAINT, INK, PAPER, Drawing, looks
from bench.report.tables import conversion_table, energies, literature, ranking
from bench.visible import visible
from sddpm.version import __version__

TITLE = "Spiking generative models, measured"
PICTURE_BYTES = 1_500_000
"""Size of all the page's pictures above which each shows a share of itself. The whole pictures are
in the folders of the runs."""
_VERBATIM = {"Command", "Configuration", "Cell's hash", "Training's hash", "Firing thresholds"}
_RESTYLED = {INK: "currentColor", FAINT: "var(--grid)", PAPER: "var(--paper)"}


def to_html(
    report: Report,
    drawings: Mapping[str, Sequence[Drawing]],
    reasons: Mapping[str, Sequence[str]],
    samples: Mapping[str, Sequence[Samples | Density]],
    sample_drawings: Mapping[str, Drawing],
    svg: Mapping[str, str],
) -> Iterator[bytes]:
    """The whole page, piece by piece, in UTF-8: in one text, ten thousand rows would take more
    than a hundred megabytes.

    Args:
        drawings: by board name or data set.
        reasons: why a figure is missing, by board name.
        samples: by board name; with ``sample_drawings``, the figure made of them.
        svg: a drawing's name -> its SVG file.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_finalize, trim_blocks=True,
        loader=FunctionLoader(_template), keep_trailing_newline=True,
    )  # fmt: skip
    script = _template("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    alt = {d.name: d.alt for group in drawings.values() for d in group}
    boards = [board.name for board in report.boards]
    share = _share([s for entries in samples.values() for s in entries])
    pieces = environment.get_template("report.html.j2").generate(
        title=TITLE,
        report=report,
        version=__version__,
        style=Markup(_template("report.css")),
        script=Markup(script),
        script_hash=Markup(f"sha256-{digest}"),
        colours={system: look.colour for system, look in looks(report).items()},
        glance=glance(report),
        rankings={board.name: ranking(board) for board in report.boards},
        pivots={board.name: pivots(board) for board in report.boards},
        energies={board.name: energies(board) for board in report.boards if board.done},
        agreements={s.dataset: agreement_tables(s) for s in report.sections},
        literature={s.dataset: literature(s) for s in report.sections},
        conversion_pivots={s.dataset: conversion_pivots(s) for s in report.sections},
        conversions={s.dataset: conversion_table(s) for s in report.sections if s.conversions},
        drawings={name: drawings.get(name, []) for name in [*boards, *drawings]},
        reasons={name: reasons.get(name, []) for name in boards},
        samples={name: [_shown(s, share) for s in samples.get(name, [])] for name in boards},
        shortened=share < 1,
        sample_drawings=sample_drawings,
        svg={name: inline_svg(svg[name], name, alt[name]) for name in alt},
        provenance=provenance,
        verbatim=_VERBATIM,
    )
    for piece in pieces:
        yield piece.encode()


def inline_svg(text: str, name: str, alt: str) -> Markup:
    """An SVG file of matplotlib as an element of the page, in the page's colours and font.

    Its ids are prefixed by ``name``, since all figures share the page's.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, restyled in _RESTYLED.items():
        text = text.replace(colour, restyled)
    text = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 var(--figure-font)", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    start, end = text.split(">", 1)
    start = re.sub(r'\s(width|height)="[^"]*"', "", start)
    return Markup(f'{start} role="img" aria-label="{html.escape(visible(alt))}">{end}')


def _finalize(value: Any) -> Any:
    """Text that an expression of the template writes; only our own markup is no plain text."""
    return visible(value, keep="\n") if type(value) is str else value


def _share(pictures: Sequence[Samples | Density]) -> float:
    """Share of every picture that the page has room for."""
    return min(1.0, PICTURE_BYTES / max(1, sum(len(picture.png()) for picture in pictures)))


def _shown(samples: Samples | Density, share: float) -> dict[str, Any]:
    """A row's pictures for the page; a strip shows ``height`` pixels: the first line of a grid, or
    the whole density of points."""
    encoded = base64.b64encode(samples.png(share)).decode()
    return {
        "row": samples.row,
        "uri": f"data:image/png;base64,{encoded}",
        "width": samples.width,
        "height": samples.height,
    }


def _template(name: str) -> str:
    return (resources.files("bench.report") / "templates" / name).read_text(encoding="utf-8")
