"""The model card of a checkpoint: Markdown with the Hub's front matter, figures included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

LIBRARY = "sddpm-bench"
TASK = "unconditional-image-generation"
TAGS = ["spiking-neural-network", "diffusion", "sddpm"]
PAPER = "2306.17046"


def model_card(
    facts: Mapping[str, Any],
    parameters: int,
    records: Iterable[Mapping[str, Any]] = (),
    name: str = "FOLDER",
) -> str:
    """The card of a checkpoint.

    Args:
        facts: content of its ``config.json``.
        records: measurements of it, as lines of ``records.jsonl``; they become the front matter's
            ``model-index``.
        name: folder or ``owner/name`` by which the example opens it.
    """
    config, shape = facts["config"], facts["shape"]
    training = facts.get("training") or {}
    images = training.get("steps", 0) * training.get("batch_size", 0)
    trained = (
        f"{training['steps']:,} steps of {training['batch_size']} images ({images:,} images), "
        f"seed {training['seed']}, {training['precision']}"
        if training
        else f"imported from {facts.get('source', 'elsewhere')}"
    )
    multipliers = " ".join(map(str, config["multipliers"]))
    dataset = facts.get("dataset_label") or facts.get("dataset") or "not stated"
    # Records bring the title of their row, as "SDDPM+".
    title = f"{next((r['title'] for r in records if r.get('title')), 'SDDPM')}, {dataset}"
    results = [result for record in records for result in eval_results(record)]
    data = ModelCardData(
        library_name=LIBRARY,
        license="apache-2.0",
        pipeline_tag=TASK,
        tags=list(TAGS),
        model_name=title if results else None,
        eval_results=results or None,
    )
    return f"""---
{data.to_yaml()}
---
# {title}

A spiking denoising diffusion model (arXiv {PAPER}).

| | |
| --- | --- |
| images | {shape["channels"]} x {shape["size"]} x {shape["size"]} |
| data | {dataset} |
| network | width {config["channels"]} x [{multipliers}], {config["blocks"]} block(s) a level, \
{parameters:,} parameters |
| neurons | {config["neuron"]}, threshold {config["threshold"]}, {config["time_steps"]} time steps |
| predicts | {config.get("prediction", "epsilon")} |
| training | {trained} |
{_figures(results)}
```python
import sddpm

images = sddpm.SDDPM.from_pretrained("{name}").sample(64, seed=0)
```
"""


def eval_results(record: Mapping[str, Any]) -> list[EvalResult]:
    """The figures of one record in the Hub's form; a figure keeps the name of its column, which
    names the extractor."""
    drawn = ("sampler", "sampler_steps", "eta", "threshold", "time_steps", "samples", "seed")
    against = ("reference_images", "reference_hash", "image_size")
    dataset = str(record["dataset"])
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=dataset.split(" (", 1)[0],
            dataset_name=dataset,
            dataset_split=record.get("reference_split"),
            dataset_args={name: record.get(name) for name in against},
            metric_type=column,
            metric_name=column,
            metric_value=float(value),
            metric_args={
                **{name: record[name] for name in drawn if record.get(name) is not None},
                "extractor": record.get("extractor"),
            },
        )
        for column, value in record.get("metrics", {}).items()
        if "_std" not in column
    ]


def _figures(results: Sequence[EvalResult]) -> str:
    """A table of the figures; empty without any."""
    if not results:
        return ""
    head = ["| figure | value | sampler | compared with |", "| --- | --- | --- | --- |"]
    return "\n".join(["", *head, *map(_figure_line, results), ""])


def _figure_line(result: EvalResult) -> str:
    drawn, against = result.metric_args or {}, result.dataset_args or {}
    sampler = f"{drawn.get('sampler')} {drawn.get('sampler_steps')}, eta {drawn.get('eta')}"
    references = f"{against.get('reference_images'):,} {result.dataset_split} images"
    return (
        f"| {result.metric_type} | {result.metric_value:.6g} | {sampler}, {drawn.get('samples'):,} "
        f"samples | {references} of {result.dataset_name} |"
    )
