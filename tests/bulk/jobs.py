"""Helpers that the bulk tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stub import StubEngine

from gaitcrafter_rt.bulk import Grid, JobResult, Request, open_or_create, run_job
from gaitcrafter_rt.bulk.filesystem import FileSystem, LocalFileSystem
from gaitcrafter_rt.bulk.layout import Folder
from gaitcrafter_rt.bulk.opening import OpenJob
from gaitcrafter_rt.bulk.verify import verify

GRID = Grid(identity=[{"001": 1.0}, {"001": 0.3, "002": 0.7}], view=["000", "090"])
ROOT = Path("/job")


def request(clips: int | None = 12, **changes: Any) -> Request:
    """12 clips in shards of 8, blocks of 4, unless told otherwise."""
    wanted: dict[str, Any] = {"seed": 3, "first_clip": 100, "shard_clips": 8, "block_clips": 4, **changes}
    return Request(wanted.pop("conditions", GRID), clips, **wanted)


def open_small(fs: FileSystem, root: Path, engine: StubEngine | None = None, **changes: Any) -> OpenJob:
    return open_or_create(fs, root, request(**changes), engine or StubEngine())


def run(root: Path, engine: StubEngine | None = None, *, fs: FileSystem | None = None, workers: int = 0, options: Any = None,
        **changes: Any) -> JobResult:  # fmt: skip
    """Create or resume the small job and run it."""
    fs, engine = fs or LocalFileSystem(), engine or StubEngine()
    return run_job(open_small(fs, root, engine, **changes), engine, fs=fs, workers=workers, **(options or {}))


def shards(fs: FileSystem, root: Path) -> dict[str, bytes]:
    """The bytes of every shard by name."""
    folder = Folder(root)
    return {name: fs.read(folder.shards / name, 1 << 30) for name in fs.names(folder.shards)}


def assert_whole(fs: FileSystem, root: Path, wanted: dict[str, bytes]) -> None:
    """Every clip once and the right one, nothing else in the folder."""
    report = verify(root, deep=True, fs=fs)
    assert report.ok, report
    assert not report.notes, report.notes
    assert shards(fs, root) == wanted
    assert fs.names(root) == ["plan.json", "receipts", "shards"]
    assert [n.removesuffix(".json") for n in fs.names(root / "receipts")] == [n.removesuffix(".parquet") for n in wanted]
