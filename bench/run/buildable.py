"""Whether the networks of a training can be built, found without memory before any is trained."""

from __future__ import annotations

import torch

from bench.plan.cells import Training, make_config
from bench.plan.plan import Plan
from bench.registry import load_module
from sddpm.protocol import System


def check_plan(plan: Plan) -> None:
    """Check the trainings of ``plan`` as :func:`check_buildable` does; all seeds have the same."""
    for training in plan.trainings:
        if training.seed == plan.options.seeds[0]:
            check_buildable(training)


def check_buildable(training: Training) -> None:
    """Build the networks of ``training`` and its parents on PyTorch's meta device, where tensors
    have shapes and no numbers.

    Raises:
        ValueError: a value of a configuration is out of its range, or the parent is another network
            than the configuration says; the message names the training.
    """
    system: System | None = None
    for step in reversed(list(training.line())):
        module = load_module(step.system)
        config = make_config(step.system, step.config)
        try:
            with torch.device("meta"):
                system = module.build(config, step.data.shape, system)
        except ValueError as error:
            raise ValueError(f"{step.name}: {error}") from error
        except RuntimeError:
            return  # it reads numbers of its parent, which come with the training
