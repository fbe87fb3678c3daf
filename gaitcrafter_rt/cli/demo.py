"""``gaitcrafter-rt demo``."""

from __future__ import annotations

from pathlib import Path

import click

from .common import FOLDER, json_option, note, print_json


@click.command()
@click.argument("out", type=FOLDER)
@click.option("--model", default="walker", show_default=True, help="Model folder, or the name of a model that ships.")
@click.option("--seed", default=0, show_default=True, help="0 to 2**64 - 1.")
@click.option("--threads", type=int, help="1 to 256.  [default: one per processor]")
@json_option
def demo(out: Path, model: str, seed: int, threads: int | None, as_json: bool) -> None:
    """Generate a few clips into OUT and draw them: a contact sheet and a GIF.

    Two identities, their blend, and up to four views of each, normal walking.

    \b
    gaitcrafter-rt demo demo
    """
    from ..models import resolve_model
    from ..package import read_config
    from .generate import run_generate

    config = read_config(resolve_model(model))
    labels = config.labels
    people = labels.identity[:2]
    views = labels.view[:: max(1, (len(labels.view) - 1) // 3)][:4]
    result = run_generate(
        out, model=model, identities=[",".join(people)], blends=["+".join(people)] if len(people) == 2 else [],
        views=[",".join(views)], covariates=labels.covariate[:1], formats=["npz", "sheet", "gif"], seed=seed, threads=threads,
        device="cpu", precision="auto", quiet=as_json,
    )  # fmt: skip
    if as_json:
        print_json(result)
        return
    click.echo(f"{result['clips']} clips in {result['seconds']:.1f} s; look at")
    for written in result["written"]:
        click.echo(f"  {out / written['path']}")
    if config.provenance.identities == "rendered":
        note("the model was trained on rendered walkers, not on captured people", as_json)
