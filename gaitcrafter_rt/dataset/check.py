"""Verifying what the other modules here make: merged sets, caches, exported tars."""

from __future__ import annotations

from pathlib import Path

from ..bulk.commit import hash_file
from ..bulk.errors import UNREADABLE, DamagedError
from ..bulk.filesystem import LocalFileSystem
from ..bulk.reader import check_content
from ..bulk.verify import Problem, Report
from .cached import ClipCache
from .merged import DOCUMENT, SHARDS, read_merged
from .source import Progress, ShardEntry, open_entry


def verify_set(root: Path, *, deep: bool = False, progress: Progress | None = None) -> Report | None:
    """A report on a merged set, a cache or a folder of tars; None if ``root`` is none of them (a job, a shard)."""
    if (root / DOCUMENT).exists():
        return _merged(root, deep, progress)
    if (root / "cache.json").exists():
        return _cache(root, progress)
    if (root / "index.json").exists():
        from .export_webdataset import check_tars

        return check_tars(root, progress)
    return None


def _merged(root: Path, deep: bool, progress: Progress | None) -> Report:
    report = Report(root, deep=deep)
    try:
        merged = read_merged(root)
    except UNREADABLE as e:
        report.problems.append(Problem(str(root / DOCUMENT), str(e)))
        return report
    entries = merged.entries(root)
    report.shards = len(entries)
    known = {entry.path.name for entry in entries}
    strangers = [p for p in sorted((root / SHARDS).iterdir()) if p.name not in known] if (root / SHARDS).is_dir() else []
    report.problems += [Problem(str(p), f"{p}: no part of this set") for p in strangers]
    for number, entry in enumerate(entries):
        try:
            report.quarantined += _shard(entry, deep)
            report.checked += 1
            report.clips += entry.clips
        except UNREADABLE as e:
            report.problems.append(Problem(str(entry.path), str(e), number))
        if progress:
            progress(number + 1, len(entries))
    return report


def _shard(entry: ShardEntry, deep: bool) -> int:
    digest = hash_file(LocalFileSystem(), entry.path)
    if digest != (entry.sha256, entry.bytes):
        raise DamagedError(f"{entry.path}: {digest.size} bytes with sha256 {digest.sha256[:12]}; {DOCUMENT} says otherwise")
    with open_entry(entry) as file:
        return len(check_content(file, None).failed) if deep else 0


def _cache(root: Path, progress: Progress | None) -> Report:
    report = Report(root, deep=True)
    try:
        cache = ClipCache.open(root)
        report.shards = len(cache.meta.chunks_sha256)
        cache.verify(progress)
        report.checked, report.clips = report.shards, len(cache)
    except UNREADABLE as e:
        report.problems.append(Problem(str(root), str(e)))
    return report
