"""The few file operations that a job is made of, in one place.

Everything that the job writes goes through a :class:`FileSystem`, so that a test can put another one under it: one that fails the
k-th call, forgets what was not synced, or kills the process at a step (tests/bulk/faulty_fs.py).
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

_RENAME_NOREPLACE, _AT_FDCWD = 1, -100
# What link() says where a file system has no hard links.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Entry(NamedTuple):
    """Size in bytes and the time of the last change in seconds since 1970."""

    size: int
    modified: float


class FileSystem(Protocol):
    """All methods raise OSError as the system call does, unless they say otherwise."""

    def mkdir(self, path: Path) -> None:
        """Make one folder; fine if it is there."""

    def create(self, path: Path) -> BinaryIO:
        """A new file for writing; FileExistsError if the name is taken."""

    def sync_file(self, file: BinaryIO) -> None:
        """Flush the file and wait until the disk has its bytes."""

    def sync_path(self, path: Path) -> None:
        """The same for a file that somebody else wrote."""

    def sync_folder(self, path: Path) -> None:
        """Wait until the disk has the folder's entries."""

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; FileExistsError if ``target`` is taken, which is left as it was."""

    def rename(self, source: Path, target: Path) -> None:
        """Move a file; ``target`` must be free."""

    def replace(self, source: Path, target: Path) -> None:
        """Move a file over another one in the same folder: ``target`` is the one or the other at any moment."""

    def unlink(self, path: Path) -> None:
        """Remove a name; fine if it is gone."""

    def rmdir(self, path: Path) -> None:
        """Remove a folder if it is empty; fine if it is not, or gone."""

    def names(self, path: Path) -> list[str]:
        """Names in a folder, sorted; none if it is absent."""

    def entry(self, path: Path) -> Entry | None:
        """Size and time, None if absent."""

    def read(self, path: Path, limit: int) -> bytes:
        """The whole file; OSError(EFBIG) if it is longer than ``limit``."""

    def open(self, path: Path) -> BinaryIO:
        """For reading, with seek."""

    def touch(self, path: Path) -> None:
        """Set the time of the last change to now; makes an empty file if absent."""

    def free(self, path: Path) -> int:
        """Bytes that can still be written there."""


class LocalFileSystem:
    """The real thing."""

    def mkdir(self, path: Path) -> None:
        try:
            path.mkdir()
        except FileExistsError:
            if not path.is_dir():
                raise

    def create(self, path: Path) -> BinaryIO:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        return os.fdopen(fd, "wb", buffering=1 << 20)

    def sync_file(self, file: BinaryIO) -> None:
        file.flush()
        os.fsync(file.fileno())

    def sync_path(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync_folder(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as e:
            # Some network file systems know no fsync of folders: their entries are durable when the call returns.
            if e.errno != errno.EINVAL:
                raise
        finally:
            os.close(fd)

    def link(self, source: Path, target: Path) -> None:
        try:
            os.link(source, target)
        except OSError as e:
            if e.errno not in _NO_LINKS:
                raise
            _rename_noreplace(source, target)

    def rename(self, source: Path, target: Path) -> None:
        _rename_noreplace(source, target)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def rmdir(self, path: Path) -> None:
        try:
            path.rmdir()
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR):
                raise

    def names(self, path: Path) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def entry(self, path: Path) -> Entry | None:
        try:
            s = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Entry(s.st_size, s.st_mtime)

    def read(self, path: Path, limit: int) -> bytes:
        with self.open(path) as f:
            data = f.read(limit + 1)
        if len(data) > limit:
            raise OSError(errno.EFBIG, f"longer than {limit} bytes", str(path))
        return data

    def open(self, path: Path) -> BinaryIO:
        # NONBLOCK: opening a FIFO that a stranger put there must not wait for its other end.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        return os.fdopen(fd, "rb")

    def touch(self, path: Path) -> None:
        path.touch()

    def free(self, path: Path) -> int:
        while not path.exists() and path != path.parent:
            path = path.parent
        return shutil.disk_usage(path).free


def _rename_noreplace(source: Path, target: Path) -> None:
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    code = -1
    if call is not None:
        code = call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
    if code != 0:
        number = ctypes.get_errno() if call is not None else errno.ENOSYS
        raise OSError(number, os.strerror(number), str(source), None, str(target))
