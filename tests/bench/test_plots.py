"""What is shown of a checkpoint: numbers behind the plots, and the files."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image, ImageSequence
from torch.utils.tensorboard import SummaryWriter

from bench.energy.meter import Meter
from bench.guide.findings import Findings
from bench.guide.plots import plot_guidance
from bench.guide.scores import ScoredSetting
from bench.look.activity import Probe, firing_rate, temporal_scales, training_log
from bench.look.plots import (
    figure_file,
    plain_numbers,
    plot_scales,
    plot_strip,
    plot_training,
)
from bench.look.trace import LAST_FRAME_MS, Recorder, moments, save_animation, save_strip
from sddpm import plus, system, tsm
from sddpm.checkpoint import save_checkpoint
from sddpm.protocol import ImageShape, to_uint8
from sddpm.rng import image_seeds
from tests.support.calling import call

WIDTHS = dict(time_steps=3, channels=8, multipliers=(1, 2), blocks=1)
PLAIN = {"sampler": "ddim", "steps": 4, "eta": 1.0, "engine": "plain"}


def denoiser(module: Any = system) -> Any:
    torch.manual_seed(0)
    built = module.build(module.Config(**WIDTHS), ImageShape(1, 8))
    torch.nn.init.normal_(built.net.head.conv.weight, std=0.3)
    return built.eval()


def saved(folder: Path, module: Any = system, name: str = "sddpm") -> Path:
    config = module.Config(**WIDTHS)
    facts = {"system": name, "config": dict(vars(config)), "dataset": "digits",
             "shape": {"channels": 1, "size": 8}}  # fmt: skip
    save_checkpoint(folder / "checkpoint", denoiser(module), facts)
    return folder / "checkpoint"


# Numbers.


@pytest.mark.parametrize("module", [system, plus])
def test_firing_rates_are_the_meters(module: Any) -> None:
    net, seeds = denoiser(module), image_seeds(0, 0, 3)
    with Meter(net.generator) as meter:
        net.sample(seeds, PLAIN)
    with Probe(net.generator) as probe:
        net.sample(seeds, PLAIN)
    # Of integer neurons the meter divides events by neurons and by the most events of one.
    assert {name: layer.rate for name, layer in probe.layers.items()} == pytest.approx(
        meter.firing_rates
    )
    assert probe.rate == pytest.approx(meter.firing_rate)
    for layer in probe.layers.values():
        assert len(layer.rates) == WIDTHS["time_steps"]
        assert np.mean(layer.rates) == pytest.approx(layer.rate)
        if module is plus:  # a count of 2 has no third spike
            assert layer.rates == sorted(layer.rates, reverse=True)
    # A prepared network calls no neuron modules, so the rate is of the plain one.
    assert firing_rate(net, seeds, {**PLAIN, "engine": "exact"}) == pytest.approx(probe.rate)


def test_a_raster_is_the_layers_output() -> None:
    net = denoiser()
    outputs = []
    layer = net.generator.stem.act
    layer.register_forward_hook(lambda module, inputs, output: outputs.append(output.clone()))
    with Probe(net.generator, "stem.act", [1, 4]) as probe:
        net.sample(image_seeds(0, 0, 2), PLAIN)
    assert probe.raster is not None
    assert sorted(probe.raster.moments) == [1, 4]
    for moment, spikes in probe.raster.moments.items():
        # Time is the slow axis of the batch: image 0 is every second row.
        assert torch.equal(spikes, outputs[moment - 1][0::2].bool())
        assert spikes.shape == (3, 8, 8, 8)
    with pytest.raises(ValueError, match=r"'stem.acts'.*did you mean 'stem.act'"):
        Probe(net.generator, "stem.acts")
    with pytest.raises(ValueError, match="no spiking neurons"):
        Probe(torch.nn.Linear(2, 2))


def test_moments_hold_the_ends() -> None:
    assert moments(5, 10) == [0, 1, 2, 3, 4]
    assert moments(51, 10)[0] == 0
    assert moments(51, 10)[-1] == 50
    assert len(moments(51, 10)) == 10


# The denoising chain.


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_the_chain_runs_from_noise_to_the_sample(sampler: str) -> None:
    net, seeds = denoiser(), image_seeds(3, 0, 5)
    options = {"sampler": sampler, "steps": 4}
    recorder = Recorder(net, 3)
    drawn = recorder.sample(seeds, options)
    assert torch.equal(drawn, net.sample(seeds, options))
    frames = recorder.frames
    assert frames.shape == (5, 3, 1, 8, 8)
    assert np.array_equal(frames[-1], to_uint8(drawn)[:3].numpy())
    # Noise of variance 1: both ends of the grey scale, and mid grey on average.
    assert 80 < frames[0].mean() < 175
    assert recorder.sample(image_seeds(3, 5, 7), options).shape == (2, 1, 8, 8)
    assert recorder.frames is not frames
    assert np.array_equal(recorder.frames, frames), "later batches are not recorded"


def test_strip_and_animation(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (7, 3, 1, 8, 8), np.uint8)
    save_strip(frames, tmp_path / "s.png", columns=4)
    strip = np.asarray(Image.open(tmp_path / "s.png"))
    assert strip.shape == (3 * 66 + 2, 4 * 66 + 2)
    for row in range(3):
        top = row * 66 + 2
        tile = strip[top : top + 64 : 8, 3 * 66 + 2 : 3 * 66 + 66 : 8]
        assert np.array_equal(tile, frames[-1, row, 0]), "the last column is the sample"
    save_animation(frames, tmp_path / "d.gif")
    with Image.open(tmp_path / "d.gif") as gif:
        assert gif.info["loop"] == 0
        pictures = [
            (frame.info["duration"], frame.convert("L").copy())
            for frame in ImageSequence.Iterator(gif)
        ]
    assert len(pictures) == 7
    assert pictures[-1][0] == LAST_FRAME_MS > pictures[0][0]
    assert np.array_equal(np.asarray(pictures[-1][1])[2:66:8, 2:66:8], frames[-1, 0, 0])


def test_sample_writes_both_of_what_it_draws(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path)
    out, strip, gif = (tmp_path / name for name in ("s.npy", "s.png", "s.gif"))
    done = call("sample", "--ckpt", checkpoint, "--num", 3, "--sampler", "dpm_solver++:3",
                "--out", out, "--strip", strip, "--gif", gif, "--device", "cpu")  # fmt: skip
    assert done.exit_code == 0, done.output
    images = np.load(out)
    column = np.asarray(Image.open(strip))[2::66][:3, 2:]
    for row in range(3):
        assert np.array_equal(column[row][3 * 66 : 3 * 66 + 64 : 8], images[row, 0, 0])
    with Image.open(gif) as animation:
        assert animation.n_frames == 4


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (116.0, 118.0, {"116", "117", "118"}),
        (90.0, 240.0, {"100", "150", "200"}),
        (0.004, 0.011, {"0.005", "0.007", "0.01"}),
        (1.0, 1000.0, {"1", "10", "100", "1000"}),
        (19.0, 31.0, {"20", "24", "28"}),
    ],
)
def test_logarithmic_axes_have_several_plain_ticks(
    low: float, high: float, shown: set[str], tmp_path: Path
) -> None:
    with figure_file(tmp_path / "p.png", 2.0) as (figure, axes):
        ax = axes[0, 0]
        ax.set_yscale("log")
        ax.set_ylim(low, high)
        plain_numbers(ax.yaxis, (low, high))
        figure.canvas.draw()
        ticks = zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)
        texts = [label.get_text() for value, label in ticks if low <= value <= high]
        minor = {label.get_text() for label in ax.get_yticklabels(minor=True)}
    assert len(texts) >= 3
    assert shown <= set(texts)
    assert all(float(text) for text in texts), "no powers, no formulas"
    assert minor <= {""}


@pytest.mark.parametrize(("frames", "images", "least"), [(51, 4, 11), (3, 1, 11), (51, 40, 15)])
def test_the_text_of_a_strip_can_be_read(
    frames: int, images: int, least: int, tmp_path: Path
) -> None:
    pictures = np.zeros((frames, images, 1, 8, 8), np.uint8)
    plot_strip(pictures, tmp_path / "s.svg")
    text = (tmp_path / "s.svg").read_text()
    sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", text)]
    assert sizes
    assert min(sizes) >= least, "points, as the file's own unit is"


# The command.


def test_show(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path)
    writer = SummaryWriter(str(tmp_path / "log"))
    for step in range(1, 31):
        writer.add_scalar("loss", 1 / step, step)
        writer.add_scalar("images_per_second", 7, step)
    writer.close()
    out = tmp_path / "figures"
    done = call("show", "--ckpt", checkpoint, "--out", out, "--images", 2, "--sampler", "ddim:3:1",
                "--device", "cpu")  # fmt: skip
    assert done.exit_code == 0, done.output
    names = {"firing_rates.csv", "firing_rates.png", "raster.png", "denoising.png", "training.png"}
    assert {path.name for path in out.iterdir()} == names
    for name in names - {"firing_rates.csv"}:
        with Image.open(out / name) as picture:
            assert picture.width >= 1200
            assert len(picture.convert("L").getcolors() or []) > 1
    rows = list(csv.DictReader((out / "firing_rates.csv").open()))
    assert rows[0]["layer"] == "stem.act"
    assert int(rows[0]["neurons"]) == 8 * 8 * 8
    assert f"{float(rows[0]['firing_rate']):.4f}" in done.stdout
    log = training_log(checkpoint)["loss"]
    assert log[0] == (1, 1.0)
    assert log[-1] == (30, pytest.approx(1 / 30))


def test_show_without_neurons_or_log_says_what_is_left_out(tmp_path: Path) -> None:
    from baselines import ann_twin

    config = ann_twin.Config(channels=8, multipliers=(1, 2), blocks=1)
    built = ann_twin.build(config, ImageShape(1, 8))
    facts = {"system": "ann_twin", "config": dict(vars(config)), "dataset": "digits",
             "shape": {"channels": 1, "size": 8}}  # fmt: skip
    save_checkpoint(tmp_path / "checkpoint", built, facts)
    arguments = ["show", "--ckpt", tmp_path / "checkpoint", "--out", tmp_path / "f", "--device",
                 "cpu", "--sampler", "ddim:2", "--format", "pdf"]  # fmt: skip
    done = call(*arguments)
    assert done.exit_code == 0, done.output
    assert "left out: firing rates" in done.stderr
    assert "left out: training curve" in done.stderr
    assert (tmp_path / "f" / "denoising.pdf").read_bytes().startswith(b"%PDF")
    refused = call(*arguments, "--layer", "stem.act")
    assert refused.exit_code == 2
    assert "--layer stem.act" in refused.stderr


def test_temporal_scales_of_tsm_alone(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, tsm, "sddpm_tsm")
    done = call("show", "--ckpt", checkpoint, "--out", tmp_path / "f", "--images", 1, "--sampler",
                "ddim:2", "--device", "cpu")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert (tmp_path / "f" / "temporal_scales.png").is_file()
    net = denoiser(tsm).generator
    scales = temporal_scales("sddpm_tsm", net)
    assert all(torch.equal(p, torch.ones(3)) for p in scales.values())
    assert len(scales) > 5
    assert temporal_scales("sddpm", denoiser().generator) == {}
    plot_scales({"a": torch.tensor([1.0, 1.2]), "b": torch.tensor([0.8, 1.1])}, tmp_path / "p.svg")
    assert "temporal scale p[s]" in (tmp_path / "p.svg").read_text()


def test_the_guidance_plot_names_its_axes_and_keeps_no_global_state(tmp_path: Path) -> None:
    import matplotlib as mpl
    from matplotlib import pyplot

    before = dict(mpl.rcParams)
    base = ScoredSetting("trained", 1.0, 50.0, 0.0, 0.0, 0.0, 0.1, 0.3, 0.0, 0.0, 100)
    layers = {"a": 0.9, "b": 1.05}
    row = ScoredSetting("gradient", layers, 49.0, -1.0, -2.0, 0.5, 0.1, 0.3, -1e-4, 1e-5, 100)
    plot_guidance(Findings([base, row], [base, row], [], row, row), "FD (x)", tmp_path / "g.svg")
    text = (tmp_path / "g.svg").read_text()
    for words in ("FD (x)", "firing rate", "held-out loss", "firing threshold while sampling"):
        assert words in text
    assert dict(mpl.rcParams) == before
    assert pyplot.get_fignums() == []


# Import.


def test_an_imported_checkpoint_works_with_the_other_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.checkpoints import Checkpoint
    from bench.machine import Machine
    from sddpm import load_published

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    golden = Path(__file__).parents[1] / "golden" / "unet_small.pt"
    out = tmp_path / "published"
    done = call("import", golden, "--time-steps", 4, "--image-size", 16, "--out", out)
    assert done.exit_code == 0, done.output
    kept = torch.load(golden, weights_only=True)
    net = Checkpoint.read(out).load(Machine("cpu")).generator
    with torch.no_grad():
        wanted = load_published(golden, 4, 1.0)(kept["x"], kept["t"])
        torch.testing.assert_close(net(kept["x"], kept["t"]), wanted, rtol=1e-4, atol=1e-4)
    images = tmp_path / "i.npy"
    how = ["--ckpt", out, "--sampler", "ddim:2:1", "--device", "cpu"]
    assert call("sample", *how, "--num", 2, "--out", images).exit_code == 0
    assert np.load(images).shape[2:] == (16, 16)
    assert "Strict mJ per image" in call("energy", *how, "--num", 1).stdout

    def line(result: Result) -> str:
        assert result.exit_code == 2, result.output
        return result.stderr.strip().splitlines()[-1]

    assert "names no data set; import it with --dataset" in line(call("evaluate", *how))
    assert "is there already" in line(call("import", golden, "--out", out))
    named = tmp_path / "named"
    options = ["--image-size", 16, "--dataset", "digits", "--out", named]
    assert call("import", golden, *options).exit_code == 0
    assert json.loads((named / "config.json").read_text())["dataset"] == "digits"
    assert "'digit'" in line(call("import", golden, "--dataset", "digit", "--out", tmp_path / "x"))
    assert "no such file" in line(call("import", tmp_path / "a.pt", "--out", tmp_path / "x"))
    assert "image" in line(call("import", golden, "--image-size", 15, "--out", tmp_path / "x"))
    assert "--threshold" in line(
        call("import", golden, "--threshold", "0", "--out", tmp_path / "x")
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("predicted", "label"), [("v", "denoising loss (MSE of v)"), (None, "loss")]
)
def test_a_training_curve_says_what_its_loss_measures(
    predicted: str | None, label: str, tmp_path: Path
) -> None:
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        plot_training({"loss": [(20, 0.5), (40, 0.25)]}, tmp_path / "plot.svg", predicted)
    texts = re.findall(r">([^<>]*)</text>", (tmp_path / "plot.svg").read_text())
    assert label in texts
    # Two points have no running mean.
    assert not [text for text in texts if text.startswith("mean of")]
