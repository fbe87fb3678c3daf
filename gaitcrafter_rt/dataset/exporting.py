"""One function for every export, each whole or not at all, none over something that exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..clips import ClipBatch
from ..errors import InvalidRequestError
from ..files import PathLike, refuse_existing_file, refuse_occupied_folder
from .opening import open_source
from .select import Selection
from .source import Progress, Source

FOLDERS = ("opengait", "webdataset", "huggingface", "lance")
FILES = ("npz", "gif", "webp", "mp4", "sheet")
FORMATS = FOLDERS + FILES
# What a picture shows at most unless told otherwise, and what an npz file holds at most: it is written from memory.
PICTURE_CLIPS = {"gif": 16, "webp": 16, "mp4": 16, "sheet": 40}
NPZ_CLIPS = 200_000


def export(
    kind: str, source: PathLike, out: PathLike, selection: Selection | None = None, progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Export what ``source`` (see :func:`open_source`) holds as ``kind``, one of :data:`FORMATS`, to ``out``.

    ``out`` is a folder that is absent or empty (opengait, webdataset, huggingface, lance) or a file that is absent.

    ``options``: ``edges`` ("hard" or "soft", opengait), ``shard_clips`` (webdataset, huggingface). Returns at least ``clips``.

    Raises InvalidRequestError, OutputError, DataFormatError, MissingExtraError; nothing is left of an export that failed.
    """
    if kind not in FORMATS:
        raise InvalidRequestError(f"no format {kind!r:.40}; the formats are {', '.join(FORMATS)}")
    allowed = {"opengait": {"edges"}, "webdataset": {"shard_clips"}, "huggingface": {"shard_clips"}}.get(kind, set())
    unknown = sorted(set(options) - allowed)
    if unknown:
        raise InvalidRequestError(f"{unknown[0]} does not belong to {kind}")
    # Before anything is read.
    refuse_occupied_folder(out) if kind in FOLDERS else refuse_existing_file(out)
    opened = open_source(Path(source))
    if kind == "opengait":
        return _opengait(opened, out, selection, progress, **options)
    if kind == "webdataset":
        from .export_webdataset import export_webdataset

        index = export_webdataset(opened, out, selection, progress, **options)
        return {"clips": index["clips"], "files": [s["file"] for s in index["shards"]]}
    if kind == "huggingface":
        from .export_tables import export_huggingface

        return export_huggingface(opened, out, selection, progress, **options)
    if kind == "lance":
        from .export_tables import export_lance

        return export_lance(opened, out, selection, progress)
    return _file(kind, opened, out, selection or Selection(), progress)


def _opengait(
    source: Source, out: PathLike, selection: Selection | None, progress: Progress | None, edges: str = "hard"
) -> dict[str, Any]:
    from ..output import OpenGaitWriter

    with OpenGaitWriter(out, edges=edges, mixed=True) as writer:
        for rows in source.rows(selection, progress):
            writer.add(rows.batch())
        report = writer.finish()
    return {"clips": report.sequences, "report": report}


def _file(kind: str, source: Source, out: PathLike, selection: Selection, progress: Progress | None) -> dict[str, Any]:
    most = NPZ_CLIPS if kind == "npz" else PICTURE_CLIPS[kind]
    cut = selection.limit is None
    if kind != "npz" and cut:
        selection = Selection(selection.labels, selection.without, selection.plan, most)
    batches: list[ClipBatch] = []
    clips = 0
    for rows in source.rows(selection, progress):
        clips += len(rows)
        if clips > NPZ_CLIPS:
            raise InvalidRequestError(f"an npz file holds at most {NPZ_CLIPS} clips; select fewer (--limit), or make a cache")
        batch = rows.batch()
        if batches and (batch.seed, batch.provenance) != (batches[0].seed, batches[0].provenance):
            raise InvalidRequestError(f"{kind} holds clips of one plan, and the source has several; choose one with --plan")
        batches.append(batch)
    made = ClipBatch.concatenate(batches)
    getattr(made, f"save_{kind}")(out)
    done: dict[str, Any] = {"clips": clips}
    if kind != "npz" and cut and clips == most:
        done["note"] = f"the first {clips} clips are shown; --limit shows others"
    return done
