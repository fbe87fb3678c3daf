"""Where this installation lives: its version, its native library, its CMake files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import CapabilityError

if TYPE_CHECKING:
    from types import ModuleType

PACKAGE = Path(__file__).parent


@cache
def version() -> str:
    """The release, from the file VERSION in a source tree, else from the installed metadata."""
    tree = PACKAGE.parent
    if (tree / "pyproject.toml").is_file() and (tree / "VERSION").is_file():
        return (tree / "VERSION").read_text().strip()
    from importlib.metadata import version as installed

    return installed("gaitcrafter-rt")


def cmake_dir() -> Path:
    """The folder for ``-Dgaitcrafter_DIR=`` (or CMAKE_PREFIX_PATH), so that find_package(gaitcrafter) works."""
    folder = PACKAGE / "lib" / "cmake" / "gaitcrafter"
    if not (folder / "gaitcrafterConfig.cmake").is_file():
        raise CapabilityError(f"{folder} is absent: the native library is not built here (docs/development.md)")
    return folder


@cache
def engine_build() -> str:
    """sha256 of the native library, hexadecimal. Raises CapabilityError if it is not built here."""
    import hashlib

    path = PACKAGE / "lib" / "libgaitcrafter.so"
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as e:
        raise CapabilityError(f"{path} cannot be read ({e.strerror}); the native library is not built here") from e


def native() -> ModuleType:
    """The extension module. Raises CapabilityError with what to do if it is not there or does not load."""
    try:
        from . import _native  # type: ignore[attr-defined]
    except ImportError as e:
        raise CapabilityError(
            f"the native engine does not load ({e}); install a gaitcrafter-rt wheel for this Python on x86-64 Linux, "
            "or build it in a source tree: cmake --preset release && cmake --build --preset release"
        ) from e
    return _native
