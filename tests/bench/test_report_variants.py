"""A suite's variants in figures: one look for a system, and a name at each mark."""

from __future__ import annotations

from bench.records.record import Record
from bench.report.figures import plot_energy, plot_time_steps
from bench.report.sorting import make_report
from bench.report.sources import Sources
from bench.report.style import Drawing, looks
from tests.support.records import cell


def rows() -> list[Record]:
    """A system at two T, and a variant of it; the twin, and a narrower one at a fifth of the
    energy."""
    own = [cell(n, fd=fd, time_steps=t) for n, (t, fd) in enumerate([(2, 12.0), (4, 9.0)])]
    narrow = {"title": "SDDPM (8 channels)", "variant": "8 channels"}
    small = [
        cell(n, fd=fd, time_steps=t, config={"channels": 8}, **narrow)
        for n, (t, fd) in enumerate([(2, 30.0), (4, 20.0)], start=2)
    ]
    twin = cell(4, "ann_twin", 5.0, title="Twin")
    thrifty = {
        name: energy.model_copy(update={"per_image_mj": energy.per_image_mj / 5})
        for name, energy in twin.energies.items()
    }
    thin = cell(
        5, "ann_twin", 40.0, title="Twin (4 channels)", variant="4 channels",
        config={"channels": 4}, energies=thrifty,
    )  # fmt: skip
    return [*own, *small, twin, thin]


def test_the_legend_names_systems_and_the_marks_their_variants() -> None:
    report = make_report(Sources(records=rows()), [])
    drawing = plot_energy(report.boards[0], looks(report))
    assert isinstance(drawing, Drawing)
    (legend,) = drawing.figure.legends
    assert sorted(text.get_text() for text in legend.get_texts()) == ["SDDPM", "Twin"]
    labels = {text.get_text() for ax in drawing.figure.axes for text in ax.texts}
    assert "4 channels" in labels
    assert report.systems == {"sddpm": "SDDPM", "ann_twin": "Twin"}


def test_a_variant_has_a_line_of_its_own_over_time_steps() -> None:
    report = make_report(Sources(records=rows()), [])
    drawing = plot_time_steps(report.boards[0], looks(report))
    assert isinstance(drawing, Drawing)
    (ax,) = drawing.figure.axes
    lines = [list(line.get_ydata()) for line in ax.lines if line.get_marker() not in ("None", "")]
    assert [12.0, 9.0] in lines
    assert [30.0, 20.0] in lines
    # Of systems without T, their own row alone is a level to compare with.
    assert "Twin, which have no T" in drawing.caption
    assert "4 channels" not in drawing.caption
