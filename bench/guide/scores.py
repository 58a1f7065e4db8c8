"""Compares thresholds and gains of one checkpoint with common random numbers, and keeps what is
scored.

Every setting draws the same images' noise and is scored on the same resampled images, so
the confidence interval of a difference is far narrower than that of either distance.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from bench.files import write_text
from bench.quality.metrics import is_off
from bench.run.settled import describe_thresholds
from sddpm.guidance import Thresholds, read_thresholds, simplify
from sddpm.protocol import System

NORMAL_95 = 1.959964
"""Half of a 95 % interval, in standard errors."""
PIXELS = ("contrast", "saturation", "noise")
"""Metrics of pixels that a row shows."""
BOUNDS = ("contrast", "saturation")
"""Those that bound what the distance may choose."""
RESULTS_VERSION = 2
"""Part of a kept result's key: raise it when the same inputs would give another result. 2: with the
ratios of pixels."""


@dataclass(frozen=True)
class Setting:
    """The settings that guidance may change while a network samples."""

    thresholds: Thresholds | None
    """None: the network has none."""
    gain: float = 1.0

    @property
    def key(self) -> str:
        """The same, to compare by and to look up."""
        return json.dumps([self.thresholds, self.gain])

    def describe(self, with_gain: bool) -> str:
        """The setting for people, with its gain or without."""
        if self.thresholds is None:
            return f"gain {self.gain:g}"
        text = f"threshold {describe_thresholds(self.thresholds)}"
        return f"{text} with gain {self.gain:g}" if with_gain else text


@dataclass(frozen=True)
class ScoredSetting:
    """One setting of thresholds and gain, scored."""

    method: str
    """``trained``, ``grid``, ``loss``, ``gradient``, ``match``, or ``both`` for the best threshold
    and the best gain together."""
    thresholds: Thresholds | None
    distance: float
    """Frechet distance."""
    difference: float
    """Difference from the trained setting's score."""
    low: float | None
    high: float | None
    """95 % interval of the difference, from its standard error by paired bootstrap over the images;
    None without resampling."""
    kid: float
    firing_rate: float | None
    """None for a network whose neurons emit no single spikes."""
    loss_difference: float | None
    """Held-out denoising loss minus the trained thresholds'; None where it was not measured."""
    loss_error: float | None
    """Standard error of the loss."""
    evaluations: int
    """Network evaluations of one image that finding this setting costs."""
    confirmation: bool = False
    """Whether the images come from other noise than those that decided the choice."""
    gain: float = 1.0
    contrast: float | None = None
    saturation: float | None = None
    noise: float | None = None
    """Ratios of the pixels to the data's (:mod:`bench.quality.pixels`); None where the data has
    none."""

    @property
    def setting(self) -> Setting:
        return Setting(self.thresholds, self.gain)

    def off(self, column: str) -> bool:
        """Whether reports mark the ratio ``column``: it is more than a fifth from the data's."""
        value = getattr(self, column)
        return value is not None and is_off(column, value)

    @property
    def verdict(self) -> Literal["better", "worse", "undecided"]:
        """Side of 0 on which the interval lies: better, worse, or undecided if it contains 0."""
        if self.low is not None and self.high is not None:
            if self.high < 0:
                return "better"
            if self.low > 0:
                return "worse"
        return "undecided"


