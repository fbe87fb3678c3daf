"""Running a job: what is missing in its folder is made."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import CancelledError, InvalidRequestError, OutputError
from .commit import REPLACED, clean_temporaries, set_aside
from .durability import make_folders, settle, settle_receipts
from .errors import QUARANTINED, RESUMABLE, DamagedError, DiskFullError, output_error
from .filesystem import FileSystem, LocalFileSystem
from .format import clip_bytes
from .injection import reached
from .interrupts import Interrupt
from .layout import shard_number
from .leases import Leases
from .opening import OpenJob
from .receipts import Done, Failure, read_receipt, scan, summary
from .schedule import Schedule
from .supervisor import Supervisor, do
from .tally import Snapshot, Tally
from .worker import ClipEngine, Stop, Worker

# (file system, job, shards that are done, tally, interrupt): makes the others, adds them to the set.
Backend = Callable[[FileSystem, OpenJob, set[int], Tally, Interrupt], None]
# Bytes that a clip takes at the very least, as a share of its packed bytes: clean silhouettes under the strongest zstd.
_LEAST = 1 / 32


@dataclass
class JobResult:
    """What a run did, and how the job stands after it.

    Attributes:
        made: clips that this run made; seconds: wall time of this run, engine_seconds summed over workers.
        shards, clips, bytes: of the shards that have a receipt; shards_total, clips_total: of the whole job.
        quarantined: clips without a silhouette, over the whole job. quality: clips per flag.
        interrupted: the signal that stopped the run, "" if none did.
        notes: what was repaired or given up on the way.
    """

    out: Path
    clips: int = 0
    clips_total: int = 0
    shards: int = 0
    shards_total: int = 0
    bytes: int = 0
    made: int = 0
    seconds: float = 0.0
    engine_seconds: float = 0.0
    quarantined: list[Failure] = field(default_factory=list)
    quality: dict[str, int] = field(default_factory=dict)
    interrupted: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Every clip of the job has a receipt."""
        return self.shards == self.shards_total

    @property
    def exit_code(self) -> int:
        """0: complete; 3: complete, but some clips were quarantined; 75: the same command goes on where this run ended."""
        if not self.complete:
            return RESUMABLE
        return QUARANTINED if self.quarantined else 0


def run_job(
    job: OpenJob,
    engine: ClipEngine,
    *,
    fs: FileSystem | None = None,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    grace: float = 30.0,
    max_failed: int = 100,
    retry_quarantined: bool = False,
    interrupt: Interrupt | None = None,
    report: Callable[[Snapshot], object] | None = None,
    backend: Backend | None = None,
) -> JobResult:
    """Make every clip of a job that is not there yet. Safe to run many times, and many times at once.

    Args:
        workers: processes to fork; 0 does the work in this one.
        rank, world_size: this run begins with shards ``rank``, ``rank + world_size``, ... and takes over others afterwards.
        grace: seconds that running blocks get when ``interrupt`` asks to stop.
        max_failed: quarantined clips of this run beyond which it stops.
        retry_quarantined: make the shards again that hold quarantined clips; the old ones stand in ``replaced/`` until that is
        done. report: called with a Snapshot after every block.
        backend: makes the missing shards in place of processes of this machine, as ``ray_backend.RayBackend`` does.

    Raises OutputError or DiskFullError (what is committed stays), NonDeterminismError, OutOfMemoryError, TooManyFailedError.
    """
    if not 0 <= rank < world_size:
        raise InvalidRequestError(f"rank is {rank}; with world size {world_size} it must lie in 0..{world_size - 1}")
    fs = fs or LocalFileSystem()
    began = time.perf_counter()
    own = interrupt or Interrupt()
    try:
        run = _Run(job, engine, fs, own, report)
        if retry_quarantined:
            run.replace_quarantined()
        return run.run(workers, rank, world_size, grace, max_failed, began, backend)
    except OutputError:
        raise
    except OSError as e:
        raise output_error(job.folder.root, e) from e
    finally:
        if interrupt is None:
            own.close()


