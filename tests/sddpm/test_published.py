"""The published checkpoint format: parity with a recorded output, and files that are not it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

import sddpm
from sddpm.checkpoint import count_parameters

GOLDEN = Path(__file__).parents[1] / "golden" / "unet_small.pt"


@pytest.fixture(scope="module")
def golden() -> dict:
    return torch.load(GOLDEN, weights_only=True)


def record_rates(net: torch.nn.Module) -> dict[str, float]:
    rates: dict[str, float] = {}
    for name, module in net.named_modules():
        if getattr(module, "emits", None) == "spikes":
            module.register_forward_hook(
                lambda _m, _i, out, name=name: rates.__setitem__(name, out.double().mean().item())
            )
    return rates


def test_output_and_firing_rates_match_the_recorded_ones(golden: dict) -> None:
    net = sddpm.load_published(GOLDEN, time_steps=4, threshold=1.0)
    rates = record_rates(net)
    with torch.no_grad():
        y = net(golden["x"], golden["t"])
    assert (y - golden["y"]).abs().max() < 1e-4
    renamed = {
        name.replace("downblocks", "down")
        .replace("middleblocks", "middle")
        .replace("upblocks", "up")
        .replace("neuron", "act"): rate
        for name, rate in golden["firing_rates"].items()
    }
    renamed["stem.act"] = renamed.pop("act")
    assert rates.keys() == renamed.keys()
    for name, rate in renamed.items():
        assert rates[name] == pytest.approx(rate, abs=1e-6), name


def test_configuration_is_inferred_from_the_shapes(golden: dict) -> None:
    config = sddpm.load_published(GOLDEN, time_steps=2).config
    published = golden["config"]
    assert config.channels == published["ch"]
    assert list(config.multipliers) == published["ch_mult"]
    assert config.blocks == published["num_res_blocks"]
    assert config.image_channels == published["img_ch"]
    assert config.diffusion_steps == published["T"]
    assert config.time_steps == 2


def test_threshold_changes_the_firing(golden: dict) -> None:
    means = []
    for threshold in (0.9, 1.0, 1.1):
        net = sddpm.load_published(GOLDEN, threshold=threshold)
        rates = record_rates(net)
        with torch.no_grad():
            net(golden["x"], golden["t"])
        means.append(rates["stem.act"])
    assert means[0] > means[1] > means[2]


def test_paper_configuration_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        net = sddpm.UNet(sddpm.UNetConfig())
    assert count_parameters(net) == 66_696_413


def test_two_levels_and_blocks_are_told_apart(tmp_path: Path) -> None:
    """A network of another shape, saved under the published names, is rebuilt."""
    config = sddpm.UNetConfig(
        image_channels=1, channels=8, multipliers=(1, 1, 2), blocks=2, diffusion_steps=10
    )
    net = sddpm.UNet(config).eval()
    names = {
        "time_embedding.table": "time_embedding.timembedding.0.weight",
        "time_embedding.linear1": "time_embedding.timembedding.1",
        "time_embedding.linear2": "time_embedding.timembedding.3",
        "stem.conv1": "conv",
        "stem.bn1": "bn",
        "stem.conv2": "conv_identity",
        "stem.bn2": "bn_identity",
        "down.": "downblocks.",
        "middle.": "middleblocks.",
        "up.": "upblocks.",
        ".embed.": ".temb_proj.1.",
        "head.bn.": "tail_bn.",
        "head.conv.": "tail_conv.",
        "head.temporal_conv.": "T_output_layer.",
        "head.temporal_bn.": "last_bn.",
    }
    state = {}
    for key, value in net.state_dict().items():
        if key.endswith("theta"):
            continue
        if key == "head.temporal_conv.weight":
            value = value[..., None]
        for ours, theirs in names.items():
            if key.startswith(ours) or (ours.startswith(".") and ours in key):
                key = key.replace(ours, theirs, 1)
        state["module." + key] = value  # as DataParallel saves it
    torch.save({"net_model": state}, tmp_path / "ckpt.pt")
    loaded = sddpm.load_published(tmp_path / "ckpt.pt")
    assert loaded.config == config
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 7])
    with torch.no_grad():
        assert torch.equal(loaded(x, t), net(x, t))


class Boom:
    def __reduce__(self) -> tuple:
        return (Path("pwned").write_text, ("executed",))


def declared(shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor of any shape that holds one number."""
    return torch.zeros(1).expand(shape)


FOREIGN = {
    "foreign state": {"conv.weight": torch.zeros(4, 3, 3, 3)},
    "number as a key": {3: torch.zeros(4, 3, 3, 3)},
    "no channels": {"conv.weight": torch.zeros(0, 3, 3, 3)},
    "no sizes": {"conv.weight": torch.tensor(1.0)},
    "a table of terabytes": {
        "conv.weight": torch.zeros(4, 3, 3, 3),
        "time_embedding.timembedding.0.weight": declared((10**12, 4)),
        "downblocks.0.conv1.weight": torch.zeros(4, 4, 3, 3),
    },
}


@pytest.mark.parametrize("damage", ["truncated", "text", "pickle", "other dict", *FOREIGN])
def test_bad_files_end_in_one_sentence_naming_the_file(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pt"
    if damage == "truncated":
        path.write_bytes(GOLDEN.read_bytes()[:100_000])
    elif damage == "text":
        path.write_text("hello")
    elif damage == "pickle":
        torch.save({"net_model": Boom()}, path)
    elif damage == "other dict":
        torch.save({"weights": {}}, path)
    else:
        torch.save({"net_model": FOREIGN[damage]}, path)
    with pytest.raises(ValueError, match=r"bad\.pt") as caught:
        sddpm.load_published(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_byte_is_a_bad_file_or_harmless(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    content = bytearray(GOLDEN.read_bytes())
    # The pickle that says what the file holds lies at its start, the directory at its end.
    where = rng.choice([rng.randrange(4000), len(content) - 1 - rng.randrange(4000)])
    content[where] ^= 1 << rng.randrange(8)
    (tmp_path / "bad.pt").write_bytes(content)
    said, loaded = "", {}
    try:
        loaded = sddpm.load_published(tmp_path / "bad.pt").state_dict()
    except ValueError as error:  # any other fails the test
        said = str(error)
    assert bool(loaded) != ("bad.pt" in said)
    whole = sddpm.load_published(GOLDEN).state_dict() if loaded else {}
    for name, tensor in whole.items():
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0)


ODD = {
    "sparse": lambda x: x.to_sparse(),
    "sparse tensor": lambda x: x.flatten(1).to_sparse_csr(),
    "quantised": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    "meta": lambda x: x.to("meta"),
    r"torch\.bool": lambda x: x.bool(),
    r"torch\.complex64": lambda x: x.to(torch.complex64),
    "NaN": lambda x: x / 0,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_cannot_be_weights_are_named(kind: str, tmp_path: Path) -> None:
    content = torch.load(GOLDEN, weights_only=True)
    state = content["net_model"]
    torch.save(
        {"net_model": {**state, "conv.weight": ODD[kind](state["conv.weight"])}},
        tmp_path / "bad.pt",
    )
    with pytest.raises(ValueError, match=rf"bad\.pt: conv\.weight .*{kind}"):
        sddpm.load_published(tmp_path / "bad.pt")


def test_missing_file() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        sddpm.load_published("nowhere.pt")
