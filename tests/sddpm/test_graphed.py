"""Training from CUDA graphs: what happens around a capture (on a GPU: ``test_cuda.py``)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sddpm.averaging import Average
from sddpm.graphed import GraphedModule

Captures = list[tuple[Tensor, ...]]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Captures:
    """Stands in for torch's capture, which runs the network several times and replaces its
    forward; the samples it was given."""
    given: Captures = []

    def capture(module: nn.Module, samples: tuple[Tensor, ...], **options: Any) -> nn.Module:
        assert not torch.is_autocast_cache_enabled() or not torch.is_autocast_enabled("cpu")
        given.append(samples)
        for _ in range(3):
            module(*samples).sum().backward()
        module.zero_grad()
        plain = module.forward
        module.forward = lambda *inputs: plain(*inputs) + 100  # type: ignore[method-assign]
        return module

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", capture)
    return given


def test_a_capture_disturbs_nothing(captures: Captures) -> None:
    net, x = network(), torch.randn(5, 3)
    plain = copy.deepcopy(net)
    graphed = GraphedModule(net)
    torch.manual_seed(1)
    wanted = [plain(x), plain(x)]
    torch.manual_seed(1)
    found = [graphed(x), graphed(x)]
    assert len(captures) == 1
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine - 100, theirs, rtol=0, atol=1e-5)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value)
    assert captures[0][0].data_ptr() != x.data_ptr()
    assert [name for name, _ in graphed.named_parameters()] == [
        f"net.{name}" for name, _ in net.named_parameters()
    ]


def test_what_was_not_captured_runs_as_it_is(captures: Captures) -> None:
    net = network()
    graphed = GraphedModule(net)
    with torch.no_grad():
        graphed(torch.randn(5, 3))
    net.eval()
    assert graphed(torch.randn(5, 3)).abs().max() < 50
    assert not captures
    net.train()
    assert graphed(torch.randn(5, 3)).min() > 50
    assert graphed(torch.randn(4, 3)).max() < 50  # another shape
    assert graphed(torch.randn(5, 3)).min() > 50
    net.eval()
    assert graphed(torch.randn(5, 3)).max() < 50
    assert net(torch.randn(5, 3)).max() < 50  # its own forward stays
    assert len(captures) == 1


def test_weights_are_cast_anew_at_every_replay(captures: Captures) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        GraphedModule(network())(torch.randn(5, 3))
    assert len(captures) == 1


def test_a_refused_capture_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(module: nn.Module, samples: tuple[Tensor, ...], **options: Any) -> nn.Module:
        module(*samples)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    net, x = network(), torch.randn(5, 3)
    before = copy.deepcopy(net.state_dict())
    graphed = GraphedModule(net)
    with pytest.warns(UserWarning, match="slower: operation not permitted when stream is captur"):
        graphed(x)
    assert int(net[1].num_batches_tracked) == int(before["1.num_batches_tracked"]) + 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graphed(x)


def by_hand(decay: float) -> Callable[[list[float]], float]:
    def average(values: list[float]) -> float:
        mean = values[0]
        for n, value in enumerate(values[1:], start=1):
            kept = min(decay, (1 + n) / (10 + n))
            mean = kept * mean + (1 - kept) * value
        return mean

    return average


def test_an_average_goes_on_from_its_state() -> None:
    values = [1.0, 3.0, -2.0, 5.0, 4.0]
    net = nn.Linear(1, 1, bias=False)
    averages = [Average(net, 0.3)]
    for n, value in enumerate(values):
        nn.init.constant_(net.weight, value)
        averages[-1].update_parameters(net)
        if n == 2:
            resumed = Average(net, 0.3)
            resumed.update_parameters(net)  # forgotten by what is loaded
            resumed.load_state_dict(averages[-1].state_dict())
            averages.append(resumed)
    assert averages[-1].module.weight.item() == pytest.approx(by_hand(0.3)(values))
    assert int(averages[-1].n_averaged) == len(values)
