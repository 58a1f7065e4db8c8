"""The committed pages of results/ and their records, as tests of the pages' figures read them."""

from __future__ import annotations

import re
import statistics
from typing import Any

from bench.records.record import read_records
from tests.support.pages import ROOT

RESULTS = "\n".join(
    page.read_text(encoding="utf-8") for page in sorted((ROOT / "results").rglob("README.md"))
)
README = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
TITLES = {
    "ANN twin": "ann_twin", "ANN twin (ReLU)": "ann_twin", "DDPM": "ddpm", "SDDPM": "sddpm",
    "SDDPM, T = 4": "sddpm", "SDDPM (TSM)": "sddpm_tsm", "converted twin": "converted",
    "per-pixel Gaussian": "pixel_gaussian", "pixel Gaussian": "pixel_gaussian", "VAE": "vae",
    "FSVAE": "fsvae", "SGAN": "sgan", "SWGAN": "swgan", "SGAD": "sgad", "FSDDIM": "fsddim",
    "Hybrid GAN": "hybrid_gan", "Spiking-Diffusion": "spiking_diffusion", "ESVAE": "esvae",
    "SDiT": "sdit", "SDDPM+": "sddpm_plus",
}  # fmt: skip
COLUMNS = {
    "FD (efflite0)": ("metrics", "fd_efflite0"),
    "KID": ("metrics", "kid_efflite0"),
    "KID (efflite0)": ("metrics", "kid_efflite0"),
    "precision": ("metrics", "precision_efflite0"),
    "Precision (efflite0)": ("metrics", "precision_efflite0"),
    "Recall (efflite0)": ("metrics", "recall_efflite0"),
    "strict mJ/image": ("energies", "strict"),
    "Strict mJ/image": ("energies", "strict"),
    "Lemaire mJ/image (with memory)": ("energies", "lemaire"),
}


def records(folder: str) -> list[dict[str, Any]]:
    """Records as dictionaries, with every energy of an image under its accounting."""
    found = []
    for record in read_records(ROOT / "results" / folder / "records.jsonl"):
        energies = {key: energy.per_image_mj for key, energy in record.energies.items()}
        found.append({**record.model_dump(), "energies": energies})
    return found


def tables(text: str) -> list[list[list[str]]]:
    """Every Markdown table: rows of cells, the heading first, the rule left out."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    rows = [[line.strip("|").split("|") for line in table.splitlines()] for table in found]
    return [[[cell.strip() for cell in row] for row in (t[0], *t[2:])] for t in rows]


def says(shown: str, values: list[float]) -> bool:
    """Whether ``shown``, ``mean`` or ``mean ± deviation``, is ``values`` rounded as it is."""
    printed = NUMBER.findall(shown)
    true = [statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0]
    for text, value in zip(printed, true, strict=False):
        # A small energy is rounded to three digits, which its decimals show as well.
        unit = 10.0 ** -len(text.partition(".")[2])
        if abs(float(text) - value) > 0.5 * unit + 1e-9:
            return False
    return bool(printed)


def under(heading: str, level: str = "##") -> list[list[str]]:
    """The first table below a heading of a page of results/."""
    _, found, below = RESULTS.partition(f"\n{level} {heading}\n")
    assert found, f"no heading {heading}"
    return tables(below)[0]


def wrong(table: list[list[str]], folder: str) -> list[str]:
    """What in ``table`` is not in the records of ``folder``."""
    heading, *rows = table
    found = []
    for title, *cells in rows:
        own = [r for r in records(folder) if r["system"] == TITLES[title] and r["metrics"]]
        assert own, title
        for name, shown in zip(heading[1:], cells, strict=True):
            where = COLUMNS.get(name.rstrip(" ↓↑"))
            if where and not says(shown, [record[where[0]][where[1]] for record in own]):
                found.append(f"{title}, {name}: {shown}")
    return found


def by_seed(folder: str, column: str, **facts: Any) -> dict[int, float]:
    """A metric of the records that have these facts, by seed."""
    found = [r for r in records(folder) if all(r[key] == value for key, value in facts.items())]
    seeds = [int(r["seed"]) for r in found]
    assert len(seeds) == len(set(seeds)), f"{folder}: {facts} are of more than one row"
    return dict(zip(seeds, (r["metrics"][column] for r in found), strict=True))


def of_variant(folder: str, system: str, variant: str, **facts: Any) -> list[float]:
    """Distances of a row of one suite's variant, by seed."""
    found = by_seed(folder, "fd_efflite0", system=system, variant=variant, **facts)
    return [found[seed] for seed in sorted(found)]
