"""The parts of this machine that compute, and the reasons why those."""

from __future__ import annotations

import torch

from sddpm import allocation, threads
from sddpm.engine.convolutions import bfloat16_runs, int8_runs
from sddpm.kernels import library, processor


def processor_name() -> str:
    """Name of the processor."""
    return processor.name()


def describe() -> list[tuple[str, str, str]]:
    """Rows of what a part is called, what it is, and why. May compile kernels to tell.

    Raises:
        ValueError: the switch of the kernels has no such value, or none that runs here.
    """
    choice = library.choose()
    loaded = [name for name in library.SOURCES if library.load(name) is not None]
    kernels = f"{choice.way}, {choice.level}: {', '.join(loaded)}" if loaded else "none"
    wide = [name for name, runs in (("int8", int8_runs()), ("bfloat16", bfloat16_runs())) if runs]
    limit, most = processor.switch() or "not set", threads.quota()
    return [
        ("processor", processor.name(), processor.kind()),
        ("cores", str(threads.cores()), "affinity" if most is None else f"quota of {most:g}"),
        ("threads", str(torch.get_num_threads()), threads.why()),
        ("freed memory", *allocation.describe()),
        ("kernels", kernels, choice.why),
        ("fast types", ", ".join(wide) or "none", f"{processor.SWITCH} is {limit}"),
        *(
            (f"cuda:{number}", torch.cuda.get_device_name(number), "")
            for number in range(torch.cuda.device_count())
        ),
    ]
