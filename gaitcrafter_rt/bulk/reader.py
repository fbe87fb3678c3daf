"""Reading shards: one file at a time, every page against its checksum, nothing believed before it is compared.

Files may come from strangers. What a footer promises is compared with what a shard may hold before anything is allocated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from ..clips import ClipBatch
from ..config import AXES
from ..errors import GaitcrafterError
from . import quality
from .arrow import arrow, errors
from .blocks import content_digest
from .conditions import Conditions, Weights
from .documents import hash_of
from .errors import DamagedError
from .filesystem import FileSystem, LocalFileSystem
from .format import ROW_GROUP, read_footer, schema
from .layout import MAX_SHARD_CLIPS, Shard
from .plan import Plan, Spec
from .quality import Quality

# Labels have at most 128 characters; this leaves room for a blend of a few hundred in every row.
_LABEL_BYTES = 1 << 16
_FOOTER_BYTES = 1 << 26
_LABELS = ("dataset", "identity", "identity_weights", "view", "covariate")


class ShardFile:
    """One Parquet shard. ``about`` is its footer, ``spec`` the plan in it.

    Raises DamagedError if the file is no sound shard; use as a context manager.
    """

    def __init__(self, path: Path, fs: FileSystem | None = None) -> None:
        self.path = path
        try:
            self._source = (fs or LocalFileSystem()).open(path)
        except OSError as e:
            raise DamagedError(f"{path}: cannot be read: {e.strerror or e}") from e
        try:
            self._file = arrow().parquet.ParquetFile(
                self._source, page_checksum_verification=True, pre_buffer=False, thrift_string_size_limit=_FOOTER_BYTES,
                thrift_container_size_limit=1 << 22,
            )  # fmt: skip
            self._check_structure()
        except errors() as e:
            self.close()
            if isinstance(e, GaitcrafterError):
                raise
            raise DamagedError(f"{path}: not a readable shard: {e}") from e

    def _check_structure(self) -> None:
        metadata = self._file.metadata
        self.about = read_footer(metadata.metadata, self.path)
        try:
            self.spec = Spec.model_validate(self.about["plan"])
        except (KeyError, ValidationError) as e:
            raise DamagedError(f"{self.path}: the plan in its footer is not one") from e
        if hash_of(self.about["plan"]) != self.about["plan_id"]:
            raise DamagedError(f"{self.path}: the plan in its footer does not fit its plan_id")
        clip = self.spec.clip
        self.shape = (clip.frames, clip.height, clip.width)
        self.clip_bytes = (clip.frames * clip.height * clip.width + 7) // 8
        self.first, self.clips = self.about["first"], self.about["clips"]
        wanted = schema(self.clip_bytes)
        if not self._file.schema_arrow.equals(wanted):
            raise DamagedError(f"{self.path}: its columns are {self._file.schema_arrow.names} of other types than {wanted.names}")
        groups = -(-self.clips // ROW_GROUP)
        held = (metadata.num_rows, metadata.num_row_groups, self.about["row_group_clips"], len(self.about["row_groups"]))
        if not 1 <= self.clips <= MAX_SHARD_CLIPS or held != (self.clips, groups, ROW_GROUP, groups):
            raise DamagedError(f"{self.path}: {metadata.num_rows} rows in {metadata.num_row_groups} groups for {self.clips} clips")
        for k in range(groups):
            group, rows = metadata.row_group(k), self._rows(k)
            if group.num_rows != rows or group.total_byte_size > rows * (self.clip_bytes + _LABEL_BYTES):
                raise DamagedError(f"{self.path}: row group {k} has {group.num_rows} rows of {group.total_byte_size} bytes")

    def _rows(self, group: int) -> int:
        return min(ROW_GROUP, self.clips - group * ROW_GROUP)

    def __enter__(self) -> ShardFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._source.close()

    @property
    def row_groups(self) -> int:
        return len(self.about["row_groups"])

    def table(self, group: int, columns: Sequence[str] | None = None) -> Any:
        """One row group as an Arrow table. Raises DamagedError."""
        try:
            table = self._file.read_row_group(group, columns=columns, use_threads=False)
            if table.num_rows != self._rows(group):
                raise DamagedError(f"{self.path}: row group {group} holds {table.num_rows} rows")
            # Lengths and offsets inside the arrays, which no page checksum covers if they were written wrong.
            table.validate(full=True)
        except errors() as e:
            if isinstance(e, GaitcrafterError):
                raise
            raise DamagedError(f"{self.path}: row group {group}: {e}") from e
        return table

    def packed(self, table: Any) -> tuple[np.ndarray, np.ndarray]:
        """(uint8 [N, bytes], bool [N]: a silhouette is there) of a row group's table; zeros where none is."""
        column = table["silhouette"].combine_chunks()
        if not len(column):
            return np.zeros((0, self.clip_bytes), np.uint8), np.zeros(0, bool)
        there = ~np.asarray(column.is_null().to_numpy(zero_copy_only=False))
        data = np.frombuffer(column.buffers()[1], np.uint8, len(column) * self.clip_bytes, column.offset * self.clip_bytes)
        packed = data.reshape(len(column), self.clip_bytes)
        return (packed if there.all() else np.where(there[:, None], packed, np.uint8(0))), there

    def clip_batch(self, group: int, rows: np.ndarray | None = None) -> tuple[ClipBatch, np.ndarray]:
        """(clips, uint16 [N] quality) of a row group, or of some of its rows; clips without a silhouette are left out."""
        table = self.table(group)
        packed, there = self.packed(table)
        keep = np.flatnonzero(there) if rows is None else np.asarray(rows)[there[rows]]
        chosen = table.take(keep)
        batch = ClipBatch(
            packed[keep], self.shape, plain_rows(chosen), self.spec.seed, chosen["clip_index"].to_numpy(), provenance(self.spec)
        )
        return batch, chosen["quality"].to_numpy()


