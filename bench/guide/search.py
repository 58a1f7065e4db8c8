"""Threshold guidance of a checkpoint: a grid of thresholds, and the choices that cost less than
a grid, compared with it.

What wins among many was lucky too, so the winner is drawn again from other noise before it is
judged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bench.data.pictures import Images
from bench.files import write_json
from bench.guide.scores import Ledger, ScoredThresholds, Scorer
from bench.machine import Machine
from bench.run.settled import describe_thresholds
from sddpm.checkpoint import CONFIG, MODEL
from sddpm.guidance import (
    GUIDANCE,
    Choice,
    HeldOut,
    Thresholds,
    choose_by_gradient,
    choose_by_loss,
    mean_threshold,
    read_thresholds,
    scale,
    simplify,
)
from sddpm.protocol import System, to_float

VALUES = (0.97, 0.98, 0.99, 0.995, 0.998, 1.002, 1.005, 1.01, 1.02, 1.03)
"""Default grid, as multiples of the trained threshold; the paper's is 0.997 to 1.003."""
STEPS = (-0.04, -0.02, -0.01, -0.005, 0.0, 0.005, 0.01, 0.02, 0.04)
"""Steps of the line search along the loss's gradient; negative ones check the direction."""

Method = Literal["grid", "loss", "gradient", "best"]


@dataclass(frozen=True)
class Findings:
    """Results of a search."""

    trained: Thresholds
    rows: list[ScoredThresholds]
    """Candidates of the choice; the trained thresholds are first."""
    confirmations: list[ScoredThresholds]
    """Finalists from other noise, the trained thresholds first; empty where none were drawn."""
    choices: list[Choice]
    picked: ScoredThresholds
    """Choice of the method."""
    judged: ScoredThresholds
    """The row that decides whether the pick is better: its confirmation, if there is one."""
    keep: bool = False
    """Whether a pick is used although it is not distinguishable from the trained thresholds."""

    @property
    def undecided(self) -> bool:
        """Whether the pick differs from the trained thresholds and its result is not
        distinguishable from theirs."""
        return self.picked.thresholds != self.trained and self.judged.verdict == "undecided"

    @property
    def chosen(self) -> Thresholds:
        """Thresholds for sampling: the pick if it is distinguishably better, or if it is undecided
        and is to be kept; else the trained thresholds."""
        used = self.judged.verdict == "better" or (self.undecided and self.keep)
        return self.picked.thresholds if used else self.trained

    def sentence(self, distance: str) -> str:
        """The result in words; ``distance`` names the Frechet distance."""
        trained = self.rows[0]
        if self.picked.thresholds == self.trained:
            return (
                f"No setting beats the trained threshold {describe_thresholds(self.trained)} "
                f"({distance} {trained.distance:.2f}), which is kept."
            )
        row = self.judged
        span = "" if row.low is None else f", 95% interval {row.low:+.2f} to {row.high:+.2f}"
        drawn = "on images it was not picked with" if row.confirmation else "on the same noise"
        facts = f"{distance} {row.distance:.2f}, {row.difference:+.2f}{span}, {drawn}"
        name = f"Threshold {describe_thresholds(row.thresholds)} ({row.method})"
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


def held_out(images: Images, system: Any, machine: Machine, count: int, seed: int) -> HeldOut:
    """``count`` images of a split that was not trained on, noised for the loss-based choices."""
    pictures = to_float(images.__getitems__(list(range(min(count, len(images))))))
    return HeldOut.draw(pictures.to(machine.device), system.diffusion, seed=seed)


def grid_values(system: System, given: Sequence[float] = ()) -> list[Thresholds]:
    """The settings of a grid without the trained one, lowest first.

    Args:
        given: the thresholds to try; where the layers have thresholds of their own, multiples of
            each layer's. Without, the default multiples of what was trained.
    """
    trained = simplify(read_thresholds(system.generator))
    if given and not isinstance(trained, Mapping):
        settings: list[Thresholds] = [simplify(value) for value in given]
    else:
        settings = [simplify(scale(trained, factor)) for factor in given or VALUES]
    return _ordered(setting for setting in settings if setting != trained)


def _ordered(settings: Iterable[Thresholds]) -> list[Thresholds]:
    """Each setting once, lowest first."""
    different = {json.dumps(setting): setting for setting in settings}
    return sorted(different.values(), key=mean_threshold)


