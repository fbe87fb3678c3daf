"""Blocks: the clips of a shard that is not whole yet, a few at a time. They are what a run that dies does not lose.

A file is one line of JSON with its own checksum (who, how many, errors of quarantined clips, hash of what follows), then the
quality flags (uint16, little-endian), then the packed clips, uncompressed. A block lives until its shard is sealed; nobody else
reads it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .commit import Digest, HashingFile, publish
from .documents import hash_of
from .errors import DamagedError, NonDeterminismError
from .filesystem import FileSystem

_HEADER_LIMIT = 1 << 22


@dataclass(eq=False)
class Block:
    """Clips ``first`` .. ``first + len - 1`` of a job.

    ``packed`` is uint8 [N, bytes], zeros where a clip failed; ``quality`` uint16 [N]; ``errors`` tells per failed clip number why.
    """

    first: int
    packed: np.ndarray
    quality: np.ndarray
    errors: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0
    retries: int = 0

    def __len__(self) -> int:
        return len(self.quality)

    def payload(self) -> tuple[bytes, memoryview]:
        return self.quality.astype("<u2").tobytes(), np.ascontiguousarray(self.packed).data.cast("B")

    def digest(self) -> str:
        """sha256 of flags and clips; error texts and times are not part of it."""
        return content_digest(self.quality, self.packed)


def content_digest(quality: np.ndarray, packed: np.ndarray) -> str:
    """sha256 of uint16 [N] flags and uint8 [N, bytes] clips, the one that blocks, row groups and receipts carry."""
    h = hashlib.sha256(quality.astype("<u2").tobytes())
    h.update(np.ascontiguousarray(packed).data)
    return h.hexdigest()


def write_block(fs: FileSystem, path: Path, plan_id: str, block: Block, root: Path) -> None:
    """Commit a block. Raises NonDeterminismError if one with other clips is there, OutputError."""
    digest = block.digest()
    header: dict[str, Any] = {
        "plan_id": plan_id, "first": block.first, "clips": len(block), "bytes": block.packed.shape[1], "content": digest,
        "errors": {str(k): v for k, v in block.errors.items()}, "seconds": block.seconds, "retries": block.retries,
    }  # fmt: skip
    header["checksum"] = hash_of(header)
    line = json.dumps(header, ensure_ascii=True).encode() + b"\n"

    def write(file: HashingFile) -> None:
        flags, packed = block.payload()
        file.write(line)
        file.write(flags)
        file.write(packed)

    def agree(mine: Digest) -> Digest:
        other = read_block(fs, path, plan_id, block.first, len(block), block.packed.shape[1])
        if other.digest() != digest:
            raise NonDeterminismError(f"{path}: another writer made {_difference(block, other)}")
        return mine

    publish(fs, path, write, agree, root)


def read_block(fs: FileSystem, path: Path, plan_id: str, first: int, clips: int, clip_bytes: int) -> Block:
    """Read what must be a block of these clips. Raises DamagedError, FileNotFoundError."""
    payload = clips * (clip_bytes + 2)
    data = fs.read(path, _HEADER_LIMIT + payload)
    line, newline, rest = data.partition(b"\n")
    try:
        header = json.loads(line)
        checksum = header.pop("checksum")
        sound = newline and checksum == hash_of(header) and len(rest) == payload
        who = (header["plan_id"], header["first"], header["clips"], header["bytes"])
        errors = {int(k): str(v) for k, v in header["errors"].items()}
        seconds, retries, content = float(header["seconds"]), int(header["retries"]), header["content"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
        raise DamagedError(f"{path}: not a block of this job: {e}") from e
    quality = np.frombuffer(rest, "<u2", clips) if sound else np.empty(0)
    if not sound or who != (plan_id, first, clips, clip_bytes):
        raise DamagedError(f"{path}: cut, damaged, or a block of other clips")
    packed = np.frombuffer(rest, np.uint8, offset=2 * clips).reshape(clips, clip_bytes)
    if content_digest(quality, packed) != content:
        raise DamagedError(f"{path}: its clips do not fit their hash")
    return Block(first, packed, quality.astype(np.uint16), errors, seconds, retries)


def _difference(mine: Block, other: Block) -> str:
    different = np.flatnonzero((mine.packed != other.packed).any(1) | (mine.quality != other.quality))
    numbers = [mine.first + int(k) for k in different[:8]]
    text = f"other bits for {len(different)} of {len(mine)} clips, first of all clip {numbers[0]}"
    failed = sorted(set(mine.errors) ^ set(other.errors))
    return text + (f"; clips {failed[:8]} failed for one of the two only" if failed else "")
