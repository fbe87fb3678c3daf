"""A near-free engine for tests of the bulk job: clips are a function of (seed, clip index, labels), made without a network.

This is the seam that docs/bulk.md describes: anything that has these attributes and ``generate`` can be a job's engine.
"""

from __future__ import annotations

import faulthandler
import hashlib
import os
import signal
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from gaitcrafter_rt.clips import ClipBatch
from gaitcrafter_rt.conditions import Vocabulary
from gaitcrafter_rt.engine import Progress
from gaitcrafter_rt.errors import CancelledError, InternalError, OutOfMemoryError

LABELS = {"dataset": [], "identity": ["001", "002", "003"], "view": ["000", "090"], "covariate": ["nm", "bg"]}


class StubEngine:
    """Options make it misbehave.

    Args:
        shape: frames, height, width.
        poison: clip indices that raise; deadly: clip indices that kill the process; nan: clip indices "not finite".
        most: more clips than that in one call are out of memory.
        salt: another engine, other bits (a broken promise).
        before: called before each call with the clip indices.
    """

    def __init__(
        self, shape: tuple[int, int, int] = (4, 16, 16), *, poison: Collection[int] = (), deadly: Collection[int] = (),
        nan: Collection[int] = (), most: int = 1 << 20, salt: int = 0, isa: str = "avx2", build: str = "stub", name: str = "stub",
        signal_number: int = signal.SIGSEGV, before: Callable[[Sequence[int]], None] | None = None,
    ) -> None:  # fmt: skip
        frames, height, width = shape
        self.shape, self.build, self.salt, self.most = shape, build, salt, most
        self.poison, self.deadly, self.nan = set(poison), set(deadly), set(nan)
        self.signal_number, self.before = signal_number, before
        self.calls: list[int] = []
        self.info: dict[str, Any] = {
            "name": name, "model_sha256": hashlib.sha256(name.encode()).hexdigest(), "device": "cpu", "precision": "fp32",
            "isa": isa,
            "channels": 1, "frames": frames, "height": height, "width": width, "packed_bytes": frames * height * width // 8,
            "provenance": {"training_data": "none", "training_data_terms": "none", "identities": "rendered"},
        }  # fmt: skip
        self.vocabulary = Vocabulary(LABELS, {axis: bool(names) for axis, names in LABELS.items()}, 0)

    def resolve_sampler(self, **given: Any) -> dict[str, Any]:
        return {"kind": "ddim", "steps": given.get("steps") or 12, "guidance": 2.0, "null_axes": ["identity"]}

    def generate(
        self, conditions: Any, seed: int = 0, *, threshold: float = 0.5, clip_indices: np.ndarray,
        progress: Callable[[Progress], object] | None = None, **sampler: Any,
    ) -> ClipBatch:  # fmt: skip
        indices = [int(i) for i in clip_indices]
        self.calls.append(len(indices))
        if self.before:
            self.before(indices)
        if len(indices) > self.most:
            raise OutOfMemoryError(f"{len(indices)} clips need more than there is")
        if self.deadly & set(indices):
            faulthandler.disable()  # pytest's report of the death would be noise
            os.kill(os.getpid(), self.signal_number)
        for index in indices:
            if index in self.poison:
                raise RuntimeError(f"clip {index} is poison")
            if index in self.nan:
                raise InternalError(f"clip {index}: 3 values of the network were not finite")
        packed = draw(seed + self.salt, np.asarray(clip_indices, np.uint64), self.shape, conditions)
        if progress and progress(Progress(len(indices), len(indices), len(indices), len(indices))) is False:
            raise CancelledError("cancelled")
        return ClipBatch(packed, self.shape, conditions, seed, clip_indices)


def draw(seed: int, indices: np.ndarray, shape: tuple[int, int, int], conditions: Any) -> np.ndarray:
    """Packed clips: a bar whose place in each frame depends on all arguments. Plausible enough to raise no flag."""
    frames, height, width = shape
    clips = np.zeros((len(indices), frames, height, width), np.uint8)
    for k, index in enumerate(indices):
        text = repr((seed, int(index), sorted((a, sorted(dict(w).items())) for a, w in conditions[k].items())))
        places = np.frombuffer(hashlib.shake_128(text.encode()).digest(frames), np.uint8)
        for frame, place in enumerate(places):
            left = int(place) % (width - width // 4)
            clips[k, frame, 2:-2, left : left + width // 4] = 1
            clips[k, frame, 2, left] = int(place) & 1
        clips[k, 0, 3, : 1 + int(index) % 2] = 1
    return np.packbits(clips.reshape(len(indices), -1), axis=1)
