"""A job on a Ray cluster (extra ``ray``): shard numbers through Ray Data to warm actors.

Ray delivers at least once, a commit counts once, so nothing of Ray's own bookkeeping is needed: what counts is the receipts, which
the driver reads. Every retry is finite: Ray restarts an actor and repeats its shard a few times; what is missing then is handed
out again, a few times; then the job ends with an error. No block is ever dropped.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ..errors import CapabilityError, GaitcrafterError, InternalError, MissingExtraError
from .filesystem import FileSystem
from .interrupts import SIGNALS, Interrupt
from .machine import processors
from .opening import OpenJob
from .ray_worker import DONE, ERROR, Flag, OpenEngine, ShardWorker, typed
from .receipts import read_receipt, summary
from .tally import Tally
from .worker import Result

# Of Ray: restarts of an actor, and repeats of a shard whose actor died. Of ours: rounds over what is missing.
RESTARTS, REPEATS, ROUNDS = 3, 2, 3
# Ray keeps an object per shard; more shards than that follow in another dataset.
_MOST_AT_ONCE = 10_000
# Shard numbers and small rows are all that ever lies there.
_OBJECT_STORE_BYTES = 100_000_000
# A second try cannot help: the worker cannot make these clips, a promise is broken, or the disk is full.
_FINAL = ("CapabilityError", "NonDeterminismError", "DiskFullError", "PlanMismatchError", "MissingExtraError", "ModelFormatError")
_TICK = 0.2
# Beyond the grace time, for rows to arrive.
_LATE_SECONDS = 5.0


def import_ray() -> Any:
    """Ray, with authentication on and its telemetry off unless the environment says otherwise. Raises MissingExtraError."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as e:
        raise MissingExtraError.for_extra("ray", "--executor ray", e.name) from e
    # What Ray Data is about to do is told by the job's own reports; its log files keep everything.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


@dataclass(frozen=True)
class RayBackend:
    """Makes shards on the cluster that RAY_ADDRESS names, else on one of this machine alone that ends with the run.

    Args:
        open_engine: sent to every actor, called there once.
        workers: actors at most; None is as many as the cluster has room for. threads: processors of each.
    """

    open_engine: OpenEngine
    workers: int | None = None
    threads: int = 1
    grace: float = 30.0

    def __call__(self, fs: FileSystem, job: OpenJob, done: set[int], tally: Tally, interrupt: Interrupt) -> None:
        """Until every shard has a receipt or a stop was asked for; adds to ``done``. Raises what the job must end with."""
        with _cluster(self.workers, self.threads) as ray:
            run = _Run(ray, self, fs, job, done, tally, interrupt)
            for _ in range(ROUNDS):
                missing = [k for k in range(len(job.table)) if k not in done]
                for begin in range(0, len(missing), _MOST_AT_ONCE):
                    if run.stopping:
                        return
                    run.round(missing[begin : begin + _MOST_AT_ONCE])
            if not run.stopping and len(done) < len(job.table):
                raise run.given_up()


