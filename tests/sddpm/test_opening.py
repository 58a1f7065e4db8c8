"""Opening any checkpoint: other time steps, foreign systems, damaged and hostile files, kills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tomllib
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import sddpm
from bench.checkpoints import Checkpoint
from bench.machine import Machine
from bench.registry import SYSTEMS, load_module
from conversion.methods import METHODS
from sddpm import plus, system
from sddpm.checkpoint import save_checkpoint
from sddpm.engine.network import optimize
from sddpm.neurons import MembraneReadout, trained_as
from sddpm.opening import open_checkpoint
from sddpm.pretrained import SDDPM
from sddpm.protocol import ImageShape, to_uint8
from sddpm.samplers import Sampling, sample
from tests.support.systems import model

ROOT = Path(__file__).parents[2]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry points of this tree, as an installation declares them."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    home = tmp_path / "site" / "tree-1.0.dist-info"
    home.mkdir(parents=True)
    (home / "METADATA").write_text("Metadata-Version: 2.1\nName: tree\nVersion: 1.0\n")
    lines = [f"[{group}]\n{name} = {value}\n" for group, points in declared.items()
             for name, value in points.items()]  # fmt: skip
    (home / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(home.parent))


def written(name: str, folder: Path) -> Path:
    """An untrained checkpoint of the system ``name`` at its smoke preset."""
    module, shape = load_module(name), ImageShape(1, 8)
    torch.manual_seed(0)
    preset = dict(module.PRESETS["smoke"])
    built = module.build(module.Config(**preset), shape)
    facts = {"system": name, "config": preset, "shape": {"channels": 1, "size": 8}, "dataset": None}
    save_checkpoint(folder, built, facts)
    return folder


@pytest.mark.parametrize("name", [n for n, entry in SYSTEMS.items() if entry.data == "images"])
@pytest.mark.usefixtures("installed")
def test_every_system_of_images_opens_from_python_as_from_the_harness(
    name: str, tmp_path: Path
) -> None:
    folder = written(name, tmp_path / "m")
    opened = sddpm.load(folder)
    options = {"sampler": "ddim", "steps": 2} if SYSTEMS[name].samplers else {}
    images = opened.sample(2, seed=0, **options)
    assert images.shape == (2, 1, 8, 8)
    theirs = to_uint8(Checkpoint.read(folder).load(Machine("cpu")).sample([0, 1], options or None))
    assert (images.int() - theirs.int()).abs().max() <= 1
    if not options:
        with pytest.raises(ValueError, match="does not denoise"):
            opened.sample(1, steps=2)


def test_a_system_that_nothing_knows_is_named(tmp_path: Path) -> None:
    folder = written("sddpm", tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "system": "gan9000"}))
    with pytest.raises(ValueError, match=r"config\.json: holds system 'gan9000'"):
        sddpm.load(folder)


def test_the_read_out_keeps_the_sum_of_the_trained_time_steps() -> None:
    """0.8^3 + 0.8^2 + 0.8 + 1 = 2.952 for four steps; constant input reads out alike at any."""
    for steps in (1, 2, 4, 8):
        readout = MembraneReadout(steps)
        trained_as(readout, MembraneReadout(4))
        read = readout(torch.ones(steps, 1, 1, 1))
        assert read.item() == pytest.approx(2.952, rel=1e-6)
        ratio = readout.weights[1:] / readout.weights[:-1]
        torch.testing.assert_close(ratio, torch.full_like(ratio, 1.25))


@pytest.mark.parametrize("time_steps", [1, 2, 4, 8])
def test_other_time_steps_do_not_multiply_the_output(time_steps: int, tmp_path: Path) -> None:
    """A head's bias is the same at every spiking step, so all of the output is the read-out's
    sum of it: 2.952 times what the head says for a network trained at T = 4."""
    torch.manual_seed(0)
    config = system.Config(time_steps=4, channels=4, multipliers=(1, 2), blocks=1)
    built = system.build(config, ImageShape(1, 8))
    for parameter in built.net.head.parameters():
        parameter.data.zero_()
    built.net.head.conv.bias.data.fill_(0.5)
    facts = {"system": "sddpm", "config": dict(vars(config)), "shape": {"channels": 1, "size": 8}}
    SDDPM(built, facts).save_pretrained(tmp_path / "m")
    opened = SDDPM.from_pretrained(tmp_path / "m", time_steps=time_steps)
    net = opened.denoiser.generator
    x = torch.zeros(2, 1, 8, 8)
    for run in (net, optimize(net)):
        with torch.no_grad():
            out = run(x, 500)
        torch.testing.assert_close(out, torch.full_like(out, 2.952 * 0.5))
    opened.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert again["config"]["time_steps"] == 4


@pytest.mark.parametrize("time_steps", [1, 2, 4, 8])
def test_other_numbers_of_events_do_not_multiply_the_output(
    time_steps: int, tmp_path: Path
) -> None:
    """Integer neurons run in one pass at every number of events, so the read-out's weight is 1."""
    torch.manual_seed(0)
    config = plus.Config(time_steps=4, channels=4, multipliers=(1, 2), blocks=1)
    built = plus.build(config, ImageShape(1, 8))
    for parameter in built.net.head.parameters():
        parameter.data.normal_(std=0.3)
    facts = {
        "system": "sddpm_plus",
        "config": dict(vars(config)),
        "shape": {"channels": 1, "size": 8},
    }
    SDDPM(built, facts).save_pretrained(tmp_path / "m")
    opened = SDDPM.from_pretrained(tmp_path / "m", time_steps=time_steps)
    net = opened.denoiser.generator
    expected = plus.build(replace(config, time_steps=time_steps), ImageShape(1, 8)).net.eval()
    expected.load_state_dict(built.net.state_dict())
    x, t = 3 * torch.randn(2, 1, 8, 8), torch.tensor([10, 500])
    with torch.no_grad():
        wanted = expected(x, t)
        for run in (net, optimize(net)):
            torch.testing.assert_close(run(x, t), wanted, rtol=1e-4, atol=1e-5)


