"""Is every clip of a job there, and is it the one the plan says? Reads, never writes (but ``set_aside_damaged``)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InvalidRequestError
from .commit import CONFLICTS, DAMAGED, REPLACED, hash_file, is_temporary, set_aside
from .errors import UNREADABLE, DamagedError
from .filesystem import FileSystem, LocalFileSystem
from .format import ROW_GROUP
from .layout import Folder, Shard, shard_number
from .opening import OpenJob, open_job
from .reader import ShardFile, check_content, check_shard
from .receipts import Receipt, content_of, read_receipt
from .worker import ClipEngine, Worker

VERIFICATION_FAILED = 4
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; ``shard`` is None for what concerns the whole job."""

    path: str
    text: str
    shard: int | None = None


@dataclass
class Report:
    """What a verification found.

    Attributes:
        checked: shards whose bytes were compared; clips: theirs.
        missing: shards without a receipt, not made yet or lost.
        recomputed: clips that were generated again and compared bit by bit.
        notes: what is odd but not wrong.
    """

    path: Path
    shards: int = 0
    checked: int = 0
    clips: int = 0
    quarantined: int = 0
    missing: list[int] = field(default_factory=list)
    recomputed: int = 0
    deep: bool = False
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Every clip is there and nothing is wrong."""
        return not self.problems and not self.missing

    @property
    def exit_code(self) -> int:
        """0 or 4."""
        return 0 if self.ok else VERIFICATION_FAILED


def verify(
    root: str | Path, *, deep: bool = False, recompute: int = 0, engine: ClipEngine | None = None, fs: FileSystem | None = None,
    progress: Progress | None = None,
) -> Report:  # fmt: skip
    """Compare a job's folder with its plan and receipts.

    Every byte of every shard is hashed and compared with its receipt, every footer with the plan. ``deep`` also decodes every page,
    recomputes flags and hashes of the clips and compares every label. ``recompute`` generates that many clips again, chosen at
    random but the same ones for the same job, with ``engine``, which must be the plan's (``machine.open_engine``).
    Damage is reported, not raised; DataFormatError is raised if ``root`` is no job's folder at all.
    """
    fs = fs or LocalFileSystem()
    path = Path(root)
    if recompute and engine is None:
        raise InvalidRequestError("recompute needs an engine")
    if path.is_file():
        return _verify_file(path, fs)
    report = Report(path, deep=deep)
    try:
        job = open_job(path, fs)
    except UNREADABLE as e:
        if fs.entry(Folder(path).plan) is None:
            raise
        report.problems.append(Problem(str(path), str(e)))
        return report
    report.shards = len(job.table)
    _look_for_strangers(fs, job, report)
    for shard in job.table:
        _verify_shard(fs, job, shard, deep, report)
        if progress:
            progress(shard.number + 1, report.shards)
    if recompute and engine is not None:
        _recompute(fs, job, engine, recompute, report)
    return report


def _verify_file(path: Path, fs: FileSystem) -> Report:
    """A lone shard, by its footer alone."""
    report = Report(path, shards=1, deep=True)
    try:
        with ShardFile(path, fs) as file:
            facts = check_content(file, None)
            report.checked, report.clips, report.quarantined = 1, file.clips, len(facts.failed)
            report.notes.append(
                f"shard {file.about['shard']} of plan {file.about['plan_id'][:12]}; only its job can say that it is whole"
            )
    except UNREADABLE as e:
        report.problems.append(Problem(str(path), str(e)))
    return report


def _verify_shard(fs: FileSystem, job: OpenJob, shard: Shard, deep: bool, report: Report) -> None:
    path = job.folder.shard(shard.number)
    try:
        receipt = read_receipt(fs, job.folder, job.plan, shard)
    except FileNotFoundError:
        report.missing.append(shard.number)
        if fs.entry(path) is not None:
            report.notes.append(f"{path} has no receipt yet; running the job again gives it one if it is sound")
        return
    except UNREADABLE as e:
        report.problems.append(Problem(str(job.folder.receipt(shard.number)), str(e), shard.number))
        return
    try:
        compare(fs, job, shard, receipt, deep)
    except UNREADABLE as e:
        report.problems.append(Problem(str(path), str(e), shard.number))
        return
    report.checked += 1
    report.clips += shard.clips
    report.quarantined += len(receipt.quarantined)


def compare(fs: FileSystem, job: OpenJob, shard: Shard, receipt: Receipt, deep: bool) -> None:
    """One shard with its receipt and the plan. Raises DamagedError."""
    path = job.folder.shard(shard.number)
    digest = hash_file(fs, path)
    if digest != (receipt.sha256, receipt.bytes):
        raise DamagedError(
            f"{path}: {digest.size} bytes with sha256 {digest.sha256[:12]}; its receipt says {receipt.bytes} and "
            f"{receipt.sha256[:12]}: "
            "the file was cut, changed or swapped"
        )
    if receipt.content_sha256 != content_of(receipt.row_groups):
        raise DamagedError(f"{job.folder.receipt(shard.number)}: its hashes do not fit each other")
    if not deep:
        with ShardFile(path, fs) as file:
            if file.about["row_groups"] != receipt.row_groups or file.about["plan_id"] != job.plan.plan_id:
                raise DamagedError(f"{path}: its footer and its receipt disagree")
        return
    facts = check_shard(fs, path, job.plan, shard, job.conditions)
    failed = [f.clip for f in receipt.quarantined]
    if (facts.row_groups, facts.quality, facts.failed) != (receipt.row_groups, receipt.quality, failed):
        raise DamagedError(f"{path}: its clips or flags are not those of its receipt")


def _look_for_strangers(fs: FileSystem, job: OpenJob, report: Report) -> None:
    """Names that do not belong to the job, and signs of trouble."""
    f = job.folder
    known = {p.name for p in (f.plan, f.extents, f.conditions, f.shards, f.receipts, f.wip, f.leases)} | {
        CONFLICTS,
        DAMAGED,
        REPLACED,
    }
    for folder, fits in (
        (f.root, lambda n: n in known),
        (f.shards, lambda n: _belongs(job, n, f.shard)),
        (f.receipts, lambda n: _belongs(job, n, f.receipt)),
    ):
        for name in fs.names(folder):
            if is_temporary(name):
                report.notes.append(
                    f"{folder / name}: left by a writer that died, or of one at work; running the job again removes it"
                )
            elif not fits(name):
                report.problems.append(Problem(str(folder / name), f"{folder / name}: no part of this job"))
    for name in fs.names(f.root / CONFLICTS):
        report.problems.append(
            Problem(
                str(f.root / CONFLICTS / name), f"{f.root / CONFLICTS / name}: another writer made other bits for the same clips"
            )
        )
    if kept := fs.names(f.root / DAMAGED):
        report.notes.append(
            f"{f.root / DAMAGED}: {len(kept)} damaged files were set aside there and made again; remove them when you like"
        )


def _belongs(job: OpenJob, name: str, path: Callable[[int], Path]) -> bool:
    number = shard_number(name)
    return number is not None and number < len(job.table) and path(number).name == name


def _recompute(fs: FileSystem, job: OpenJob, engine: ClipEngine, count: int, report: Report) -> None:
    bad = {p.shard for p in report.problems} | set(report.missing)
    sound = [s for s in job.table if s.number not in bad]
    total = sum(s.clips for s in sound)
    if not total:
        report.notes.append("nothing to recompute")
        return
    # The plan's hash as seed: whoever verifies the same job looks at the same clips.
    chosen = sorted(random.Random(job.plan.plan_id).sample(range(total), min(count, total)))
    worker = Worker(fs, job, engine)
    for number in chosen:
        shard, clip = _nth(sound, number)
        group, row = divmod(clip - shard.first, ROW_GROUP)
        with ShardFile(job.folder.shard(shard.number), fs) as file:
            packed, there = file.packed(file.table(group, ["silhouette"]))
        if not there[row]:
            continue
        again = worker.generate(clip, 1)[0]
        report.recomputed += 1
        if not np.array_equal(again, packed[row]):
            pixels = int(np.unpackbits(again ^ packed[row]).sum())
            text = f"{file.path}: clip {clip} differs in {pixels} pixels when it is generated again"
            report.problems.append(Problem(str(file.path), text, shard.number))


def _nth(shards: list[Shard], number: int) -> tuple[Shard, int]:
    for shard in shards:
        if number < shard.clips:
            return shard, shard.first + number
        number -= shard.clips
    raise IndexError(number)


def set_aside_damaged(report: Report, fs: FileSystem | None = None) -> list[Path]:
    """Move every shard found wrong, and its receipt, to ``damaged/``, so that running the job makes its clips again."""
    fs = fs or LocalFileSystem()
    job = open_job(report.path, fs)
    moved = []
    for number in sorted({p.shard for p in report.problems if p.shard is not None}):
        # The receipt first: a receipt without its shard would be a lie.
        for path in (job.folder.receipt(number), job.folder.shard(number)):
            if fs.entry(path) is not None:
                moved.append(set_aside(fs, path, job.folder.root / DAMAGED))
    return moved


def as_dict(report: Report) -> dict[str, Any]:
    """For JSON."""
    return {
        "path": str(report.path), "ok": report.ok, "deep": report.deep, "shards": report.shards, "checked": report.checked,
        "clips": report.clips, "quarantined": report.quarantined, "missing": report.missing, "recomputed": report.recomputed,
        "problems": [{"path": p.path, "shard": p.shard, "text": p.text} for p in report.problems], "notes": report.notes,
    }  # fmt: skip
