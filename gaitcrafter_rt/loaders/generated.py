"""Clips made while training runs, inside the loader's workers: no disk, never the same clip twice."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..bulk.conditions import identity_name
from ..clips import ClipBatch, plain_condition
from ..conditions import Condition, ConditionTable
from ..config import AXES
from ..dataset.cached import Pixels
from ..engine import Engine
from ..errors import InvalidRequestError
from .batch import Batch, Form, whole
from .sampler import _place


class GeneratedClips(IterableDataset):
    """Batches of clips that an engine makes, the same ones in the same order for any number of workers.

    Clip ``i`` of epoch ``e`` has the clip index ``start + e * clips + i`` and shows ``conditions[i % len(conditions)]``; seed and
    clip index determine its bits. Block ``j`` of ``batch`` clips is made by worker ``j % workers``, and torch takes blocks from its
    workers in turn. Use it with ``batch_size=None``::

        made = GeneratedClips("walker", [{"identity": "001", "view": "090"}, {"identity": "002", "view": "090"}], clips=4096)
        loader = DataLoader(made, batch_size=None, num_workers=2)

    The engine is opened here, which checks the conditions, and runs in the workers only: forked ones share its weights.

    Args:
        model: a model's name or folder. conditions: as ``Engine.generate`` takes them, used in turn.
        clips: clips per epoch. batch: clips per block.
        seed, start, threshold: as in ``Engine.generate``; sampler: its sampler arguments (``{"steps": 8}``).
        label, pixels, foreground, crop: as in :class:`Clips`.
        threads: of one engine, in each worker. rank, world_size: None asks torch.distributed; each rank makes every
            ``world_size``-th block, so ``clips`` must be a multiple of batch * world_size if there are several.
    """

    def __init__(
        self, model: str | os.PathLike[str], conditions: Sequence[Condition | Mapping[str, Any]], *, clips: int, batch: int = 16,
        seed: int = 0, start: int = 0, sampler: Mapping[str, Any] | None = None, threshold: float = 0.5, label: str = "identity",
        pixels: Pixels = "uint8", foreground: float | None = None, crop: int = 0, precision: str = "auto", threads: int = 1,
        rank: int | None = None, world_size: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if not conditions or clips < 1 or batch < 1:
            raise InvalidRequestError(f"{len(conditions)} conditions, {clips} clips in batches of {batch}; at least 1 of each")
        if label not in AXES:
            raise InvalidRequestError(f"label must be one of {', '.join(AXES)}, got {label!r:.40}")
        self.rank, self.world_size = _place(rank, world_size)
        if self.world_size > 1 and clips % (batch * self.world_size):
            raise InvalidRequestError(
                f"{clips} clips in batches of {batch} do not fill {self.world_size} ranks evenly; "
                f"give a multiple of {batch * self.world_size}"
            )
        self.clips, self.batch, self.seed, self.start, self.label = clips, batch, seed, start, label
        self.form = Form(pixels, foreground, crop)
        self._settings: dict[str, Any] = {"threshold": threshold, **(sampler or {})}
        self._open = {"path_or_name": os.fspath(model), "precision": precision, "threads": threads}
        self._engine: Engine | None = Engine.from_pretrained(**self._open)  # type: ignore[arg-type]
        self._ran: int | None = None
        self.shape = self._engine.clip_shape
        self.form.check(self.shape)
        self._engine.resolve_sampler(**(sampler or {}))
        self._conditions = [plain_condition(c) for c in ConditionTable(self._engine.vocabulary, conditions).plain]
        columns = {axis: [_name(axis, c) for c in self._conditions] for axis in AXES}
        present = {axis: sorted({n for n in names if n is not None}) for axis, names in columns.items()}
        self._columns = {
            axis: np.array([-1 if n is None else present[axis].index(n) for n in names], np.int64)
            for axis, names in columns.items()
        }  # fmt: skip
        self.classes = present[label]
        self.names = {axis: present[axis] for axis in ("view", "covariate")}
        # Shared memory: workers that live through several epochs see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def blocks(self) -> int:
        """Blocks of an epoch, of all ranks."""
        return -(-self.clips // self.batch)

    def set_epoch(self, epoch: int) -> None:
        """Other clips: epoch e begins at clip index ``start + e * clips``. Call it before each pass."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.blocks // self.world_size

    def __iter__(self) -> Iterator[Batch]:
        epoch = int(self._epoch)
        for block in own_blocks(self.blocks, self.rank, self.world_size):
            first = block * self.batch
            yield self.make(epoch, np.arange(first, min(first + self.batch, self.clips)))

    def make(self, epoch: int, numbers: np.ndarray) -> Batch:
        """Clips of an epoch by number, int64 [n]: made here and now."""
        which = numbers % len(self._conditions)
        made = self._generate(which, self.start + epoch * self.clips + numbers)
        column = {axis: torch.from_numpy(values[which]) for axis, values in self._columns.items()}
        return Batch(
            self.form.clips(made.packed, self.shape), column[self.label], column["view"], column["covariate"],
            whole(made.clip_indices), torch.ones(len(numbers), dtype=torch.bool),
        )  # fmt: skip

    def _generate(self, which: np.ndarray, indices: np.ndarray) -> ClipBatch:
        # An engine that ran does not survive a fork; one that did not is shared.
        if self._engine is None or self._ran not in (None, os.getpid()):
            self._engine = Engine.from_pretrained(**self._open)  # type: ignore[arg-type]
        self._ran = os.getpid()
        return self._engine.generate(
            [self._conditions[k] for k in which], self.seed, clip_indices=[int(i) for i in indices], **self._settings
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engine": None, "_ran": None}


def own_blocks(blocks: int, rank: int, world_size: int) -> range:
    """The blocks of this rank and loader worker, in the order in which torch asks for them."""
    info = get_worker_info()
    worker, workers = (info.id, info.num_workers) if info else (0, 1)
    return range(rank + world_size * worker, blocks, world_size * workers)


def _name(axis: str, condition: Mapping[str, Any]) -> str | None:
    weights = condition.get(axis)
    if not weights:
        return None
    return identity_name(weights) if axis == "identity" or len(weights) > 1 else next(iter(weights))
