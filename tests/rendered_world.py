"""A small rendered world for the tests of evaluation: what is in it, and its clips as a model's output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gaitcrafter_rt.clips import ClipBatch
from gaitcrafter_rt.data.packed import PackedClips, pack

WALKERS, VIEWS, COVARIATES, SIZE = 10, (54, 90), ("nm", "cl"), 32
FRESH_RECORDING = 4  # 0 and 1 train, 2 and 3 are held out


@dataclass(frozen=True)
class World:
    """``data``: the packed set; ``fresh`` [N, F, H, W]: one unseen clip per cell, of ``conditions``; ``cache``: for classifiers."""

    data: PackedClips
    fresh: np.ndarray
    conditions: list[dict[str, str]]
    cache: Path

    def batch(self, clips: np.ndarray | None = None, conditions: list[dict] | None = None) -> ClipBatch:
        """The fresh clips as a model's output, or others in their place."""
        clips = self.fresh if clips is None else clips
        conditions = self.conditions if conditions is None else conditions
        return ClipBatch(pack(clips), clips.shape[1:], conditions, 0, np.arange(len(clips)))
