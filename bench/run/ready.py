"""Checks of a run that find certain failures before anything is trained."""

from __future__ import annotations

import urllib.request
from contextlib import suppress

from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

from bench.plan.plan import Plan, load_split
from bench.quality.extractors import FETCH_TIMEOUT_S, inception_weights
from bench.quality.fidelity import MIN_IMAGES
from bench.quality.registry import INCEPTION


def check_ready(plan: Plan) -> None:
    """Check that every cell of ``plan`` can be sampled and scored as far as this is known now.
    Nothing is written, trained or downloaded.

    Raises:
        ValueError: a sampler with more steps than a network has diffusion steps, or too few
            references to score against.
        FileNotFoundError: Inception was asked for, and its weights are neither here nor to be had.
    """
    _check_steps(plan)
    _check_references(plan)
    if plan.options.extractor == INCEPTION.name:
        _check_inception()


def _check_steps(plan: Plan) -> None:
    for cell in plan.cells:
        most = cell.config.get("diffusion_steps")
        if cell.sampling is None or not isinstance(most, int):
            continue
        sampler, steps = cell.sampling["sampler"], cell.sampling["steps"]
        if steps > most:
            raise ValueError(
                f"{cell.label}: sampler {sampler}: {steps} steps: the network is trained with "
                f"{most} diffusion steps; give at most those"
            )


def _check_references(plan: Plan) -> None:
    if plan.fetches:
        return  # opening the set may be a download; those on the Hub are large enough
    with suppress(FileNotFoundError):  # what is done needs no pictures
        split = plan.suite.reference_split
        found = len(load_split(plan, split, plan.preset.references))
        if found < MIN_IMAGES:
            raise ValueError(
                f"{plan.suite.dataset}: {found} {split} images are too few references to score "
                f"against; at least {MIN_IMAGES}"
            )


def _check_inception() -> None:
    path = inception_weights()
    if path.is_file():
        return
    try:
        urllib.request.urlopen(URL_INCEPTION_V3, timeout=FETCH_TIMEOUT_S).close()
    except OSError as error:
        raise FileNotFoundError(
            f"--extractor inception: its weights are not at {path} and cannot be fetched "
            f"({error}); put {URL_INCEPTION_V3} there, or use --extractor embedded"
        ) from error
