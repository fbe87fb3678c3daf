"""Clips by position, whatever they lie in: a cache, shards, a packed training set. What the loaders stand on; needs no torch."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..config import AXES
from ..data.packed import SPLIT_TEST, SPLIT_TRAIN, PackedClips
from ..errors import DataFormatError, InvalidRequestError
from ..files import PathLike
from .cached import ClipCache
from .opening import open_source
from .select import Selection
from .source import LABEL_COLUMNS, ShardEntry, ShardSource, open_entry

# Row groups of 64 clips that stay decoded; 63 MB at 30x64x64.
_GROUPS_KEPT = 64


class Store(Protocol):
    """N clips.

    ``labels``: axis to names; ``column(axis)``: int32 [N] into them, -1 where there is none; ``numbers``: integers [N], the clip
    index (or the row, where clips have none); ``synthetic``: whether an engine made them.
    """

    shape: tuple[int, int, int]
    labels: dict[str, list[str]]
    numbers: np.ndarray
    synthetic: bool

    def __len__(self) -> int: ...

    def column(self, axis: str) -> np.ndarray:
        """Label numbers of one axis."""

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Packed clips uint8 [n, bytes] at positions that are inside 0..N-1."""


class CacheStore:
    """A cache; the fast one."""

    synthetic = True

    def __init__(self, cache: ClipCache) -> None:
        self._cache = cache
        self.shape, self.labels = cache.shape, cache.labels
        self.numbers = cache.records["clip_index"]

    def __reduce__(self) -> tuple[Any, ...]:
        return (CacheStore, (self._cache,))

    def __len__(self) -> int:
        return len(self._cache)

    def column(self, axis: str) -> np.ndarray:
        return np.ascontiguousarray(self._cache.records[axis])

    def take(self, positions: np.ndarray) -> np.ndarray:
        return self._cache.packed[positions]


class PackedStore:
    """A packed training set of captured people or rendered walkers; ``split`` is "train", "test" or None for both."""

    synthetic = False

    def __init__(self, clips: PackedClips, split: str | None = None) -> None:
        if split not in (None, "train", "test"):
            raise InvalidRequestError(f"split must be 'train', 'test' or None, got {split!r:.40}")
        self._clips, self._split = clips, split
        wanted = {"train": SPLIT_TRAIN, "test": SPLIT_TEST}.get(split or "")
        self.numbers = np.arange(len(clips)) if wanted is None else np.flatnonzero(clips.split == wanted)
        if not len(self.numbers):
            raise InvalidRequestError(f"{clips.folder}: no clip of the split {split!r} there")
        self.shape = clips.meta.shape
        self.labels = {axis: list(getattr(clips.labels, axis)) for axis in AXES}

    def __reduce__(self) -> tuple[Any, ...]:
        return (PackedStore, (self._clips, self._split))

    def __len__(self) -> int:
        return len(self.numbers)

    def column(self, axis: str) -> np.ndarray:
        return np.asarray(getattr(self._clips, axis))[self.numbers]

    def take(self, positions: np.ndarray) -> np.ndarray:
        return np.asarray(self._clips.bits[self.numbers[positions]])


class ShardStore:
    """Shards as they are: no second copy on disk, but a row group of 64 clips is decoded to reach one of them.

    The labels of all clips are read when it is opened. Quarantined clips are left out.
    """

    synthetic = True

    def __init__(self, source: ShardSource, selection: Selection | None = None) -> None:
        self._source, self._selection = source, selection or Selection()
        self.shape = source.shape
        self._entries = [e for e in source.shards if e.plan_id.startswith(self._selection.plan)]
        places, numbers = [], []
        names: dict[str, list[str | None]] = {axis: [] for axis in AXES}
        for shard, entry in enumerate(self._entries):
            with open_entry(entry) as file:
                if file.shape != self.shape:
                    raise InvalidRequestError(f"{entry.path}: clips of another shape than {self.shape}")
                for group in range(file.row_groups):
                    table = file.table(group, [*LABEL_COLUMNS, "clip_index", "quality"])
                    here = {axis: table[axis].to_pylist() for axis in AXES}
                    keep = self._selection.rows(here, table["quality"].to_numpy())
                    places.append(np.stack([np.full_like(keep, shard), np.full_like(keep, group), keep], 1))
                    numbers.append(table["clip_index"].to_numpy()[keep])
                    for axis in AXES:
                        names[axis] += [here[axis][k] for k in keep]
        limit = self._selection.limit
        self._places = np.concatenate(places)[:limit] if places else np.empty((0, 3), np.int64)
        if not len(self._places):
            raise InvalidRequestError(f"{source.path}: no clip there for {self._selection.text()}")
        self.numbers = np.concatenate(numbers)[:limit]
        self.labels, self._columns = {}, {}
        for axis, values in names.items():
            values = values[:limit]
            self.labels[axis] = sorted({v for v in values if v is not None})
            place = {name: k for k, name in enumerate(self.labels[axis])}
            self._columns[axis] = np.array([-1 if v is None else place[v] for v in values], np.int32)
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return (open_store, (self._source.path, self._selection))

    def __len__(self) -> int:
        return len(self._places)

    def column(self, axis: str) -> np.ndarray:
        return self._columns[axis]

    def take(self, positions: np.ndarray) -> np.ndarray:
        places = self._places[positions]
        out = np.empty((len(places), (int(np.prod(self.shape)) + 7) // 8), np.uint8)
        groups, which = np.unique(places[:, :2], axis=0, return_inverse=True)
        for number, (shard, group) in enumerate(groups):
            rows = np.flatnonzero(which.reshape(-1) == number)
            out[rows] = self._group(int(shard), int(group))[places[rows, 2]]
        return out

    def _group(self, shard: int, group: int) -> np.ndarray:
        found = self._kept.pop((shard, group), None)
        if found is None:
            # Opened anew each time: a file that is shared with a forked process would be read at two places at once.
            entry: ShardEntry = self._entries[shard]
            with open_entry(entry) as file:
                found = np.array(file.packed(file.table(group, ["silhouette"]))[0])
            while len(self._kept) >= _GROUPS_KEPT:
                self._kept.popitem(last=False)
        self._kept[shard, group] = found
        return found


def open_store(path: PathLike, selection: Selection | None = None, split: str | None = None) -> Store:
    """A cache, a packed training set (``split`` chooses), a job's folder, a merged set or shards (``selection`` chooses).

    Raises DataFormatError, InvalidRequestError; MissingExtraError for shards without the extra ``bulk``.
    """
    root = Path(os.fspath(path))
    if (root / "cache.json").exists():
        if selection is not None and selection != Selection():
            raise InvalidRequestError(f"{root} is a cache; select clips when it is made (gaitcrafter-rt dataset cache)")
        return CacheStore(ClipCache.open(root))
    if (root / "meta.json").exists():
        return PackedStore(PackedClips.open(root), split)
    source = open_source(root)
    if not isinstance(source, ShardSource):
        raise DataFormatError(f"{root}: no clips there that can be read by position")
    return ShardStore(source, selection)
