"""Several job folders as one data set: the same shards, each clip once, nothing decoded and written anew."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..bulk.commit import Digest, HashingFile, clean_temporaries, hash_file, publish
from ..bulk.documents import hash_of
from ..bulk.errors import DamagedError, NonDeterminismError
from ..bulk.filesystem import FileSystem, LocalFileSystem
from ..bulk.format import ROW_GROUP
from ..bulk.reader import ShardFile, check_content
from ..errors import InvalidRequestError, OutputError
from ..files import PathLike, publish_folder
from .merged import DOCUMENT, SHARDS, Merged, MergedShard, MergedSource, file_name, read_merged
from .opening import open_source
from .source import Progress, ShardEntry, ShardSource, open_entry


def merge(sources: Sequence[PathLike], out: PathLike, *, link: bool = False, progress: Progress | None = None) -> Merged:
    """Put the shards of ``sources`` (job folders, merged sets, loose shards) into the folder ``out``.

    Clips are told apart by plan and number. A clip that is there twice is kept once if both are the same bits. ``link`` makes hard
    links in place of copies: no space, but damage of one file is damage of both. A merge that was interrupted goes on where it
    stopped; one that is complete does nothing.

    Raises InvalidRequestError (other clip shapes, shards that overlap in part, a clip quarantined on one side), NonDeterminismError
    (one clip, two sets of bits), DamagedError, OutputError if ``out`` holds anything else.
    """
    opened = [_opened(path) for path in sources]
    if not opened:
        raise InvalidRequestError("merge needs at least one source")
    kept, dropped = _choose([e for source in opened for e in source.shards])
    target, fs = Path(out), LocalFileSystem()
    what = sorted((e.plan_id, e.first, e.clips, e.content) for e in kept)
    if (target / DOCUMENT).exists():
        there = read_merged(target)
        if sorted((s.plan_id, s.first, s.clips, s.content_sha256) for s in there.shards) == what:
            return there
        raise OutputError(f"{target} is a merged set of other clips; choose another place or remove it")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(f"{target} exists and is not an empty folder; choose another place or remove it")
    # The name says what is merged: the same command finds what an earlier one left, and no other does.
    staging = target.with_name(f".{target.name[:64]}-merge-{hash_of(what)[:12]}")
    for folder in (staging, staging / SHARDS):
        clean_temporaries(fs, folder)
    shards = []
    for done, entry in enumerate(kept, 1):
        shards.append(_place(fs, entry, staging, link))
        if progress:
            progress(done, len(kept))
    frames, height, width = opened[0].shape
    document = Merged(
        frames=frames, height=height, width=width, clips=sum(s.clips for s in shards), dropped_clips=dropped,
        sources=[
            MergedSource(name=s.path.name, shards=len(s.shards), clips=sum(e.clips for e in s.shards), missing=s.missing)
            for s in opened
        ],
        shards=shards,
    )  # fmt: skip
    with suppress(FileNotFoundError):
        (staging / DOCUMENT).unlink()
    publish(fs, staging / DOCUMENT, document.write, lambda mine: mine, staging)
    publish_folder(staging, target)
    return document


def _opened(path: PathLike) -> ShardSource:
    source = open_source(Path(path))
    if not isinstance(source, ShardSource):
        raise InvalidRequestError(f"{path} is a cache, which holds no shards; merge the jobs and make a cache of the result")
    return source


def _choose(entries: Iterable[ShardEntry]) -> tuple[list[ShardEntry], int]:
    """Shards that hold every clip once, by plan and number, and how many clips were dropped as equal copies."""
    kept: list[ShardEntry] = []
    shape, dropped = None, 0
    # Of two that begin alike the longer comes first, so that it can stand for the shorter.
    for entry in sorted(entries, key=lambda e: (e.plan_id, e.first, -e.clips)):
        with open_entry(entry) as file:
            shape = shape or file.shape
            if file.shape != shape:
                raise InvalidRequestError(
                    f"{entry.path}: clips of {'x'.join(map(str, file.shape))}, the others are of {'x'.join(map(str, shape))}; "
                    "one data set has one clip shape"
                )
        last = kept[-1] if kept and kept[-1].plan_id == entry.plan_id else None
        if last is None or entry.first >= last.end:
            kept.append(entry)
        elif entry.end <= last.end:
            _compare(last, entry)
            dropped += entry.clips
        else:
            raise InvalidRequestError(
                f"{entry.path} (clips {entry.first} to {entry.end - 1}) and {last.path} (to {last.end - 1}) of one plan overlap in "
                "part; merge runs that were cut alike (--shard-clips)"
            )
    return kept, dropped


def _compare(kept: ShardEntry, other: ShardEntry) -> None:
    """Is every clip of ``other`` in ``kept``, bit for bit?"""
    if (kept.first, kept.clips, kept.content) == (other.first, other.clips, other.content):
        return
    with open_entry(kept) as a, open_entry(other) as b:
        for start in range(other.first, other.end, ROW_GROUP):
            count = min(ROW_GROUP, other.end - start)
            (mine, here), (theirs, there) = _clips(a, start, count), _clips(b, start, count)
            differ = np.flatnonzero(here & there & (mine != theirs).any(1))
            if len(differ):
                raise NonDeterminismError(
                    f"clip {start + differ[0]} of plan {kept.plan_id[:12]} has other bits in {kept.path} than in {other.path}; "
                    "gaitcrafter-rt dataset verify --deep --recompute says which one is right"
                )
            lost = np.flatnonzero(there & ~here)
            if len(lost):
                raise InvalidRequestError(
                    f"clip {start + lost[0]} of plan {kept.plan_id[:12]} was quarantined in {kept.path} but is in {other.path}; "
                    "run that job with --retry-quarantined first, or leave it out"
                )


def _clips(file: ShardFile, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(packed, is there) of clips by number; they may lie in two row groups."""
    start = first - file.first
    groups = range(start // ROW_GROUP, (start + count - 1) // ROW_GROUP + 1)
    parts = [file.packed(file.table(group, ["silhouette"])) for group in groups]
    skip = start - groups[0] * ROW_GROUP
    packed, there = np.concatenate([p for p, _ in parts]), np.concatenate([t for _, t in parts])
    return packed[skip : skip + count], there[skip : skip + count]


def _place(fs: FileSystem, entry: ShardEntry, staging: Path, link: bool) -> MergedShard:
    """The shard's file in the staging folder, its bytes compared with what was promised of them."""
    target = staging / SHARDS / file_name(entry)
    wanted = Digest(entry.sha256, entry.bytes) if entry.sha256 else None
    if wanted is None:
        # Nobody vouches for a loose file but its own page checksums and hashes.
        with open_entry(entry) as file:
            check_content(file, None)
    if fs.entry(target) is None:
        digest = _link(fs, entry, target) if link else _copy(fs, entry, target, wanted, staging)
    else:
        digest = hash_file(fs, target)
    if wanted is not None and digest != wanted:
        with suppress(OSError):
            fs.unlink(target)
        raise _changed(entry)
    return MergedShard(
        file=target.name, plan_id=entry.plan_id, shard=entry.shard, first=entry.first, clips=entry.clips, bytes=digest.size,
        sha256=digest.sha256, content_sha256=entry.content,
    )  # fmt: skip


def _changed(entry: ShardEntry) -> DamagedError:
    return DamagedError(f"{entry.path}: its bytes are not those its receipt vouches for; run the job again and verify it")


def _copy(fs: FileSystem, entry: ShardEntry, target: Path, wanted: Digest | None, staging: Path) -> Digest:
    def write(file: HashingFile) -> None:
        with fs.open(entry.path) as source:
            shutil.copyfileobj(source, file, 1 << 20)  # type: ignore[misc]
        if wanted is not None and file.digest() != wanted:
            raise _changed(entry)

    return publish(fs, target, write, lambda mine: hash_file(fs, target), staging).digest


def _link(fs: FileSystem, entry: ShardEntry, target: Path) -> Digest:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(entry.path, target)
        fs.sync_path(target)
        fs.sync_folder(target.parent)
    except OSError as e:
        why = "they lie on different file systems; copy instead" if e.errno == errno.EXDEV else e.strerror
        raise OutputError(f"{entry.path} cannot be linked to {target.parent}: {why}") from e
    return hash_file(fs, target)
