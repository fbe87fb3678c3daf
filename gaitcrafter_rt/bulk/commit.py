"""How a file becomes part of a job: whole, durable, and never over another one.

1. write under a temporary name in the same folder;  2. fsync the file;  3. link it to its final name, which fails if that is taken;
4. remove the temporary name;  5. fsync the folder.

After step 3 a reader sees the whole file; after step 5 it survives a power cut. A process may die anywhere: what is left is a
temporary name, which the next run removes (:func:`clean_temporaries`). If the final name is taken, somebody else made the same
file: the two are compared, and a difference is loud. A damaged file keeps its name until a sound one takes it over in one step, so
that a slow writer never moves away what a faster one has repaired.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..errors import OutputError
from .errors import DamagedError, NonDeterminismError, output_error
from .filesystem import FileSystem
from .injection import committing, reached

# Errors of network file systems that a second try may not meet; ENOENT: somebody cleaned our temporary file away.
_PASSING = (errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT, errno.ENOENT)
# A temporary file lives for seconds. One of another machine, whose processes we cannot see, is dead after this long.
_STALE_SECONDS = 3600.0
_TEMPORARY = re.compile(r"^\.tmp-(?P<host>[0-9a-f]{8})-(?P<pid>\d{1,10})-(?P<start>\d{1,20})-[0-9a-f]{12}$")
# Temporary names of this process that are still written to.
_in_use: set[str] = set()
CONFLICTS, DAMAGED, REPLACED = "conflicts", "damaged", "replaced"


class Digest(NamedTuple):
    """sha256 in hexadecimal, and size in bytes."""

    sha256: str
    size: int


class Published(NamedTuple):
    """``fresh`` is False if an equal file was there already."""

    digest: Digest
    fresh: bool


class HashingFile:
    """A file for writing that hashes what passes through; pyarrow takes it as a sink."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash, self._size, self.closed = file, hashlib.sha256(), 0, False

    def write(self, data: bytes | memoryview) -> int:
        self._file.write(data)
        self._hash.update(data)
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """Left to the end: only the fsync before the link matters."""

    def close(self) -> None:
        self.closed = True

    def digest(self) -> Digest:
        return Digest(self._hash.hexdigest(), self._size)


def hash_file(fs: FileSystem, path: Path) -> Digest:
    """Digest of a file that is there. Raises DamagedError if it cannot be read."""
    h, size = hashlib.sha256(), 0
    try:
        with fs.open(path) as f:
            while chunk := f.read(1 << 20):
                h.update(chunk)
                size += len(chunk)
    except OSError as e:
        raise DamagedError(f"{path}: cannot be read: {e.strerror or e}") from e
    return Digest(h.hexdigest(), size)


def publish(
    fs: FileSystem, target: Path, write: Callable[[HashingFile], None], agree: Callable[[Digest], Digest], root: Path
) -> Published:
    """Commit what ``write`` writes as ``target``.

    Args:
        agree: called with our digest if ``target`` is taken; returns the digest of the file there if it says the same, raises
            NonDeterminismError if not, DamagedError if it is no sound file.
        root: the job's folder. A damaged file is kept in ``damaged/`` in it and replaced; of two that disagree both are kept,
            ours in ``conflicts/``.

    Raises NonDeterminismError; DiskFullError or OutputError for system calls that fail (passing ones are tried a second time).
    """
    for attempt in range(2):
        try:
            return _publish(fs, target, write, agree, root)
        except OutputError:
            raise
        except OSError as e:
            if attempt or e.errno not in _PASSING:
                raise output_error(target, e) from e
    raise AssertionError("the loop returns or raises")


