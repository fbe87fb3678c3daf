"""Columns that were made elsewhere, against the same clips made here: overlap and flipped pixels of the first few of each column.

Noise, sampler table and packing are the same; what differs is the arithmetic of the network. A clip of a thousand-step teacher with
guidance is two thousand network calls.

    python benchmarks/check_made.py walker --made h100 --clips 4 --precision bf16
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from gaitcrafter_rt import Engine
from gaitcrafter_rt.config import Labels
from gaitcrafter_rt.evaluate.agreement import agreement
from gaitcrafter_rt.panel.cells import spread_cells
from gaitcrafter_rt.panel.made import find, read_made


@click.command()
@click.argument("model")
@click.option("--made", "folder", required=True, type=click.Path(path_type=Path), help="Folder with columns.json.")
@click.option("--clips", default=4, show_default=True, type=click.IntRange(1), help="Of every column.")
@click.option("--precision", default="auto", show_default=True, help="Of the engine here.")
@click.option("--kind", help="Only columns of this sampler, as ddpm.")
@click.option("--seed", type=int, help="Only columns of this seed.")
def main(model: str, folder: Path, clips: int, precision: str, kind: str | None, seed: int | None) -> None:
    made = read_made(folder)
    with Engine.from_pretrained(model, precision=precision, threads=1) as engine:
        labels = Labels.model_validate(engine.vocabulary.labels)
        click.echo(f"{made.made_on}\nagainst the native engine, {engine.info['precision']}, {engine.info['isa']}")
        click.echo("| column | clips | IoU, mean | lowest | pixels that flip at edges | inside |\n|---|---|---|---|---|---|")
        for column in made.columns:
            if (kind and column.sampler["kind"] != kind) or (seed is not None and column.seed != seed):
                continue
            arguments = {("sampler" if name == "kind" else name): value for name, value in column.sampler.items()}
            theirs = find(folder, engine.info["model_sha256"], column.seed, column.sampler, clips, labels)
            if theirs is None:
                raise click.ClickException(f"{column.file} is of another model, or holds fewer than {clips} clips")
            ours = engine.generate(spread_cells(labels, clips), seed=column.seed, **arguments)
            found = agreement(np.concatenate(list(theirs.chunks())), np.unpackbits(ours.packed, axis=1).reshape(-1, *theirs.shape))
            name = f"{column.sampler['kind']}, {column.sampler['steps']} steps, seed {column.seed}"
            click.echo(
                f"| {name} | {clips} | {found.iou_mean:.4f} | "
                f"{found.iou_min:.4f} | {found.edge_flips:.3%} | {found.interior_flips:.4%} |"
            )


if __name__ == "__main__":
    main()
