"""Guidance of a checkpoint: grids of thresholds and of gains, and the choices that cost less than
a grid, compared with them.

What wins among many was lucky too, so the winner is drawn again from other noise before it is
judged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from bench.data.pictures import Images
from bench.files import write_json
from bench.guide.findings import Findings
from bench.guide.match import MATCH_IMAGES, GainChoice, choose_by_match
from bench.guide.scores import Ledger, ScoredSetting, Scorer, Setting, best_of, trained_thresholds
from bench.machine import Machine
from sddpm.checkpoint import CONFIG, MODEL
from sddpm.guidance import (
    GUIDANCE,
    Choice,
    Guided,
    HeldOut,
    Thresholds,
    choose_by_gradient,
    choose_by_loss,
    mean_threshold,
    scale,
    simplify,
)
from sddpm.protocol import System, to_float

VALUES = (0.97, 0.98, 0.99, 0.995, 0.998, 1.002, 1.005, 1.01, 1.02, 1.03)
"""Default grid, as multiples of the trained threshold; the paper's is 0.997 to 1.003."""
STEPS = (-0.04, -0.02, -0.01, -0.005, 0.0, 0.005, 0.01, 0.02, 0.04)
"""Steps of the line search along the loss's gradient; negative ones check the direction."""

Method = Literal["grid", "loss", "gradient", "match", "best"]


def held_out(images: Images, system: Any, machine: Machine, count: int, seed: int) -> HeldOut:
    """``count`` images of a split that was not trained on, noised for the loss-based choices."""
    pictures = to_float(images.__getitems__(list(range(min(count, len(images))))))
    return HeldOut.draw(pictures.to(machine.device), system.diffusion, seed=seed)


