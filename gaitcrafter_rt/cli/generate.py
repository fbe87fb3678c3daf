"""``gaitcrafter-rt generate``: a bulk job, or a few clips in the formats of ``writers.py``."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ..backends import BACKENDS
from ..errors import InvalidRequestError
from .common import FOLDER, SAMPLERS, json_option, note, print_json, progress
from .request import check_seed
from .writers import FORMATS, open_sinks

PARQUET = "parquet"
RAY = "ray"
# What fits in one file or picture, and in the memory that writing it takes.
MOST_CLIPS = 100_000_000
# Clips per call of the engine and thread: large enough to keep threads busy, small enough for a smooth bar.
_BATCH = 16


def sampler_options(command: Any) -> Any:
    """The options that choose the sampler; None means the model's own default."""
    for option in reversed(
        (
            click.option("--sampler", type=click.Choice(SAMPLERS), help="Sampler.  [default: the model's]"),
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
            click.option("--threads", type=int, help="Threads of an engine, 1 to 256.  [default: one per processor; in a job 1]"),
            click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N (extra gpu)."),
            click.option(
                "--backend", type=click.Choice([*BACKENDS, RAY]),
                help="Who runs the network (docs/gpu.md, docs/export.md); ray is short for --executor ray.  [default: native; with "
                "--device cuda torch]",
            ),
            click.option("--batch", type=int, help="Clips per network call of another backend than native.  [default: its own]"),
            click.option(
                "--precision", type=click.Choice(["auto", "fp32", "fp32-winograd", "bf16", "fp16", "int8"]),
                default="auto", show_default=True,
                help="auto is bf16 on a GPU and where the processor is faster by it, else fp32; int8 needs a calibrated model.",
            ),
        )
    ):
        command = option(command)
    return command


