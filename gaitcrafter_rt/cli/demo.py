"""``gaitcrafter-rt demo``: what ``make demo`` shows."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import click

from ..errors import OutputError
from .common import FOLDER, command_to_type, json_option, note, print_json, progress
from .generate import open_engine

MADE_BY = "gaitcrafter-rt demo"
# Everything that a demo leaves; a folder that holds more is somebody's own and is never replaced.
CONTENTS = {"opengait", "sheet.png", "clips.gif", "clips.npz", "demo.json"}


@click.command()
@click.argument("out", type=FOLDER)
@click.option("--model", default="walker", show_default=True, help="Model folder, or the name of a model that ships.")
@click.option("--seed", default=0, show_default=True, help="0 to 2**64 - 1.")
@click.option("--threads", type=int, help="1 to 256.  [default: one per processor]")
@click.option("--replace", is_flag=True, help="Replace an earlier demo in OUT; anything else there is refused all the same.")
@json_option
def demo(out: Path, model: str, seed: int, threads: int | None, replace: bool, as_json: bool) -> None:
    """Generate a few clips into OUT: an OpenGait tree, a contact sheet, an animation.

    Three identities and a blend of two, each from four views and in several covariates.

    \b
    gaitcrafter-rt demo demo
    """
    from ..clips import ClipBatch
    from ..files import new_folder

    engine = open_engine(model, settings := {"device": "cpu", "precision": "auto", "threads": threads, "seed": seed})
    conditions = demo_conditions(engine.vocabulary.labels)
    if replace:
        _remove_earlier(out)
    with new_folder(out) as folder:
        began = time.perf_counter()
        with progress("generating", "clips", show=not as_json) as update:
            stream = engine.stream(conditions, progress=lambda p: update(p.clips_done, p.clips_total), **settings)
            clips = ClipBatch.concatenate(list(stream))
        seconds = time.perf_counter() - began
        tree = clips.save_opengait(folder / "opengait")
        clips.save_sheet(folder / "sheet.png", frames=12, scale=1)
        clips.save_gif(folder / "clips.gif", scale=2, columns=4)
        clips.save_npz(folder / "clips.npz")
        about = {"made_by": MADE_BY, "seed": seed, "clips": len(clips), "provenance": clips.provenance}
        (folder / "demo.json").write_text(json.dumps(about, indent=1, default=str) + "\n")
    info = engine.info
    result = {
        "out": str(out), "clips": len(clips), "seconds": seconds, "clips_per_second": len(clips) / seconds,
        "threads": info["threads"], "isa": info["isa"], "precision": info["precision"], "steps": info["sampler"]["steps"],
        "classes": tree.class_num,
    }  # fmt: skip
    if as_json:
        print_json(result)
        return
    _tell(out, model, result)
    if info["provenance"]["identities"] == "rendered":
        note("The model was trained on rendered walkers, not on captured people.", as_json)


def demo_conditions(labels: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Identities down (three and a blend), for each a spread of views and covariates."""
    people: list[Any] = [*labels.get("identity", [])[:3]]
    if len(people) >= 2:
        people.append({people[0]: 1.0, people[1]: 1.0})
    views, covariates = labels.get("view", []), labels.get("covariate", [])
    scenes = []
    for k in range(4):
        scene = {}
        if views:
            # Side view first, then front, oblique and rear.
            scene["view"] = views[min(len(views) - 1, round((0.5, 0.0, 0.3, 0.8)[k] * (len(views) - 1)))]
        if covariates:
            scene["covariate"] = covariates[(0, 0, 1, 2)[k] % len(covariates)]
        scenes.append(scene)
    return [{**({"identity": who} if who is not None else {}), **scene} for who in people or [None] for scene in scenes]


def _remove_earlier(out: Path) -> None:
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        ours = json.loads((out / "demo.json").read_bytes())["made_by"] == MADE_BY
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours or {p.name for p in out.iterdir()} - CONTENTS:
        raise OutputError(f"{out} holds more than an earlier demo; move your files away or choose another folder")
    shutil.rmtree(out)


def _tell(out: Path, model: str, r: dict[str, Any]) -> None:
    click.echo(f"{r['clips']} clips in {r['seconds']:.1f} s: {r['clips_per_second']:.2f} clips per second")
    click.echo(f"  {r['threads']} threads, {r['isa']}, {r['precision']}, {r['steps']} sampler steps a clip")
    click.echo(f"  {out / 'sheet.png'}    contact sheet: identities down (the last is a blend), time across")
    click.echo(f"  {out / 'clips.gif'}    the same clips, walking")
    click.echo(f"  {out / 'opengait'}     OpenGait tree, {r['classes']} identities")
    click.echo(f"  {out / 'clips.npz'}    packed bits, for numpy")
    click.echo("\nNext:")
    me = command_to_type()
    chosen = "" if model == "walker" else f" --model {model}"
    click.echo(f"  {me} generate clips{chosen} --identities all --views 000,090 --covariates nm --format opengait")
    click.echo(f"  {me} inspect model {model}")
    click.echo(f"  {me} bench latency")
    click.echo(f"  {me} --help")