def grid_values(system: System, given: Sequence[float] = ()) -> list[Thresholds]:
    """The thresholds of a grid without the trained ones, lowest first.

    Args:
        given: the thresholds to try; where the layers have thresholds of their own, multiples of
            each layer's. Without, the default multiples of what was trained.
    """
    trained = trained_thresholds(system)
    if trained is None:
        return []
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
    """Finds thresholds and a gain by a method, and scores them.

    A grid tries thresholds at the gain 1 and gains at the trained thresholds, then the best of
    both together: to first order the two act side by side, and a product of two grids would cost
    as many times more.

    Args:
        scorer: compares settings by their images.
        noised: held-out images for the choices that draw none.
        values: the grid of thresholds.
        gains: the grid of gains.
        ratios: gain -> ratios of pixels of a few samples, for the choice of a gain without scores.
        confirm: draw finalists that were picked by their own images again.
        keep: use a pick that cannot be told from the trained setting.
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
        gains: Sequence[float] = (),
        ratios: Callable[[float], dict[str, float]] | None = None,
        confirm: bool = True,
        keep: bool = False,
        ledger: Ledger | None = None,
        made_from: Mapping[str, Any] | None = None,
        on_candidate: Callable[[], None] = lambda: None,
    ) -> None:
        self.scorer, self.noised, self.values, self.method = scorer, noised, list(values), method
        self.gains = sorted({gain for gain in gains if gain != 1})
        self.ratios = ratios
        self.picks_by_images = method in ("grid", "best")
        self.confirm, self.keep = confirm and self.picks_by_images, keep
        self.ledger, self.made_from = ledger or Ledger(None), dict(made_from or {})
        self.on_candidate = on_candidate
        self.net = scorer.system.generator.eval()
        self.trained = trained_thresholds(scorer.system)

    @property
    def candidates(self) -> list[Thresholds]:
        """Thresholds whose held-out loss is measured: the grid and the trained ones."""
        trained = [] if self.trained is None else [self.trained]
        return _ordered([*self.values, *trained])

    @property
    def kinds(self) -> list[Literal["loss", "gradient", "match"]]:
        """Choices that are made without scores."""
        if self.method == "grid":
            return []
        if self.method != "best":
            return [self.method]
        return [
            *(("loss", "gradient") if self.values else ()),
            *(("match",) if self.gains and self.ratios else ()),
        ]

    @property
    def settings(self) -> int:
        """Most settings that are drawn and scored."""
        both = bool(self.values and self.gains and self.picks_by_images)
        grid = len(self.values) + len(self.gains) + both if self.picks_by_images else 0
        found = len(self.kinds)
        finalists = 2 + found + both if self.confirm else 0
        return 1 + grid + found + finalists

    def run(self) -> Findings:
        """Score the settings that the method finds, and judge its pick."""
        images = self.scorer.samples * self.scorer.steps
        # A grid of thresholds shows its losses beside the distances.
        compared = self.values and self.method != "gradient"
        losses = self._by_loss() if compared or self.method == "loss" else None
        measured = zip(self.candidates, losses.curve, strict=True) if losses else ()
        curve = {json.dumps(setting): row for setting, row in measured}
        unmoved = {"difference": 0.0, "standard_error": 0.0}
        row = self.scorer.row
        rows = [row("trained", None, images, loss=unmoved if losses else None)]
        if self.picks_by_images:
            rows += [
                row("grid", value, images, loss=curve.get(json.dumps(value)))
                for value in self.values
            ]
            rows += [row("grid", None, images, gain=gain) for gain in self.gains]
        drawn = list(rows)
        choices: list[Choice | GainChoice] = []
        chosen = []
        for kind in self.kinds:
            if kind == "match":
                match = self._by_match()
                choices.append(match)
                cost = match.network_evaluations
                chosen.append(row("match", None, cost, gain=match.gain))
                continue
            choice = losses if kind == "loss" and losses else self._by_gradient()
            choices.append(choice)
            least = min(choice.curve, key=lambda found: found["loss"])
            cost = choice.network_evaluations
            chosen.append(row(kind, choice.thresholds, cost, loss=least))
        together = self._together(drawn, images)
        rows += [*chosen, *together]
        picked = best_of(rows) if self.picks_by_images else chosen[0]
        finalists = [best_of(drawn), *chosen, *together] if self.confirm else []
        confirmations = self._confirm(finalists)
        judged = next((r for r in confirmations if r.setting == picked.setting), picked)
        return Findings(rows, confirmations, choices, picked, judged, self.keep)

    def _together(self, drawn: Sequence[ScoredSetting], images: int) -> list[ScoredSetting]:
        """The best threshold of the grid with the best gain of the grid, if both are better than
        as trained."""
        trained = drawn[0].setting
        threshold = best_of([one for one in drawn if one.gain == trained.gain])
        gain = best_of([one for one in drawn if one.thresholds == trained.thresholds])
        if trained in (threshold.setting, gain.setting):
            return []
        cost = images * len(drawn)
        return [self.scorer.row("both", threshold.thresholds, cost, gain=gain.gain)]

    def _confirm(self, finalists: Sequence[ScoredSetting]) -> list[ScoredSetting]:
        """The finalists that are not the trained setting, from other noise."""
        rivals = {one.setting.key: one for one in reversed(finalists)}
        rivals.pop(Setting(self.trained).key, None)
        if not rivals:
            return []
        row = self.scorer.row
        return [
            row("trained", None, 0, confirmation=True),
            *(
                row(one.method, one.thresholds, one.evaluations, gain=one.gain, confirmation=True)
                for one in reversed(rivals.values())
            ),
        ]

    def _by_loss(self) -> Choice:
        def choose() -> Choice:
            return choose_by_loss(self.net, self.noised, self.candidates, self.on_candidate)

        return self._by_held_out("loss", self.candidates, choose)

    def _by_gradient(self) -> Choice:
        def choose() -> Choice:
            return choose_by_gradient(self.net, self.noised, STEPS, self.on_candidate)

        return self._by_held_out("gradient", list(STEPS), choose)

    def _by_held_out(
        self, kind: str, candidates: list[Any], choose: Callable[[], Choice]
    ) -> Choice:
        made_from = {**self.made_from, "choice": kind, "candidates": candidates}
        found = self.ledger.recall(made_from, lambda: asdict(choose()))
        return Choice(**{**found, "thresholds": simplify(found["thresholds"])})

    def _by_match(self) -> GainChoice:
        assert self.ratios is not None
        ratios, gains = self.ratios, [1.0, *self.gains]
        # Beside the weights, a score's settings decide it: the solver, the seed, the references.
        made_from = {
            **self.made_from, **self.scorer.made_from,
            "choice": "match", "candidates": sorted(gains), "images": MATCH_IMAGES,
        }  # fmt: skip
        cost = MATCH_IMAGES * self.scorer.steps
        found = self.ledger.recall(made_from, lambda: asdict(choose_by_match(ratios, gains, cost)))
        return GainChoice(**found)


def weights_hash(checkpoint: Path) -> str:
    """16 hex digits of a checkpoint's weights and configuration."""
    digest = hashlib.sha256()
    for name in (MODEL, CONFIG):
        digest.update((checkpoint / name).read_bytes())
    return digest.hexdigest()[:16]


def write_guidance(
    folder: Path, findings: Findings, facts: Mapping[str, Any], time_steps: int | None
) -> Path:
    """Write the chosen thresholds and gain to ``folder``, where sampling finds them, with how they
    were found and the spiking time steps they were chosen at."""
    chosen, kept = findings.chosen, findings.chosen.setting == findings.trained.setting
    content = {
        **Guided(chosen.thresholds, chosen.gain).stored(),
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