class Ledger:
    """Results of earlier calls in one file, one JSON line each, by a hash of their settings.

    Args:
        path: the file; None keeps them in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.earlier_seconds = 0.0
        """Seconds that earlier calls took to make the results that were recalled."""
        self._known: dict[str, Any] = {}
        self._made_before: set[str] = set()
        if path is None or not path.is_file():
            return
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                entry = json.loads(line.decode("utf-8"))
                key, _ = entry["key"], entry["result"]  # both must be there
                self._known[key] = entry
                self._made_before.add(key)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(
                    f"{path}, line {number}: not a kept result; delete the file to redo it"
                ) from error

    def recall(self, made_from: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """The result (JSON) of ``made_from``, made and kept if it is not known."""
        facts = {**made_from, "results": RESULTS_VERSION}
        text = json.dumps(facts, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        if key in self._made_before:
            self._made_before.remove(key)  # counted once, however often it is recalled
            seconds = self._known[key].get("seconds")
            # Results of older versions do not say.
            self.earlier_seconds += seconds if isinstance(seconds, int | float) else 0.0
        if key not in self._known:
            begun = time.monotonic()
            result = json.loads(json.dumps(make()))
            seconds = time.monotonic() - begun
            self._known[key] = {
                "key": key,
                "made_from": facts,
                "result": result,
                "seconds": seconds,
            }
            if self.path is not None:
                lines = (json.dumps(entry) + "\n" for entry in self._known.values())
                write_text(self.path, "".join(lines))
        return self._known[key]["result"]


class Scorer:
    """Compares settings of one system by the images that they make.

    Args:
        system: a denoiser.
        score: setting and the number of the first image -> Frechet ``distances`` (of all
            ``samples`` images, then of each resample), ``kid``, ``firing_rate`` and perhaps the
            ratios of pixels, JSON-ready; :meth:`bench.guide.drawn.DrawnScores.score` draws for it.
        steps: denoising steps of an image.
        samples: images drawn per setting.
        made_from: everything else that decides a score, JSON-ready, for the ledger.
        ledger: keeps what is scored.
    """

    def __init__(
        self,
        system: System,
        score: Callable[[Setting, int], dict[str, Any]],
        *,
        steps: int,
        samples: int,
        made_from: Mapping[str, Any] | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.system, self.score, self.steps, self.samples = system, score, steps, samples
        self.made_from, self._ledger = dict(made_from or {}), ledger or Ledger(None)

    def row(
        self,
        method: str,
        thresholds: Thresholds | None,
        evaluations: int,
        *,
        gain: float = 1.0,
        loss: Mapping[str, float] | None = None,
        confirmation: bool = False,
    ) -> ScoredSetting:
        """Draw and score ``samples`` images at ``thresholds``; None is as trained.

        Args:
            gain: factor of the output.
            loss: the held-out ``difference`` and ``standard_error``.
            confirmation: draw the next ``samples`` images of the seed instead of the first.
        """
        trained = trained_thresholds(self.system)
        setting = Setting(trained if thresholds is None else simplify(thresholds), gain)
        base = self._scored(Setting(trained), confirmation)
        own = self._scored(setting, confirmation)
        pairs = zip(own["distances"], base["distances"], strict=True)
        difference, *resampled = [a - b for a, b in pairs]
        error = float(torch.tensor(resampled).std()) if len(resampled) > 1 else None
        return ScoredSetting(
            method=method,
            thresholds=setting.thresholds,
            distance=own["distances"][0],
            difference=difference,
            low=None if error is None else difference - NORMAL_95 * error,
            high=None if error is None else difference + NORMAL_95 * error,
            kid=own["kid"],
            firing_rate=own["firing_rate"],
            loss_difference=None if loss is None else loss["difference"],
            loss_error=None if loss is None else loss["standard_error"],
            evaluations=evaluations,
            confirmation=confirmation,
            gain=gain,
            **{name: own.get(name) for name in PIXELS},
        )

    def _scored(self, setting: Setting, confirmation: bool) -> dict[str, Any]:
        """Distances (of all images, then of each resample), KID, firing rate, ratios of pixels."""
        first = self.samples if confirmation else 0
        made_from = {**self.made_from, "first": first, "thresholds": setting.thresholds}
        if setting.gain != 1:
            made_from["gain"] = setting.gain
        result: dict[str, Any] = self._ledger.recall(made_from, lambda: self.score(setting, first))
        return result


def trained_thresholds(system: System) -> Thresholds | None:
    """The firing thresholds as trained; None for a network without spiking neurons."""
    thresholds = read_thresholds(system.generator)
    return simplify(thresholds) if thresholds else None


def may_win(row: ScoredSetting, trained: ScoredSetting) -> bool:
    """Whether the distance may choose ``row``. With a gain, its contrast and saturation must be
    within a fifth of the data's, the mark of reports, or between the data's and those of
    ``trained``.

    Distances of features keep falling while pictures saturate, so they cannot tell when to stop. A
    match was found without them.
    """
    if row.gain == trained.gain or row.method == "match":
        return True
    for name in BOUNDS:
        value, before = getattr(row, name), getattr(trained, name)
        if value is None or before is None or not row.off(name):
            continue
        if not min(before, 1.0) <= value <= max(before, 1.0):
            return False
    return True


def best_of(rows: Sequence[ScoredSetting]) -> ScoredSetting:
    """The row of the least distance among the first, the trained one, and those that
    :func:`may_win`."""
    trained = rows[0]
    eligible = [row for row in rows if row is trained or may_win(row, trained)]
    return min(eligible, key=lambda row: row.distance)
