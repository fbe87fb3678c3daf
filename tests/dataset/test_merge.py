"""Several jobs as one: every clip once, every shard byte for byte, interrupted at any call and finished by the same command."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from jobs import run
from stub import StubEngine

from gaitcrafter_rt.bulk.errors import DamagedError, NonDeterminismError
from gaitcrafter_rt.cli.main import main
from gaitcrafter_rt.dataset import build_cache, merge, open_source
from gaitcrafter_rt.dataset.check import verify_set
from gaitcrafter_rt.dataset.merged import read_merged
from gaitcrafter_rt.errors import InvalidRequestError, OutputError


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Jobs a and b of different seeds, and c: the plan of a with more clips, cut otherwise."""
    root = tmp_path_factory.mktemp("three")
    run(root / "a", clips=40, seed=3, shard_clips=8)
    run(root / "b", clips=24, seed=4, shard_clips=16)
    run(root / "c", clips=64, seed=3, shard_clips=16, block_clips=16)
    return root


def clip_set(path: Path) -> set[tuple[str, int, bytes]]:
    return {
        (rows.origin.plan_id, int(i), p.tobytes()) for rows in open_source(path).rows()
        for i, p in zip(rows.clip_index, rows.packed, strict=True)
    }  # fmt: skip


def test_every_clip_once_and_every_shard_as_it_was(three: Path, tmp_path: Path) -> None:
    out = tmp_path / "all"
    merged = merge([three / "a", three / "b", three / "c"], out)
    assert (merged.clips, merged.dropped_clips) == (64 + 24, 40)
    assert clip_set(out) == clip_set(three / "b") | clip_set(three / "c")
    made = {p.read_bytes() for name in ("b", "c") for p in (three / name / "shards").iterdir()}
    assert {p.read_bytes() for p in (out / "shards").iterdir()} == made
    assert sorted(p.name for p in out.iterdir()) == ["dataset.json", "shards"]
    assert [s.name for s in merged.sources] == ["a", "b", "c"]
    report = verify_set(out, deep=True)
    assert report is not None
    assert report.ok, report.problems
    assert (report.checked, report.clips) == (4 + 2, 88)
    # One cache and one clip set of both plans, each with its origin.
    cache = build_cache(out, tmp_path / "cache")
    assert len(cache.origins) == 2
    assert {int(s) for s in cache.records["seed"]} == {3, 4}
    for origin, seed in zip(cache.origins, np.unique(cache.records["origin"]), strict=True):
        assert origin.plan["seed"] in (3, 4), seed


def test_again_is_nothing_and_merged_sets_merge(three: Path, tmp_path: Path) -> None:
    one = tmp_path / "one"
    merge([three / "a", three / "b"], one)
    before = {p: p.stat().st_mtime_ns for p in one.rglob("*")}
    merge([three / "b", three / "a"], one)
    assert {p: p.stat().st_mtime_ns for p in one.rglob("*")} == before
    with pytest.raises(OutputError, match="merged set of other clips"):
        merge([three / "a"], one)
    two = merge([one, three / "a", three / "c"], tmp_path / "two")
    assert clip_set(tmp_path / "two") == clip_set(three / "b") | clip_set(three / "c")
    assert two.dropped_clips == 80
    linked = merge([three / "b"], tmp_path / "linked", link=True)
    assert linked.clips == 24
    assert (tmp_path / "linked" / "shards" / linked.shards[0].file).stat().st_nlink == 2