def plain_rows(table: Any) -> list[dict[str, Weights]]:
    """The conditions of a table's rows, as ClipBatch keeps them."""
    columns = {axis: table[axis].to_pylist() for axis in ("dataset", "view", "covariate")}
    blends = table["identity_weights"].to_pylist()
    out: list[dict[str, Weights]] = []
    for k in range(table.num_rows):
        one: dict[str, Weights] = {axis: {values[k]: 1.0} for axis, values in columns.items() if values[k] is not None}
        if blends[k]:
            one["identity"] = {e["label"]: e["weight"] for e in blends[k]}
        out.append({axis: one[axis] for axis in AXES if axis in one})
    return out


def provenance(spec: Spec) -> dict[str, Any]:
    """What ClipBatch carries, as the engine itself says it."""
    m, e = spec.model, spec.engine
    who = {} if e.network is None else e.network.model_dump()
    if who:
        who["backend_sha256"] = who.pop("sha256")
    return {
        "model": m.name, "model_sha256": m.sha256, "sampler": spec.sampler, "threshold": spec.threshold,
        "engine": {"gaitcrafter_rt": e.version, "device": e.device, "precision": e.precision, "isa": e.isa, **who},
        "training_data": m.training_data, "training_data_terms": m.training_data_terms, "identities": m.identities,
    }  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What a deep check of a shard found out."""

    row_groups: list[str]
    quality: dict[str, int]
    failed: list[int]


def check_shard(fs: FileSystem, path: Path, plan: Plan, shard: Shard, conditions: Conditions | None) -> Facts:
    """Read every byte of a shard and compare it with the plan, its flags and its own hashes. Raises DamagedError."""
    with ShardFile(path, fs) as file:
        who = (file.about["plan_id"], file.about["shard"], file.first, file.clips)
        if who != (plan.plan_id, shard.number, shard.first, shard.clips):
            raise DamagedError(
                f"{path}: is shard {who[1]}, clips {who[2]} to {who[2] + who[3] - 1} of plan {who[0][:12]}; expected shard "
                f"{shard.number}, clips {shard.first} to {shard.first + shard.clips - 1} of {plan.plan_id[:12]}"
            )
        return check_content(file, conditions)


def check_content(file: ShardFile, conditions: Conditions | None) -> Facts:
    """The same for a lone file, by its footer alone (and the conditions, if they are known)."""
    hashes, flags, failed = [], [], []
    for group in range(file.row_groups):
        where = f"{file.path}: row group {group}"
        table = file.table(group)
        first = file.first + group * ROW_GROUP
        count = table.num_rows
        numbers = np.arange(count, dtype=np.uint64) + np.uint64(file.spec.first_clip + first)
        if not np.array_equal(table["clip_index"].to_numpy(), numbers):
            raise DamagedError(f"{where}: its clip indices are not {numbers[0]} to {numbers[-1]}")
        if set(table["seed"].unique().to_pylist()) != {file.spec.seed}:
            raise DamagedError(f"{where}: a seed differs from the plan's")
        packed, there = file.packed(table)
        told = table["quality"].to_numpy()
        if not np.array_equal(there, (told & np.uint16(Quality.FAILED)) == 0):
            raise DamagedError(f"{where}: a missing silhouette without its flag, or the other way round")
        if not np.array_equal(quality.assess(packed[there], file.shape), told[there]):
            raise DamagedError(f"{where}: quality flags differ from what the clips show")
        digest = content_digest(told, packed)
        if digest != file.about["row_groups"][group]:
            raise DamagedError(f"{where}: its clips do not fit the hash in the footer")
        if conditions is not None:
            _check_labels(table, conditions.columns(first, count), where)
        hashes.append(digest)
        flags.append(told)
        failed += [first + int(k) for k in np.flatnonzero(~there)]
    return Facts(hashes, quality.count(np.concatenate(flags)), failed)


def _check_labels(table: Any, wanted: dict[str, Any], where: str) -> None:
    for name in _LABELS:
        if not table[name].combine_chunks().equals(wanted[name]):
            raise DamagedError(f"{where}: the column {name} differs from what the plan says")


def iterate(file: ShardFile) -> Iterator[ClipBatch]:
    """All clips of a shard that have a silhouette, a row group at a time."""
    for group in range(file.row_groups):
        batch, _ = file.clip_batch(group)
        if len(batch):
            yield batch
