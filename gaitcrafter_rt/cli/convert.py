"""``gaitcrafter-rt convert``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from .common import FOLDER, json_option, note, print_json


@click.command()
@click.argument("checkpoint", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--which", default="auto", show_default=True, help="Weights to take: ema, model, or another key of the file.")
@click.option(
    "--labels", type=FOLDER, help="JSON that gives the cond column of every label per axis; without it raw cond vectors only."
)
@click.option("--frames", type=int, help="Frames of a clip; not in a checkpoint, 30 if not given.")
@click.option("--size", type=int, help="Height and width; not in a checkpoint, 64 if not given.")
@click.option("--norm-groups", type=int, help="Groups of the group norm; not in a checkpoint, 8 if not given.")
@click.option(
    "--thresholding",
    type=click.Choice(["clip", "dynamic"]),
    default="clip",
    show_default=True,
    help="How x0 was bounded when the model was sampled in training.",
)
@click.option(
    "--prediction", type=click.Choice(["eps", "x0", "v"]), default="eps", show_default=True, help="What the network predicts."
)
@click.option("--timesteps", type=int, help="Diffusion steps of training, where the file does not tell.")
@click.option("--schedule", type=click.Choice(["cosine", "linear"]), help="Noise schedule, where the file does not tell.")
@click.option("--guidance-trained", is_flag=True, help="The null condition was seen in training, so guidance may be used.")
@click.option("--name", help="Name of the model.  [default: the file's name]")
@click.option("--training-data", default="unknown", show_default=True, help="What it was trained on; printed with every output.")
@click.option("--training-data-terms", default="unknown", show_default=True, help="The terms of that data.")
@click.option(
    "--identities",
    type=click.Choice(["real", "blended", "rendered", "unknown"]),
    default="unknown",
    show_default=True,
    help="Whose gait the identities are.",
)
@json_option
def convert(checkpoint: Path, out: Path, as_json: bool, **options: object) -> None:  # fmt: skip
    """Turn CHECKPOINT, a .pt file of video-diffusion-pytorch, into a model package at OUT (extra: train).

    The file is read with torch's weights-only loader: nothing in it is run. OUT must not exist or be empty.

    \b
    gaitcrafter-rt convert model-80.pt gaitcrafter --labels columns.json --training-data CASIA-B --identities real
    """
    from ..convert import convert_checkpoint

    folder = convert_checkpoint(checkpoint, out, **options, command=shlex.join(["gaitcrafter-rt", *sys.argv[1:]]))  # type: ignore[arg-type]
    if as_json:
        print_json({"model": str(folder)})
    else:
        click.echo(str(folder))
        note(f"look at it with: gaitcrafter-rt inspect model {shlex.quote(str(folder))}", as_json)
