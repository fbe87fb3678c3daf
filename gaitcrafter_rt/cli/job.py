"""The bulk side of ``gaitcrafter-rt generate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InvalidRequestError
from .common import human_bytes, note, print_json
from .reporting import print_line, reports
from .request import check_seed

if TYPE_CHECKING:
    from ..bulk.estimate import Estimate
    from ..bulk.job import JobResult
    from ..bulk.planning import Request
    from ..bulk.ray_backend import RayBackend

_SAMPLER = ("sampler", "steps", "eta", "guidance", "spacing")
_MAX_WORKERS = 1024


def run(
    out: Path, *, as_json: bool, model: str, extend: bool, dry_run: bool, workers: str | None, rank: int | None,
    world_size: int | None,
    grace: float | None, max_failed: int | None, retry_quarantined: bool, isa: str | None, device: str, precision: str,
    threads: int | None, metrics: Path | None, metrics_port: int | None, backend: str | None, batch: int | None,
    executor: str | None, **wanted: Any,
) -> int:  # fmt: skip
    """Plan, resume, grow or estimate the job in OUT; returns the exit code."""
    from ..bulk.arrow import arrow

    arrow("a bulk job (--format npz, opengait, gif and the like need none)")
    from ..bulk.filesystem import LocalFileSystem
    from ..bulk.interrupts import on_signals
    from ..bulk.job import run_job
    from ..bulk.layout import Folder
    from ..bulk.machine import open_engine
    from ..bulk.plan import read_plan
    from ..bulk.planning import open_or_create

    fs = LocalFileSystem()
    check_seed(wanted["seed"])
    numbers = {"rank": rank or 0, "world_size": 1 if world_size is None else world_size}
    if not 0 <= numbers["rank"] < numbers["world_size"]:
        raise InvalidRequestError(f"--rank must lie in 0..{numbers['world_size'] - 1} for --world-size {numbers['world_size']}")
    processes = _processes(workers, threads or 1)
    cluster = _ray(model, workers, threads or 1, grace, rank, world_size) if executor == "ray" else None
    plan = read_plan(fs, Folder(out))
    engine = open_engine(
        model, plan, device=device, precision=precision, isa=isa, threads=threads or 1, backend=backend, batch=batch
    )  # fmt: skip
    if engine.info["device"] != "cpu" and workers in (None, "auto"):
        processes = 1  # a GPU is one worker's
    request = _request(engine, extend=extend, **wanted)
    if dry_run:
        return _dry_run(out, request, engine, fs, processes, threads or 1, as_json)
    telling = reports(as_json=as_json, metrics=metrics, port=metrics_port, out=out, rank=numbers["rank"])
    # Whether metrics can be told turns out before the folder is touched.
    with telling as report, on_signals() as interrupt:
        job = open_or_create(fs, out, request, engine)
        result = run_job(
            job, engine, fs=fs, workers=processes, **numbers, grace=30.0 if grace is None else grace,
            max_failed=100 if max_failed is None else max_failed, retry_quarantined=retry_quarantined, interrupt=interrupt,
            report=report, backend=cluster,
        )  # fmt: skip
    if as_json:
        print_line("result", as_dict(result))
    else:
        _tell(result)
    return result.exit_code


def _ray(
    model: str, workers: str | None, threads: int, grace: float | None, rank: int | None, world_size: int | None
) -> RayBackend:
    from ..bulk.ray_backend import RayBackend, import_ray
    from ..bulk.ray_worker import OpenModel

    if rank is not None or world_size is not None:
        raise InvalidRequestError("--executor ray hands out shards itself; leave --rank and --world-size away")
    import_ray()
    # A folder has a path that holds on every machine; a name is looked up where the actor is.
    place = str(Path(model).absolute()) if Path(model).exists() else model
    most = None if workers in (None, "auto") else _processes(workers, threads)
    return RayBackend(OpenModel(place, threads), most, threads, 30.0 if grace is None else grace)


def _processes(workers: str | None, threads: int) -> int:
    from ..bulk.machine import processors

    if workers in (None, "auto"):
        return max(1, processors() // threads)
    try:
        count = int(str(workers))
    except ValueError:
        count = 0
    if not 1 <= count <= _MAX_WORKERS:
        raise InvalidRequestError(f"--workers is auto or a number from 1 to {_MAX_WORKERS}, got {workers!r:.40}")
    return count


def _request(
    engine: Any, *, extend: bool, conditions: Path | None, identities: Any, blends: Any, views: Any, covariates: Any, datasets: Any,
    n: int | None, clips_per: int | None, start: int, seed: int, threshold: float, shard_clips: int | None, block_clips: int | None,
    **sampler: Any,
) -> Request:  # fmt: skip
    from ..bulk.plan import MAX_CLIPS
    from ..bulk.planning import Request
    from ..bulk.table import read_table
    from .request import build_request, clip_count

    lists = {"identity": identities, "view": views, "covariate": covariates, "dataset": datasets}
    if conditions is not None:
        if blends or clips_per is not None or any(lists.values()):
            raise InvalidRequestError("--conditions says what every clip shows; it excludes the label options and --clips-per")
        source: Any = read_table(conditions)
        count = n
    else:
        source = build_request(engine.vocabulary.labels, lists, blends)
        count = clip_count(source, n, clips_per, MAX_CLIPS)
    return Request(
        source, count, seed, start, threshold, {k: sampler[k] for k in _SAMPLER if sampler[k] is not None}, shard_clips,
        block_clips,
        extend,
    )  # fmt: skip


def as_dict(result: JobResult) -> dict[str, Any]:
    """For JSON."""
    return {
        "out": str(result.out), "complete": result.complete, "exit_code": result.exit_code, "clips": result.clips,
        "clips_total": result.clips_total, "shards": result.shards, "shards_total": result.shards_total, "bytes": result.bytes,
        "made": result.made, "seconds": round(result.seconds, 3), "engine_seconds": round(result.engine_seconds, 3),
        "interrupted": result.interrupted, "quality": result.quality, "notes": result.notes,
        "quarantined": [{"clip": f.clip, "clip_index": f.clip_index, "error": f.error} for f in result.quarantined],
    }  # fmt: skip


def _tell(result: JobResult) -> None:
    for text in result.notes:
        note(f"note: {text}", False)
    rate = f", {result.made / result.seconds:.2f} clips per second" if result.made and result.seconds else ""
    click.echo(f"{result.clips} of {result.clips_total} clips in {result.out} ({human_bytes(result.bytes)})")
    click.echo(f"  {result.made} made by this run in {result.seconds:.1f} s{rate}")
    for name, count in result.quality.items():
        click.echo(f"  {count} clips are flagged {name}")
    for failure in result.quarantined[:5]:
        note(f"quarantined: clip {failure.clip} (index {failure.clip_index}): {failure.error}", False)
    if len(result.quarantined) > 5:
        note(f"... {len(result.quarantined)} in all; gaitcrafter-rt dataset stats {result.out} lists them", False)
    if result.interrupted:
        note(f"stopped by {result.interrupted}; run the same command again to go on", False)
    elif not result.complete:
        note("not complete; run the same command again to go on", False)


def _dry_run(out: Path, request: Request, engine: Any, fs: Any, workers: int, threads: int, as_json: bool) -> int:
    from ..bulk.estimate import estimate
    from ..bulk.planning import draft_job
    from ..errors import OutputError

    expected = estimate(draft_job(out, request, engine), engine, fs, workers=workers, threads=threads)
    sheet = _free_name(out)
    expected.sample.save_sheet(sheet)
    facts = {
        "clips": expected.clips, "seconds_per_clip": round(expected.seconds_per_clip, 4), "workers": workers,
        "hours": expected.hours,
        "core_hours": expected.core_hours, "shards": expected.shards, "files": expected.files, "bytes": expected.bytes,
        "free_bytes": expected.free, "fits": expected.fits, "sheet": str(sheet),
    }  # fmt: skip
    if as_json:
        print_json(facts)
    else:
        _tell_estimate(out, expected, sheet)
    if not expected.fits:
        raise OutputError(
            f"{out}: the job needs about {human_bytes(expected.bytes['parquet'])}, {human_bytes(expected.free)} are free; "
            "make room or ask for fewer clips"
        )
    return 0


def _tell_estimate(out: Path, e: Estimate, sheet: Path) -> None:
    click.echo(f"{e.clips} clips, {e.seconds_per_clip:.3f} s each on one worker")
    click.echo(f"  {_hours(e.hours)} with {e.workers} workers, {_hours(e.core_hours, 'core-')}")
    click.echo(f"  {e.shards} shards, {e.files} files in {out}")
    for name, what in (
        ("parquet", "the job itself"), ("npz", "as one compressed npz"), ("cache", "packed, for training"), ("opengait",
        "as OpenGait pickles"),
    ):  # fmt: skip
        click.echo(f"  {human_bytes(e.bytes[name]):>9}  {what}")
    click.echo(f"  {human_bytes(e.free):>9}  free")
    click.echo(f"  {sheet}    {len(e.sample)} clips, spread over the job")


def _hours(hours: float, of: str = "") -> str:
    """``3.02 hours``; with the seconds where that would be nothing: ``0.001 hours (3.2 s)``."""
    return f"{hours:.2f} {of}hours" if hours >= 0.1 else f"{hours:.4f} {of}hours ({hours * 3600:.1f} s)"


def _free_name(out: Path) -> Path:
    """A file beside OUT that does not exist yet."""
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    path, number = out.with_name(f"{out.name}-preview.png"), 1
    while path.exists() or path.is_symlink():
        number += 1
        path = out.with_name(f"{out.name}-preview-{number}.png")
    return path
