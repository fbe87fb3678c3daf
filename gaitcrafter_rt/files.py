"""Writing without losing anything: a temporary place beside the target, then a rename.

A reader sees the old state or the whole new one, never half a file, and nothing that exists is overwritten.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .errors import OutputError

PathLike = str | os.PathLike[str]
_MANY_FILES = 1000


def refuse_occupied_folder(target: PathLike) -> Path:
    """``target`` as a path, if nothing stands there or an empty folder does. Raises OutputError otherwise."""
    path = Path(target)
    if path.is_symlink() and not path.exists():
        raise OutputError(f"{path} is a symbolic link to nothing; choose another place or remove it")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise OutputError(f"{path} exists and is not an empty folder; choose another place or remove it")
    return path


def refuse_existing_file(target: PathLike) -> Path:
    """``target`` as a path, if nothing stands there. Raises OutputError otherwise."""
    path = Path(target)
    if path.exists() or path.is_symlink():
        raise OutputError(f"{path} exists; choose another name or remove it")
    return path


def temporary_folder_beside(target: Path) -> Path:
    """A fresh folder on the same file system as ``target``, its parents made. Raises OutputError if that is impossible."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        place = _hidden_name(target)
        place.mkdir()
        return place
    except OSError as e:
        raise OutputError(f"{target.parent} is not writable: {e.strerror or e}") from e


def sync_tree(folder: Path) -> None:
    """Wait until the disk has everything in a folder: file by file, or by one call for its file system if there are many."""
    files, folders = [], [folder]
    for root, below, names in os.walk(folder):
        files += [os.path.join(root, n) for n in names]
        folders += [Path(root, n) for n in below]
    if len(files) > _MANY_FILES and _sync_file_system(folder):
        return
    for name in files:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    for place in reversed(folders):
        sync_folder(place)


def _sync_file_system(folder: Path) -> bool:
    """syncfs(2); False where it is missing. Raises OSError if writing back failed."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if call is None:
        return False
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if call(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)
    return True


def publish_folder(tmp: Path, target: Path) -> Path:
    """Flush ``tmp`` to disk and rename it to ``target``, which must be absent or an empty folder. Raises OutputError."""
    try:
        sync_tree(tmp)
        if target.is_dir() and not target.is_symlink():
            # rmdir refuses a folder that somebody filled in the meantime, which is what we want.
            target.rmdir()
        tmp.rename(target)
        sync_folder(target.parent)
    except OSError as e:
        raise OutputError(f"{target} could not be put in place: {e.strerror or e}") from e
    return target


@contextmanager
def new_folder(target: PathLike) -> Iterator[Path]:
    """Fill the folder that is yielded; it becomes ``target`` when the block ends, and vanishes if the block raises.

    Raises OutputError if ``target`` exists and is not an empty folder, or cannot be written (full disk included).
    """
    path = refuse_occupied_folder(target)
    tmp = temporary_folder_beside(path)
    try:
        yield tmp
        publish_folder(tmp, path)
    except OutputError:
        shutil.rmtree(tmp, ignore_errors=True)
        raise
    except OSError as e:
        shutil.rmtree(tmp, ignore_errors=True)
        raise OutputError(f"{path} could not be written: {e.strerror or e}") from e
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise


@contextmanager
def new_file(target: PathLike) -> Iterator[IO[bytes]]:
    """Write the binary file that is yielded; it appears under ``target`` when the block ends, flushed to disk.

    Raises OutputError if ``target`` exists or cannot be written (full disk included).
    """
    path = refuse_existing_file(target)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        name = _hidden_name(path)
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as e:
        raise OutputError(f"{path.parent} is not writable: {e.strerror or e}") from e
    try:
        with os.fdopen(fd, "w+b") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        try:
            # A hard link, unlike a rename, refuses a file that appeared in the meantime.
            os.link(name, path)
        except FileExistsError as e:
            raise OutputError(f"{path} appeared while it was being written; nothing was overwritten") from e
        except OSError:
            refuse_existing_file(path)
            os.rename(name, path)
        sync_folder(path.parent)
    except OutputError:
        raise
    except OSError as e:
        raise OutputError(f"{path} could not be written: {e.strerror or e}") from e
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def _hidden_name(target: Path) -> Path:
    # Made by plain mkdir and open, so that the user's umask holds, which the functions of tempfile ignore.
    return target.with_name(f".{target.name[:64]}-{secrets.token_hex(6)}")


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, where the system can."""
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
