"""Batches as a function of (seed, step): a resumed run sees the clips, timesteps and noise it would have seen.

The order of the clips is the same everywhere. Timesteps, noise and hidden labels are drawn where the batch is made, so they differ
between the host's generator and a GPU's.
"""

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
        self._orders: dict[int, np.ndarray] = {}
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
            out.extend(self._order(epoch)[offset : offset + self.batch - len(out)])
        return self.rows[np.asarray(out)]

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            generator = np.random.Generator(np.random.Philox(key=[self.seed ^ 0x5EED, epoch]))
            kept = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders = {**kept, epoch: generator.permutation(len(self.rows))}
        return self._orders[epoch]

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


class DeviceBatches(Batches):
    """The same with the whole set as bits on the device: a step sends the numbers of its clips there and waits for nothing."""

    def __init__(
        self, data: PackedClips, config: ModelConfig, batch: int, seed: int, dropout: Mapping[str, float], device: torch.device
    ) -> None:
        super().__init__(data, config, batch, seed, dropout)
        self.device = device
        self.bits = torch.from_numpy(np.ascontiguousarray(data.bits[self.rows])).to(device)
        self.places = np.full(len(data), -1, np.int64)
        self.places[self.rows] = np.arange(len(self.rows))
        self.axes = [axis for axis in AXES if getattr(config.conditioning, axis) != "none"]
        self.index, self.one_hot = {}, {}
        for axis in self.axes:
            n = len(getattr(config.labels, axis))
            index = getattr(data, axis)[self.rows].astype(np.int64)
            self.index[axis] = torch.from_numpy(np.where(index < 0, n, index)).to(device)
            self.one_hot[axis] = torch.eye(n + 1, device=device)
        self.shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=device)
        self.generator = torch.Generator(device)

    @classmethod
    def fits(cls, data: PackedClips, device: torch.device) -> bool:
        """Whether the set takes at most a third of the GPU's free memory."""
        return device.type == "cuda" and 3 * data.bits.nbytes <= torch.cuda.mem_get_info(device)[0]

    def at(self, step: int) -> Batch:
        """The batch of one step."""
        places = torch.from_numpy(self.places[self._epoch_rows(step)])
        if self.device.type == "cuda":
            places = places.pin_memory()
        rows = places.to(self.device, non_blocking=True)
        gen = self.generator.manual_seed(int(np.random.Philox(key=[self.seed, step]).random_raw() >> np.uint64(2)))
        frames, height, width = self.data.meta.shape
        bits = (self.bits[rows][:, :, None] >> self.shifts) & 1
        x0 = bits.flatten(1)[:, : frames * height * width].reshape(-1, 1, frames, height, width).float().mul_(2).sub_(1)
        t = torch.randint(0, self.config.diffusion.timesteps, (len(rows),), generator=gen, device=self.device)
        noise = torch.randn(x0.shape, generator=gen, device=self.device)
        labels = {}
        for axis in self.axes:
            hidden = torch.rand(len(rows), generator=gen, device=self.device) < self.dropout.get(axis, 0.0)
            null = len(self.one_hot[axis]) - 1
            labels[axis] = self.one_hot[axis][torch.where(hidden, null, self.index[axis][rows])]
        return Batch(x0, t, noise, labels)
