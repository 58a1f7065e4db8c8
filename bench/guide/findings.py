"""The results of a search: what was tried, what is used, and the result in words."""

from __future__ import annotations

from dataclasses import dataclass

from bench.guide.match import GainChoice
from bench.guide.scores import ScoredSetting
from sddpm.guidance import Choice


@dataclass(frozen=True)
class Findings:
    """Results of a search."""

    rows: list[ScoredSetting]
    """Candidates of the choice; the setting as trained is first."""
    confirmations: list[ScoredSetting]
    """Finalists from other noise, the setting as trained first; empty where none were drawn."""
    choices: list[Choice | GainChoice]
    picked: ScoredSetting
    """Choice of the method."""
    judged: ScoredSetting
    """The row that decides whether the pick is better: its confirmation, if there is one."""
    keep: bool = False
    """Whether a pick is used although it is not distinguishable from the setting as trained."""

    @property
    def trained(self) -> ScoredSetting:
        """The setting as trained."""
        return self.rows[0]

    @property
    def moves_trained(self) -> bool:
        """Whether the pick is another setting than the trained one."""
        return self.picked.setting != self.trained.setting

    @property
    def undecided(self) -> bool:
        """Whether the pick differs from the trained setting and its result is not distinguishable
        from that one's."""
        return self.moves_trained and self.judged.verdict == "undecided"

    @property
    def chosen(self) -> ScoredSetting:
        """The setting for sampling: the pick if it is distinguishably better, or if it is undecided
        and is to be kept; else the trained one."""
        used = self.judged.verdict == "better" or (self.undecided and self.keep)
        return self.picked if used else self.trained

    def sentence(self, distance: str) -> str:
        """The result in words; ``distance`` names the Frechet distance."""
        if not self.moves_trained:
            return (
                f"No setting beats the trained {self.trained.setting.describe(self.gains_tried)} "
                f"({distance} {self.trained.distance:.2f}), which is kept."
            )
        row = self.judged
        span = "" if row.low is None else f", 95% interval {row.low:+.2f} to {row.high:+.2f}"
        drawn = "on images it was not picked with" if row.confirmation else "on the same noise"
        facts = f"{distance} {row.distance:.2f}, {row.difference:+.2f}{span}, {drawn}"
        text = row.setting.describe(row.gain != 1)
        name = f"{text[0].upper()}{text[1:]} ({row.method})"
        if row.verdict == "better":
            return f"{name} is better than the trained one: {facts}."
        if row.verdict == "worse":
            return f"{name} is worse than the trained one, which is kept: {facts}."
        null = (
            "and is used all the same, as --keep asks"
            if self.keep
            else "so the trained one is used (--keep uses this one)"
        )
        return (
            f"{name} cannot be told from the trained one: {facts}. "
            f"A null result, {null}; more samples may decide it."
        )

    @property
    def gains_tried(self) -> bool:
        """Whether a row has another gain than 1."""
        return any(row.gain != 1 for row in self.rows)

    @property
    def thresholds_tried(self) -> bool:
        """Whether a row has other thresholds than the trained ones."""
        return any(row.thresholds != self.trained.thresholds for row in self.rows)
