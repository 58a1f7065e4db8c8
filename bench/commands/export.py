"""``sddpm-bench export``: a checkpoint in a format that neuromorphic tools read."""

from __future__ import annotations

from pathlib import Path

import click

from bench.commands import options
from bench.commands.terminal import print_pairs, say


@click.command()
@options.checkpoint
@click.option("--format", "kind", type=click.Choice(["nir"]), default="nir",
              help="Format of the spiking parts. nir: Neuromorphic Intermediate Representation, "
              "which needs the extra nir.")  # fmt: skip
@click.option("--out", required=True, type=options.PATH, metavar="FILE.nir",
              help="File of the graphs. The manifest and the host's numbers are beside it: "
              "FILE.json and FILE.safetensors.")  # fmt: skip
@options.time_steps
@options.threshold
@options.gain
def export(
    checkpoint: str,
    kind: str,
    out: Path,
    time_steps: int | None,
    threshold: float | None,
    gain: float | None,
) -> None:
    """Write the spiking parts of a checkpoint as graphs for neuromorphic hardware.

    A manifest lists all steps of an evaluation in their order, and which of them stay on the host.
    docs/hardware.md describes it. A network that the format cannot hold exactly is refused.

    \b
    Example:
      sddpm-bench export --ckpt fashion-mnist --format nir --out model.nir
    """
    from bench.checkpoints import Checkpoint
    from bench.files import check_file
    from bench.run.drawing import DrawOptions, open_to_draw
    from sddpm.export.files import check_nir, files_of, write_nir
    from sddpm.guidance import guided

    check_nir()
    for path in files_of(out).values():
        check_file("--out", path)
    opened = Checkpoint.find(checkpoint)
    asked = DrawOptions(time_steps=time_steps, threshold=threshold, gain=gain, device="cpu")
    drawing = open_to_draw(opened, asked, say)
    sampling = drawing.sampling or {}
    facts = {key: opened.facts.get(key) for key in ("system", "dataset", "hash")}
    with guided(drawing.system.generator, sampling.get("threshold")) as net:
        manifest = write_nir(net, opened.shape.size, out, facts, sampling.get("gain", 1.0))
    chip = [step for step in manifest["steps"] if "chip" in step]
    print_pairs({
        "graphs": f"{len(chip)}: {out}",
        "steps of the host": f"{len(manifest['steps']) - len(chip)}: {files_of(out)['manifest']}",
        "numbers of the host": str(files_of(out)["tensors"]),
    })  # fmt: skip
