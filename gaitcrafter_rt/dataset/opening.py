"""From a path to the rows that lie there: a job, a merged set, shards, or a cache."""

from __future__ import annotations

from pathlib import Path

from ..bulk.filesystem import LocalFileSystem
from ..bulk.opening import open_job
from ..bulk.receipts import scan_only
from ..errors import DataFormatError
from .cached import CacheSource
from .merged import read_merged
from .source import ShardEntry, ShardSource, Source, entry_of


def open_source(path: str | Path) -> Source:
    """A job's folder (finished or not), a merged set, a folder of shards, one shard, or a cache.

    Raises DataFormatError if it is none of them, or what describes it is damaged; MissingExtraError without the extra ``bulk``
    (a cache needs none).
    """
    root = Path(path)
    if root.is_file():
        return ShardSource(root, [entry_of(root)])
    if (root / "plan.json").exists():
        return _job(root)
    if (root / "dataset.json").exists():
        return ShardSource(root, read_merged(root).entries(root))
    if (root / "cache.json").exists():
        return CacheSource(root)
    folder = root / "shards" if (root / "shards").is_dir() else root
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
    if not files:
        raise DataFormatError(
            f"{root}: no data set there: expected a job's folder (plan.json), a merged set (dataset.json), a cache (cache.json) "
            "or Parquet shards"
        )
    entries = sorted((entry_of(file) for file in files), key=lambda e: (e.plan_id, e.first))
    return ShardSource(root, entries)


def _job(root: Path) -> ShardSource:
    fs = LocalFileSystem()
    job = open_job(root, fs)
    receipts = scan_only(fs, job.folder, job.plan, job.table)
    entries = [
        ShardEntry(job.folder.shard(k), r.plan_id, k, r.first, r.clips, r.bytes, r.content_sha256, r.sha256)
        for k, r in sorted(receipts.items())
    ]
    return ShardSource(root, entries, len(job.table) - len(entries))
