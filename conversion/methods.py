"""The conversion methods: where the thresholds of a converted network come from.

This module imports no torch, so that the command line can list the methods. A method is one
entry of :data:`METHODS`; one that measures something new also has the class of its statistic.
"""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any


@dataclass(frozen=True)
class Method:
    """A method of setting the thresholds."""

    summary: str
    """Definition of its threshold, as a phrase for the command's help."""
    statistic: str | None = None
    """Class that measures the thresholds on the parent's activations, as ``module:class``, a
    :class:`conversion.calibrate.ThresholdStatistic`; None where the parent has learned clips."""
    passes: int = 1
    """Passes over the calibration images, each with other noise."""
    reads_percentile: bool = False
    """Whether the percentile of the configuration decides anything."""
    trains_clips: bool = False
    """Whether the clips of a ReLU parent are trained before it is converted."""

    def load_statistic(self) -> Any:
        """The class that ``statistic`` names; None where there is none."""
        return None if self.statistic is None else resolve_name(self.statistic)


METHODS: dict[str, Method] = {
    "rate-percentile": Method(
        "a percentile of the layer's activations",
        "conversion.calibrate:Percentile",
        reads_percentile=True,
    ),
    "rate-max": Method("the layer's largest activation", "conversion.calibrate:Largest"),
    "rate-mse": Method(
        "the least squared error of a layer at T levels", "conversion.calibrate:LeastSquares"
    ),
    "rate-channel": Method(
        "the least squared error of each channel at T levels",
        "conversion.calibrate:ChannelLeastSquares",
    ),
    # A threshold grows a little with each batch, so it needs many.
    "ltb": Method("local threshold balancing", "conversion.calibrate:LocalBalancing", passes=8),
    "fast-snn": Method("the clips of a quantised parent"),
    "qcfs": Method("learned clips, trained first where the parent has none", trains_clips=True),
}
