"""``gaitcrafter-rt quantise``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from .common import FOLDER, json_option, note, print_json, progress, split_list


@click.command()
@click.argument("model")
@click.argument("out", type=FOLDER)
@click.option("--clips", default=16, show_default=True, help="Clips to sample and measure, 1 to 4096.")
@click.option(
    "--layers", multiple=True, metavar="LIST", help="Convolutions to calibrate: names or patterns as 'ups.*'.  [default: all]"
)
@click.option("--exclude", multiple=True, metavar="LIST", help="Convolutions to leave out: names or patterns. Repeatable.")
@click.option("--seed", default=0, show_default=True, help="Of noise and conditions, 0 to 2**64 - 1.")
@click.option(
    "--percentile", default=100.0, show_default=True, help="Share of a channel's values that its range holds, 90 to 100 (extremes)."
)
@click.option("--threads", default=1, show_default=True, help="Threads of torch; the last bits of a range may depend on them.")
@json_option
def quantise(model: str, out: Path, layers: tuple[str, ...], exclude: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Calibrate MODEL for int8 and write it to OUT, a new package (extra: train).

    MODEL is a model folder or the name of a model that ships. A few clips are sampled with its default sampler, conditions
    spread over its labels; what every 3x3 convolution of the ResNet blocks reads is measured channel by channel. OUT holds the
    same weights, the ranges, and a line about them in the model card. It must not exist or be empty.

    Layers without ranges run in bf16 when the engine runs in int8. benchmarks/quantise_layers.py measures which those should be.

    \b
    gaitcrafter-rt quantise walker walker-int8
    gaitcrafter-rt quantise run/model model-int8 --clips 64 --exclude 'final_block.*,downs.0.*'
    """
    from ..models import resolve_model
    from ..quantise import quantise_model

    with progress("calibrating", "network calls", show=not as_json) as update:
        made = quantise_model(
            resolve_model(model), out, layers=split_list(layers) or ["all"], exclude=split_list(exclude), progress=update, **options
        )
    if as_json:
        facts = {
            layer: {"channels": len(low), "low": float(low.min()), "high": float(high.max())}
            for layer, (low, high) in made.ranges.items()
        }
        about = made.quantisation.model_dump(include={"clips", "method"})
        print_json({"model": str(made.folder), **about, "layers": facts})
    else:
        click.echo(str(made.folder))
        note(f"look at it with: gaitcrafter-rt inspect model {shlex.quote(str(made.folder))}", as_json)