def _publish(
    fs: FileSystem, target: Path, write: Callable[[HashingFile], None], agree: Callable[[Digest], Digest], root: Path
) -> Published:
    make_folder(fs, target.parent)
    temporary = target.with_name(temporary_name())
    _in_use.add(temporary.name)
    try:
        with fs.create(temporary) as raw:
            committing(target, "created")
            file = HashingFile(raw)
            write(file)
            committing(target, "written")
            fs.sync_file(raw)
        committing(target, "synced")
        published = Published(file.digest(), True)
        try:
            fs.link(temporary, target)
        except FileExistsError:
            try:
                published = Published(agree(file.digest()), False)
                # Whoever put it there may not have synced it, and our receipt will vouch for it.
                fs.sync_path(target)
            except DamagedError:
                keep(fs, target, root / DAMAGED)
                fs.replace(temporary, target)
            except NonDeterminismError as e:
                kept = set_aside(fs, temporary, root / CONFLICTS, target.name)
                raise NonDeterminismError(f"{e}; both are kept, the other as {kept}") from e
        committing(target, "linked")
    finally:
        _in_use.discard(temporary.name)
        with suppress(OSError):
            fs.unlink(temporary)
    committing(target, "unlinked")
    fs.sync_folder(target.parent)
    committing(target, "durable")
    return published


def make_folder(fs: FileSystem, path: Path) -> None:
    """A folder whose entry in its parent is durable, and those above it: another writer may have removed them as empty."""
    if fs.entry(path) is None:
        if path.parent != path:
            make_folder(fs, path.parent)
        fs.mkdir(path)
        fs.sync_folder(path.parent)


def set_aside(fs: FileSystem, path: Path, folder: Path, name: str | None = None) -> Path:
    """Move a file out of the way, never over another one; returns its new path. Nothing happens if it is gone."""
    kept = _put_into(fs, path, folder, name or path.name, fs.rename)
    reached("aside.moved")
    with suppress(FileNotFoundError):  # another run may have removed what it thought was done with
        fs.sync_folder(folder)
    fs.sync_folder(path.parent)
    reached("aside.durable")
    return kept


def keep(fs: FileSystem, path: Path, folder: Path) -> Path:
    """Give a file a second name in ``folder``, for people to look at; returns it. Nothing happens if it is gone."""
    kept = _put_into(fs, path, folder, path.name, fs.link)
    fs.sync_folder(folder)
    return kept


def _put_into(fs: FileSystem, path: Path, folder: Path, name: str, put: Callable[[Path, Path], None]) -> Path:
    kept = folder / f"{name}.{secrets.token_hex(4)}"
    for _ in range(2):
        make_folder(fs, folder)
        try:
            put(path, kept)
            break
        except FileNotFoundError:
            # Either the file is gone, or the folder, which another run removed because it was empty.
            if fs.entry(path) is None:
                break
    return kept


def temporary_name() -> str:
    """A name that says which process owns it."""
    pid = os.getpid()
    return f".tmp-{_host()}-{pid}-{_own_start(pid)}-{secrets.token_hex(6)}"


def is_temporary(name: str) -> bool:
    return _TEMPORARY.match(name) is not None


def clean_temporaries(fs: FileSystem, folder: Path) -> int:
    """Remove temporary names whose owner is dead; returns how many. A name that cannot be removed stays for the next run."""
    removed = 0
    for name in fs.names(folder):
        if is_temporary(name) and not _owner_alive(fs, folder / name):
            with suppress(OSError):
                fs.unlink(folder / name)
                removed += 1
    return removed


def _owner_alive(fs: FileSystem, path: Path) -> bool:
    match = _TEMPORARY.match(path.name)
    assert match is not None
    if match["host"] == _host():
        if int(match["pid"]) == os.getpid():
            return path.name in _in_use
        # The start time tells a process from a later one with the same number.
        return _start_time(int(match["pid"])) == int(match["start"])
    entry = fs.entry(path)
    return entry is not None and time.time() - entry.modified < _STALE_SECONDS


@cache
def _host() -> str:
    """Names this boot of this machine, and its process numbers: two containers see different ones."""
    parts = [socket.gethostname()]
    for source in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            parts.append(os.readlink(source) if "/ns/" in source else Path(source).read_text())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


@cache
def _own_start(pid: int) -> int:
    """Of this process, which forks of it must not share."""
    return _start_time(pid) or 0


def _start_time(pid: int) -> int | None:
    """Clock ticks since boot at which a process began, None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field, the program's name, may hold spaces and brackets; the 22nd is the start time.
    return int(text.rpartition(")")[2].split()[19])
