"""JSON documents with a checksum over themselves: plan, extents, receipts.

A document's bytes are determined by its content (one layout, no spare white space), so that any flipped bit is noticed, and two
writers of the same content write the same file.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import UnsupportedVersionError
from .commit import HashingFile
from .errors import DamagedError

MAX_BYTES = 1 << 26
_CHECKSUM = "checksum"


def canonical(value: Any) -> bytes:
    """The one text of a JSON value that hashes are taken over."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def hash_of(value: Any) -> str:
    """sha256 of :func:`canonical`, hexadecimal."""
    return hashlib.sha256(canonical(value)).hexdigest()


def seal(body: dict[str, Any]) -> bytes:
    """``body`` with its checksum, as text for people."""
    sealed = {**body, _CHECKSUM: hash_of(body)}
    return (json.dumps(sealed, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode()


def unseal(data: bytes, source: object) -> dict[str, Any]:
    """What :func:`seal` was given. Raises DamagedError if a single bit differs."""
    try:
        sealed = json.loads(data)
        body = {k: v for k, v in sealed.items() if k != _CHECKSUM}
        intact = seal(body) == data
    except (ValueError, TypeError, AttributeError, RecursionError) as e:
        raise DamagedError(f"{source}: not a document of a job: {e}") from e
    if not intact:
        raise DamagedError(f"{source}: its checksum does not fit; the file is damaged or was edited")
    return body


class Document(BaseModel):
    """A pydantic model whose file is sealed. ``format_version`` of newer releases is refused, not guessed at."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format_version: int = 1

    def to_bytes(self) -> bytes:
        """The file."""
        return seal(self.model_dump(mode="json"))

    def write(self, file: HashingFile) -> None:
        """The same into a file."""
        file.write(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes, source: object) -> Self:
        """Raises DamagedError, or UnsupportedVersionError for a newer format."""
        body = unseal(data, source)
        version = body.get("format_version")
        newest = cls.model_fields["format_version"].default
        if type(version) is int and version > newest:
            raise UnsupportedVersionError(f"{source}: format_version {version} is newer than {newest}; upgrade gaitcrafter-rt")
        try:
            return cls.model_validate(body)
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise DamagedError(f"{source}: {where}: {first['msg']}") from e
