"""The folder of engines: nothing is read from it that somebody else may have written, or that is not what was asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gaitcrafter_rt.errors import CapabilityError, DataFormatError, OutputError
from gaitcrafter_rt.export.tensorrt.cache import BELOW, EngineCache, cache_root, frame, key_hash

KEY = {"library": "tensorrt 10.14.1", "gpu": "sm_90", "graph": "0" * 64}


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def test_an_engine_comes_back_and_others_do_not(cache: EngineCache) -> None:
    assert cache.find(KEY) is None
    path = cache.keep(KEY, b"engine")
    assert cache.find(KEY) == b"engine" and path.name == f"{key_hash(KEY)}.engine"
    cache.keep(KEY, b"another")
    assert cache.find(KEY) == b"another"
    assert [p.name for p in cache.folder.iterdir()] == [path.name]  # no temporary files
    for name in KEY:
        assert cache.find({**KEY, name: "other"}) is None
    assert cache.timings("t") == b""
    cache.keep_timings("t", b"measured")
    assert cache.timings("t") == b"measured"
    (cache.folder / "t.timings").write_bytes(b"damaged")
    assert cache.timings("t") == b""


def test_a_file_that_is_not_whole_or_is_for_something_else_is_refused(cache: EngineCache) -> None:
    path = cache.keep(KEY, b"engine of some length")
    good = path.read_bytes()
    for text, why in (
        (b"", "no engine of this package"), (b"ONNX" + good, "no engine of this package"), (good[:-1], "checksum"),
        (good + b"x", "checksum"), (good[:-3] + b"x" + good[-2:], "checksum"), (good[:8] + b"\xff" * 4 + good[12:], "header"),
        (good.replace(b'"format_version": 1', b'"format_version": 9'), "format_version is 9"),
        (frame({**KEY, "gpu": "sm_89"}, b"e"), "for something else: gpu is 'sm_89', wanted is 'sm_90'"),
        (good.replace(b'"key": {', b'"key": ['), "header"),
    ):  # fmt: skip
        path.write_bytes(text)
        with pytest.raises(DataFormatError, match=why):
            cache.find(KEY)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataFormatError, match="remove it"):
        cache.find(KEY)


def test_what_others_may_write_is_not_read(cache: EngineCache, tmp_path: Path) -> None:
    path = cache.keep(KEY, b"engine")
    path.chmod(0o620)
    with pytest.raises(DataFormatError, match="you alone may write"):
        cache.find(KEY)
    other = tmp_path / "other"
    other.write_bytes(frame(KEY, b"engine"))
    path.unlink()
    path.symlink_to(other)
    with pytest.raises(DataFormatError, match="cannot be read"):
        cache.find(KEY)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(DataFormatError, match="you alone"):
        cache.find(KEY)
    for mode in (0o770, 0o701, 0o750):
        cache.folder.chmod(mode)
        with pytest.raises(CapabilityError, match=f"mode {mode:o}.*chmod 700"):
            EngineCache(cache.folder)
    cache.folder.chmod(0o700)
    link = tmp_path / "link"
    link.symlink_to(cache.folder)
    with pytest.raises(CapabilityError, match="no folder of yours alone"):
        EngineCache(link)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_not_read(cache: EngineCache) -> None:
    os.chown(cache.folder, 12345, 12345)
    with pytest.raises(CapabilityError, match="no folder of yours alone"):
        EngineCache(cache.folder)


def test_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAITCRAFTER_CACHE", "off")
    assert cache_root() is None
    monkeypatch.setenv("GAITCRAFTER_CACHE", "here")
    with pytest.raises(CapabilityError, match="a path from / on"):
        cache_root()
    monkeypatch.setenv("GAITCRAFTER_CACHE", "/there")
    assert cache_root() == Path("/there") / BELOW
    monkeypatch.delenv("GAITCRAFTER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/shared")
    assert cache_root() == Path("/shared/gaitcrafter-rt") / BELOW
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_root() == Path("/home/me/.cache/gaitcrafter-rt") / BELOW
    monkeypatch.setenv("HOME", "")
    assert cache_root() is None
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        EngineCache(tmp_path / "file" / "engines")
