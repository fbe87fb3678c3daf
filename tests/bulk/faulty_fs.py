"""File systems to put under a job: one in memory that can lose what was not synced, one that fails or kills at a call."""

from __future__ import annotations

import errno
import io
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from gaitcrafter_rt.bulk.filesystem import Entry, FileSystem

# Calls that change something, in the order of the protocol, and calls that read.
CHANGING = ("create", "write", "sync_file", "link", "unlink", "sync_folder", "sync_path", "mkdir", "rename", "replace", "rmdir")
READING = ("read", "open", "entry", "names")


class Crash(BaseException):
    """The machine stops here; no code of the job runs any more."""


class _File:
    def __init__(self) -> None:
        self.data, self.synced = bytearray(), None
        self.synced: bytes | None


class _Folder:
    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}
        self.durable: dict[str, Any] = {}


class MemoryFileSystem:
    """A disk with a cache before it. What was not synced is lost, kept, or kept at random when the power is cut."""

    def __init__(self) -> None:
        self.root = _Folder()

    def _parts(self, path: Path) -> list[str]:
        return [p for p in path.parts if p != "/"]

    def _folder(self, path: Path) -> _Folder:
        node: Any = self.root
        for part in self._parts(path):
            node = node.entries.get(part) if isinstance(node, _Folder) else None
            if node is None:
                raise FileNotFoundError(errno.ENOENT, "no such folder", str(path))
        if not isinstance(node, _Folder):
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path))
        return node

    def _node(self, path: Path) -> Any:
        node = self._folder(path.parent).entries.get(path.name)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return node

    def mkdir(self, path: Path) -> None:
        self._folder(path.parent).entries.setdefault(path.name, _Folder())

    def create(self, path: Path) -> BinaryIO:
        folder = self._folder(path.parent)
        if path.name in folder.entries:
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        file = folder.entries[path.name] = _File()
        return _Writer(file)  # type: ignore[return-value]

    def sync_file(self, file: Any) -> None:
        file.node.synced = bytes(file.node.data)

    def sync_path(self, path: Path) -> None:
        node = self._node(path)
        node.synced = bytes(node.data)

    def sync_folder(self, path: Path) -> None:
        folder = self._folder(path)
        folder.durable = dict(folder.entries)

    def link(self, source: Path, target: Path) -> None:
        node, folder = self._node(source), self._folder(target.parent)
        if target.name in folder.entries:
            raise FileExistsError(errno.EEXIST, "exists", str(target))
        folder.entries[target.name] = node

    def rename(self, source: Path, target: Path) -> None:
        self.link(source, target)
        self.unlink(source)

    def replace(self, source: Path, target: Path) -> None:
        self._folder(target.parent).entries[target.name] = self._node(source)
        self.unlink(source)

    def unlink(self, path: Path) -> None:
        try:
            self._folder(path.parent).entries.pop(path.name, None)
        except FileNotFoundError:
            pass

    def rmdir(self, path: Path) -> None:
        try:
            folder = self._folder(path.parent)
        except FileNotFoundError:
            return
        if isinstance(node := folder.entries.get(path.name), _Folder) and not node.entries:
            del folder.entries[path.name]

    def names(self, path: Path) -> list[str]:
        try:
            return sorted(self._folder(path).entries)
        except FileNotFoundError:
            return []

    def entry(self, path: Path) -> Entry | None:
        if not self._parts(path):
            return Entry(0, 0.0)
        try:
            node = self._node(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Entry(len(node.data) if isinstance(node, _File) else 0, 0.0)

    def read(self, path: Path, limit: int) -> bytes:
        data = bytes(self._node(path).data)
        if len(data) > limit:
            raise OSError(errno.EFBIG, "too long", str(path))
        return data

    def open(self, path: Path) -> BinaryIO:
        return io.BytesIO(bytes(self._node(path).data))

    def touch(self, path: Path) -> None:
        self._folder(path.parent).entries.setdefault(path.name, _File())

    def free(self, path: Path) -> int:
        return 1 << 40

    def power_cut(self, keep: Callable[[], bool]) -> None:
        """Lose what is not durable, but where ``keep()`` says that the cache happened to reach the disk."""

        def cut(folder: _Folder) -> None:
            kept = {}
            for name in {**folder.durable, **folder.entries}:
                now, then = folder.entries.get(name), folder.durable.get(name)
                if (node := now if now is then or keep() else then) is not None:
                    kept[name] = node
            folder.entries, folder.durable = kept, dict(kept)
            for node in kept.values():
                if isinstance(node, _Folder):
                    cut(node)
                elif not keep():
                    node.data = bytearray(node.synced if node.synced is not None else b"")
                node.synced = bytes(node.data) if isinstance(node, _File) else None

        cut(self.root)

    def tree(self, path: Path) -> dict[str, bytes]:
        """Every file below a folder by its path."""
        found = {}
        for name, node in self._folder(path).entries.items():
            if isinstance(node, _Folder):
                found |= {f"{name}/{k}": v for k, v in self.tree(path / name).items()}
            else:
                found[name] = bytes(node.data)
        return found


class _Writer(io.RawIOBase):
    def __init__(self, node: _File) -> None:
        self.node = node

    def write(self, data: Any) -> int:
        self.node.data += data
        return len(data)

    def writable(self) -> bool:
        return True


LOSE: Callable[[], bool] = lambda: False  # noqa: E731
KEEP: Callable[[], bool] = lambda: True  # noqa: E731


def at_random(seed: int) -> Callable[[], bool]:
    """Anything may have reached the disk."""
    rng = random.Random(seed)
    return lambda: rng.random() < 0.5


class Hooked:
    """Calls ``hook(name)`` before every call of the file system under it, and of ``write`` on its files.

    ``trace`` collects the changing calls as (name, kind of path).
    """

    def __init__(self, fs: FileSystem, hook: Callable[[str], None], trace: list[tuple[str, str]] | None = None) -> None:
        self._fs, self._hook, self._trace = fs, hook, trace

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._fs, name)

        def hooked(*args: Any) -> Any:
            if self._trace is not None and name in CHANGING:
                self._trace.append((name, kind_of(args[-1])))
            self._hook(name)
            args = tuple(a.inner if isinstance(a, _HookedFile) else a for a in args)
            result = call(*args)
            return _HookedFile(result, self._hook, self._trace) if name == "create" else result

        return hooked


