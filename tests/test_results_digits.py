"""Figures of the digits in the pages of results/, and of the second extractor, are the records'."""

from __future__ import annotations

from typing import Any

from tests.support.result_pages import by_seed, of_variant, records, says, under

SAMPLED = {  # network of the page -> system and variant
    "ANN twin, 32 channels": ("ann_twin", ""),
    "SDDPM+, 48 channels": ("sddpm_plus", ""),
    "SDDPM+, 48 channels, pays for events": ("sddpm_plus", "event weight 0.1"),
    "SDDPM+, 32 channels": ("sddpm_plus", "32 channels"),
    "SDDPM, 32 channels": ("sddpm", ""),
}


def test_the_samplers_of_the_digits_are_the_records() -> None:
    heading, *rows = under("On the digits", level="###")
    assert heading == ["network", "DDIM", "SDE-DPM-Solver++", "ratio", "seeds"]
    assert len(rows) == len(SAMPLED)
    for network, *cells, seeds in rows:
        system, variant = SAMPLED[network]
        ddim, sde = (
            of_variant("digits_sampler", system, variant, sampler=sampler)
            for sampler in ("ddim", "sde_dpm_solver++")
        )
        assert seeds == ", ".join(map(str, range(len(ddim))))
        ratios = [ours / theirs for ours, theirs in zip(sde, ddim, strict=True)]
        for shown, values in zip(cells, (ddim, sde, ratios), strict=True):
            assert says(shown, values), (network, shown)


COMPARED = {  # data and network of the page -> folder, system and variant
    ("digits", "SDDPM+, 48 channels, pays for events"):
        ("digits_sampler", "sddpm_plus", "event weight 0.1"),
    ("digits", "SDDPM+, 48 channels"): ("digits_sampler", "sddpm_plus", ""),
    ("digits", "SDDPM+, 32 channels"): ("digits_sampler", "sddpm_plus", "32 channels"),
    ("digits", "SDDPM, 32 channels"): ("digits_sampler", "sddpm", ""),
    ("clothes", "SDDPM+, 24 channels, pays 0.03 for events"):
        ("fashion_mnist_plus", "sddpm_plus", "event weight 0.03"),
}  # fmt: skip


def test_the_two_extractors_are_the_records() -> None:
    heading, *rows = under("Two extractors")
    assert heading == [
        "data", "network", "FD (efflite0), ratio", "FD (efflite2), ratio", "seeds",
    ]  # fmt: skip
    assert len(rows) == len(COMPARED)
    for data, network, *cells, seeds in rows:
        folder, *row = COMPARED[data, network]
        for shown, home, column in zip(
            cells, (folder, f"{folder}_lite2"), ("fd_efflite0", "fd_efflite2"), strict=True
        ):
            ours, theirs = (
                by_seed(home, column, system=system, variant=variant, sampler="sde_dpm_solver++")
                for system, variant in (row, ("ann_twin", ""))
            )
            both = sorted(ours.keys() & theirs.keys())
            assert seeds == ", ".join(map(str, both))
            assert says(shown, [ours[seed] / theirs[seed] for seed in both]), (network, shown)


RATES = {"0.004": "twice the rate", "0.008": "4 times the rate", "0.016": "8 times the rate"}


def test_the_step_sizes_are_the_records() -> None:
    heading, *rows = under("The step size")
    assert heading == ["peak rate", "ANN twin", "SDDPM+", "SDDPM"]
    found = 0
    for rate, *cells in rows:
        for system, shown in zip(("ann_twin", "sddpm_plus", "sddpm"), cells, strict=True):
            if values := of_variant("digits_rates", system, RATES.get(rate, "none")):
                assert says(shown, values), (rate, shown)
                found += 1
    assert found == 8


