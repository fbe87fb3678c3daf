"""P x K batches: P classes, K clips of each, as triplet losses want them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from ..errors import InvalidRequestError


class PKSampler(Sampler[list[int]]):
    """Lists of positions: P classes drawn without replacement, K clips of each (with replacement only where there are fewer).

    What is drawn depends on ``seed``, epoch and step alone. All ranks draw the same P x K positions and rank r takes every
    ``world_size``-th of them from r on, so that together they see one P x K batch. Use it as ``sampler`` with ``batch_size=None``
    (``clips[[...]]`` decodes a batch at once) or as ``batch_sampler``.

    Args:
        labels: int [N], the class of every clip; clips of class -1 are never drawn.
        p, k: classes per batch and clips per class. p * k must be a multiple of ``world_size``.
        batches: steps of an epoch; None: as many as the clips fill.
        rank, world_size: None asks torch.distributed.

    Raises:
        InvalidRequestError: fewer than ``p`` classes, or numbers that do not fit.
    """

    def __init__(
        self, labels: Sequence[int] | np.ndarray | torch.Tensor, p: int, k: int, *, seed: int = 0, batches: int | None = None,
        rank: int | None = None, world_size: int | None = None,
    ) -> None:  # fmt: skip
        values = np.asarray(labels)
        if values.ndim != 1 or values.dtype.kind not in "iu":
            raise InvalidRequestError(f"labels must be a list of whole numbers, got {values.dtype} of shape {values.shape}")
        order = np.argsort(values, kind="stable")
        order = order[values[order] >= 0]
        present, starts = np.unique(values[order], return_index=True)
        self._members = np.split(order, starts[1:]) if len(present) else []
        self.rank, self.world_size = _place(rank, world_size)
        if p < 1 or k < 1 or p > len(present):
            raise InvalidRequestError(f"p is {p} and k is {k}; at least 1 each, and there are {len(present)} classes")
        if p * k % self.world_size:
            raise InvalidRequestError(f"p * k is {p * k}, which {self.world_size} ranks cannot share evenly")
        if batches is not None and batches < 1:
            raise InvalidRequestError(f"batches must be at least 1, got {batches}")
        self.p, self.k, self.seed, self.epoch = p, k, seed, 0
        self._batches = batches or max(1, len(order) // (p * k))

    def set_epoch(self, epoch: int) -> None:
        """Choose what the next pass draws, as with torch's DistributedSampler."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self._batches):
            yield self.batch(self.epoch, step)[self.rank :: self.world_size].tolist()

    def batch(self, epoch: int, step: int) -> np.ndarray:
        """All P x K positions of one step, int64 [p * k], class by class."""
        rng = np.random.default_rng([self.seed, epoch, step])
        chosen = np.argsort(rng.random(len(self._members)), kind="stable")[: self.p]
        return np.concatenate([self._draw(rng, self._members[c]) for c in chosen])

    def _draw(self, rng: np.random.Generator, members: np.ndarray) -> np.ndarray:
        if len(members) >= self.k:
            return members[np.argsort(rng.random(len(members)), kind="stable")[: self.k]]
        return members[(rng.random(self.k) * len(members)).astype(np.int64)]


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """(rank, world size), of torch.distributed where they are not given."""
    group = torch.distributed.is_available() and torch.distributed.is_initialized()
    world = world_size if world_size is not None else torch.distributed.get_world_size() if group else 1
    own = rank if rank is not None else torch.distributed.get_rank() if group else 0
    if world < 1 or not 0 <= own < world:
        raise InvalidRequestError(f"rank {own} of {world}; ranks run from 0 to world_size - 1")
    return own, world