@contextmanager
def _cluster(workers: int | None, threads: int) -> Iterator[Any]:
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    quiet = {"log_to_driver": False, "logging_level": "error"}
    # Ray puts a handler of its own where the job's should stay.
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**quiet)
        else:
            ray.init(address="local", num_cpus=(workers or max(1, processors() // threads)) * threads, include_dashboard=False,
                     object_store_memory=_OBJECT_STORE_BYTES, **quiet)  # fmt: skip
    except (ConnectionError, RuntimeError, ValueError) as e:
        where = os.environ.get("RAY_ADDRESS", "this machine")
        raise CapabilityError(
            f"Ray on {where} could not be reached: {e}. Does it run, and is its token here (RAY_AUTH_TOKEN, ~/.ray/auth_token)? "
            "docs/scaling.md says how to set a cluster up"
        ) from e
    finally:
        for number, handler in before.items():
            with suppress(ValueError):  # another thread than the main one
                signal.signal(number, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


class _Run:
    """One job's rounds."""

    def __init__(
        self, ray: Any, backend: RayBackend, fs: FileSystem, job: OpenJob, done: set[int], tally: Tally, interrupt: Interrupt
    ) -> None:
        self._ray, self._backend, self._fs, self._job = ray, backend, fs, job
        self._done, self._tally, self._interrupt = done, tally, interrupt
        self._flag = ray.remote(num_cpus=0)(Flag).remote()
        self._failed: dict[int, GaitcrafterError] = {}
        self._fatal: GaitcrafterError | None = None
        self._died = ""
        self._deadline: float | None = None

    @property
    def stopping(self) -> bool:
        """A stop was asked for, by a signal or by an error that ends the job."""
        return self._deadline is not None

    def round(self, shards: list[int]) -> None:
        """Hand shards out once. Raises an error that ends the job; others are kept for :meth:`given_up`."""
        heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        enough = threading.Event()
        threading.Thread(target=_iterate, args=(self._dataset(shards), heard, enough), daemon=True).start()
        told = time.monotonic()
        while not self._over():
            try:
                item = heard.get(timeout=_TICK)
            except queue.Empty:
                if time.monotonic() - told > 5:
                    told = time.monotonic()
                    self._tally.tell()
                continue
            if item is None:
                break
            if isinstance(item, BaseException):
                self._died = f"{type(item).__name__}: {str(item).splitlines()[0] if str(item) else ''}"
                break
            for row in item:
                self._hear(row)
        enough.set()
        if self._fatal is not None:
            raise self._fatal

    def _dataset(self, shards: list[int]) -> Any:
        data = self._ray.data
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = 0
        cpus = self._backend.threads
        room = max(1, int(self._ray.cluster_resources().get("CPU", 1)) // cpus)
        most = self._backend.workers or room
        self._tally.workers = min(most, room, len(shards))
        items = data.from_items([{"shard": k} for k in shards], override_num_blocks=len(shards))
        with warnings.catch_warnings():
            # max_restarts and max_task_retries have no other way in, and Ray's own values are without end.
            warnings.simplefilter("ignore")
            return items.map_batches(
                ShardWorker, fn_constructor_args=(str(self._job.folder.root.absolute()), self._backend.open_engine, self._flag),
                batch_size=1, num_cpus=cpus, max_restarts=RESTARTS, max_task_retries=REPEATS,
                compute=data.ActorPoolStrategy(
                    min_size=min(most, room, len(shards)), max_size=min(most, len(shards)), max_tasks_in_flight_per_actor=1
                ),
            )  # fmt: skip

    def _over(self) -> bool:
        """Ask the actors to stop if somebody asks us; True when there is nothing left to wait for."""
        if (self._interrupt.count or self._fatal is not None) and self._deadline is None:
            self._deadline = time.monotonic() + self._backend.grace + _LATE_SECONDS
            self._flag.stop.remote(self._backend.grace)
        return self._interrupt.count > 1 or (self._deadline is not None and time.monotonic() > self._deadline)

    def _hear(self, row: dict[str, Any]) -> None:
        number = int(row["shard"])
        if row["status"] == ERROR:
            error = typed(str(row["kind"]), f"{row['error']} (on {row['node']})")
            self._failed[number] = error
            if str(row["kind"]) in _FINAL:
                self._fatal = self._fatal or error
            return
        if row["status"] != DONE:
            return
        # The receipt counts, not the actor's word. An error of it is an error of the job.
        done = summary(read_receipt(self._fs, self._job.folder, self._job.plan, self._job.table[number]))
        self._done.add(number)
        self._failed.pop(number, None)
        notes = [line for line in str(row["notes"]).split("\n") if line]
        try:
            self._tally.add(Result(int(row["clips"]), int(row["failures"]), float(row["seconds"]), done, notes))
        except GaitcrafterError as e:
            self._fatal = self._fatal or e

    def given_up(self) -> GaitcrafterError:
        """What to raise when shards are missing after all rounds."""
        if self._failed:
            return next(iter(self._failed.values()))
        missing = [k for k in range(len(self._job.table)) if k not in self._done]
        return InternalError(
            f"{len(missing)} shards are missing after {ROUNDS} rounds, first of all shard {missing[0]}: actors died over them "
            f"({self._died or 'without a word'}); the same command without --executor ray finds the clip, or the memory, that kills"
        )


def _iterate(dataset: Any, heard: queue.SimpleQueue[Any], enough: threading.Event) -> None:
    """Pass rows on: Ray's iterator blocks, and the main thread must hear signals."""
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            heard.put([dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)])
            if enough.is_set():
                return
        heard.put(None)
    except BaseException as e:
        heard.put(e)