def test_the_doublings_are_the_records() -> None:
    held_out, training = (
        {record["train_steps"]: record["metrics"]["fd_efflite0"] for record in records(folder)
         if (record["system"], record["seed"], record["sampler"]) == ("ann_twin", 0, "ddim")}
        for folder in ("digits_held_out", "digits_converged")
    )  # fmt: skip
    training[2000] = next(
        record["metrics"]["fd_efflite0"]
        for record in records("digits")
        if record["system"] == "ann_twin" and record["seed"] == 0
    )
    _, *rows = under("How long is long enough?")
    assert len(rows) == len(held_out) == 4
    for words, *cells in rows:
        steps = int(words.replace(",", ""))
        for found, shown, moved in ((held_out, *cells[:2]), (training, *cells[2:])):
            assert says(shown, [found[steps]]), (words, shown)
            if moved:
                assert says(moved.rstrip(" %"), [100 * (found[steps] / found[steps // 2] - 1)])


ENDED = {  # row of the page -> system, variant, sampler and, of several, steps of the training
    "ANN twin": ("ann_twin", "", "sde_dpm_solver++", 16_000),
    "SDDPM+, 32 channels": ("sddpm_plus", "32 channels", "sde_dpm_solver++", 16_000),
    "converted twin": ("converted", "", "sde_dpm_solver++", None),
    "SDDPM": ("sddpm", "", "sde_dpm_solver++", 16_000),
    "FSVAE": ("fsvae", "", None, None),
    "ESVAE": ("esvae", "", None, None),
    "VAE (ANN)": ("vae", "", None, None),
    "SGAN": ("sgan", "", None, None),
    "SWGAN": ("swgan", "", None, None),
    "SGAD": ("sgad", "", None, None),
    "Hybrid GAN": ("hybrid_gan", "", None, None),
    "Spiking-Diffusion": ("spiking_diffusion", "", None, None),
    "per-pixel Gaussian": ("pixel_gaussian", "", None, None),
}


def test_the_systems_that_were_trained_to_their_end_are_the_records() -> None:
    heading, *rows = under("All systems, trained to their end", level="###")
    assert heading == [
        "system", "images", "FD to held-out images", "over the twin's", "strict mJ/image",
        "with memory", "seeds",
    ]  # fmt: skip
    assert [row[0] for row in rows] == list(ENDED)
    facts = {title: ended(*row) for title, row in ENDED.items()}
    twin = {r["seed"]: r["metrics"]["fd_efflite0"] for r in facts["ANN twin"]}
    for title, images, distance, ratio, strict, memory, seeds in rows:
        own = facts[title]
        assert seeds == ", ".join(str(record["seed"]) for record in own)
        if title != "converted twin":
            assert {images.replace(",", "")} == {str(record["train_images"]) for record in own}
        assert says(distance, [record["metrics"]["fd_efflite0"] for record in own]), title
        ratios = [r["metrics"]["fd_efflite0"] / twin[r["seed"]] for r in own]
        assert says(ratio, ratios), title
        for shown, accounting in ((strict, "strict"), (memory, "lemaire")):
            assert says(shown, [record["energies"][accounting] for record in own]), title


def ended(
    system: str, variant: str, sampler: str | None, steps: int | None
) -> list[dict[str, Any]]:
    """Records of a row against the held-out images, by seed."""
    found = [
        record
        for record in records("digits_held_out")
        if (record["system"], record["variant"], record["sampler"]) == (system, variant, sampler)
        and steps in (None, record["train_steps"])
    ]
    return sorted(found, key=lambda record: int(record["seed"]))


PARTS = {
    "with every part": "",
    "without the stem's gain": "no stem gain",
    "without the stem's shortcut and gain: the integer neuron alone": "no stem shortcut",
    "with the published head": "published head",
    "with noise prediction": "noise prediction",
    "with a threshold a step, no reset": "threshold steps",
    "with ternary spikes": "ternary IF",
    "with soft reset": "soft IF",
    "with the parallel neuron": "parallel IF",
    "with SDDPM's neuron (IF, hard reset): the stem alone": "IF",
    "event weight 0.03": "event weight 0.03",
    "event weight 0.1": "event weight 0.1",
    "event weight 0.3": "event weight 0.3",
    "threshold 0.5": "threshold 0.5",
    "threshold 2": "threshold 2",
    "Min-SNR, gamma 5": "Min-SNR 5",
    "average over 100 steps (decay 0.99)": "EMA 0.99",
    "T of 2, 4 and 8, drawn at each step": "T of 2, 4 and 8",
}


def test_the_parts_of_sddpm_plus_are_the_records() -> None:
    heading, *rows = under("The parts of SDDPM+")
    assert heading[1:3] == ["FD (efflite0)", "ratio"]
    shown = {title: cells for title, *cells, _ in rows}
    assert PARTS.keys() == shown.keys() - {"SDDPM: none of these parts but head and prediction"}
    whole = of_variant("digits_ablation", "sddpm_plus", "")
    for title, variant in PARTS.items():
        values = of_variant("digits_ablation", "sddpm_plus", variant)
        assert len(values) == len(whole) == 3, title
        assert says(shown[title][0], values), title
        pairs = zip(values, whole, strict=True)
        assert says(shown[title][1], [value / own for value, own in pairs]), title
