"""The side of a Ray job that lives in actors: one engine each, opened once, one shard at a time.

An actor never raises: it says per shard how it went. What Ray repeats, since an actor died, commits equally or finds it done.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import errors
from ..errors import CancelledError, GaitcrafterError, InternalError
from . import errors as bulk_errors
from .filesystem import LocalFileSystem
from .leases import Leases
from .machine import open_engine, refuse_other_engine
from .opening import open_job
from .plan import Plan
from .worker import ClipEngine, Stop, Worker

OpenEngine = Callable[[Plan], ClipEngine]
DONE, STOPPED, ERROR = "done", "stopped", "error"
# How often an actor asks whether to stop.
_ASK_SECONDS = 1.0


@dataclass(frozen=True)
class OpenModel:
    """Opens a model wherever an actor runs: a name that ships, or a folder that every machine sees."""

    model: str
    threads: int = 1

    def __call__(self, plan: Plan) -> ClipEngine:
        """Raises CapabilityError for another tier, PlanMismatchError for another model, build or backend than the plan's."""
        engine = open_engine(self.model, plan, threads=self.threads)
        refuse_other_engine(plan, engine)
        return engine


class Flag:
    """An actor that all others ask whether to stop, and within how many seconds."""

    def __init__(self) -> None:
        self._deadline: float | None = None

    def stop(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds until running blocks must have ended; None: nobody asks."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())


class _RayStop(Stop):
    """Hears the flag while the engine runs, and renews the leases meanwhile."""

    def __init__(self, flag: Any, leases: Leases) -> None:
        super().__init__()
        self._flag, self._leases, self._asked = flag, leases, 0.0

    def poll(self) -> None:
        self._leases.renew()
        if time.monotonic() - self._asked < _ASK_SECONDS:
            return
        self._asked = time.monotonic()
        self.ask()

    def ask(self) -> None:
        if self._flag is None:
            return
        try:
            import ray

            left = ray.get(self._flag.left.remote(), timeout=5)
        except Exception:
            return  # the driver's side is gone or slow: Ray ends this actor if it must
        if left is not None:
            self.request(left)


class ShardWorker:
    """What ``map_batches`` calls with shard numbers; one engine for all of them.

    Args:
        root: the job's folder, as this machine sees it. open_engine: called once, with the plan.
        flag: handle of a :class:`Flag`, or None if nobody will ask to stop.
    """

    def __init__(self, root: str, open_engine: OpenEngine, flag: Any) -> None:
        self._refusal: Exception | None = None
        try:
            fs = LocalFileSystem()
            job = open_job(root, fs)
            self._leases = Leases(fs, job.folder)
            self._stop = _RayStop(flag, self._leases)
            self._worker = Worker(fs, job, open_engine(job.plan), stop=self._stop)
        except Exception as e:
            # Raised here, Ray would only say that an actor died; the driver gets the reason with the first shard.
            self._refusal = e

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = [self._shard(int(number)) for number in batch["shard"]]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def _shard(self, number: int) -> dict[str, Any]:
        row = {"shard": number, "status": DONE, "kind": "", "error": "", "notes": "", "clips": 0, "failures": 0, "seconds": 0.0,
               "node": os.uname().nodename}  # fmt: skip
        try:
            if self._refusal is not None:
                raise self._refusal
            self._stop.ask()
            if self._stop.deadline is not None:
                raise CancelledError("a stop was asked for")
            self._leases.take(number)
            try:
                result = self._worker.run_shard(number)
            finally:
                self._leases.give_back(number)
            row |= {"clips": result.clips, "failures": result.failures, "seconds": result.seconds, "notes": "\n".join(result.notes)}
        except CancelledError:
            row["status"] = STOPPED
        except Exception as e:
            row |= {"status": ERROR, "kind": type(e).__name__, "error": str(e)}
        return row


def typed(kind: str, text: str) -> GaitcrafterError:
    """The error that an actor told, as this package's own class if it is one."""
    for module in (bulk_errors, errors):
        known = getattr(module, kind, None)
        if isinstance(known, type) and issubclass(known, GaitcrafterError):
            return known(text)
    if kind == "MemoryError":
        return errors.OutOfMemoryError(text)
    return InternalError(f"{kind}: {text}")
