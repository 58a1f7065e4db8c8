"""Convolutions by Winograd's algorithm against torch's in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from sddpm.kernels import neurons as kernels
from sddpm.kernels import winograd
from sddpm.kernels.winograd import WinogradConvolution, convolve

needs_kernels = pytest.mark.skipif(
    winograd.library() is None, reason="no compiled kernels, or no AVX2"
)


def layer(inputs: int, outputs: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1)
    return conv.to(memory_format=torch.channels_last)


def image(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("shape", "outputs"),
    [((1, 64, 2, 2), 64), ((3, 128, 6, 10), 64), ((8, 64, 16, 16), 192), ((40, 128, 4, 4), 128)],
    ids=str,
)
def test_values_and_gradients(shape: tuple[int, ...], outputs: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    conv, x, weights = layer(shape[1], outputs), image(*shape), image(shape[0], outputs, *shape[2:])
    x.requires_grad_()
    try:
        y = convolve(conv, x)
        assert y.grad_fn is not None
        assert "_Convolve" in type(y.grad_fn).__name__
        (y * weights).sum().backward()
    finally:
        torch.set_num_threads(before)
    assert conv.bias is not None
    assert conv.weight.grad is not None
    exact = [z.detach().double().requires_grad_() for z in (x, conv.weight, conv.bias)]
    expected = conv2d(*exact, padding=1)
    (expected * weights).sum().backward()
    pairs = [(y, expected), *zip((x.grad, conv.weight.grad, conv.bias.grad), exact, strict=True)]
    for ours, theirs in pairs:
        wanted = theirs if theirs is expected else theirs.grad
        assert (ours - wanted).norm() / wanted.norm() < 3e-6
    assert y.is_contiguous(memory_format=torch.channels_last)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
@pytest.mark.parametrize("size", [16, 7, 2])
def test_inference_and_what_does_not_divide(size: int, dtype: torch.dtype) -> None:
    conv = layer(64, 128)
    assert conv.bias is not None
    spikes = (image(4, 64, size, size) > 0.5).to(dtype)
    used = []

    def otherwise():
        used.append(size)
        return lambda x: conv(x.float())

    ours = WinogradConvolution(
        conv.weight.detach(), conv.bias.detach(), reads=dtype, otherwise=otherwise
    )
    torch.testing.assert_close(ours(spikes), conv(spikes.float()), atol=1e-5, rtol=1e-5)
    assert bool(used) == (size != 16)


def test_other_layers_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    x = image(1, 64, 4, 4)
    watched = layer(64, 64)
    watched.register_forward_hook(lambda *_: None)
    cases = [watched, layer(64, 64).eval(), layer(64, 32), nn.Conv2d(64, 64, 1), nn.Identity()]
    cases.append(nn.Conv2d(64, 64, 3, 2, 1).to(memory_format=torch.channels_last))
    for conv in cases:
        assert torch.equal(convolve(conv, x), conv(x))
    monkeypatch.setattr(kernels, "library", lambda: None)
    conv = layer(64, 64)
    assert torch.equal(convolve(conv, x), conv(x))
