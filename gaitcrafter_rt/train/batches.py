"""Batches as a function of (seed, step): a resumed run sees the clips, timesteps and noise it would have seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config import AXES, ModelConfig
from ..data.packed import SPLIT_TRAIN, PackedClips
from ..errors import DataFormatError


@dataclass(frozen=True)
class Batch:
    """``x0 [B, 1, F, H, W]`` in {-1, 1}, ``t [B]``, ``noise`` like x0, ``labels`` per axis ``[B, n + 1]``."""

    x0: Tensor
    t: Tensor
    noise: Tensor
    labels: dict[str, Tensor]

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.x0.to(device), self.t.to(device), self.noise.to(device), {k: v.to(device) for k, v in self.labels.items()}
        )


class Batches:
    """Random access to training batches of a packed set."""

    def __init__(
        self, data: PackedClips, config: ModelConfig, batch: int, seed: int, dropout: Mapping[str, float], split: int = SPLIT_TRAIN
    ) -> None:
        self.data, self.config, self.batch, self.seed, self.dropout = data, config, batch, seed, dropout
        self.rows = np.flatnonzero(data.split == split)
        if not len(self.rows):
            raise DataFormatError(f"{data.folder}: no clips in the {'training' if split == SPLIT_TRAIN else 'held-out'} split")

    def at(self, step: int) -> Batch:
        """The batch of one step."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed, step]))
        rows = self._epoch_rows(step)
        gen = torch.Generator().manual_seed(int(rng.integers(2**62)))
        x0 = torch.from_numpy(self.data.batch(rows)).float().mul_(2).sub_(1)[:, None]
        t = torch.randint(0, self.config.diffusion.timesteps, (len(rows),), generator=gen)
        return Batch(x0, t, torch.randn(x0.shape, generator=gen), self._labels(rows, rng))

    def _epoch_rows(self, step: int) -> np.ndarray:
        """Every epoch is one permutation of the clips, so that all are seen equally often."""
        n, first = len(self.rows), step * self.batch
        out: list[int] = []
        while len(out) < self.batch:
            epoch, offset = divmod(first + len(out), n)
            order = np.random.Generator(np.random.Philox(key=[self.seed ^ 0x5EED, epoch])).permutation(n)
            out.extend(order[offset : offset + self.batch - len(out)])
        return self.rows[np.asarray(out)]

    def _labels(self, rows: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        out = {}
        for axis in AXES:
            if getattr(self.config.conditioning, axis) == "none":
                continue
            n = len(getattr(self.config.labels, axis))
            index = getattr(self.data, axis)[rows].astype(np.int64)
            dropped = rng.random(len(rows)) < self.dropout.get(axis, 0.0)
            index = np.where(dropped | (index < 0), n, index)
            out[axis] = torch.nn.functional.one_hot(torch.from_numpy(index), n + 1).float()
        return out
