"""From a range of clips to their bits, whatever single clips do.

An error of a call is tried once more, then the range is halved until the clip that fails is alone; it is quarantined with its error
and the others are kept. Memory that cannot be had halves the range too, which changes no bits. A clip that kills its process is
found the same way, over several processes: the supervisor tells which ranges were deadly.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..errors import CancelledError, CapabilityError, InternalError, OutOfMemoryError

Range = tuple[int, int]
"""First clip number and how many."""
Run = Callable[[int, int], np.ndarray]
"""(first, count) to uint8 [count, bytes]."""

# What says nothing about a clip: it stops the job.
_NOT_THE_CLIP = (CancelledError, CapabilityError)
_TRIES = 2
MEMORY_ADVICE = "fewer workers (--workers), or --threads 1, need less; a clip's bits do not depend on either"


@dataclass(eq=False)
class Made:
    """``packed`` has zeros for clips in ``errors``; ``non_finite`` are those whose network output was not finite."""

    packed: np.ndarray
    errors: dict[int, str] = field(default_factory=dict)
    non_finite: set[int] = field(default_factory=set)
    retries: int = 0


class Maker:
    """Makes ranges of clips; remembers how many fit in memory at once."""

    def __init__(self, run: Run, clip_bytes: int) -> None:
        self._run, self._clip_bytes = run, clip_bytes
        self.most = 1 << 20

    def make(self, first: int, count: int, deadly: Mapping[Range, int] | None = None) -> Made:
        """Clips ``first`` .. ``first + count - 1``.

        ``deadly`` counts how often a process died over a range. Raises OutOfMemoryError if not even one clip fits,
        CancelledError and CapabilityError as the engine does.
        """
        deadly = deadly or {}
        made = Made(np.zeros((count, self._clip_bytes), np.uint8))
        ranges = [(first + k, min(self.most, count - k)) for k in range(0, count, self.most)]
        ranges = ranges if len(ranges) > 1 else [(first, count)]
        for part in _deadly_first(ranges, deadly):
            self._attempt(part, first, made, deadly, _TRIES)
        return made

    def _attempt(self, part: Range, base: int, made: Made, deadly: Mapping[Range, int], tries: int) -> None:
        first, count = part
        deaths = deadly.get(part, 0)
        error: Exception | None = None
        if deaths >= tries:
            error = RuntimeError(f"the process died {deaths} times while it made this clip")
        elif any(_inside(other, part) for other in deadly if other != part):
            # A part of it is known to be deadly, so it has been split before.
            pass
        else:
            error = self._tries(part, base, made, tries - deaths)
            if error is None:
                return
        if count == 1:
            assert error is not None
            made.errors[first] = f"{type(error).__name__}: {error}"
            if isinstance(error, InternalError) and "not finite" in str(error):
                made.non_finite.add(first)
            return
        half = (count + 1) // 2
        for piece in _deadly_first([(first, half), (first + half, count - half)], deadly):
            # The error was seen twice already; only the clip that is alone in the end is given another chance.
            self._attempt(piece, base, made, deadly, _TRIES if piece[1] == 1 else 1)

    def _tries(self, part: Range, base: int, made: Made, tries: int) -> Exception | None:
        first, count = part
        error: Exception | None = None
        for attempt in range(tries):
            made.retries += attempt > 0
            try:
                made.packed[first - base : first - base + count] = self._run(first, count)
                return None
            except _NOT_THE_CLIP:
                raise
            except MemoryError as e:
                gc.collect()
                made.retries += 1
                if count == 1:
                    raise OutOfMemoryError(f"{e}; not even one clip fits: {MEMORY_ADVICE}") from e
                self.most = min(self.most, (count + 1) // 2)
                return e
            except Exception as e:
                error = e
        return error


def _inside(inner: Range, outer: Range) -> bool:
    return outer[0] <= inner[0] and inner[0] + inner[1] <= outer[0] + outer[1]


def _deadly_first(ranges: list[Range], deadly: Mapping[Range, int]) -> list[Range]:
    """What may kill the process comes first, before there is much to lose."""
    return sorted(ranges, key=lambda part: not any(_inside(d, part) for d in deadly))
