"""``gaitcrafter-rt train``."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from typing import Any, get_args

import click

from ..errors import InvalidRequestError
from ..train.settings import TrainSettings
from .common import FOLDER, console, json_option, note, print_json

# Help per option of TrainSettings; type and default come from its fields.
_HELP = {
    "name": "Name of the model.",
    "preset": "Network: walker is small and fast, paper has the paper's size.",
    "identity": "Where identity labels enter the network.",
    "view": "Where view labels enter.",
    "covariate": "Where covariate labels enter.",
    "prediction": "What the network predicts.",
    "schedule": "Noise schedule.",
    "timesteps": "Diffusion steps.",
    "loss_weight": "Weight of the loss over the timesteps.",
    "snr_cap": "Bound of that weight.",
    "steps": "Optimiser steps.",
    "hours": "Hours of processor time, in place of --steps.",
    "minutes": "Minutes by the clock on the wall, start-up included, in place of --steps; for a GPU.",
    "init": "A model package whose weights the run starts from.",
    "batch": "Clips per step.",
    "lr": "Learning rate.",
    "table_lr": "Learning rate of label tables, times --lr.",
    "warmup": "Steps of warm-up.",
    "weight_decay": "Weight decay.",
    "ema": "Decay of the averaged weights.",
    "precision": "Arithmetic; auto takes bf16 where the processor has it.",
    "compile": "torch.compile: auto uses it on a GPU, and goes on without it where it fails.",
    "check_every": "Steps from one look at the loss to the next, which waits for the device; none is 1, on a GPU 25.",
    "threads": "Threads of torch.",
    "seed": "Seed of weights and batches.",
    "checkpoint_every": "Steps from one checkpoint to the next.",
    "sample_every": "Steps from one sample sheet to the next, 0 for none.",
    "sampler_steps": "Sampler steps of the sheets, and the model's default.",
    "guidance": "Guidance scale that the model gets as its default; above 1 every step costs two network calls.",
    "notes": "Remarks for the model card.",
    "device": "cpu or cuda.",
}


def _settings_options(command: Any) -> Any:
    for name, text in reversed(_HELP.items()):
        field = TrainSettings.model_fields[name]
        default = "none" if field.default is None else str(field.default)
        choices = [c for c in get_args(field.annotation) if isinstance(c, str)]
        numbers = [t for t in (field.annotation, *get_args(field.annotation)) if t in (int, float)]
        kind = click.Choice(choices) if choices else numbers[0] if numbers else _number_or_text(field.annotation)
        option = "--" + name.replace("_", "-")
        command = click.option(option, type=kind, help=f"{text}  [default: {default}]")(command)
    return command


def _number_or_text(annotation: Any) -> type:
    """The type inside ``Annotated[...] | None``."""
    for part in get_args(annotation):
        inner = getattr(part, "__origin__", None)
        if inner in (int, float):
            return inner  # type: ignore[no-any-return]
    return str


@click.command()
@click.option("--data", required=True, type=FOLDER, help="Packed training set, from walkers render or pack.")
@click.option("--out", required=True, type=FOLDER, help="Run folder: checkpoints, sample sheets, at the end the package OUT/model.")
@_settings_options
@click.option("--unet", multiple=True, metavar="FIELD=JSON", help="Change a field of the network, as dim=64. Repeatable.")
@click.option(
    "--dropout", multiple=True, metavar="AXIS=P", help="Share of clips whose label is hidden, as identity=0.1. Repeatable."
)
@click.option("--dry-run", is_flag=True, help="Time a few steps, say what the run would take, write nothing.")
@json_option
def train(as_json: bool, dry_run: bool, **options: Any) -> None:
    """Train a model on a packed training set (extra: train).

    An interrupted run goes on where its newest checkpoint stopped: give the same command again. Ctrl-C finishes the step, saves and
    leaves.

    \b
    gaitcrafter-rt train --data walkers48 --out run --dry-run
    gaitcrafter-rt train --data walkers48 --out run --hours 2
    gaitcrafter-rt train --data packed --out run --preset paper --steps 100000 --device cuda
    """
    from ..train import forecast, run

    given = {k: v for k, v in options.items() if v is not None and v != ()}
    given["data"], given["out"] = os.fspath(given["data"]), os.fspath(given["out"])
    given |= {name: _pairs(f"--{name}", given[name]) for name in ("unet", "dropout") if name in given}
    if "dropout" in given:
        given["dropout"] = TrainSettings.model_fields["dropout"].get_default() | given["dropout"]
    settings = TrainSettings.checked(**given)
    if dry_run:
        _show_forecast(forecast(settings), as_json)
        return
    with _Bar(show=not as_json) as update:
        final = run(settings, progress=update, command=["gaitcrafter-rt", *sys.argv[1:]])
    finished = final.is_dir()
    if as_json:
        print_json({"out": settings.out, "model": str(final) if finished else None, "finished": finished, "last": update.last})
    elif finished:
        click.echo(str(final))
        note(f"look at it with: gaitcrafter-rt inspect model {shlex.quote(str(final))}", as_json)
    else:
        note(f"stopped at step {update.last.get('step', 0)} and saved; the same command goes on from there", as_json)


def _show_forecast(expected: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(expected)
        return
    speed = f"{expected['seconds_per_step']:.2f} s per step, {expected['clips_per_second']:.1f} clips/s"
    click.echo(
        f"{expected['parameters']:,} parameters, {speed}; "
        f"{expected['steps']} steps take about {expected['hours']:.1f} hours on this machine as it is loaded now"
    )


def _pairs(option: str, texts: tuple[str, ...]) -> dict[str, Any]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            if not (name and equals):
                raise ValueError
            pairs[name] = json.loads(value)
        except (ValueError, RecursionError) as e:
            raise InvalidRequestError(f"{option} takes FIELD=VALUE with a JSON value, as in dim=64; got {text!r}") from e
    return pairs


class _Bar:
    """Progress on a terminal, a line now and then elsewhere; keeps the last report."""

    def __init__(self, *, show: bool) -> None:
        self.last: dict[str, Any] = {}
        self._show = show
        self._draw: Callable[[dict[str, Any]], None] | None = None
        self._bar: Any = None

    def __enter__(self) -> _Bar:
        if self._show and sys.stderr.isatty():
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            text = "step {task.fields[step]}  x0 error {task.fields[error]}  {task.fields[rate]} clips/s  left {task.fields[left]}"
            columns = (BarColumn(bar_width=30), TextColumn("{task.percentage:>5.1f}%"), TextColumn(text), TimeElapsedColumn())
            self._bar = Progress(*columns, console=console(err=True))
            self._bar.start()
            task = self._bar.add_task("", total=1.0, step=0, error="-", rate="-", left="-")

            def draw(r: dict[str, Any]) -> None:
                self._bar.update(task, completed=r["done"], step=r["step"], error=f"{r['x0_error']:.4f}",
                                 rate=f"{r['clips_per_second']:.1f}", left=_clock(r["seconds_left"]))  # fmt: skip

            self._draw = draw
        return self

    def __call__(self, report: dict[str, Any]) -> None:
        before, self.last = self.last.get("step", 0), report
        if self._draw:
            self._draw(report)
        elif self._show and report["step"] // 100 > before // 100:
            click.echo(f"step {report['step']} ({report['done']:.1%}): x0 error {report['x0_error']:.4f}, "
                       f"{report['clips_per_second']:.1f} clips/s, {_clock(report['seconds_left'])} left", err=True)  # fmt: skip

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def _clock(seconds: float) -> str:
    minutes = int(seconds) // 60
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes >= 60 else f"{minutes}:{int(seconds) % 60:02d} min"
