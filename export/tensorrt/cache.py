"""Engines that this user built on this machine: ``$GAITCRAFTER_CACHE/engines`` (else below ``$XDG_CACHE_HOME`` or ``~/.cache``).

An engine is machine code and is deserialised without a check of its own, so nothing is read that somebody else may have written:
the folder has mode 0700 and is this user's, a file is this user's regular file that nobody else may write, never behind a link, and
its header says the key that was asked for and the sha256 of what follows. csrc/backends/tensorrt/engine_cache.cc reads these files.

    8 bytes   b"GCTRTENG"
    4 bytes   length of the header, little endian
    header    JSON: {"format_version": 1, "key": {...}, "sha256": hex, "bytes": n}
    engine
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import struct
from contextlib import suppress
from pathlib import Path

from ...errors import CapabilityError, DataFormatError, OutputError

MAGIC, FORMAT_VERSION = b"GCTRTENG", 1
LARGEST_HEADER = 1 << 16
BELOW = "engines"
SUFFIX, TIMINGS = ".engine", ".timings"


def key_text(key: dict[str, str]) -> str:
    """What a key's hash is of: its lines ``name value`` in the order of names."""
    return "".join(f"{name} {value}\n" for name, value in sorted(key.items()))


def key_hash(key: dict[str, str]) -> str:
    return hashlib.sha256(key_text(key).encode()).hexdigest()


def cache_root() -> Path | None:
    """Where engines are kept; None if GAITCRAFTER_CACHE is "off" or nothing names a folder."""
    own, shared, home = (os.environ.get(name, "") for name in ("GAITCRAFTER_CACHE", "XDG_CACHE_HOME", "HOME"))
    if own == "off":
        return None
    if own:
        if not own.startswith("/"):
            raise CapabilityError(f'GAITCRAFTER_CACHE is "{own}"; give a path from / on, or "off"')
        return Path(own) / BELOW
    if shared.startswith("/"):
        return Path(shared) / "gaitcrafter-rt" / BELOW
    return Path(home) / ".cache" / "gaitcrafter-rt" / BELOW if home.startswith("/") else None


class EngineCache:
    """The folder of engines. Raises CapabilityError if it is not this user's alone, OutputError if it cannot be made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            info = folder.lstat()
        except OSError as e:
            raise OutputError(f"{folder} cannot be made: {e.strerror or e}; name another place in GAITCRAFTER_CACHE") from e
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
            raise CapabilityError(
                f"{folder} is no folder of yours alone (a link, another owner, or mode {stat.S_IMODE(info.st_mode):o}); engines "
                "are machine code, so none is read from there: chmod 700 it if it is yours, or set GAITCRAFTER_CACHE to another"
            )

    def path(self, key: dict[str, str]) -> Path:
        return self.folder / f"{key_hash(key)}{SUFFIX}"

    def find(self, key: dict[str, str]) -> bytes | None:
        """The engine of ``key``; None if there is none. Raises DataFormatError for a file that does not hold what it must."""
        path = self.path(key)
        text = self._read(path)
        return None if text is None else parse_engine(text, key, path)

    def keep(self, key: dict[str, str], engine: bytes) -> Path:
        """Write the engine, in place of what is there. Raises OutputError."""
        path = self.path(key)
        self._write(path, frame(key, engine))
        return path

    def timings(self, name: str) -> bytes:
        """A timing cache that ``keep_timings`` wrote; empty if there is none or a damaged one, which costs time alone."""
        try:
            text = self._read(self.folder / f"{name}{TIMINGS}") or b""
        except DataFormatError:
            return b""
        body, digest = text[:-32], text[-32:]
        return body if hashlib.sha256(body).digest() == digest else b""

    def keep_timings(self, name: str, timings: bytes) -> None:
        self._write(self.folder / f"{name}{TIMINGS}", timings + hashlib.sha256(timings).digest())

    def _read(self, path: Path) -> bytes | None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as e:
            raise DataFormatError(f"{path} cannot be read: {e.strerror}; remove it, and it is built anew") from e
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
            os.close(fd)
            raise DataFormatError(f"{path} is no file that you alone may write; remove it, and it is built anew")
        with os.fdopen(fd, "rb") as f:
            try:
                return f.read()
            except OSError as e:
                raise DataFormatError(f"{path} cannot be read: {e.strerror}; remove it, and it is built anew") from e

    def _write(self, path: Path, text: bytes) -> None:
        temporary = path.with_name(f".{path.name}-{secrets.token_hex(6)}")
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "wb") as f:
                f.write(text)
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
        except OSError as e:
            with suppress(OSError):
                temporary.unlink()
            raise OutputError(f"{path} could not be written: {e.strerror or e}") from e


def frame(key: dict[str, str], engine: bytes) -> bytes:
    """The file of an engine."""
    header = {"format_version": FORMAT_VERSION, "key": key, "sha256": hashlib.sha256(engine).hexdigest(), "bytes": len(engine)}
    text = json.dumps(header, sort_keys=True).encode()
    return MAGIC + struct.pack("<I", len(text)) + text + engine


def parse_engine(text: bytes, key: dict[str, str], path: Path) -> bytes:
    """The engine in a file of ``frame``. Raises DataFormatError unless it is whole and has that key."""
    start = len(MAGIC) + 4
    remedy = "remove it, and it is built anew"
    if len(text) < start or text[: len(MAGIC)] != MAGIC:
        raise DataFormatError(f"{path} is no engine of this package; {remedy}")
    (length,) = struct.unpack("<I", text[len(MAGIC) : start])
    if length > min(LARGEST_HEADER, len(text) - start):
        raise DataFormatError(f"{path}: its header is said to have {length} bytes; {remedy}")
    engine = text[start + length :]
    try:
        header = json.loads(text[start : start + length])
        version, found, digest, size = (header[name] for name in ("format_version", "key", "sha256", "bytes"))
    except (ValueError, KeyError, TypeError) as e:
        raise DataFormatError(f"{path}: its header cannot be read ({e}); {remedy}") from e
    if version != FORMAT_VERSION:
        raise DataFormatError(f"{path}: format_version is {version!r:.40}, this release reads {FORMAT_VERSION}; {remedy}")
    if found != key:
        raise DataFormatError(f"{path} holds an engine for something else: {difference(found, key)}; {remedy}")
    if size != len(engine) or hashlib.sha256(engine).hexdigest() != digest:
        raise DataFormatError(f"{path} is damaged: its checksum does not fit; {remedy}")
    return engine


def difference(found: object, wanted: dict[str, str]) -> str:
    """The first entry in which two keys differ."""
    if isinstance(found, dict):
        for name in sorted({*found, *wanted}, key=str):
            if found.get(name) != wanted.get(name):
                return f"{name} is {found.get(name)!r:.80}, wanted is {wanted.get(name)!r:.80}"
    return "its key is unreadable"
