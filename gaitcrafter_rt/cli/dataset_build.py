"""``gaitcrafter-rt dataset cache``, ``merge`` and ``export``: other forms of what bulk jobs made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import FOLDER, human_bytes, json_option, note, print_json, progress, split_list

if TYPE_CHECKING:
    from ..dataset.select import Selection


def selection_options(command: Any) -> Any:
    """Options that say which clips; see :func:`selection`."""
    for option in reversed(
        (
            click.option("--identities", multiple=True, metavar="LIST", help="Keep these; a blend as in 001=0.3+002=0.7."),
            click.option("--views", multiple=True, metavar="LIST", help="Keep these."),
            click.option("--covariates", multiple=True, metavar="LIST", help="Keep these."),
            click.option("--datasets", multiple=True, metavar="LIST", help="Keep these; any: clips whose model chose."),
            click.option(
                "--without", multiple=True, metavar="FLAGS", help="Leave out clips that carry one of these quality flags."
            ),
            click.option("--plan", default="", help="Keep the clips of the plan that begins with these characters."),
            click.option("--limit", type=int, help="The first so many clips."),
        )
    ):
        command = option(command)
    return command


def selection(options: dict[str, Any]) -> Selection:
    """Takes the options of :func:`selection_options` out of ``options``."""
    from ..dataset.select import Selection

    axes = {"identity": "identities", "view": "views", "covariate": "covariates", "dataset": "datasets"}
    labels = {axis: split_list(options.pop(name)) for axis, name in axes.items()}
    return Selection.of(labels, split_list(options.pop("without")), options.pop("plan"), options.pop("limit"))


@click.command()
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
@selection_options
@json_option
def cache(source: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Pack the clips of SOURCE into OUT, a folder that loaders map.

    SOURCE is a job's folder (finished or not), a merged set, a folder of shards, one shard, or another cache. One bit per pixel and
    40 bytes of labels per clip, readable by numpy.memmap alone and from C++ (docs/loaders.md). The same command again does nothing.

    \b
    gaitcrafter-rt dataset cache train train-cache
    gaitcrafter-rt dataset cache train side --views 090 --without empty_frame,broken
    """
    from ..dataset.cache import build_cache
    from ..dataset.opening import open_source

    chosen = selection(options)
    missing = open_source(source).missing
    with progress("packing", "parts", show=not as_json) as update:
        made = build_cache(source, out, chosen, update)
    size = sum(f.stat().st_size for f in out.iterdir())
    if as_json:
        print_json({
            "out": str(out), "clips": len(made), "shape": list(made.shape), "bytes": size, "missing_shards": missing,
            "labels": {axis: len(names) for axis, names in made.labels.items()}, "plans": [o.plan_id for o in made.origins],
        })  # fmt: skip
        return
    if missing:
        note(f"note: {missing} shards of {source} are not made yet; their clips are not in the cache", as_json)
    click.echo(f"{len(made)} clips, {len(made.labels['identity'])} identities, {human_bytes(size)} in {out}")


@click.command()
@click.argument("sources", nargs=-1, required=True, type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--link", is_flag=True, help="Hard links in place of copies; same file system only.")
@json_option
def merge(sources: tuple[Path, ...], out: Path, link: bool, as_json: bool) -> None:
    """Put the shards of several jobs (or merged sets) into one data set OUT.

    All clips must have one shape. A clip that is there twice (same plan, same number) is kept once if both are the same bits, and
    refused if not. Shards are copied byte for byte, so each still says where it comes from. Run again, it goes on or does nothing.

    \b
    gaitcrafter-rt dataset merge monday tuesday cluster-3 week
    gaitcrafter-rt dataset verify week --deep
    """
    from ..dataset.merging import merge as run

    with progress("merging", "shards", show=not as_json) as update:
        merged = run(sources, out, link=link, progress=update)
    if as_json:
        print_json({
            "out": str(out), "clips": merged.clips, "dropped_clips": merged.dropped_clips, "shards": len(merged.shards),
            "plans": sorted({s.plan_id for s in merged.shards}), "sources": [s.model_dump() for s in merged.sources],
        })  # fmt: skip
        return
    for source in merged.sources:
        if source.missing:
            note(f"note: {source.missing} shards of {source.name} are not made yet; merge again into another folder then", as_json)
    again = f", {merged.dropped_clips} that were there twice left out" if merged.dropped_clips else ""
    click.echo(f"{merged.clips} clips of {len({s.plan_id for s in merged.shards})} plans in {out}{again}")


@click.command()
@click.argument("kind", metavar="FORMAT")
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
@selection_options
@click.option("--edges", type=click.Choice(["hard", "soft"]), help="opengait: 0/255, or grey borders.  [default: hard]")
@click.option("--shard-clips", type=int, help="webdataset, huggingface: clips per file.  [default: 10000; 65536]")
@json_option
def export(kind: str, source: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Export the clips of SOURCE as FORMAT: opengait, webdataset, huggingface, lance, npz, gif, webp, mp4 or sheet.

    SOURCE is a job's folder, a merged set, shards, or a cache. OUT is a folder for the first four and a file for the others; it
    appears whole or not at all, and nothing that exists is overwritten. Pictures show the first 16 clips (a sheet 40) unless
    --limit says otherwise. docs/output.md describes the formats.

    \b
    gaitcrafter-rt dataset export opengait train tree --edges soft --without empty_frame,broken
    gaitcrafter-rt dataset export webdataset train tars
    gaitcrafter-rt dataset export sheet train sheet.png --identities 001 --limit 12
    """
    from ..dataset.exporting import export as run

    chosen = selection(options)
    given = {k: v for k, v in options.items() if v is not None}
    with progress("exporting", "parts", show=not as_json) as update:
        done = run(kind, source, out, chosen, update, **given)
    report = done.pop("report", None)
    if as_json:
        print_json({"format": kind, "out": str(out), **done, **({"opengait": report.to_dict()} if report else {})})
        return
    click.echo(report.text() if report else f"{done['clips']} clips as {kind} in {out}")
    if "note" in done:
        note(f"note: {done['note']}", as_json)
