"""``gaitcrafter-rt walkers``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from ..walkers import FAMILIES
from .common import FOLDER, human_bytes, json_option, print_json, progress, split_list


@click.group()
def walkers() -> None:
    """Rendered walkers: people that the package draws itself, for training and tests without captured people."""


@walkers.command()
@click.argument("out", type=FOLDER)
@click.option("--identities", default=48, show_default=True, help="Number of walkers.")
@click.option("--first-identity", default=0, show_default=True, help="Number of the first walker of the population.")
@click.option("--train-sequences", default=6, show_default=True, help="Recordings per walker and covariate for training.")
@click.option("--test-sequences", default=2, show_default=True, help="Further recordings that are held out.")
@click.option("--views", default="all", show_default=True, help="Degrees with commas between them, 0 to 180, or all: every 18.")
@click.option("--covariates", default="all", show_default=True, help="Of nm, bg, cl, with commas between them, or all.")
@click.option("--frames", default=30, show_default=True, help="Frames of a clip.")
@click.option("--size", default=64, show_default=True, help="Height and width in pixels.")
@click.option(
    "--family", type=click.Choice(FAMILIES), default="hulls", show_default=True,
    help="How they are drawn: hulls, or the same people as boxes, seen by a worse camera.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the population and of every recording.")
@click.option("--workers", default=1, show_default=True, help="Processes.")
@json_option
def render(out: Path, views: str, covariates: str, as_json: bool, **options: Any) -> None:
    """Render a packed training set into OUT, which must not exist or be empty.

    The clips depend on the options alone, not on --workers.

    \b
    gaitcrafter-rt walkers render walkers48 --identities 48 --workers 2
    gaitcrafter-rt train --data walkers48 --out run --hours 2
    """
    from ..data import PackedClips
    from ..walkers import COVARIATES, VIEWS
    from ..walkers.training_set import render_training_set

    options |= {"views": VIEWS if views == "all" else [_degrees(v) for v in split_list([views])]}
    options |= {"covariates": COVARIATES if covariates == "all" else split_list([covariates])}
    with progress("rendering", "clips") as update:
        folder = render_training_set(out, **options, progress=update)
    packed = PackedClips.open(folder)
    size = sum(f.stat().st_size for f in Path(folder).iterdir())
    if as_json:
        counts = {axis: len(getattr(packed.labels, axis)) for axis in ("identity", "view", "covariate")}
        test = int((packed.split == 1).sum())
        print_json(
            {"out": str(folder), "clips": len(packed), "train": len(packed) - test, "test": test, "labels": counts, "bytes": size}
        )
    else:
        click.echo(f"{len(packed)} rendered clips in {folder} ({human_bytes(size)})")


def _degrees(text: str) -> int:
    from ..errors import InvalidRequestError

    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 180 or value != int(value):
        raise InvalidRequestError(f"--views takes whole degrees from 0 to 180 with commas between them, as in 0,90; got {text!r}")
    return int(value)