def kind_of(path: Any) -> str:
    """A path without its numbers: two shards are of one kind, a shard and a receipt are of two."""
    if not isinstance(path, Path):
        return ""
    name = ".tmp" if path.name.startswith(".tmp") else re.sub(r"\d+|\.[0-9a-f]{8}$", "", path.name)
    return f"{re.sub(r'[0-9]+', '', path.parent.name)}/{name}"


class _HookedFile:
    def __init__(self, inner: BinaryIO, hook: Callable[[str], None], trace: list[tuple[str, str]] | None) -> None:
        self.inner, self._hook, self._trace = inner, hook, trace

    def write(self, data: Any) -> int:
        if self._trace is not None:
            self._trace.append(("write", ""))
        self._hook("write")
        return self.inner.write(data)

    def __enter__(self) -> _HookedFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.inner.close()


class FailAt:
    """A hook that fails the k-th of the calls it counts, once or from then on. ``count`` says how many there were."""

    def __init__(
        self, k: int, error: int | type[BaseException], *, sticky: bool = False, calls: tuple[str, ...] = CHANGING
    ) -> None:
        self.k, self.error, self.sticky, self.calls = k, error, sticky, calls
        self.count, self.failed = 0, ""

    def __call__(self, name: str) -> None:
        if self.failed and self.error is Crash:
            raise Crash
        if name not in self.calls:
            return
        self.count += 1
        if self.count == self.k or (self.sticky and self.count > self.k):
            self.failed = self.failed or name
            if isinstance(self.error, int):
                raise OSError(self.error, os.strerror(self.error), name)
            raise self.error
