"""Temporary place and rename: whole or absent, nothing overwritten, the user's umask kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gaitcrafter_rt.errors import OutputError
from gaitcrafter_rt.files import new_file, new_folder


@pytest.fixture
def umask() -> object:
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_modes_follow_the_umask(tmp_path: Path, umask: object) -> None:
    with new_file(tmp_path / "f") as f:
        f.write(b"x")
    with new_folder(tmp_path / "d") as d:
        (d / "inner").write_text("x")
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o750


def fail() -> None:
    raise RuntimeError


@pytest.mark.parametrize("place", [new_file, new_folder])
def test_an_exception_leaves_nothing(tmp_path: Path, place) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RuntimeError), place(tmp_path / "x"):
        fail()
    assert list(tmp_path.iterdir()) == []


def theirs(path: Path, is_file: bool) -> None:
    if not is_file:
        path.mkdir()
        path /= "theirs"
    path.write_text("theirs")


@pytest.mark.parametrize("place", [new_file, new_folder])
def test_what_appears_meanwhile_is_kept(tmp_path: Path, place) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(OutputError), place(tmp_path / "x"):
        theirs(tmp_path / "x", place is new_file)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x" if place is new_file else tmp_path / "x" / "theirs").read_text() == "theirs"


@pytest.mark.parametrize("place", [new_file, new_folder])
def test_occupied_dangling_and_unwritable_places(tmp_path: Path, place) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "file").write_text("mine")
    os.symlink(tmp_path / "nowhere", tmp_path / "dangling")
    for target in (tmp_path / "file", tmp_path / "dangling", tmp_path / "file" / "below"):
        with pytest.raises(OutputError), place(target):
            fail()
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dangling", "file"]


def test_parents_are_made_and_empty_folders_taken(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with new_folder(tmp_path / "a" / "b") as d:
        (d / "x").write_text("x")
    with new_file(tmp_path / "c" / "d" / "e") as f:
        f.write(b"x")
    assert (tmp_path / "a/b/x").exists()
    assert (tmp_path / "c/d/e").read_bytes() == b"x"
