"""The one progress bar: what it shows, and for whom."""

from __future__ import annotations

import pytest

from sddpm.progress import progress_bar


def test_a_bar_shows_task_count_unit_and_note(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("sample", 8, "images", done=2) as bar:
        bar.advance(3)
        bar.update(note="[half] done")
    out, err = capsys.readouterr()
    assert out == ""
    assert all(word in err for word in ("sample", "5/8", "images", "[half] done"))


def test_an_upper_limit_ends_as_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("losses", 9) as bar:
        bar.advance(4)
        bar.finish()
    assert "4/4" in capsys.readouterr().err


@pytest.mark.parametrize("how", [{"shown": False}, {"passing": True}])
def test_a_bar_for_nobody_is_silent(
    how: dict[str, bool], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("features", 3, **how) as bar:  # type: ignore[arg-type]
        bar.advance(3)
    assert capsys.readouterr().err.strip() == ""