def job_options(command: Any) -> Any:
    """Options of a bulk job alone; None (or False) is the default, so that others can refuse them."""
    for option in reversed(
        (
            click.option("--conditions", type=FOLDER, help="Parquet table with a row per clip, in place of the label options."),
            click.option("--extend", is_flag=True, help="The job in OUT may grow to --n clips."),
            click.option(
                "--dry-run", is_flag=True, help="Time a few clips, print what the job will take, draw them; nothing else."
            ),
            click.option("--workers", help="Processes: a number, or auto for one per processor.  [default: auto]"),
            click.option(
                "--executor", type=click.Choice(["processes", RAY]),
                help="processes of this machine, or actors of a Ray cluster (extra ray).  [default: processes]",
            ),
            click.option("--rank", type=int, help="This run is number RANK of --world-size that share OUT.  [default: 0]"),
            click.option("--world-size", type=int, help="How many runs share OUT.  [default: 1]"),
            click.option("--grace", type=float, help="Seconds that blocks get to finish when a stop is asked for.  [default: 30]"),
            click.option("--max-failed", type=int, help="Quarantined clips beyond which this run stops.  [default: 100]"),
            click.option("--retry-quarantined", is_flag=True, help="Make the shards again that hold quarantined clips."),
            click.option("--metrics", type=FOLDER, help="Text file for Prometheus, replaced after every block (extra metrics)."),
            click.option("--metrics-port", type=int, help="Serve the same on this port of the loopback interface; 0: any."),
            click.option(
                "--isa", type=click.Choice(["portable", "avx2", "avx512", "avx512_amx"]),
                help="Instruction set.  [default: the widest]",
            ),
            click.option("--shard-clips", type=int, help="Clips per Parquet file.  [default: by size, at most 4096]"),
            click.option("--block-clips", type=int, help="Clips that a crash may cost.  [default: by size, at most 64]"),
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
@click.option("--n", type=int, help="Clips in all; combinations begin again when all had their turn.  [default: each once]")
@click.option("--clips-per", type=int, help="Clips of every combination, in place of --n.")
@click.option("--start", default=0, show_default=True, help="Clip index of the first clip; seed and index determine the noise.")
@click.option(
    "--format", "formats", multiple=True, type=click.Choice((PARQUET, *FORMATS)),
    help="parquet: a bulk job. Others: a few clips, whole or not at all. Repeatable.  [default: parquet]",
)  # fmt: skip
@click.option(
    "--edges", type=click.Choice(["hard", "soft"]), default="hard", show_default=True,
    help="Borders of OpenGait clips: 0/255, or grey as in real resized silhouettes.",
)  # fmt: skip
@click.option(
    "--mode", type=click.Choice(["auto", "throughput", "latency"]),
    help="With --format: a clip per thread, or one clip by all threads, which takes the memory of one.  [default: auto]",
)  # fmt: skip
@sampler_options
@job_options
@json_option
def generate(out: Path, as_json: bool, **options: Any) -> int:
    """Generate clips into the folder OUT.

    Without --format a bulk job: sharded Parquet, any number of clips, workers and machines. The same command again resumes it,
    or does nothing if it is complete (docs/bulk.md). With --format a few clips in other forms, into a folder that must not exist
    or be empty.

    Every combination of the given identities (and blends), covariates and views is made, --n clips in all. An axis that is not
    given is left to the model. The same options give the same bits, whatever the workers and threads.

    \b
    gaitcrafter-rt generate train --identities all --views all --covariates all --n 1000000 --seed 7
    gaitcrafter-rt generate out --identities 001,002 --views 000,090 --covariates nm,bg --format npz --format sheet
    gaitcrafter-rt generate tree --identities all --views all --clips-per 8 --format opengait --edges soft
    gaitcrafter-rt generate new --blend 001+002 --views 090 --format gif
    gaitcrafter-rt generate train --model walker-onnx --backend onnxruntime --identities all --views all --n 1000
    """
    formats = list(dict.fromkeys(options.pop("formats"))) or [PARQUET]
    job = {k: options.pop(k) for k in _JOB_OPTIONS}
    if options["backend"] == RAY:
        if job["executor"] not in (None, RAY):
            raise InvalidRequestError(f"--backend ray is short for --executor ray, but --executor is {job['executor']}")
        options["backend"], job["executor"] = None, RAY
    mode = options.pop("mode")
    if PARQUET in formats:
        from .job import run

        if mode:
            raise InvalidRequestError("--mode belongs to a few clips (--format); a bulk job makes clips in processes of their own")

        if len(formats) > 1:
            raise InvalidRequestError(
                "--format parquet is a bulk job, which stands alone in its folder; give other formats another OUT"
            )
        options.pop("edges")
        return run(out, as_json=as_json, **options, **job)
    given = [k for k, v in job.items() if v is not None and v is not False]
    if given:
        raise InvalidRequestError(f"--{given[0].replace('_', '-')} belongs to a bulk job; leave it or --format {formats[0]} away")
    result = run_generate(out, quiet=as_json, formats=formats, mode=mode or "auto", **options)
    tree = result.pop("opengait_text", None)
    if as_json:
        print_json(result)
        return 0
    click.echo(f"{result['clips']} clips in {out} ({result['seconds']:.1f} s)")
    for written in result["written"]:
        click.echo(f"  {out / written['path']}")
    if tree:
        click.echo(tree)
    for text in result["notes"]:
        note(f"note: {text}", as_json)
    return 0


_JOB_OPTIONS = (
    "conditions", "extend", "dry_run", "workers", "executor", "rank", "world_size", "grace", "max_failed", "retry_quarantined",
    "isa", "shard_clips", "block_clips", "metrics", "metrics_port",
)  # fmt: skip


def run_generate(
    out: Path, *, model: str, identities: Any = (), blends: Any = (), views: Any = (), covariates: Any = (), datasets: Any = (),
    n: int | None = None, clips_per: int | None = None, start: int = 0, formats: Any = ("npz",), edges: str = "hard",
    quiet: bool = False, **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """A few clips, whole or not at all: returns what ``generate`` reports."""
    from ..files import new_folder, refuse_occupied_folder
    from .request import build_request, clip_count

    refuse_occupied_folder(out)
    engine = open_engine(model, settings)
    lists = {"identity": identities, "view": views, "covariate": covariates, "dataset": datasets}
    grid = build_request(engine.vocabulary.labels, lists, blends)
    count = clip_count(grid, n, clips_per, MOST_CLIPS)
    batch = max(1, min(count, max(_BATCH * engine.info["threads"], 2 * engine.info.get("batch", 0))))
    began = time.perf_counter()
    with new_folder(out) as folder:
        sinks = open_sinks(formats, folder, edges)
        with progress("generating", "clips", show=not quiet) as update:
            conditions: Iterator[dict[str, Any]] = (dict(grid.plain(k)) for k in range(count))
            stream = engine.stream(conditions, batch=batch, start=start, progress=lambda p: update(p.clips_done, count), **settings)
            provenance: dict[str, Any] = {}
            for clips in stream:
                provenance = clips.provenance
                for sink in sinks.values():
                    sink.add(clips)
        done = {name: sink.finish() for name, sink in sinks.items()}
        result = _result(out, count, done, time.perf_counter() - began)
        about = {"command": shlex.join(["gaitcrafter-rt", *sys.argv[1:]]), "seed": settings["seed"], "start": start, "clips": count,
                 "choices": grid.choices, "provenance": provenance}  # fmt: skip
        (folder / "generated.json").write_text(json.dumps(about, indent=1) + "\n")
    return result


def open_engine(model: str, settings: dict[str, Any]) -> Any:
    """Open the model; takes what belongs to an engine out of ``settings`` and leaves what belongs to a call."""
    from ..engine import Engine

    given = {name: settings.pop(name, None) for name in ("backend", "batch")}
    given |= {name: settings.pop(name) for name in ("device", "precision", "threads")}
    check_seed(settings.get("seed", 0))
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
