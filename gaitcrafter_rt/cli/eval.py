"""``gaitcrafter-rt eval``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from .common import FOLDER, SAMPLERS, console, json_option, note, print_json, printable
from .panel import panel, recogniser, steps, train_recogniser


@click.group(name="eval")
def evaluate() -> None:
    """Measure a model against the data it was trained on."""


for command in (train_recogniser, recogniser, panel, steps):
    evaluate.add_command(command)


@evaluate.command()
@click.argument("path")
@click.option("--data", required=True, type=FOLDER, help="Packed set with the training clips and the held-out ones.")
@click.option("--out", type=FOLDER, help="Also write the report as JSON to this new file.")
@click.option("--write-card", is_flag=True, help="Put the table into the model's README.md; nothing else in it changes.")
@click.option("--clips-per-cell", default=1, show_default=True, help="Clips of every identity, view and covariate.")
@click.option("--blend-pairs", default=10, show_default=True, help="Pairs of identities to blend, 0 for none.")
@click.option("--sampler", type=click.Choice(SAMPLERS), help="Sampler.  [default: the model's]")
@click.option("--steps", type=int, help="Sampler steps.  [default: the model's]")
@click.option("--guidance", type=float, help="Guidance scale.  [default: the model's]")
@click.option("--seed", default=0, show_default=True, help="Of the clips and of the bootstrap.")
@click.option("--threads", type=int, help="1 to 256.  [default: one per processor]")
@click.option("--cache", type=FOLDER, help="Where trained classifiers are kept.  [default: ~/.cache/gaitcrafter-rt/evaluate]")
@json_option
def model(path: str, data: Path, out: Path | None, write_card: bool, as_json: bool, **options: Any) -> None:
    """Generate every identity, view and covariate of the model at PATH and measure the clips (extra: train).

    Each figure stands beside the same figure of held-out clips, with a 95 % interval; docs/evaluation.md defines them. The first
    run on a data set trains a classifier of view and covariate, about a minute.

    \b
    gaitcrafter-rt eval model run/model --data walkers48 --write-card
    """
    from ..evaluate import render_markdown, run
    from ..evaluate.markdown import check_card
    from ..evaluate.markdown import write_card as put_into_card
    from ..models import resolve_model

    if write_card:
        check_card(resolve_model(path))
    given = {name: value for name, value in options.items() if value is not None}
    with _stages(quiet=as_json) as tell:
        report = run(path, data, out, progress=tell, command=shlex.join(["gaitcrafter-rt", *sys.argv[1:]]), **given)
    if as_json:
        print_json(report)
    else:
        click.echo(printable(render_markdown(report)), nl=False)
    if write_card:
        note(f"table put into {put_into_card(resolve_model(path), report)}", as_json)


@contextmanager
def _stages(*, quiet: bool) -> Iterator[Callable[[str, float], None]]:
    """A bar that names its stage on a terminal, a line per stage elsewhere; yields ``tell(stage, share done)``."""
    seen: list[str] = []
    if quiet or not sys.stderr.isatty():

        def line(stage: str, done: float) -> None:
            if stage not in seen:
                seen.append(stage)
                note(stage, quiet)

        yield line
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=36), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console(err=True)) as bar:
        tasks: dict[str, Any] = {}

        def draw(stage: str, done: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=1.0)
            bar.update(tasks[stage], completed=done)

        yield draw
