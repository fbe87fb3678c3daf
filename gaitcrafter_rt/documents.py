"""JSON documents of this package's files: parsed, their version compared, their fields validated, with one kind of message."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from .errors import GaitcrafterError, UnsupportedVersionError

_Model = TypeVar("_Model", bound=BaseModel)


def read_object(
    text: str | bytes, source: object, newest: int, error: type[GaitcrafterError], kind: str | None = None
) -> dict[str, Any]:
    """The object in ``text``, whose ``format`` must be ``kind`` unless that is None, and ``format_version`` at most ``newest``.

    Raises ``error``, or UnsupportedVersionError for a newer version.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise error(f"{source}: not JSON: {e}") from e
    if not isinstance(raw, dict) or (kind is not None and raw.get("format") != kind):
        wanted = f' with "format": "{kind}"' if kind is not None else ""
        raise error(f"{source}: expected an object{wanted}")
    version = raw.get("format_version")
    if type(version) is int and version > newest:
        raise UnsupportedVersionError(
            f"{source}: format_version {version} is newer than {newest}, the newest this release reads; upgrade gaitcrafter-rt"
        )
    return raw


def validated(cls: type[_Model], document: str | bytes | object, source: object, error: type[GaitcrafterError]) -> _Model:
    """``document``, JSON text or plain values, as ``cls``. Raises ``error`` that names the first field at fault."""
    try:
        return cls.model_validate_json(document) if isinstance(document, str | bytes) else cls.model_validate(document)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise error(f"{source}: {where + ': ' if where else ''}{first['msg']} (got {first.get('input')!r:.80})") from e
