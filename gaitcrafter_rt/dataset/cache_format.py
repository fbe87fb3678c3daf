"""The cache's layout: what is in the folder, byte by byte. docs/loaders.md is the page for readers of other languages.

::

    silhouettes.bin   N x clip_bytes: packed bits of clip 0, 1, ...; nothing before, between or after
    index.bin         N records of 40 bytes, little-endian (RECORD)
    cache.json        format, format_version, clips, shape, labels, origins, hashes of the silhouettes
    checksums.json    sha256 of cache.json and index.bin

``numpy.memmap`` reads both binary files alone. The folder appears whole or not at all and is never changed afterwards.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..config import AXES, ClipShape
from ..errors import DataFormatError, InvalidRequestError, UnsupportedVersionError

FORMAT, FORMAT_VERSION = "gaitcrafter-cache", 1
SILHOUETTES, INDEX, META, CHECKSUMS = "silhouettes.bin", "index.bin", "cache.json", "checksums.json"
RECORD = np.dtype(
    [
        ("clip_index", "<u8"), ("seed", "<u8"), ("dataset", "<i4"), ("identity", "<i4"), ("view", "<i4"), ("covariate", "<i4"),
        ("origin", "<u4"), ("quality", "<u2"), ("reserved", "<u2"),
    ]
)  # fmt: skip
"""Label columns index ``labels`` of their axis, -1 where the model chose; ``origin`` indexes ``origins``."""
CHUNK_CLIPS = 4096
MAX_CLIPS = 1 << 32
MAX_META_BYTES, _CHECKSUM_BYTES = 1 << 26, 1 << 16
Hash = Field(pattern="^[0-9a-f]{64}$")


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class CacheOrigin(_Part):
    """One plan that clips come from."""

    plan_id: str = Hash
    plan: dict[str, Any]


class CacheMeta(_Part):
    """``cache.json``. Unknown fields are ignored; ``format_version`` rises if an older reader would get it wrong."""

    format: Literal["gaitcrafter-cache"] = "gaitcrafter-cache"
    format_version: int = Field(default=1, ge=1, le=FORMAT_VERSION)
    synthetic: Literal[True] = True
    clips: int = Field(ge=1, le=MAX_CLIPS)
    frames: int
    height: int
    width: int
    clip_bytes: int
    labels: dict[str, list[str]]
    identity_weights: dict[str, dict[str, float]] = Field(default={})
    origins: list[CacheOrigin] = Field(min_length=1)
    chunk_clips: int = Field(ge=1, le=MAX_CLIPS)
    chunks_sha256: list[str]
    made_from: str = Hash
    bit_order: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.frames, self.height, self.width)

    def check(self) -> None:
        """What types cannot say. Raises ValueError."""
        ClipShape(frames=self.frames, height=self.height, width=self.width)
        if self.clip_bytes != (self.frames * self.height * self.width + 7) // 8:
            raise ValueError(f"clip_bytes is {self.clip_bytes}, which is not that of {self.frames}x{self.height}x{self.width} bits")
        if sorted(self.labels) != sorted(AXES):
            raise ValueError(f"labels names the axes {sorted(self.labels)[:8]}; expected {sorted(AXES)}")
        if len(self.chunks_sha256) != -(-self.clips // self.chunk_clips):
            raise ValueError(f"{len(self.chunks_sha256)} chunk hashes for {self.clips} clips in chunks of {self.chunk_clips}")


def write_json(path: Path, value: Any) -> str:
    """Write a document; returns its sha256. Raises InvalidRequestError if no reader would take it."""
    data = (json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode()
    if len(data) > MAX_META_BYTES:
        raise InvalidRequestError(f"{path.name} would have {len(data)} bytes, over {MAX_META_BYTES}: too many labels; select fewer")
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def read_meta(folder: Path) -> tuple[CacheMeta, str]:
    """(cache.json, the sha256 that index.bin must have). Raises DataFormatError, UnsupportedVersionError."""
    sums = _json(folder / CHECKSUMS, _read(folder / CHECKSUMS, _CHECKSUM_BYTES))
    wanted = sums.get("sha256")
    if not isinstance(wanted, dict) or not all(isinstance(wanted.get(n), str) for n in (META, INDEX)):
        raise DataFormatError(f"{folder / CHECKSUMS}: no sha256 of {META} and {INDEX} there")
    data = _read(folder / META, MAX_META_BYTES)
    path = folder / META
    raw = _json(path, data)
    version = raw.get("format_version")
    if raw.get("format") == FORMAT and type(version) is int and version > FORMAT_VERSION:
        raise UnsupportedVersionError(f"{path}: format_version {version} is newer than {FORMAT_VERSION}; upgrade gaitcrafter-rt")
    if hashlib.sha256(data).hexdigest() != wanted[META]:
        raise DataFormatError(f"{path}: its sha256 is not that of {CHECKSUMS}; the file was changed or damaged")
    try:
        meta = CacheMeta.model_validate(raw)
        meta.check()
    except ValidationError as e:
        first = e.errors()[0]
        raise DataFormatError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from e
    except ValueError as e:
        raise DataFormatError(f"{path}: {e}") from e
    return meta, wanted[INDEX]


def _read(path: Path, limit: int) -> bytes:
    try:
        if not path.is_file():
            raise DataFormatError(f"{path}: no such file; a cache is made by gaitcrafter-rt dataset cache")
        with path.open("rb") as f:
            data = f.read(limit + 1)
    except OSError as e:
        raise DataFormatError(f"{path}: cannot be read: {e.strerror or e}") from e
    if len(data) > limit:
        raise DataFormatError(f"{path}: longer than {limit} bytes; not that of a cache")
    return data


def _json(path: Path, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise DataFormatError(f"{path}: not JSON: {e}") from e
    if not isinstance(value, dict):
        raise DataFormatError(f"{path}: not an object")
    return value