class _Run:
    def __init__(
        self, job: OpenJob, engine: ClipEngine, fs: FileSystem, interrupt: Interrupt, report: Callable[[Snapshot], object] | None
    ) -> None:
        self._job, self._engine, self._fs, self._interrupt, self._report = job, engine, fs, interrupt, report
        self._folder = job.folder

    def run(
        self, workers: int, rank: int, world_size: int, grace: float, max_failed: int, began: float, backend: Backend | None
    ) -> JobResult:
        fs, job = self._fs, self._job
        settle(fs, self._folder)
        self._clean_temporaries()
        found = scan(fs, self._folder, job.plan, job.table)
        self._remove_old_blocks(set(found.done))
        self._refuse_too_little_space(found.done)
        tally = Tally(
            job.clips, len(job.table), max_failed, before=sum(d.clips for d in found.done.values()), shards=len(found.done),
            report=self._report, notes=found.repairs,
        )  # fmt: skip
        tally.tell()
        done = set(found.done)
        leases = Leases(fs, self._folder)
        try:
            if len(done) < len(job.table):
                make_folders(fs, self._folder)
                fs.mkdir(self._folder.leases)
                schedule = Schedule(fs, self._folder, job.table, done, leases, rank, world_size)
                if backend is not None:
                    backend(fs, job, done, tally, self._interrupt)
                elif workers:
                    Supervisor(self._worker, schedule, leases, tally, workers, self._interrupt, grace).run()
                else:
                    self._inline(schedule, leases, tally, grace)
        except DiskFullError as e:
            raise DiskFullError(f"{e}{self._still_needed(found.done, tally)}") from e
        finally:
            leases.give_all_back()
            self._clean_temporaries()
        # Receipts of others count too, and their writers may have died before their last fsync.
        settle_receipts(fs, self._folder)
        self._tidy(leases, done)
        reached("job.done")
        return self._result(found.done, done, tally, began)

    def replace_quarantined(self) -> None:
        """Move shards that hold quarantined clips out of the way, the receipt first."""
        for number, done in scan(self._fs, self._folder, self._job.plan, self._job.table).done.items():
            if done.quarantined:
                for path in (self._folder.receipt(number), self._folder.shard(number)):
                    set_aside(self._fs, path, self._folder.root / REPLACED)

    def _worker(self, announce: Callable[[int, int], None], stop: Stop) -> Worker:
        return Worker(self._fs, self._job, self._engine, announce=announce, stop=stop)

    def _inline(self, schedule: Schedule, leases: Leases, tally: Tally, grace: float) -> None:
        stop = _InlineStop(self._interrupt, grace, leases)
        worker = Worker(self._fs, self._job, self._engine, stop=stop)
        tally.workers = 1
        while not self._interrupt.count and (task := schedule.next()) is not None:
            try:
                result = do(worker, task)
            except CancelledError:
                if not self._interrupt.count:
                    raise
                return
            schedule.completed(task, result.done is not None)
            tally.add(result)
            leases.renew()

    def _clean_temporaries(self) -> None:
        # What cannot be listed or removed now is removed by a later run.
        f = self._folder
        with suppress(OSError):
            wip = [f.wip / name for name in self._fs.names(f.wip)]
            for path in (f.root, f.extents, f.conditions, f.shards, f.receipts, *wip):
                clean_temporaries(self._fs, path)

    def _remove_old_blocks(self, done: set[int]) -> None:
        worker = Worker(self._fs, self._job, self._engine)
        for name in self._fs.names(self._folder.wip):
            if (number := shard_number(name)) in done:
                worker.remove_blocks(number)

    def _tidy(self, leases: Leases, done: set[int]) -> None:
        if len(done) == len(self._job.table):
            self._remove_old_blocks(done)
            leases.clean(done)
            replaced = self._folder.root / REPLACED
            for name in self._fs.names(replaced):
                self._fs.unlink(replaced / name)
            for path in (self._folder.wip, replaced):
                self._fs.rmdir(path)
            self._fs.sync_folder(self._folder.root)

    def _bytes_per_clip(self, done: dict[int, Done]) -> float:
        clips = sum(d.clips for d in done.values())
        return sum(d.bytes for d in done.values()) / clips if clips else clip_bytes(self._job.plan) * _LEAST

    def _refuse_too_little_space(self, done: dict[int, Done]) -> None:
        left = self._job.clips - sum(d.clips for d in done.values())
        needed, free = left * self._bytes_per_clip(done), self._fs.free(self._folder.root)
        if needed > free:
            raise OutputError(
                f"{self._folder.root}: {left} clips are missing and need at least {needed / 1e9:.1f} GB; "
                f"{free / 1e9:.1f} GB are free. "
                "Make room, or plan fewer clips"
            )

    def _still_needed(self, done: dict[int, Done], tally: Tally) -> str:
        left = tally.total - tally.before - tally.made
        return f" ({left} clips are missing, about {left * self._bytes_per_clip(done) / 1e9:.2f} GB)"

    def _result(self, known: dict[int, Done], done: set[int], tally: Tally, began: float) -> JobResult:
        job = self._job
        facts = dict(known)
        for number in sorted(done - set(known)):
            try:
                facts[number] = summary(read_receipt(self._fs, self._folder, job.plan, job.table[number]))
            except (DamagedError, FileNotFoundError) as e:
                tally.notes.append(f"{e}; run the command again")
        quality: dict[str, int] = {}
        for part in facts.values():
            for name, count in part.quality.items():
                quality[name] = quality.get(name, 0) + count
        return JobResult(
            out=self._folder.root, clips=sum(d.clips for d in facts.values()), clips_total=job.clips, shards=len(facts),
            shards_total=len(job.table), bytes=sum(d.bytes for d in facts.values()), made=tally.made,
            seconds=time.perf_counter() - began, engine_seconds=tally.seconds,
            quarantined=[f for number in sorted(facts) for f in facts[number].quarantined], quality=quality,
            interrupted=self._interrupt.name if self._interrupt.count else "", notes=tally.notes,
        )  # fmt: skip


class _InlineStop(Stop):
    def __init__(self, interrupt: Interrupt, grace: float, leases: Leases) -> None:
        super().__init__()
        self._interrupt, self._grace, self._leases = interrupt, grace, leases

    def poll(self) -> None:
        self._leases.renew()
        if self._interrupt.count and self.deadline is None:
            self.request(self._grace)
        if self._interrupt.count > 1:
            self.request(0.0)
