"""The plan: everything that determines a job's clips, written once.

``plan_id`` is the sha256 of the canonical JSON of the specification. How many clips there are and how they are cut into shards
is not part of it, so that a job can grow (``extents/``) without its shards changing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from ..config import ClipShape
from ..errors import InvalidRequestError
from .commit import Digest, publish
from .conditions import Grid
from .documents import MAX_BYTES, Document, hash_of
from .errors import DamagedError, PlanMismatchError
from .filesystem import FileSystem
from .layout import MAX_SHARD_CLIPS, Folder, ShardTable, Span
from .table import TableReference

# 69 billion clips are 2**24 shards of 4096: what a folder, and a loop over it, can bear.
MAX_CLIPS, MAX_SHARDS = 1 << 36, 1 << 24
_T = TypeVar("_T")
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
U64 = Annotated[int, Field(ge=0, lt=1 << 64)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Model(_Part):
    """Which weights."""

    name: str
    sha256: str
    training_data: str = ""
    training_data_terms: str = ""
    identities: str = ""


class Network(_Part):
    """Who runs the network in the native engine's place, and what its bits depend on: clips of a call, what it runs, versions."""

    backend: str
    batch: int
    sha256: str
    runtime: str

    @classmethod
    def of(cls, info: dict[str, Any]) -> Network | None:
        """Of an engine's ``info``; None for the native engine."""
        if info.get("backend", "native") == "native":
            return None
        return cls(backend=info["backend"], batch=info["batch"], sha256=info["backend_sha256"], runtime=info["runtime"])