def test_refusals(three: Path, job: Path, tmp_path: Path) -> None:
    run(tmp_path / "wide", StubEngine((4, 16, 32)), clips=8)
    with pytest.raises(InvalidRequestError, match="one clip shape"):
        merge([three / "a", tmp_path / "wide"], tmp_path / "out")
    run(tmp_path / "cut", clips=48, seed=3, shard_clips=12)
    with pytest.raises(InvalidRequestError, match="overlap in part"):
        merge([three / "a", tmp_path / "cut"], tmp_path / "out")
    run(tmp_path / "broken", StubEngine(salt=1), clips=40, seed=3, shard_clips=8)
    with pytest.raises(NonDeterminismError, match=r"clip 0 of plan .* has other bits"):
        merge([three / "a", tmp_path / "broken"], tmp_path / "out")
    run(tmp_path / "poisoned", StubEngine(poison=[111]), clips=64, seed=3, shard_clips=64)
    with pytest.raises(InvalidRequestError, match=r"clip 11 .* was quarantined in .*poisoned"):
        merge([three / "a", tmp_path / "poisoned"], tmp_path / "out")
    build_cache(job, tmp_path / "cache")
    with pytest.raises(InvalidRequestError, match="is a cache"):
        merge([tmp_path / "cache"], tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").touch()
    with pytest.raises(OutputError, match="not an empty folder"):
        merge([three / "a"], tmp_path / "mine")
    assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_damaged_sources_are_noticed(three: Path, tmp_path: Path) -> None:
    bad = shutil.copytree(three / "b", tmp_path / "bad")
    shard = bad / "shards" / "shard-00000001.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 4
    shard.write_bytes(data)
    with pytest.raises(DamagedError, match=r"not those its receipt vouches for|not a readable shard|row group"):
        merge([bad], tmp_path / "out")
    with pytest.raises(DamagedError):
        merge([shard], tmp_path / "out")  # a loose file has no receipt, but its own checksums
    assert not (tmp_path / "out").exists()


def test_damaged_sets_are_noticed(three: Path, tmp_path: Path) -> None:
    merge([three / "b"], tmp_path / "good")

    def problems(change) -> list[str]:  # type: ignore[no-untyped-def]
        root = shutil.copytree(tmp_path / "good", tmp_path / "bad")
        change(root)
        report = verify_set(root, deep=True)
        shutil.rmtree(root)
        assert report is not None
        return [p.text for p in report.problems]

    name = read_merged(tmp_path / "good").shards[1].file

    def flip(path: Path, at: int) -> None:
        data = bytearray(path.read_bytes())
        data[at % len(data)] ^= 1
        path.write_bytes(data)

    size = (tmp_path / "good" / "shards" / name).stat().st_size
    for at in range(0, size, max(1, size // 40)):
        assert len(problems(lambda root, at=at: flip(root / "shards" / name, at))) == 1
    assert "cannot be read" in problems(lambda root: (root / "shards" / name).unlink())[0]
    assert "no part of this set" in problems(lambda root: (root / "shards" / "extra").touch())[0]
    assert "checksum" in problems(lambda root: flip(root / "dataset.json", 300))[0]


class Cut(BaseException):
    """The process dies here."""


def test_killed_at_any_step_and_finished_by_the_same_command(three: Path, fast: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dies at the k-th call that changes a disk, for every k; what is there then is nothing or whole, and the rest follows."""
    wanted = clip_set(three / "b") | clip_set(three / "a")
    names = ("fsync", "link", "unlink", "rename", "mkdir")
    real = {n: getattr(os, n) for n in names}
    left = 0

    def dying(name: str):  # type: ignore[no-untyped-def]
        def call(*args: object, **more: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Cut
            return real[name](*args, **more)

        return call

    out, step, done = fast / "out", 0, False
    while not done:
        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(os, name, dying(name))
            left, step = step, step + 1
            try:
                merge([three / "a", three / "b"], out)
                done = True
            except Cut:
                pass
        assert not out.exists() or read_merged(out).clips == 64
        merge([three / "a", three / "b"], out)
        assert clip_set(out) == wanted
        assert [p.name for p in fast.iterdir()] == ["out"]
        assert sorted(p.name for p in out.iterdir()) == ["dataset.json", "shards"]
        assert len(list((out / "shards").iterdir())) == 7
        shutil.rmtree(out)
    assert step > 40


def test_command_line(three: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert main(["dataset", "merge", str(three / "a"), str(three / "c"), out, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["clips"], told["dropped_clips"], len(told["plans"])) == (64, 40, 1)
    assert main(["dataset", "verify", out, "--deep"]) == 0
    assert "sound" in capsys.readouterr().out
    assert main(["dataset", "verify", out, "--recompute", "1"]) == 2
    build_cache(out, tmp_path / "cache")
    assert main(["dataset", "verify", str(tmp_path / "cache")]) == 0
    with (tmp_path / "cache" / "silhouettes.bin").open("r+b") as f:
        f.write(b"\xff" * 9)
    assert main(["dataset", "verify", str(tmp_path / "cache")]) == 4
    assert "do not fit their sha256" in capsys.readouterr().out
