"""What the columns of a ``cond`` vector mean: the user's ``labels.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import AXES
from ..errors import InvalidRequestError

MAX_BYTES = 16 << 20
EXAMPLE = '{"identity": {"001": 0, "002": 1}, "view": {"090": 2}, "covariate": {"nm": 3}}'


def read_labels(source: str | os.PathLike[str] | Mapping[str, Mapping[str, int]], cond_dim: int) -> dict[str, dict[str, int]]:
    """Per axis a column for every label, in the order of the vocabulary.

    ``source`` is a JSON file or the mapping itself. Raises InvalidRequestError unless every label has a column of its own
    in ``0..cond_dim - 1``.
    """
    name, raw = ("labels", source) if isinstance(source, Mapping) else (str(source), _load(Path(source)))
    if not isinstance(raw, Mapping) or not raw:
        raise InvalidRequestError(f"{name}: expected an object like {EXAMPLE}")
    unknown = [k for k in raw if k not in AXES]
    if unknown:
        raise InvalidRequestError(f"{name}: unknown axis {unknown[0]!r:.80}; allowed are {', '.join(AXES)}")
    taken: dict[int, str] = {}
    for axis, columns in raw.items():
        if not isinstance(columns, Mapping) or not columns:
            raise InvalidRequestError(f"{name}: {axis} must be a non-empty object of label: column, like {EXAMPLE}")
        for label, column in columns.items():
            where = f"{name}: {axis}.{label!s:.80}"
            if isinstance(column, bool) or not isinstance(column, int) or not 0 <= column < cond_dim:
                raise InvalidRequestError(
                    f"{where} is {column!r:.40}; this checkpoint's cond vector has the columns 0..{cond_dim - 1}"
                )
            if column in taken:
                raise InvalidRequestError(f"{where} has column {column}, which {taken[column]} has already")
            taken[column] = f"{axis}.{label!s:.80}"
    return {axis: dict(raw[axis]) for axis in AXES if axis in raw}


def _load(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidRequestError(f"{path}: {path.stat().st_size} bytes; a labels file is at most {MAX_BYTES}")
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise InvalidRequestError(f"{path}: cannot be read: {e.strerror or e}") from e
    except UnicodeDecodeError as e:
        raise InvalidRequestError(f"{path}: not UTF-8 text; expected JSON like {EXAMPLE}") from e
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as e:
        raise InvalidRequestError(f"{path}: not JSON that this reads: {e}") from e


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return out
