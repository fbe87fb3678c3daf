"""Captured and generated clips in one stream, at a ratio."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import torch
from torch.utils.data import IterableDataset

from ..errors import InvalidRequestError
from .batch import Batch
from .clips import Clips
from .generated import GeneratedClips, own_blocks

PREFIX = "syn-"


class MixedClips(IterableDataset):
    """Batches of which the share ``captured_share`` is drawn from captured clips and the rest is generated.

    The batches have the size and number of ``generated``'s blocks, and do not depend on the workers either. Over any run of batches
    the share is kept to within one clip. Captured clips come in passes, each in an order of its own. Classes are the captured ones,
    then the generated ones with the prefix ``syn-``, so that no made-up identity is taken for a person.

    Args:
        captured: clips of people (or rendered walkers), as ``Clips("set", split="train")``; same clip shape and pixels.
        captured_share: above 0, below 1.
    """

    def __init__(self, captured: Clips, generated: GeneratedClips, captured_share: float, *, seed: int = 0) -> None:
        super().__init__()
        if not 0 < captured_share < 1:
            raise InvalidRequestError(f"captured_share is {captured_share!r}; it must be above 0 and below 1")
        if (captured.shape, captured.form, captured.label) != (generated.shape, generated.form, generated.label):
            raise InvalidRequestError(
                f"captured clips are {captured.shape} {captured.form} by {captured.label}, generated ones {generated.shape} "
                f"{generated.form} by {generated.label}; they must be alike"
            )
        self.captured, self.generated, self.seed = captured, generated, seed
        # A fraction, so that no rounding of floats decides which clip is next.
        self._share = Fraction(captured_share).limit_denominator(10_000)
        self.classes = captured.classes + [PREFIX + name for name in generated.classes]
        self.names = {axis: sorted({*captured.names[axis], *generated.names[axis]}) for axis in ("view", "covariate")}
        self._tables = [
            {axis: _lookup(part.names[axis], names) for axis, names in self.names.items()} for part in (captured, generated)
        ]
        self._order: tuple[int, np.ndarray] | None = None

    def set_epoch(self, epoch: int) -> None:
        """As :meth:`GeneratedClips.set_epoch`; the captured clips go on where the epoch before ended."""
        self.generated.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.generated)

    def __iter__(self) -> Iterator[Batch]:
        g = self.generated
        epoch = int(g._epoch)
        for block in own_blocks(g.blocks, g.rank, g.world_size):
            yield self._block(epoch, block)

    def _block(self, epoch: int, block: int) -> Batch:
        g = self.generated
        first = block * g.batch
        end = min(first + g.batch, g.clips)
        before, after = math.floor(first * self._share), math.floor(end * self._share)
        # Captured clips of earlier epochs come first in the endless sequence of passes.
        earlier = epoch * math.floor(g.clips * self._share)
        parts = []
        if after > before:
            parts.append(self._relabel(self.captured[self._captured(earlier + np.arange(before, after))], 0))
        if end - first > after - before:
            parts.append(self._relabel(g.make(epoch, np.arange(first - before, end - after)), 1))
        mixed = [torch.cat(fields) for fields in zip(*parts, strict=True)]
        order = np.argsort(np.random.default_rng([self.seed, 1, epoch, block]).random(end - first), kind="stable")
        return Batch(*(field[torch.from_numpy(order)] for field in mixed))

    def _captured(self, places: np.ndarray) -> np.ndarray:
        """Positions of captured clips; ``places`` count through the passes."""
        count = len(self.captured)
        out = np.empty(len(places), np.int64)
        for turn in np.unique(places // count):
            if self._order is None or self._order[0] != turn:
                rng = np.random.default_rng([self.seed, 0, int(turn)])
                self._order = (int(turn), np.argsort(rng.random(count), kind="stable"))
            here = places // count == turn
            out[here] = self._order[1][places[here] % count]
        return out

    def _relabel(self, batch: Batch, part: int) -> Batch:
        tables = self._tables[part]
        labels = batch.labels if part == 0 else torch.where(batch.labels < 0, -1, batch.labels + len(self.captured.classes))
        return batch._replace(labels=labels, views=tables["view"][batch.views], covariates=tables["covariate"][batch.covariates])


def _lookup(names: list[str], union: list[str]) -> torch.Tensor:
    """Numbers of ``names`` among ``union``; the last entry serves -1."""
    place = {name: k for k, name in enumerate(union)}
    return torch.tensor([*(place[name] for name in names), -1])
