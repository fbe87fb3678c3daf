"""``gaitcrafter-rt distill``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from ..distill.settings import DistillSettings
from ..errors import InvalidRequestError
from .common import FOLDER, json_option, note, print_json, split_list


@click.command()
@click.argument("teacher")
@click.argument("out", type=FOLDER)
@click.option("--data", type=FOLDER, help="Packed set that the teacher was trained on; not needed with --start noise.")
@click.option(
    "--start", type=click.Choice(["data", "noise"]), default="data", show_default=True,
    help="data: noised clips, each call learned by itself; noise: the student's own way, held to trajectories of the teacher.",
)  # fmt: skip
@click.option("--trajectories", default=4096, show_default=True, help="Of the teacher, for --start noise; 0.7 MB each at 3 calls.")
@click.option("--keep", default="", help="Folder of the trajectories; it is resumed and read again.  [default: OUT.trajectories]")
@click.option("--init", default="", help="A model package whose weights the first student starts from.  [default: the teacher]")
@click.option(
    "--init-teacher", default="", help="What --init was distilled from, if TEACHER was fine-tuned from that: the change is added."
)
@click.option("--calls", default="4", show_default=True, help="Calls of a clip; several students with commas between, as 4,2,1.")
@click.option("--share", help="What each student gets of the steps or minutes, as 3,2,1.  [default: equal]")
@click.option("--guidance", type=float, help="Guidance scale that is baked in.  [default: the teacher's]")
@click.option("--teacher-steps", default=12, show_default=True, help="Steps of the teacher from noise to a clip.")
@click.option(
    "--sampler", type=click.Choice(["ddim", "unipc"]), default="ddim", show_default=True,
    help="Default sampler of the students, who learn along ddim; unipc has livelier edges from 3 calls on (docs/quality.md).",
)  # fmt: skip
@click.option(
    "--progressive/--from-teacher", default=True, show_default=True,
    help="A student with half the calls of an earlier one learns from that student, not from the teacher.",
)  # fmt: skip
@click.option("--steps", default=2000, show_default=True, help="Optimiser steps of all students together.")
@click.option("--minutes", type=float, help="Minutes by the clock on the wall in place of --steps, start-up included.")
@click.option("--batch", default=16, show_default=True, help="Clips per step.")
@click.option("--lr", default=5e-4, show_default=True, help="Learning rate; it falls to a hundredth along a cosine.")
@click.option("--warmup", default=50, show_default=True, help="Steps of warm-up.")
@click.option("--ema", default=0.99, show_default=True, help="Decay of the averaged weights.")
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp32"]), default="auto", show_default=True, help="Arithmetic.")
@click.option(
    "--compile", "compile_", type=click.Choice(["auto", "on", "off"]), default="auto", show_default=True,
    help="torch.compile: auto uses it on a GPU, and goes on without it where it fails.",
)  # fmt: skip
@click.option("--threads", type=int, help="Threads of torch.")
@click.option("--seed", default=0, show_default=True, help="Of the batches.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--name", default="", help="Name of the students.  [default: the teacher's with the number of calls]")
@json_option
def distill(teacher: str, out: Path, calls: str, share: str | None, compile_: str, as_json: bool, **options: Any) -> None:
    """Distil TEACHER, a model package or the name of one that ships, into students of a few network calls (extra: train).

    Each student becomes a package OUT/calls-N that runs in every engine: it samples in N steps, and the guidance is part of
    its weights, so that a step is one call.

    \b
    gaitcrafter-rt distill walker students --data walkers48 --calls 4,2,1
    gaitcrafter-rt distill run/model students --data packed --calls 4 --minutes 5 --batch 128 --device cuda
    gaitcrafter-rt distill walker fast --start noise --calls 3 --teacher-steps 18 --sampler unipc --init walker-fast
    """
    from ..distill import run
    from ..models import resolve_model

    options["data"] = os.fspath(options["data"]) if options["data"] else ""
    for name in ("init", "init_teacher"):
        options[name] = os.fspath(resolve_model(options[name])) if options[name] else ""
    settings = DistillSettings.checked(
        teacher=os.fspath(resolve_model(teacher)), out=os.fspath(out), compile=compile_, calls=_numbers("--calls", calls, int),
        share=_numbers("--share", share, float) if share else (), **options,
    )  # fmt: skip
    last: dict[int, dict[str, Any]] = {}
    told = [0]  # twentieths of the trajectories

    def tell(report: dict[str, Any]) -> None:
        if "trajectories" in report:
            done, of = report["trajectories"], report["of"]
            if 20 * done // of > told[0]:
                told[0] = 20 * done // of
                note(f"trajectories of the teacher: {done:,} of {of:,}", as_json)
            return
        before = last.get(report["calls"], {}).get("step", 0)
        last[report["calls"]] = report
        if report["step"] // 100 > before // 100 or not before:
            note(
                f"{report['calls']} calls, step {report['step']} ({report['done']:.0%}): error {report['error']:.4f}, "
                f"{report['clips_per_second']:.1f} clips/s",
                as_json,
            )

    folders = run(settings, tell, command=["gaitcrafter-rt", *sys.argv[1:]])
    if as_json:
        print_json({"students": [str(folder) for folder in folders], "last": list(last.values())})
    else:
        for folder in folders:
            click.echo(str(folder))


def _numbers(option: str, text: str, kind: type) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in split_list([text]))
    except ValueError:
        raise InvalidRequestError(f"{option} takes numbers with commas between them, as 4,2,1; got {text!r:.60}") from None
