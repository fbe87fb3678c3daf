"""Opening what may be merged, cached or exported: a job's folder, a merged set, loose shards, or a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..bulk.documents import hash_of
from ..bulk.errors import DamagedError
from ..bulk.plan import Spec
from ..bulk.reader import ShardFile, plain_rows, provenance
from ..bulk.receipts import content_of
from ..clips import ClipBatch
from ..config import AXES
from ..errors import DataFormatError, InvalidRequestError
from .select import Selection

LABEL_COLUMNS = ("dataset", "identity", "view", "covariate")
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Origin:
    """Where clips come from: one plan. ``plan`` is its specification as JSON (``bulk.plan.Spec``)."""

    plan_id: str
    plan: dict[str, Any]

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What a ClipBatch of these clips carries."""
        return provenance(Spec.model_validate(self.plan))


@dataclass(eq=False)
class Rows:
    """Some clips of one origin, at most a row group.

    ``packed`` uint8 [N, bytes], ``clip_index`` uint64 [N], ``quality`` uint16 [N]; ``names`` per axis the label of each clip
    (None: the model chose); ``conditions`` per clip axis to {label: weight}, as ClipBatch has them.
    """

    origin: Origin
    shape: tuple[int, int, int]
    packed: np.ndarray
    clip_index: np.ndarray
    quality: np.ndarray
    names: dict[str, list[str | None]]
    conditions: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def seed(self) -> int:
        return int(self.origin.plan["seed"])

    def first(self, count: int) -> Rows:
        """The first ``count`` rows."""
        return Rows(
            self.origin, self.shape, self.packed[:count], self.clip_index[:count], self.quality[:count],
            {a: v[:count] for a, v in self.names.items()}, self.conditions[:count],
        )  # fmt: skip

    def batch(self) -> ClipBatch:
        """The same as a ClipBatch."""
        return ClipBatch(self.packed, self.shape, self.conditions, self.seed, self.clip_index, self.origin.provenance)


@dataclass(frozen=True)
class ShardEntry:
    """One Parquet file. ``sha256`` is what a receipt or a merged set says of it, None for a loose file."""

    path: Path
    plan_id: str
    shard: int
    first: int
    clips: int
    bytes: int
    content: str
    sha256: str | None

    @property
    def end(self) -> int:
        return self.first + self.clips


class Source:
    """Clips in order: by origin, then by number. ``missing`` counts shards of a job that are not made yet."""

    shape: tuple[int, int, int]
    missing: int = 0

    def __init__(self, path: Path) -> None:
        self.path = path

    def fingerprint(self) -> str:
        """A hash that is the same for the same clips, wherever they lie and however their files are named."""
        raise NotImplementedError

    def rows(self, selection: Selection | None = None, progress: Progress | None = None) -> Iterator[Rows]:
        """The clips that ``selection`` keeps, in pieces of at most 64; every page is checked against its checksum.

        Raises DataFormatError for damage, InvalidRequestError if nothing is kept.
        """
        chosen = selection or Selection()
        left = chosen.limit
        found = False
        for rows in self._rows(chosen, progress):
            if left is not None:
                rows = rows.first(left)
                left -= len(rows)
            found = True
            yield rows
            if left == 0:
                return
        if not found:
            raise InvalidRequestError(f"{self.path}: no clip there for {chosen.text()}")

    def _rows(self, chosen: Selection, progress: Progress | None) -> Iterator[Rows]:
        raise NotImplementedError


class ShardSource(Source):
    """Parquet shards: of a job, of a merged set, or loose."""

    def __init__(self, path: Path, shards: list[ShardEntry], missing: int = 0) -> None:
        super().__init__(path)
        if not shards:
            raise DataFormatError(f"{path}: no finished shard there; run the job's command first")
        self.shards, self.missing = shards, missing
        with ShardFile(shards[0].path) as file:
            self.shape = file.shape

    def fingerprint(self) -> str:
        return hash_of([[s.plan_id, s.first, s.clips, s.content] for s in self.shards])

    def _rows(self, chosen: Selection, progress: Progress | None) -> Iterator[Rows]:
        for done, entry in enumerate(self.shards, 1):
            if entry.plan_id.startswith(chosen.plan):
                with open_entry(entry) as file:
                    if file.shape != self.shape:
                        raise InvalidRequestError(
                            f"{entry.path}: clips of {'x'.join(map(str, file.shape))} beside others of "
                            f"{'x'.join(map(str, self.shape))}; one data set has one clip shape"
                        )
                    origin = Origin(entry.plan_id, file.about["plan"])
                    for group in range(file.row_groups):
                        rows = _group(file, group, origin, chosen)
                        if rows is not None:
                            yield rows
            if progress:
                progress(done, len(self.shards))


def open_entry(entry: ShardEntry) -> ShardFile:
    """The file, if it is the one that was listed. Raises DamagedError."""
    file = ShardFile(entry.path)
    if (file.about["plan_id"], file.first, file.clips) != (entry.plan_id, entry.first, entry.clips):
        file.close()
        raise DamagedError(f"{entry.path}: holds other clips than were promised; it was exchanged")
    return file


def _group(file: ShardFile, group: int, origin: Origin, chosen: Selection) -> Rows | None:
    if chosen.by_row:
        # Labels are small; silhouettes are read only where some clip is wanted.
        few = file.table(group, [*LABEL_COLUMNS, "quality"])
        if not len(chosen.rows({a: few[a].to_pylist() for a in LABEL_COLUMNS}, few["quality"].to_numpy())):
            return None
    table = file.table(group)
    keep = chosen.rows({a: table[a].to_pylist() for a in LABEL_COLUMNS}, table["quality"].to_numpy())
    packed, there = file.packed(table)
    keep = keep[there[keep]]
    if not len(keep):
        return None
    part = table if len(keep) == table.num_rows else table.take(keep)
    names = {axis: part[axis].to_pylist() for axis in AXES}
    return Rows(
        origin, file.shape, packed if len(keep) == len(packed) else packed[keep], part["clip_index"].to_numpy(),
        part["quality"].to_numpy(), names, plain_rows(part),
    )  # fmt: skip


def entry_of(path: Path, sha256: str | None = None) -> ShardEntry:
    """A loose shard by its own footer."""
    with ShardFile(path) as file:
        about = file.about
        content = content_of(about["row_groups"])
        return ShardEntry(path, about["plan_id"], about["shard"], file.first, file.clips, path.stat().st_size, content, sha256)
