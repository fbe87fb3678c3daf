"""``gaitcrafter-rt dataset``: what a bulk job made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import InvalidRequestError
from .common import FOLDER, human_bytes, json_option, note, print_json, printable, progress
from .dataset_build import cache, export, merge


@click.group()
def dataset() -> None:
    """What bulk jobs made: verify, count, merge, cache, export."""


dataset.add_command(cache)
dataset.add_command(merge)
dataset.add_command(export)


@dataset.command()
@click.argument("job", type=FOLDER)
@click.option("--deep", is_flag=True, help="Decode every page; recompute flags and hashes; compare every label.")
@click.option(
    "--recompute", type=click.IntRange(0, 1 << 20), default=0, show_default=True, help="Clips to generate again and compare."
)
@click.option("--model", default="walker", show_default=True, help="The job's model, for --recompute.")
@click.option("--set-aside", is_flag=True, help="Move damaged shards to JOB/damaged, so that generate makes them again.")
@json_option
def verify(job: Path, deep: bool, recompute: int, model: str, set_aside: bool, as_json: bool) -> int:
    """Verify that every clip of JOB is there and is the one its plan says.

    JOB may be a lone shard too, or what was made of jobs: a merged set, a cache, a folder of tars.

    Every byte is compared with its receipt. Leaves with code 4 if a clip is missing or anything is wrong.

    \b
    gaitcrafter-rt dataset verify train
    gaitcrafter-rt dataset verify train --deep --recompute 20
    gaitcrafter-rt dataset verify train/shards/shard-00000012.parquet
    """
    from ..bulk.arrow import arrow
    from ..bulk.verify import as_dict, set_aside_damaged
    from ..bulk.verify import verify as check
    from ..dataset.check import verify_set

    arrow()
    with progress("verifying", "shards", show=not as_json) as update:
        report = verify_set(job, deep=deep, progress=update)
        if report is not None and (recompute or set_aside):
            raise InvalidRequestError("--recompute and --set-aside take a job's folder; what was made of it is made again instead")
        if report is None:
            engine = _engine(job, model) if recompute else None
            report = check(job, deep=deep, recompute=recompute, engine=engine, progress=update)
    moved = set_aside_damaged(report) if set_aside and not job.is_file() else []
    if as_json:
        print_json({**as_dict(report), "set_aside": [str(p) for p in moved]})
        return report.exit_code
    for problem in report.problems:
        click.secho("wrong: ", fg="red", nl=False)
        click.echo(printable(problem.text))
    if report.missing:
        shown = ", ".join(map(str, report.missing[:12])) + (", ..." if len(report.missing) > 12 else "")
        click.echo(f"missing: {len(report.missing)} of {report.shards} shards ({shown}); run the job's command again")
    for text in report.notes:
        note(f"note: {text}", as_json)
    for path in moved:
        note(f"set aside: {path}", as_json)
    again = f", {report.recomputed} generated again and equal" if report.recomputed and report.ok else ""
    click.echo(f"{report.checked} of {report.shards} shards, {report.clips} clips, {report.quarantined} quarantined{again}")
    click.secho("sound" if report.ok else "not sound", fg="green" if report.ok else "red")
    return report.exit_code


def _engine(job: Path, model: str) -> Any:
    from ..bulk.filesystem import LocalFileSystem
    from ..bulk.machine import open_engine, refuse_other_engine
    from ..bulk.opening import open_job

    if job.is_file():
        raise InvalidRequestError("--recompute takes a job's folder; a lone shard does not hold its table of conditions")
    plan = open_job(job, LocalFileSystem()).plan
    engine = open_engine(model, plan)
    refuse_other_engine(plan, engine)
    return engine


@dataset.command()
@click.argument("job", type=FOLDER)
@json_option
def stats(job: Path, as_json: bool) -> None:
    """Show what JOB holds: clips per label and quality flag, sizes, failures.

    \b
    gaitcrafter-rt dataset stats train
    """
    from ..bulk.arrow import arrow
    from ..bulk.stats import stats as count

    arrow()
    with progress("counting", "shards", show=not as_json) as update:
        facts = count(job, progress=update)
    if as_json:
        print_json(facts)
        return
    _show(facts)


def _show(facts: dict[str, Any]) -> None:
    from .inspect import print_rows

    plan, size = facts["plan"], facts["bytes_per_clip"]
    frames, height, width = facts["shape"]
    rows = [
        ("job", f"{facts['path']}, plan {facts['plan_id'][:12]}"),
        ("clips", f"{facts['clips']} of {facts['clips_total']}; {frames} frames, {height}x{width}"),
        (
            "shards",
            f"{facts['shards']} of {facts['shards_total']}, {human_bytes(facts['bytes'])}"
            + (f", {size} bytes a clip" if size else ""),
        ),
        ("model", f"{plan['model']['name']} {plan['model']['sha256'][:12]}, {plan['model']['training_data'] or 'origin unknown'}"),
        (
            "sampler",
            f"{plan['sampler'].get('kind')}, {plan['sampler'].get('steps')} steps, guidance {plan['sampler'].get('guidance')}",
        ),
        ("made with", f"{plan['engine']['isa']}, {plan['engine']['precision']}, {facts['engine_seconds']:.0f} engine seconds"),
    ]
    for axis, counts in facts["labels"].items():
        if set(counts) != {""}:
            shown = ", ".join(f"{label or 'none'} {n}" for label, n in list(counts.items())[:8])
            rows.append((axis, f"{len(counts)}: {shown}" + (", ..." if len(counts) > 8 else "")))
    rows.append(("flags", ", ".join(f"{name} {n}" for name, n in facts["quality"].items()) or "none"))
    rows.append(("quarantined", str(facts["quarantined"])))
    print_rows(rows)
    for failure in facts["failures"]:
        click.echo(f"  clip {failure['clip']} (index {failure['clip_index']}): {printable(failure['error'])}")