class Search:
    """Finds thresholds by a method, and scores them.

    Args:
        scorer: compares settings by their images.
        noised: held-out images for the choices that draw none.
        values: the grid.
        confirm: draw finalists that were picked by their own images again.
        keep: use a pick that cannot be told from the trained thresholds.
        made_from: hash of the weights and the held-out images, for the ledger.
        on_candidate: called after each threshold whose held-out loss was measured.
    """

    def __init__(
        self,
        scorer: Scorer,
        noised: HeldOut,
        values: Sequence[Thresholds],
        method: Method,
        *,
        confirm: bool = True,
        keep: bool = False,
        ledger: Ledger | None = None,
        made_from: Mapping[str, Any] | None = None,
        on_candidate: Callable[[], None] = lambda: None,
    ) -> None:
        self.scorer, self.noised, self.values, self.method = scorer, noised, list(values), method
        self.picks_by_images = method in ("grid", "best")
        self.confirm, self.keep = confirm and self.picks_by_images, keep
        self.ledger, self.made_from = ledger or Ledger(None), dict(made_from or {})
        self.on_candidate = on_candidate
        self.net = scorer.system.generator.eval()
        self.trained = simplify(read_thresholds(self.net))

    @property
    def candidates(self) -> list[Thresholds]:
        """Settings whose held-out loss is measured: the grid and the trained thresholds."""
        return _ordered([*self.values, self.trained])

    @property
    def settings(self) -> int:
        """Most settings that are drawn and scored."""
        grid = len(self.values) if self.picks_by_images else 0
        choices = {"grid": 0, "best": 2}.get(self.method, 1)
        finalists = (2 + choices) if self.confirm else 0
        return 1 + grid + choices + finalists

    def run(self) -> Findings:
        """Score the thresholds that the method finds, and judge its pick."""
        images = self.scorer.samples * self.scorer.steps
        losses = self._choice("loss") if self.method != "gradient" else None
        measured = zip(self.candidates, losses.curve, strict=True) if losses else ()
        curve = {json.dumps(setting): row for setting, row in measured}
        trained = {"difference": 0.0, "standard_error": 0.0}
        rows = [self.scorer.row("trained", None, images, loss=trained)]
        if self.picks_by_images:
            for value in self.values:
                rows.append(
                    self.scorer.row("grid", value, images, loss=curve.get(json.dumps(value)))
                )
        choices: list[Choice] = []
        if losses and self.method in ("loss", "best"):
            choices.append(losses)
        if self.method in ("gradient", "best"):
            choices.append(self._choice("gradient"))
        chosen = []
        for choice in choices:
            least = min(choice.curve, key=lambda row: row["loss"])
            cost = choice.network_evaluations
            chosen.append(self.scorer.row(choice.method, choice.thresholds, cost, loss=least))
        rows += chosen
        picked = min(rows, key=lambda row: row.distance) if self.picks_by_images else chosen[0]
        best_of_grid = min(rows[: len(rows) - len(chosen)], key=lambda row: row.distance)
        finalists = [best_of_grid, *chosen] if self.confirm else []
        confirmations = self._confirm(finalists)
        judged = next((r for r in confirmations if r.thresholds == picked.thresholds), picked)
        return Findings(self.trained, rows, confirmations, choices, picked, judged, self.keep)

    def _confirm(self, finalists: Sequence[ScoredThresholds]) -> list[ScoredThresholds]:
        """The finalists that are not the trained thresholds, from other noise."""
        rivals = {json.dumps(row.thresholds): row for row in reversed(finalists)}
        rivals.pop(json.dumps(self.trained), None)
        if not rivals:
            return []
        drawn = [self.scorer.row("trained", None, 0, confirmation=True)]
        for row in reversed(rivals.values()):
            drawn.append(
                self.scorer.row(row.method, row.thresholds, row.evaluations, confirmation=True)
            )
        return drawn

    def _choice(self, kind: Literal["loss", "gradient"]) -> Choice:
        candidates = self.candidates if kind == "loss" else list(STEPS)
        made_from = {**self.made_from, "choice": kind, "candidates": candidates}

        def choose() -> Choice:
            if kind == "loss":
                return choose_by_loss(self.net, self.noised, self.candidates, self.on_candidate)
            return choose_by_gradient(self.net, self.noised, STEPS, self.on_candidate)

        found = self.ledger.recall(made_from, lambda: asdict(choose()))
        return Choice(**{**found, "thresholds": simplify(found["thresholds"])})


def weights_hash(checkpoint: Path) -> str:
    """16 hex digits of a checkpoint's weights and configuration."""
    digest = hashlib.sha256()
    for name in (MODEL, CONFIG):
        digest.update((checkpoint / name).read_bytes())
    return digest.hexdigest()[:16]


def write_guidance(
    folder: Path, findings: Findings, facts: Mapping[str, Any], time_steps: int | None
) -> Path:
    """Write the chosen thresholds to ``folder``, where sampling finds them, with how they were
    found and the spiking time steps they were chosen at."""
    kept = findings.chosen == findings.trained
    content = {
        "thresholds": findings.chosen,
        "time_steps": time_steps,
        "method": "trained" if kept else findings.picked.method,
        "verdict": "kept as trained" if kept else findings.judged.verdict,
        **facts,
        "rows": [asdict(row) for row in findings.rows],
        "confirmations": [asdict(row) for row in findings.confirmations],
        "curves": {choice.method: choice.curve for choice in findings.choices},
    }
    path = folder / GUIDANCE
    write_json(path, content)
    return path
