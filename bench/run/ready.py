"""Checks of a run that find certain failures before anything is trained."""

from __future__ import annotations

import reprlib
import urllib.request
from contextlib import suppress

from bench.plan.plan import Plan, load_split
from bench.quality.extractors import choose_extractor, remedy
from bench.quality.fidelity import MIN_IMAGES
from bench.quality.registry import AUTO, EXTRACTORS
from bench.quality.weights import FETCH_TIMEOUT_S, cached_weights
from bench.run.kinds import kind_of
from bench.suites.schema import MOST_TIME_STEPS
from sddpm.samplers import check_steps


def check_ready(plan: Plan) -> None:
    """Check that every cell of ``plan`` can be sampled and scored as far as this is known now.
    Nothing is written, trained or downloaded.

    Raises:
        ValueError: more spiking time steps than a suite may have, steps that a sampler cannot
            take, or too few references to score against.
        FileNotFoundError: the weights of the extractor that was asked for are neither here nor to
            be had.
    """
    _check_steps(plan)
    _check_references(plan)
    _check_extractor(plan)


def _check_steps(plan: Plan) -> None:
    tried = set()
    for cell in plan.cells:
        if cell.time_steps is not None and cell.time_steps > MOST_TIME_STEPS:
            raise ValueError(
                f"--time-steps {reprlib.repr(cell.time_steps)}: expected at most "
                f"{MOST_TIME_STEPS:,} spiking time steps"
            )
        most = cell.config.get("diffusion_steps")
        if cell.sampling is None or not isinstance(most, int):
            continue
        sampler, steps = cell.sampling["sampler"], cell.sampling["steps"]
        if steps > most:
            raise ValueError(
                f"{cell.label}: sampler {sampler}: {steps} steps: the network is trained with "
                f"{most} diffusion steps; give at most those"
            )
        if (sampler, steps, most) not in tried:
            tried.add((sampler, steps, most))
            try:
                check_steps(sampler, steps, most)
            except ValueError as error:
                raise ValueError(f"{cell.label}: sampler {sampler}: {error}") from error


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


def _check_extractor(plan: Plan) -> None:
    choice, weights = plan.options.extractor, plan.options.extractor_weights
    if kind_of(plan.data.shape).extractor is not None:
        for option, given in (
            ("--extractor", None if choice == AUTO else choice),
            ("--extractor-weights", weights),
        ):
            if given is not None:
                raise ValueError(
                    f"{option} {given}: {plan.suite.dataset} holds points; leave it out"
                )
        return
    entry = EXTRACTORS.get(choice)
    if weights is not None or (entry is not None and not entry.url):
        choose_extractor(choice, weights)
        return
    if entry is None or cached_weights(entry).is_file():
        return
    try:
        urllib.request.urlopen(entry.url, timeout=FETCH_TIMEOUT_S).close()
    except OSError as error:
        raise FileNotFoundError(
            f"--extractor {entry.name}: its weights are not at {cached_weights(entry)} and cannot "
            f"be fetched ({error}); {remedy(entry)}"
        ) from error
