"""P x K batches as a function of (seed, step): P people, K clips of each, and which frames of a clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..data.packed import SPLIT_TRAIN, PackedClips
from ..errors import DataFormatError
from .settings import JudgeSettings


@dataclass(frozen=True)
class Batch:
    """``clips`` uint8 [P * K, frames, H, W] of 0 and 1; ``identity`` int64 [P * K], class numbers."""

    clips: np.ndarray
    identity: np.ndarray


class Batches:
    """Random access to batches of one split. Raises DataFormatError if it holds fewer than two identities."""

    def __init__(self, data: PackedClips, settings: JudgeSettings, split: int = SPLIT_TRAIN) -> None:
        self.data, self.settings = data, settings
        rows = np.flatnonzero((data.split == split) & (data.identity >= 0))
        self.people = np.unique(data.identity[rows])
        if len(self.people) < 2:
            raise DataFormatError(f"{data.folder}: {len(self.people)} identities in this split; a recogniser needs at least 2")
        self.rows = [rows[data.identity[rows] == person] for person in self.people]

    def at(self, step: int) -> Batch:
        """The batch of one step; people and clips are drawn with replacement only where there are too few."""
        s = self.settings
        rng = np.random.Generator(np.random.Philox(key=[s.seed, step]))
        people = rng.choice(len(self.people), s.people, replace=len(self.people) < s.people)
        rows = np.concatenate([rng.choice(self.rows[p], s.clips, replace=len(self.rows[p]) < s.clips) for p in people])
        clips = self.data.batch(rows)
        count = clips.shape[1]
        if s.kind == "set":
            frames = np.stack([np.sort(rng.choice(count, s.frames, replace=count < s.frames)) for _ in rows])
        else:
            # Consecutive frames, from anywhere in the clip.
            first = rng.integers(0, max(count - s.frames, 0) + 1, len(rows))
            frames = np.minimum(first[:, None] + np.arange(s.frames), count - 1)
        clips = clips[np.arange(len(rows))[:, None], frames]
        shift = rng.integers(-2, 3, len(rows))
        for i, by in enumerate(shift):
            clips[i] = np.roll(clips[i], by, axis=-1)  # the figure is centred to a pixel or two only
        return Batch(clips, np.repeat(people, s.clips).astype(np.int64))
