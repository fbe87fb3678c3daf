"""What a run has done so far, and where it tells about it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .errors import TooManyFailedError
from .worker import Result


@dataclass(frozen=True)
class Snapshot:
    """How far a job is. ``clips`` counts those made by this run and those of shards that were sealed before it.

    ``made`` and ``failures`` (quarantined clips), ``seconds`` (wall time) and ``engine_seconds`` (over workers) are this run's.
    """

    clips: int
    total: int
    failures: int
    shards: int
    shards_total: int
    workers: int
    made: int = 0
    seconds: float = 0.0
    engine_seconds: float = 0.0

    @property
    def rate(self) -> float | None:
        """Clips per second of this run; None before its first block."""
        return self.made / self.seconds if self.made and self.seconds else None

    @property
    def seconds_left(self) -> float | None:
        """Until the job is complete if nobody else works on it; None before the first block."""
        return (self.total - self.clips) / self.rate if self.rate else None


@dataclass
class Tally:
    """Counts results and passes them on."""

    total: int
    shards_total: int
    max_failed: int
    before: int = 0
    made: int = 0
    failures: int = 0
    seconds: float = 0.0
    shards: int = 0
    workers: int = 0
    notes: list[str] = field(default_factory=list)
    report: Callable[[Snapshot], object] | None = None
    began: float = field(default_factory=time.monotonic)

    def add(self, result: Result) -> None:
        """Raises TooManyFailedError beyond what ``--max-failed`` allows."""
        self.made += result.clips
        self.failures += result.failures
        self.seconds += result.seconds
        self.notes += result.notes
        if result.done is not None:
            self.shards += 1
        self.tell()
        if self.failures > self.max_failed:
            raise TooManyFailedError(
                f"{self.failures} clips failed, more than --max-failed {self.max_failed}: something is wrong with the "
                f"job rather than with "
                "single clips. What is made is kept; `gaitcrafter-rt dataset stats` lists the errors of shards that are sealed"
            )

    def tell(self) -> None:
        if self.report is not None:
            done = min(self.total, self.before + self.made)
            self.report(
                Snapshot(
                    done, self.total, self.failures, self.shards, self.shards_total, self.workers, self.made,
                    time.monotonic() - self.began, self.seconds,
                )
            )  # fmt: skip
