"""Samplers as users name them: ``--sampler NAME[:STEPS[:ETA]]``, names of folders, names in tables.

The samplers themselves are entries of :data:`sddpm.samplers.SAMPLERS`, and no other place names
one; that module needs torch, so it is imported where a name is checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from bench.registry import choose
from bench.suites.schema import SamplingChoice

DEFAULT = SamplingChoice.model_construct(sampler="sde_dpm_solver++", steps=50, eta=0.0)
"""Sampler of the commands on a checkpoint; its steps are those of a name given alone, too."""


def choose_sampling(text: str | None) -> SamplingChoice:
    """The sampler that ``--sampler`` names to a command on a checkpoint.

    Args:
        text: ``NAME[:STEPS[:ETA]]``; None is :data:`DEFAULT`.

    Raises:
        ValueError: no such sampler, or steps or eta that it does not take.
    """
    if text is None:
        return DEFAULT
    choice = parse_sampler(text)
    if isinstance(choice, str):
        return SamplingChoice(sampler=choice, steps=DEFAULT.steps, eta=0.0, gain=None)
    return choice


def parse_sampler(text: str) -> SamplingChoice | str:
    """``NAME`` as it is; ``NAME:STEPS[:ETA]`` as a choice."""
    name, *rest = text.split(":")
    from sddpm.samplers import SAMPLERS

    choose("sampler", name, SAMPLERS)
    if not rest:
        return name
    try:
        values = {"steps": int(rest[0]), "eta": float(rest[1]) if len(rest) > 1 else 0.0}
        if len(rest) > 2:
            raise ValueError("too many parts")
        return SamplingChoice(sampler=name, **values)  # type: ignore[arg-type]
    except ValidationError as error:
        problem = error.errors()[0]
        message = problem["msg"].removeprefix("Value error, ")
        raise ValueError(f"--sampler {text}: {message}") from error
    except ValueError as error:
        raise ValueError(
            f"--sampler {text}: expected NAME, NAME:STEPS or NAME:STEPS:ETA"
        ) from error


def replace_samplings(
    wanted: Sequence[str], listed: Sequence[SamplingChoice]
) -> list[SamplingChoice]:
    """The samplings of a run: those that ``--sampler`` names, else those that its suite lists.

    A name given alone keeps the suite's entries of that name; a sampler that the suite does not
    list runs for as many steps as the suite's first entry.
    """
    choices: list[SamplingChoice] = []
    for text in wanted:
        choice = parse_sampler(text)
        if isinstance(choice, SamplingChoice):
            choices.append(choice)
            continue
        same = [entry for entry in listed if entry.sampler == choice]
        steps = (listed[0] if listed else DEFAULT).steps
        choices += same or [SamplingChoice(sampler=choice, steps=steps, eta=0.0, gain=None)]
    return choices or list(listed)


def sampling_label(sampling: Mapping[str, Any] | None) -> list[str]:
    """Parts of a cell's folder name that say how it samples; none for systems that do not denoise.

    Args:
        sampling: sampler, steps and eta, and perhaps threshold, gain and engine.
    """
    if sampling is None:
        return []
    eta = f"-eta{sampling['eta']:g}" if sampling["eta"] else ""
    parts = [f"{sampling['sampler']}{sampling['steps']}{eta}"]
    threshold, engine = sampling.get("threshold"), sampling.get("engine", "exact")
    if threshold is not None:
        parts.append(threshold if isinstance(threshold, str) else f"theta{threshold:g}")
    if (gain := sampling.get("gain")) is not None:
        parts.append(f"gain{gain}" if isinstance(gain, str) else f"gain{gain:g}")
    return parts if engine == "exact" else [*parts, engine]


def solver(sampling: Mapping[str, Any]) -> str | None:
    """A sampler as tables show it: ``ddim 50``, ``ddim 50 eta=1 guided``; None where there is none.

    Args:
        sampling: sampler, sampler_steps, eta, threshold, gain and engine, as a record names them.
    """
    if sampling["sampler"] is None:
        return None
    parts = [f"{sampling['sampler']} {sampling['sampler_steps']}"]
    if sampling["eta"]:
        parts.append(f"eta={sampling['eta']:g}")
    threshold, engine = sampling.get("threshold"), sampling.get("engine")
    if threshold is not None:
        parts.append(threshold if isinstance(threshold, str) else f"threshold={threshold:g}")
    if (gain := sampling.get("gain")) not in (None, 1):
        parts.append(f"gain={gain}" if isinstance(gain, str) else f"gain={gain:g}")
    if engine not in (None, "exact"):
        parts.append(str(engine))
    return " ".join(parts)
