"""The protocol of one file, its file system, and who owns a temporary name."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faulty_fs import FailAt, Hooked

from gaitcrafter_rt.bulk import DamagedError, DiskFullError, NonDeterminismError, commit
from gaitcrafter_rt.bulk.commit import Digest, HashingFile, clean_temporaries, publish, temporary_name
from gaitcrafter_rt.bulk.filesystem import LocalFileSystem
from gaitcrafter_rt.errors import OutputError

FS = LocalFileSystem()


def never(mine: Digest) -> Digest:
    raise AssertionError("nothing is there to agree with")


def writes(data: bytes):  # type: ignore[no-untyped-def]
    return lambda file: file.write(data) and None


def test_the_steps_come_in_order(tmp_path: Path) -> None:
    calls: list[str] = []
    publish(Hooked(FS, calls.append), tmp_path / "f", writes(b"x"), never, tmp_path)  # type: ignore[arg-type]
    assert calls == ["entry", "create", "write", "sync_file", "link", "unlink", "sync_folder"]
    assert (tmp_path / "f").read_bytes() == b"x"


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_bytes(b"first")

    def differs(mine: Digest) -> Digest:
        raise NonDeterminismError("they differ")

    with pytest.raises(NonDeterminismError, match="both are kept"):
        publish(FS, target, writes(b"second"), differs, tmp_path)
    assert target.read_bytes() == b"first"
    assert [p.read_bytes() for p in (tmp_path / "conflicts").iterdir()] == [b"second"]

    def damaged(mine: Digest) -> Digest:
        raise DamagedError("torn")

    publish(FS, target, writes(b"third"), damaged, tmp_path)
    assert target.read_bytes() == b"third"
    assert [p.read_bytes() for p in (tmp_path / "damaged").iterdir()] == [b"first"]

    published = publish(FS, target, writes(b"third"), lambda mine: mine, tmp_path)
    assert not published.fresh
    assert sorted(p.name for p in tmp_path.iterdir()) == ["conflicts", "damaged", "f"]


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*args: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    publish(FS, tmp_path / "f", writes(b"x"), never, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    seen = []
    publish(FS, tmp_path / "f", writes(b"y"), lambda mine: seen.append(mine) or mine, tmp_path)  # type: ignore[func-returns-value]
    assert len(seen) == 1
    assert (tmp_path / "f").read_bytes() == b"x"


def test_passing_errors_are_tried_again_and_others_are_typed(tmp_path: Path) -> None:
    for k, call in enumerate(("create", "write", "sync_file", "link", "sync_folder")):
        hook = FailAt(1, errno.EIO, calls=(call,))
        publish(Hooked(FS, hook), tmp_path / str(k), writes(b"x"), lambda mine: mine, tmp_path)  # type: ignore[arg-type]
        assert hook.failed == call
        for error, kind in ((errno.ENOSPC, DiskFullError), (errno.EDQUOT, DiskFullError), (errno.EROFS, OutputError)):
            failing = Hooked(FS, FailAt(1, error, calls=(call,)))
            with pytest.raises(kind):
                publish(failing, tmp_path / "other", writes(b"x"), lambda m: m, tmp_path)  # type: ignore[arg-type]
            assert not [p for p in tmp_path.iterdir() if p.name.startswith(".tmp")]
    failing = Hooked(FS, FailAt(1, errno.EIO, sticky=True, calls=("link",)))
    with pytest.raises(OutputError):
        publish(failing, tmp_path / "x", writes(b"x"), never, tmp_path)  # type: ignore[arg-type]


def test_dev_full(tmp_path: Path) -> None:
    """A device that really has no room."""

    class ToFull(LocalFileSystem):
        def create(self, path: Path):  # type: ignore[no-untyped-def]
            path.touch()
            return open("/dev/full", "wb", buffering=0)

    with pytest.raises(DiskFullError, match="make room"):
        publish(ToFull(), tmp_path / "f", writes(b"x" * 10000), never, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_the_dead_lose_their_temporary_files(tmp_path: Path) -> None:
    mine = temporary_name()
    script = (
        "import sys; sys.path[:0] = sys.argv[1:]; from gaitcrafter_rt.bulk.commit import temporary_name; print(temporary_name())"
    )
    dead = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    host, pid, start = mine.split("-")[1:4]
    assert dead.split("-")[1] == host
    reused = mine.replace(start, str(int(start) + 1)).replace(f"-{pid}-", f"-{os.getppid()}-")
    elsewhere = mine.replace(host, "00000000")
    old = elsewhere.replace(mine[-4:], "0000")
    for name in (mine, dead, reused, elsewhere, old, "shard-00000000.parquet", ".tmp-strange"):
        (tmp_path / name).touch()
    os.utime(tmp_path / old, (time.time() - 7200,) * 2)
    commit._in_use.add(mine)
    try:
        assert clean_temporaries(FS, tmp_path) == 3
    finally:
        commit._in_use.discard(mine)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([mine, elsewhere, "shard-00000000.parquet", ".tmp-strange"])
    assert clean_temporaries(FS, tmp_path) == 1


def test_digests_are_those_of_the_bytes(tmp_path: Path) -> None:
    import hashlib

    def write(file: HashingFile) -> None:
        file.write(b"ab")
        file.write(memoryview(b"c"))

    published = publish(FS, tmp_path / "f", write, never, tmp_path)
    assert published.digest == (hashlib.sha256(b"abc").hexdigest(), 3)
    assert commit.hash_file(FS, tmp_path / "f") == published.digest
    with pytest.raises(DamagedError):
        commit.hash_file(FS, tmp_path / "absent")
    file = HashingFile(open(tmp_path / "g", "wb"))  # noqa: SIM115
    file.close()
    assert file.closed


def test_a_fifo_in_the_way_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert FS.read(tmp_path / "fifo", 10) == b""
