"""Checkpoints on the Hub: the real client against a stand-in for the Hub on the loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, constants

import sddpm
from sddpm.checkpoint import shipped_checkpoints
from sddpm.guidance import Guided
from sddpm.pretrained import SDDPM
from tests.support.hub import TOKEN, Hub, stand_in
from tests.support.systems import model

NAME = "someone/tiny-sddpm"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: None)
    with stand_in(monkeypatch, tmp_path / "cache") as running:
        yield running


def test_what_is_pushed_comes_back_and_draws_the_same(hub: Hub) -> None:
    original = model()
    original.guided = Guided(0.6)
    address = original.push_to_hub(NAME, token=TOKEN, commit_message="The first one")
    assert address.startswith(f"{hub.address}/{NAME}/commit/")
    assert hub.messages == ["The first one"]
    assert set(hub.files[NAME]) == {"README.md", "config.json", "guidance.json",
                                    "model.safetensors"}  # fmt: skip
    opened = SDDPM.from_pretrained(NAME)
    assert opened.guided == Guided(0.6)
    assert torch.equal(opened.sample(4, steps=3, seed=1), original.sample(4, steps=3, seed=1))
    card = ModelCard(hub.files[NAME]["README.md"].decode())
    assert f'from_pretrained("{NAME}")' in card.text
    assert card.data.library_name == "sddpm-bench"
    assert card.data.pipeline_tag == "unconditional-image-generation"


def test_any_system_s_checkpoint_opens_by_its_name_on_the_hub(hub: Hub) -> None:
    model().push_to_hub(NAME, token=TOKEN)
    assert isinstance(sddpm.load(NAME), SDDPM)
    opened = sddpm.load(NAME, time_steps=3)
    assert isinstance(opened, SDDPM)
    assert opened.denoiser.net.config.time_steps == 3


def test_the_card_holds_the_figures_of_the_record(hub: Hub) -> None:
    """As the Hub's own reader of model cards finds them."""
    shipped = SDDPM.from_pretrained("fashion-mnist")
    record = json.loads((shipped_checkpoints()["fashion-mnist"] / "record.jsonl").read_text())
    shipped.push_to_hub(NAME, token=TOKEN)
    card = ModelCard(hub.files[NAME]["README.md"].decode())
    found = {result.metric_type: result for result in card.data.eval_results}
    figures = {name: value for name, value in record["metrics"].items() if "_std" not in name}
    assert {name: result.metric_value for name, result in found.items()} == figures
    result = found["fd_efflite0"]
    assert result.dataset_name == "fashion_mnist"
    assert result.dataset_args["reference_hash"] == record["reference_hash"]
    assert result.metric_args["extractor"] == "efficientnet-lite0"
    assert result.metric_args["samples"] == record["samples"]
    assert not any(name in ("fid", "is") for name in found), "no figure may pass for Inception's"
    assert f"| fd_efflite0 | {record['metrics']['fd_efflite0']:.6g} |" in card.text
    # The record travels, so that a card made anew has the figures too.
    assert SDDPM.from_pretrained(NAME).records == [record]


def test_records_of_other_weights_are_not_taken(tmp_path: Path) -> None:
    net = model()
    net.facts["hash"] = "a" * 64
    lines = [{"training_hash": h * 64, "metrics": {"fd_efflite0": 3.0}} for h in "ab"]
    (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert net.add_records(tmp_path / "records.jsonl") == 1
    assert net.records == lines[:1]
    (tmp_path / "records.jsonl").write_text(json.dumps(lines[1]))
    with pytest.raises(ValueError, match=r"records\.jsonl: no line is of the training aaaa"):
        net.add_records(tmp_path / "records.jsonl")


def test_offline_the_cached_files_serve(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    original = model()
    original.push_to_hub(NAME, token=TOKEN)
    SDDPM.from_pretrained(NAME)
    hub.requests.clear()
    images = original.sample(2, steps=2)
    assert torch.equal(
        SDDPM.from_pretrained(NAME, local_files_only=True).sample(2, steps=2), images
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(SDDPM.from_pretrained(NAME).sample(2, steps=2), images)
    assert hub.requests == []
    with pytest.raises(FileNotFoundError, match=r"no connection may be made.*cache does not hold"):
        SDDPM.from_pretrained("someone/other")
    with pytest.raises(OSError, match="HF_HUB_OFFLINE"):
        original.push_to_hub(NAME, token=TOKEN)


def test_a_hub_out_of_reach_is_named_and_the_cache_serves(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    model().push_to_hub(NAME, token=TOKEN)
    SDDPM.from_pretrained(NAME)
    nowhere = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    assert SDDPM.from_pretrained(NAME).denoiser.shape.size == 8
    with pytest.raises(FileNotFoundError, match=f"{nowhere} cannot be reached.*whole model"):
        SDDPM.from_pretrained("someone/other")
    with pytest.raises(OSError, match=f"{NAME}: {nowhere} cannot be reached"):
        model().push_to_hub(NAME, token=TOKEN)


def test_what_the_hub_refuses_is_one_sentence(hub: Hub) -> None:
    with pytest.raises(FileNotFoundError, match=r"someone/none: no folder.*no model at"):
        SDDPM.from_pretrained("someone/none")
    model().push_to_hub(NAME, token=TOKEN)
    with pytest.raises(FileNotFoundError, match=r"no revision 'v9'.*branch"):
        SDDPM.from_pretrained(NAME, revision="v9")
    with pytest.raises(PermissionError, match=r"refuses this token.*hf auth login"):
        model().push_to_hub(NAME, token="hf_of_someone_else")
    del hub.files[NAME]["model.safetensors"]
    with pytest.raises(FileNotFoundError, match=r"lacks model\.safetensors"):
        SDDPM.from_pretrained(NAME)
    model().push_to_hub("someone/gated", token=TOKEN)
    hub.gated.add("someone/gated")
    with pytest.raises(PermissionError, match="grants access"):
        SDDPM.from_pretrained("someone/gated")


def test_an_answer_of_a_broken_hub_is_named(hub: Hub) -> None:
    hub.status = 400
    with pytest.raises(OSError, match="someone/none"):
        SDDPM.from_pretrained("someone/none")
    with pytest.raises(OSError, match=f"{NAME}: {hub.address} answered with status 400"):
        model().push_to_hub(NAME, token=TOKEN)


def test_a_folder_of_that_name_comes_before_the_hub(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model().save_pretrained(NAME)
    assert SDDPM.from_pretrained(NAME).denoiser.shape.size == 8
    assert hub.requests == []
    for name in ("no-such", "a/b/c", Path("someone/none")):
        with pytest.raises(FileNotFoundError, match="not a checkpoint folder"):
            SDDPM.from_pretrained(name)
    assert hub.requests == [], "only owner/name is a name on the Hub"


def test_damaged_weights_from_the_hub_are_named(hub: Hub) -> None:
    model().push_to_hub(NAME, token=TOKEN)
    hub.files[NAME]["model.safetensors"] = hub.files[NAME]["model.safetensors"][:-5]
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        SDDPM.from_pretrained(NAME)
