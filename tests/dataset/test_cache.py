"""The cache: read by numpy alone, equal to the shards, atomic, and wary of strangers."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs import GRID, request, run
from stub import StubEngine, draw

from gaitcrafter_rt.bulk import ClipDataset, Quality, open_or_create, run_job
from gaitcrafter_rt.bulk.filesystem import LocalFileSystem
from gaitcrafter_rt.bulk.interrupts import Interrupt
from gaitcrafter_rt.cli.main import main
from gaitcrafter_rt.dataset import ClipCache, Selection, build_cache, open_source
from gaitcrafter_rt.dataset.cached import decode
from gaitcrafter_rt.errors import DataFormatError, InvalidRequestError, OutputError, UnsupportedVersionError

SHAPE = (4, 16, 16)


@pytest.fixture(scope="module")
def cache(job: Path, tmp_path_factory: pytest.TempPathFactory) -> ClipCache:
    return build_cache(job, tmp_path_factory.mktemp("cache") / "cache")


def test_numpy_alone_reads_it(cache: ClipCache) -> None:
    """Documented layout, nothing of this package: the labels and bits of what the stub engine draws."""
    root = cache.folder
    meta = json.loads((root / "cache.json").read_text())
    record = [("clip_index", "<u8"), ("seed", "<u8"), ("dataset", "<i4"), ("identity", "<i4"), ("view", "<i4"),
              ("covariate", "<i4"), ("origin", "<u4"), ("quality", "<u2"), ("reserved", "<u2")]  # fmt: skip
    index = np.memmap(root / "index.bin", record, "r")
    bits = np.memmap(root / "silhouettes.bin", np.uint8, "r").reshape(meta["clips"], meta["clip_bytes"])
    numbers = [n for n in range(200) if n != 117]
    assert meta["clips"] == len(index) == len(numbers)
    assert index["clip_index"].tolist() == [100 + n for n in numbers]
    assert set(index["seed"].tolist()) == {3}
    assert [meta["labels"]["view"][k] for k in index["view"]] == [("000", "090")[n % 2] for n in numbers]
    assert [meta["labels"]["identity"][k] for k in index["identity"]] == [("001", "001=0.3+002=0.7")[n // 2 % 2] for n in numbers]
    assert set(index["covariate"].tolist()) == {-1}
    assert meta["identity_weights"] == {"001=0.3+002=0.7": {"001": 0.3, "002": 0.7}}
    want = draw(3, np.array([100 + n for n in numbers], np.uint64), SHAPE, [GRID.plain(n) for n in numbers])
    np.testing.assert_array_equal(bits, want)
    assert meta["origins"][0]["plan"]["model"]["name"] == "stub"
    assert meta["synthetic"] is True
    sums = json.loads((root / "checksums.json").read_text())["sha256"]
    for name in ("cache.json", "index.bin"):
        assert hashlib.sha256((root / name).read_bytes()).hexdigest() == sums[name]
    assert hashlib.sha256((root / "silhouettes.bin").read_bytes()).hexdigest() == meta["chunks_sha256"][0]


def test_clips_are_those_of_the_job(job: Path, cache: ClipCache) -> None:
    wanted = [150, 3, 3, 60]
    places = [n - (n > 117) for n in wanted]
    with ClipDataset.open(job) as data:
        batch = data.read(wanted)
    got = cache.batch(places)
    np.testing.assert_array_equal(got.packed, batch.packed)
    assert got.conditions == batch.conditions
    assert got.provenance == batch.provenance
    assert got.seed == batch.seed
    np.testing.assert_array_equal(got.clip_indices, batch.clip_indices)
    np.testing.assert_array_equal(cache.read(places), batch.frames)
    floats = cache.read(places, "float32", foreground=0.5)
    np.testing.assert_array_equal(floats, (batch.frames > 0) * np.float32(0.5))
    out = np.full((2, *SHAPE), 9, np.uint8)
    assert cache.read([0, 1], foreground=1, out=out) is out
    np.testing.assert_array_equal(out, cache.read([0, 1]) // 255)
    assert cache.read([]).shape == (0, *SHAPE)
    cache.verify()


@given(st.integers(1, 5), st.integers(1, 12), st.integers(4, 9), st.integers(4, 9), st.integers(0, 2**32))
def test_decode_is_unpackbits(count: int, frames: int, height: int, width: int, seed: int) -> None:
    pixels = frames * height * width
    packed = np.random.default_rng(seed).integers(0, 256, (count, (pixels + 7) // 8), np.uint8)
    want = np.unpackbits(packed, axis=1, count=pixels).reshape(count, frames, height, width)
    np.testing.assert_array_equal(decode(packed, (frames, height, width), foreground=1), want)
    np.testing.assert_array_equal(decode(packed, (frames, height, width), "float32"), want.astype(np.float32))
    rows = np.random.default_rng(seed).integers(0, count, 7)
    np.testing.assert_array_equal(decode(packed, (frames, height, width), foreground=1, rows=rows), want[rows])


def test_bad_requests(cache: ClipCache) -> None:
    for bad in ([-1], [len(cache)], [0.5], [[0]], [2**63]):
        with pytest.raises(InvalidRequestError, match=r"indices (run from 0 to|must be a list)"):
            cache.read(bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="pixels must be"):
        cache.read([0], "bits")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="1 to 255"):
        cache.read([0], foreground=0)
    with pytest.raises(InvalidRequestError, match="out must be"):
        cache.read([0], out=np.zeros((1, 4, 16, 15), np.uint8))
    with pytest.raises(InvalidRequestError, match="bytes do not hold"):
        decode(np.zeros((4, 2), np.uint8), (1, 8, 1), rows=np.array([0]))


def test_only_the_path_is_pickled(cache: ClipCache) -> None:
    data = pickle.dumps(cache)
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data).packed, cache.packed)


def test_selections(job: Path, tmp_path: Path) -> None:
    side = build_cache(job, tmp_path / "side", Selection.of({"view": ["090"], "identity": ["001"]}))
    assert {side.labels["view"][k] for k in side.records["view"]} == {"090"}
    assert side.labels["identity"] == ["001"]
    assert side.records["clip_index"].tolist() == [n + 100 for n in range(200) if n % 4 == 1 and n != 117]
    first = build_cache(job, tmp_path / "first", Selection.of(limit=70))
    assert len(first) == 70
    assert len(build_cache(job, tmp_path / "any", Selection.of({"covariate": ["any"]}))) == 199
    with pytest.raises(InvalidRequestError, match="no clip there for view 045"):
        build_cache(job, tmp_path / "none", Selection.of({"view": ["045"]}))
    with pytest.raises(InvalidRequestError, match="no clip there for plan ffff"):
        build_cache(job, tmp_path / "none", Selection.of(plan="ffff"))
    with pytest.raises(InvalidRequestError, match="no quality flag 'ugly'"):
        Selection.of(without=["ugly"])
    with pytest.raises(InvalidRequestError, match="no axis"):
        Selection.of({"shoe": ["x"]})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["any", "first", "side"]


def test_quality_flags_select(tmp_path: Path) -> None:
    class Torn(StubEngine):
        def generate(self, conditions, seed=0, **more):  # type: ignore[no-untyped-def]
            batch = super().generate(conditions, seed, **more)
            batch.packed[batch.clip_indices % 3 == 0, : 16 * 16 // 8] = 0
            return batch

    run(tmp_path / "job", Torn(), clips=30)
    whole = build_cache(tmp_path / "job", tmp_path / "all")
    flagged = (whole.records["quality"] & int(Quality.EMPTY_FRAME)) != 0
    assert flagged.tolist() == [int(i) % 3 == 0 for i in whole.records["clip_index"]]
    clean = build_cache(tmp_path / "job", tmp_path / "clean", Selection.of(without=["empty_frame"]))
    np.testing.assert_array_equal(clean.packed, whole.packed[~flagged])


def test_again_is_nothing_and_other_clips_are_refused(job: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    build_cache(job, out)
    before = {p.name: (p.stat().st_ino, p.read_bytes()) for p in out.iterdir()}
    build_cache(job, out)
    assert {p.name: (p.stat().st_ino, p.read_bytes()) for p in out.iterdir()} == before
    with pytest.raises(OutputError, match="cache of other clips"):
        build_cache(job, out, Selection.of(limit=3))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(OutputError, match="not an empty folder"):
        build_cache(job, tmp_path / "mine")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "mine"], "no temporary folder is left"
    copy = shutil.copytree(job, tmp_path / "elsewhere")
    build_cache(copy, out)  # the same clips, wherever they lie


def test_an_unfinished_job_and_a_cache_of_a_cache(job: Path, cache: ClipCache, tmp_path: Path) -> None:
    fs, engine = LocalFileSystem(), StubEngine()
    opened = open_or_create(fs, tmp_path / "job", request(clips=40), engine)
    stop = Interrupt()
    engine.before = lambda indices: stop.request() if int(indices[0]) >= 120 else None
    run_job(opened, engine, fs=fs, workers=0, interrupt=stop, grace=0)
    source = open_source(tmp_path / "job")
    assert source.missing >= 1
    made = build_cache(tmp_path / "job", tmp_path / "cache")
    assert 0 < len(made) < 40
    again = build_cache(cache.folder, tmp_path / "again", Selection.of({"view": ["000"]}))
    np.testing.assert_array_equal(again.packed, cache.packed[cache.records["view"] == 0])
    assert again.origins == cache.origins


def test_loose_shards(job: Path, cache: ClipCache, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    for file in sorted((job / "shards").iterdir()):
        shutil.copy(file, loose / f"{file.stem[-1]}-renamed.parquet")
    made = build_cache(loose, tmp_path / "cache")
    np.testing.assert_array_equal(made.packed, cache.packed)
    one = build_cache(loose / "1-renamed.parquet", tmp_path / "one")
    np.testing.assert_array_equal(one.packed, cache.packed[64 : 64 + 63])
    with pytest.raises(DataFormatError, match="no data set there"):
        open_source(tmp_path / "nowhere")


def test_a_full_disk_leaves_nothing(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        build_cache(job, tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def reseal(folder: Path) -> None:
    """Checksums that fit whatever was changed: what a hostile maker would hand over."""
    sums = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in ("cache.json", "index.bin")}
    (folder / "checksums.json").write_text(json.dumps({"format_version": 1, "sha256": sums}))


def test_strangers_caches(cache: ClipCache, tmp_path: Path) -> None:
    root = shutil.copytree(cache.folder, tmp_path / "cache")
    good = json.loads((root / "cache.json").read_text())

    def refused(kind: type[Exception] = DataFormatError, match: str | None = None, **changes: object) -> None:
        (root / "cache.json").write_text(json.dumps({**good, **changes}))
        reseal(root)
        with pytest.raises(kind, match=match):
            ClipCache.open(root)

    refused(UnsupportedVersionError, "format_version 2 is newer", format_version=2)
    for field, bad in {
        "format": "x", "format_version": True, "synthetic": False, "clips": 2**33, "frames": 513, "height": 0, "width": "64",
        "clip_bytes": 127, "labels": {"view": []}, "origins": [], "chunk_clips": 1, "chunks_sha256": [],
    }.items():  # fmt: skip
        refused(**{field: bad})
    refused(match="bytes there", clips=198, chunks_sha256=["0" * 64])
    (root / "cache.json").write_text(json.dumps(good))
    reseal(root)
    ClipCache.open(root)
    index = np.fromfile(root / "index.bin", cache.records.dtype)
    for column, value in (("identity", 2), ("view", -2), ("covariate", 0), ("origin", 1)):
        bad_index = index.copy()
        bad_index[column][7] = value
        bad_index.tofile(root / "index.bin")
        reseal(root)
        with pytest.raises(DataFormatError, match=f"{column} holds"):
            ClipCache.open(root)
    index.tofile(root / "index.bin")
    reseal(root)
    (root / "index.bin").write_bytes((root / "index.bin").read_bytes()[:-1] + b"\1")
    with pytest.raises(DataFormatError, match="sha256"):
        ClipCache.open(root)
    index.tofile(root / "index.bin")
    for at in range(0, len(cache) * 128, 997):
        data = bytearray((cache.folder / "silhouettes.bin").read_bytes())
        data[at] ^= 1 << at % 8
        (root / "silhouettes.bin").write_bytes(data)
        with pytest.raises(DataFormatError, match="clips 0 to 198 do not fit"):
            ClipCache.open(root).verify()


def test_golden_cache() -> None:
    """A cache of the first release of the format, which every later one reads."""
    golden = ClipCache.open(Path(__file__).parents[1] / "fixtures" / "cache-version-1")
    golden.verify()
    want = draw(3, np.arange(100, 104, dtype=np.uint64), SHAPE, [GRID.plain(n) for n in range(4)])
    np.testing.assert_array_equal(golden.packed, want)
    assert golden.labels["identity"] == ["001", "001=0.3+002=0.7"]


def test_command_line(job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cache"
    assert main(["dataset", "cache", str(job), str(out), "--views", "000", "--without", "empty_frame,broken", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["clips"], told["shape"], told["labels"]["identity"]) == (100, [4, 16, 16], 2)
    assert main(["dataset", "cache", str(job), str(out), "--views", "090"]) == 5
    assert main(["dataset", "cache", str(tmp_path / "none"), str(out)]) == 4
