"""``gaitcrafter-rt generate``."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click

from ..errors import InvalidRequestError
from .common import FOLDER, json_option, note, print_json, progress
from .request import build_request
from .writers import FORMATS, open_sinks

# Clips per call of the engine and thread: large enough to keep threads busy, small enough for a smooth bar.
_BATCH = 16


def sampler_options(command: Any) -> Any:
    """The options that choose the sampler; None means the model's own default."""
    for option in reversed(
        (
            click.option("--sampler", type=click.Choice(["ddpm", "ddim", "dpmpp_2m"]), help="Sampler.  [default: the model's]"),
            click.option("--steps", type=int, help="Sampler steps, 1 to the model's timesteps.  [default: the model's]"),
            click.option("--eta", type=float, help="Noise of DDIM, 0 to 1.  [default: the model's]"),
            click.option(
                "--guidance", type=float, help="Guidance scale; 1 is none and takes half the time.  [default: the model's]"
            ),
            click.option(
                "--spacing", type=click.Choice(["leading", "trailing", "linspace"]), help="Timesteps.  [default: the model's]"
            ),
            click.option("--threshold", type=float, default=0.5, show_default=True, help="A pixel above it is foreground, 0 to 1."),
            click.option("--seed", type=int, default=0, show_default=True, help="0 to 2**64 - 1."),
            click.option("--threads", type=int, help="1 to 256.  [default: one per processor]"),
            click.option("--device", default="cpu", show_default=True),
            click.option(
                "--precision", type=click.Choice(["auto", "fp32", "fp32-winograd", "bf16", "int8"]),
                default="auto", show_default=True,
                help="auto is bf16 where the processor has avx512_bf16, else fp32; int8 needs a calibrated model.",
            ),
        )
    ):
        command = option(command)
    return command


@click.command()
@click.argument("out", type=FOLDER)
@click.option("--model", default="walker", show_default=True, help="Model folder, or the name of a model that ships.")
@click.option("--identities", multiple=True, metavar="LIST", help="Labels with commas between them, or all.")
@click.option(
    "--blend", "blends", multiple=True, metavar="A+B", help="A new identity out of others: 001+002, 0.3*001+0.7*002. Repeatable."
)
@click.option("--views", multiple=True, metavar="LIST", help="Labels with commas between them, or all.")
@click.option("--covariates", multiple=True, metavar="LIST", help="Labels with commas between them, or all.")
@click.option("--datasets", multiple=True, metavar="LIST", help="Labels with commas between them, or all.")
@click.option("--clips-per", default=1, show_default=True, help="Clips of every combination.")
@click.option("--start", default=0, show_default=True, help="Clip index of the first clip; seed and index determine the noise.")
@click.option("--format", "formats", multiple=True, type=click.Choice(FORMATS), help="What to write. Repeatable.  [default: npz]")
@click.option(
    "--edges",
    type=click.Choice(["hard", "soft"]),
    default="hard",
    show_default=True,
    help="Borders of OpenGait clips: 0/255, or grey as in real resized silhouettes.",
)
@sampler_options
@json_option
def generate(out: Path, as_json: bool, **options: Any) -> None:  # fmt: skip
    """Generate clips into the folder OUT, which must not exist or be empty.

    Every combination of the given identities (and blends), covariates and views is made, --clips-per times. An axis that is not
    given is left to the model. The same options give the same bits, whatever the threads.

    \b
    gaitcrafter-rt generate out --identities 001,002 --views 000,090 --covariates nm,bg --format npz --format sheet
    gaitcrafter-rt generate train --identities all --views all --covariates all --clips-per 8 --format opengait --edges soft
    gaitcrafter-rt generate new --blend 001+002 --views 090 --format gif
    """
    result = run_generate(out, quiet=as_json, **options)
    tree = result.pop("opengait_text", None)
    if as_json:
        print_json(result)
        return
    click.echo(f"{result['clips']} clips in {out} ({result['seconds']:.1f} s)")
    for written in result["written"]:
        click.echo(f"  {out / written['path']}")
    if tree:
        click.echo(tree)
    for text in result["notes"]:
        note(f"note: {text}", as_json)


def run_generate(
    out: Path, *, model: str, identities: Any = (), blends: Any = (), views: Any = (), covariates: Any = (), datasets: Any = (),
    clips_per: int = 1, start: int = 0, formats: Any = (), edges: str = "hard", quiet: bool = False, **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """Do the work of ``generate`` and return what it reports."""
    from ..files import new_folder, refuse_occupied_folder

    refuse_occupied_folder(out)
    formats = list(dict.fromkeys(formats)) or ["npz"]
    engine = open_engine(model, settings)
    lists = {"identity": identities, "view": views, "covariate": covariates, "dataset": datasets}
    request = build_request(engine.vocabulary.labels, lists, blends, clips_per)
    batch = max(1, min(len(request), _BATCH * engine.info["threads"]))
    began = time.perf_counter()
    with new_folder(out) as folder:
        sinks = open_sinks(formats, folder, edges)
        with progress("generating", "clips", show=not quiet) as update:
            stream = engine.stream(
                request, batch=batch, start=start, progress=lambda p: update(p.clips_done, p.clips_total), **settings
            )
            provenance: dict[str, Any] = {}
            for clips in stream:
                provenance = clips.provenance
                for sink in sinks.values():
                    sink.add(clips)
        done = {name: sink.finish() for name, sink in sinks.items()}
        result = _result(out, len(request), done, time.perf_counter() - began)
        about = {"command": shlex.join(["gaitcrafter-rt", *sys.argv[1:]]), "seed": settings["seed"], "start": start,
                 "clips": len(request), "clips_per": clips_per, "choices": request.choices, "provenance": provenance}  # fmt: skip
        (folder / "generated.json").write_text(json.dumps(about, indent=1) + "\n")
    return result


def open_engine(model: str, settings: dict[str, Any]) -> Any:
    """Open the model; takes device, precision and threads out of ``settings`` and leaves what belongs to a call."""
    from ..engine import Engine

    given = {name: settings.pop(name) for name in ("device", "precision", "threads")}
    if not 0 <= settings.get("seed", 0) < 2**64:
        raise InvalidRequestError(f"--seed must lie in 0..2**64 - 1, got {settings['seed']}")
    return Engine.from_pretrained(model, **given)


def _result(out: Path, clips: int, done: dict[str, dict[str, Any]], seconds: float) -> dict[str, Any]:
    result: dict[str, Any] = {
        "out": str(out), "clips": clips, "seconds": seconds, "written": [{"format": f, "path": d["path"]} for f, d in done.items()],
        "notes": [d["note"] for d in done.values() if "note" in d],
    }  # fmt: skip
    if report := done.get("opengait", {}).get("report"):
        report.root = out / "opengait"
        result["opengait"] = report.to_dict()
        result["opengait_text"] = report.text()
    return result
