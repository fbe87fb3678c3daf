"""Clips by position, as torch wants them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from ..config import AXES
from ..dataset.cached import Pixels
from ..dataset.stores import Store, open_store
from ..errors import InvalidRequestError
from ..files import PathLike
from .batch import Batch, Form, whole

if TYPE_CHECKING:
    from ..dataset.select import Selection


class Clips(Dataset):
    """A map-style dataset over a cache, shards, or a packed training set.

    ``clips[7]`` is one sample, ``clips[[7, 3]]`` a whole :class:`Batch`, decoded at once. With a sampler of lists and
    ``batch_size=None`` torch asks for whole batches, which is several times as fast as collating samples::

        clips = Clips("train-cache")
        loader = DataLoader(clips, sampler=PKSampler(clips.labels, 8, 16), batch_size=None, num_workers=2)

    Args:
        source: a path (see ``dataset.stores.open_store``) or a store.
        label: the axis whose labels are the classes.
        pixels, foreground, crop: "uint8" (0 and 255) or "float32" (0 and 1); another foreground value; columns cut on each side.
        selection, split: which clips of shards, or of a packed training set.

    Attributes:
        classes: names of the classes; labels: int64 [N] into them, -1 where a clip has none.
        names: "view" and "covariate" to their names.
    """

    def __init__(
        self, source: PathLike | Store, *, label: str = "identity", pixels: Pixels = "uint8", foreground: float | None = None,
        crop: int = 0, selection: Selection | None = None, split: str | None = None,
    ) -> None:  # fmt: skip
        if label not in AXES:
            raise InvalidRequestError(f"label must be one of {', '.join(AXES)}, got {label!r:.40}")
        self.store: Store = source if hasattr(source, "take") else open_store(source, selection, split)  # type: ignore[assignment, arg-type]
        self.shape, self.label, self.form = self.store.shape, label, Form(pixels, foreground, crop)
        self.form.check(self.shape)
        self.classes = list(self.store.labels[label])
        self.names = {axis: list(self.store.labels[axis]) for axis in ("view", "covariate")}
        self.labels = self.store.column(label).astype(np.int64)

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        return {axis: self.store.column(axis).astype(np.int64) for axis in ("view", "covariate")}

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int | Sequence[int] | np.ndarray) -> Batch:
        """One sample (every field without its first dimension), or a batch. Raises InvalidRequestError, IndexError."""
        if isinstance(index, int | np.integer):
            if not -len(self) <= index < len(self):
                raise IndexError(f"clip {index} of {len(self)}")
            return Batch(*(field[0] for field in self._batch(np.array([int(index) % len(self)]))))
        wanted = np.asarray(index)
        if wanted.ndim != 1 or not wanted.size or wanted.dtype.kind not in "iu":
            raise InvalidRequestError(f"an index is a number or a list of them, got {wanted.dtype} of shape {wanted.shape}")
        if int(wanted.min()) < 0 or int(wanted.max()) >= len(self):
            raise InvalidRequestError(f"indices run from 0 to {len(self) - 1}, got {wanted.min()} to {wanted.max()}")
        return self._batch(wanted.astype(np.int64))

    def _batch(self, at: np.ndarray) -> Batch:
        return Batch(
            self.form.clips(self.store.take(at), self.shape), torch.from_numpy(self.labels[at]),
            torch.from_numpy(self._columns["view"][at]), torch.from_numpy(self._columns["covariate"][at]),
            whole(self.store.numbers[at]), torch.full((len(at),), self.store.synthetic),
        )  # fmt: skip
