"""The models that ship with the package, by name: each folder here is a model package."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ModelFormatError

SHIPPED = Path(__file__).parent


def list_models() -> list[str]:
    """Names that ``Engine.from_pretrained`` takes beside paths."""
    return sorted(p.parent.name for p in SHIPPED.glob("*/config.json"))


def resolve_model(path_or_name: str | os.PathLike[str]) -> Path:
    """A model folder or file that exists, else the shipped model of that name.

    Raises ModelFormatError, naming the shipped models, if it is neither.
    """
    path = Path(path_or_name)
    if path.is_file() or (path / "config.json").is_file():
        return path
    names = list_models()
    if str(path_or_name) in names:
        return SHIPPED / str(path_or_name)
    if path.is_dir() and str(path_or_name):
        return path  # the engine says what the folder lacks
    shipped = f"the models that ship are {', '.join(names)}" if names else "no model ships with this build"
    raise ModelFormatError(f"{str(path_or_name)!r} is neither a model folder nor a known name; {shipped}")