def test_neurons_with_weights_for_each_step_have_only_the_trained_ones(tmp_path: Path) -> None:
    config = plus.Config(
        time_steps=2, channels=4, multipliers=(1, 2), blocks=1, neuron="parallel_if"
    )
    shape = ImageShape(1, 8)
    facts = {"system": "sddpm_plus", "config": vars(config), "shape": vars(shape)}
    save_checkpoint(tmp_path / "m", plus.build(config, shape), facts)
    with pytest.raises(ValueError, match=r"time_steps=4: the weights are of 2 spiking time steps"):
        SDDPM.from_pretrained(tmp_path / "m", time_steps=4)
    assert SDDPM.from_pretrained(tmp_path / "m", time_steps=2) is not None


@pytest.mark.usefixtures("installed")
def test_time_steps_that_cannot_be(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match=r"time_steps=0: expected a whole number from 1"):
        SDDPM.from_pretrained(tmp_path / "m", time_steps=0)
    with pytest.raises(ValueError, match=r"time_steps=4: ann_twin has no spiking time"):
        sddpm.load(written("ann_twin", tmp_path / "twin"), time_steps=4)


HOSTILE = {
    "a million blocks": ({"config": {"blocks": 1_000_000}}, "far more layers|blocks"),
    "wide": ({"config": {"channels": 100_000}}, "shape"),
    "many diffusion steps": ({"config": {"diffusion_steps": 10**12}}, "diffusion_steps=10"),
    "negative": ({"config": {"diffusion_steps": -1}}, "diffusion_steps=-1: expected 1 to"),
    "time steps": ({"config": {"time_steps": 10**9}}, "time_steps=1000000000"),
    "text": ({"shape": {"channels": 1, "size": "16"}}, "size='16'|shape"),
    "list": ({"shape": {"channels": 1, "size": []}}, "shape"),
    "no configuration": ({"config": None}, "config: expected an object"),
    "infinite threshold": ({"config": {"threshold": float("inf")}}, "threshold=inf"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_a_configuration_claims_is_refused_before_memory_is_taken(
    case: str, tmp_path: Path
) -> None:
    changed, words = HOSTILE[case]
    folder = tmp_path / "odd"
    model().save_pretrained(folder)
    path = folder / "config.json"
    facts = json.loads(path.read_text())
    for key, value in changed.items():
        facts[key] = {**facts[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps({**facts, "dataset": None}))
    begun = time.monotonic()
    for opens in (SDDPM.from_pretrained, lambda f: Checkpoint.read(f).load(Machine("cpu"))):
        with pytest.raises(ValueError, match=rf"odd.*({words})") as caught:
            opens(folder)
        assert "\n" not in str(caught.value)
    assert time.monotonic() - begun < 20


def test_deeply_nested_json_is_named(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ValueError, match=r"config\.json"):
        SDDPM.from_pretrained(tmp_path / "m")


def bad(tensor: Tensor, kind: str) -> Tensor:
    if kind == "boolean":
        return tensor.bool()
    if kind == "complex":
        return tensor.to(torch.complex64)
    changed = tensor.clone()
    changed.flatten()[0] = {"nan": float("nan"), "inf": float("inf")}[kind]
    return changed


@pytest.mark.parametrize("kind", ["nan", "inf", "boolean", "complex"])
@pytest.mark.parametrize("name", ["head.conv.weight", "head.bn.running_var", "stem.act.theta"])
def test_tensors_that_are_no_weights_are_named(kind: str, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    model().save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, name: bad(tensors[name], kind)}, path)
    with pytest.raises(ValueError, match=rf"model\.safetensors: {name}"):
        SDDPM.from_pretrained(folder)


@pytest.mark.parametrize("theta", [0.0, -1.0, 1e300])
def test_thresholds_out_of_range_are_named(theta: float, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    model().save_pretrained(folder)
    (folder / "guidance.json").write_text(json.dumps({"thresholds": theta}))
    with pytest.raises(ValueError, match=r"guidance\.json.*expected a number above 0"):
        SDDPM.from_pretrained(folder)
    with pytest.raises(ValueError, match="expected a number above 0"):
        model().sample(1, steps=1, threshold=theta)


def test_outputs_and_samples_that_are_no_numbers_are_errors() -> None:
    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return x / (0 if int(t[0]) < 500 else 1)

    shape, process = ImageShape(1, 4), system.DiffusionConfig()
    with pytest.raises(ValueError, match="output is NaN or infinite from diffusion step 499"):
        sample(denoise, shape, [0], process, Sampling("ddim", 4))
    with pytest.raises(ValueError, match="images: 1 of 3 numbers are NaN"):
        to_uint8(torch.tensor([0.0, float("nan"), 1.0]))


def test_numbers_above_float16_are_not_saved_by_halves(tmp_path: Path) -> None:
    original = model()
    original.denoiser.net.head.conv.weight.data[0, 0, 0, 0] = 1e5
    with pytest.raises(ValueError, match=r"head\.conv\.weight.*float16"):
        original.save_pretrained(tmp_path / "m", half=True)
    assert list(tmp_path.iterdir()) == []


def test_a_number_stands_for_every_image_s_step() -> None:
    net = model().denoiser.net
    x = torch.randn(3, 1, 8, 8)
    for run in (net, optimize(net)):
        with torch.no_grad():
            torch.testing.assert_close(run(x, 500), run(x, torch.full((3,), 500)))
            with pytest.raises(ValueError, match=r"t=0\.5"):
                run(x, 0.5)


def test_small_mistakes_have_clear_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size=0: expected at least 1"):
        model().sample(1, batch_size=0)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt: is a file; give a folder"):
        model().save_pretrained(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tests.support.systems import model
calls = []
real = Path.rename
def rename(self, target):
    result = real(self, target)
    calls.append(1)
    if len(calls) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
Path.rename = rename
changed = model()
changed.facts["note"] = "new"
changed.save_pretrained({folder!r})
"""


def test_a_save_killed_between_its_renames_is_finished(tmp_path: Path) -> None:
    """Nothing lies under the name then; the new folder and the old one are complete."""
    folder = tmp_path / "m"
    model().save_pretrained(folder)
    code = KILLED.format(tests=str(ROOT), folder=str(folder))
    done = subprocess.run([sys.executable, "-c", code], env=os.environ)
    assert done.returncode == -9
    assert len(list(tmp_path.iterdir())) == 2
    assert not folder.exists()
    opened = sddpm.load(folder)
    assert opened.facts["note"] == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    # Killed after the second one, the old folder lies beside the new one.
    folder.rename(tmp_path / ".m.999999999.old")
    opened.save_pretrained(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_process_at_work_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    model().save_pretrained(folder)
    ours, theirs = tmp_path / f".m.{os.getppid()}.old", tmp_path / ".m.999999999.tmp"
    ours.mkdir()
    theirs.mkdir()
    model().save_pretrained(folder)
    assert not theirs.exists()
    assert ours.exists()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schedule", [(), (3, 1)], ids=["constant", "schedule"])
def test_a_conversion_of_every_method_opens(
    method: str, schedule: tuple[int, ...], tmp_path: Path
) -> None:
    module = load_module("converted")
    config = module.Config(
        channels=4, multipliers=(1, 2), blocks=1, time_steps=2, method=method, schedule=schedule
    )
    torch.manual_seed(0)
    system = module.build(config, ImageShape(1, 8))
    facts = {"system": "converted", "config": asdict(config), "shape": asdict(ImageShape(1, 8))}
    save_checkpoint(tmp_path / "c", system, {**facts, "dataset": "digits"})
    opened = open_checkpoint(tmp_path / "c", load_module)
    kept = system.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in opened.state_dict().items())