class Build(_Part):
    """What the bits depend on beside the model: see "Determinism" in docs/architecture.md."""

    version: str
    build: str
    device: str
    precision: str
    isa: str
    network: Network | None = None

    @property
    def made_by(self) -> str:
        """Backend and instruction set for people: ``avx512``, ``torch torch-sm_90-b32``, ``onnxruntime``."""
        return " ".join(part for part in (self.network.backend if self.network else "", self.isa) if part)

    @model_serializer(mode="wrap")
    def _without_none(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Plans of the native engine say nothing of other networks, as those of earlier releases."""
        fields: dict[str, Any] = inner(self)
        if self.network is None:
            del fields["network"]
        return fields


class Spec(_Part):
    """Everything that determines a clip's bits and labels, given its number."""

    model: Model
    engine: Build
    clip: ClipShape
    sampler: dict[str, Any]
    threshold: float
    seed: U64
    first_clip: U64 = 0
    conditions: Annotated[Grid | TableReference, Field(discriminator="kind")]
    synthetic: Literal[True] = True


class _Cut(Document):
    plan_id: Hash
    clips: int = Field(ge=1, le=MAX_CLIPS)
    shard_clips: int = Field(ge=1, le=MAX_SHARD_CLIPS)
    block_clips: int = Field(ge=1, le=MAX_SHARD_CLIPS)


class Plan(_Cut):
    """``plan.json``."""

    format: Literal["gaitcrafter-job"] = "gaitcrafter-job"
    spec: Spec


class Extent(_Cut):
    """``extents/NNNNNN.json``: from now on the job has ``clips`` clips. ``table_sha256`` hashes the table of the new ones."""

    first: int = Field(ge=1)
    table_sha256: str | None = None


def make_plan(spec: Spec, clips: int, shard_clips: int, block_clips: int) -> Plan:
    """Raises InvalidRequestError for numbers outside what a job can hold."""
    for name, value, high in (("clips", clips, MAX_CLIPS), ("shard-clips", shard_clips, MAX_SHARD_CLIPS)):
        if not 1 <= value <= high:
            raise InvalidRequestError(f"{name} must lie in 1..{high}, got {value}")
    if clips > MAX_SHARDS * shard_clips:
        raise InvalidRequestError(f"{clips} clips in shards of {shard_clips}: over {MAX_SHARDS} files: give larger --shard-clips")
    if not 1 <= block_clips <= shard_clips:
        raise InvalidRequestError(f"block-clips must lie in 1..{shard_clips} (clips of a shard), got {block_clips}")
    if spec.first_clip + clips > 1 << 64:
        raise InvalidRequestError(f"start {spec.first_clip} plus {clips} clips exceeds the largest clip index, 2**64 - 1")
    return Plan(
        plan_id=hash_of(spec.model_dump(mode="json")), clips=clips, shard_clips=shard_clips, block_clips=block_clips, spec=spec
    )


def read_plan(fs: FileSystem, folder: Folder) -> Plan | None:
    """The plan in a folder, None if there is none. Raises DamagedError or UnsupportedVersionError."""
    if fs.entry(folder.plan) is None:
        return None
    plan = Plan.from_bytes(_read(fs, folder.plan), folder.plan)
    if plan.plan_id != hash_of(plan.spec.model_dump(mode="json")):
        raise DamagedError(f"{folder.plan}: its plan_id is not the hash of its specification")
    return plan


def read_extents(fs: FileSystem, folder: Folder, plan: Plan) -> list[Extent]:
    """How the job grew, in order. Raises DamagedError if one is missing or does not continue the one before."""
    extents: list[Extent] = []
    clips = plan.clips
    for number, name in enumerate((n for n in fs.names(folder.extents) if not n.startswith(".")), 2):
        path = folder.extents / name
        if path != folder.extent(number):
            raise DamagedError(f"{path}: {folder.extent(number).name} was expected; extents are numbered without gaps")
        extent = Extent.from_bytes(_read(fs, path), path)
        if extent.plan_id != plan.plan_id or extent.first != clips or extent.clips <= clips:
            raise DamagedError(f"{path}: does not continue a job of {clips} clips with plan {plan.plan_id[:12]}")
        extents.append(extent)
        clips = extent.clips
    return extents


def shard_table(plan: Plan, extents: list[Extent]) -> ShardTable:
    """All shards of a job."""
    spans = [Span(0, plan.clips, plan.shard_clips, plan.block_clips)]
    spans += [Span(e.first, e.clips, e.shard_clips, e.block_clips) for e in extents]
    table = ShardTable(spans)
    if len(table) > MAX_SHARDS:
        raise DamagedError(f"a plan of {len(table)} shards; at most {MAX_SHARDS} are allowed")
    return table


def differences(there: Spec, wanted: Spec) -> list[str]:
    """One line per field that differs, for people: ``sampler.steps: the plan has 12, this command 20``."""
    return _differences(there.model_dump(mode="json"), wanted.model_dump(mode="json"), "")


def _differences(there: Any, wanted: Any, where: str) -> list[str]:
    if isinstance(there, dict) and isinstance(wanted, dict) and not where.startswith("conditions.identity"):
        keys = list(dict.fromkeys([*there, *wanted]))
        return [line for k in keys for line in _differences(there.get(k), wanted.get(k), f"{where}.{k}" if where else str(k))]
    if there == wanted:
        return []
    return [f"{where}: the plan has {_short(there)}, this command {_short(wanted)}"]


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 4:
        return f"{len(value)} of them ({_short(value[:3])[1:-1]}, ...)"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def commit_plan(fs: FileSystem, folder: Folder, plan: Plan) -> None:
    """Write ``plan.json``; nothing happens if the same plan is there. Raises PlanMismatchError if another one is."""

    def agree(mine: Digest) -> Digest:
        if fs.read(folder.plan, MAX_BYTES) != plan.to_bytes():
            there = _sound(lambda: read_plan(fs, folder))
            if there is not None:
                refuse_difference(folder, there, plan)
        return mine

    publish(fs, folder.plan, plan.write, agree, folder.root)


def refuse_difference(folder: Folder, there: Plan, wanted: Plan) -> None:
    """Raises PlanMismatchError that shows every difference."""
    lines = differences(there.spec, wanted.spec)
    cut = ("clips", "shard_clips", "block_clips")
    lines += [
        f"{k}: the plan has {getattr(there, k)}, this command {getattr(wanted, k)}"
        for k in cut
        if getattr(there, k) != getattr(wanted, k)
    ]
    if lines:
        raise PlanMismatchError(
            f"{folder.root} holds another job; a plan never changes. Differences: {'; '.join(lines)}. "
            "Give the same options to resume, --extend to grow the number of clips, or another folder"
        )


def commit_extent(fs: FileSystem, folder: Folder, number: int, extent: Extent) -> None:
    """Write the next extent. Raises PlanMismatchError if somebody extended the job differently at the same time."""

    def agree(mine: Digest) -> Digest:
        path = folder.extent(number)
        there = _sound(lambda: Extent.from_bytes(_read(fs, path), path))
        if there != extent:
            raise PlanMismatchError(f"{folder.root} was extended to {there.clips} clips by somebody else; run the command again")
        return mine

    publish(fs, folder.extent(number), extent.write, agree, folder.root)


def _sound(read: Callable[[], _T]) -> _T:
    """A damaged plan is for a person to look at: :func:`publish` would move it away and write ours."""
    try:
        return read()
    except DamagedError as e:
        raise PlanMismatchError(str(e)) from e


def _read(fs: FileSystem, path: Path) -> bytes:
    try:
        return fs.read(path, MAX_BYTES)
    except OSError as e:
        raise DamagedError(f"{path}: cannot be read: {e.strerror or e}") from e
