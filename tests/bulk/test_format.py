"""A shard read by somebody who has only pyarrow, bit order, flags, and files of strangers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from faulty_fs import MemoryFileSystem
from jobs import GRID, ROOT, run, shards
from stub import StubEngine, draw

from gaitcrafter_rt import ClipBatch
from gaitcrafter_rt.bulk import ClipDataset, Quality, ShardFile
from gaitcrafter_rt.bulk.conditions import Grid, identity_name
from gaitcrafter_rt.bulk.layout import Folder, ShardTable, Span, default_cut
from gaitcrafter_rt.bulk.quality import assess, names
from gaitcrafter_rt.bulk.reader import iterate
from gaitcrafter_rt.errors import DataFormatError, InvalidRequestError, UnsupportedVersionError


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("format") / "job"
    run(root, clips=100, shard_clips=80, block_clips=30)
    return root


def test_plain_pyarrow_reads_a_shard(job: Path) -> None:
    """Nothing of this package: the columns say it all, and the footer explains a lone file."""
    import pyarrow.parquet as pq

    path = job / "shards" / "shard-00000001.parquet"
    table = pq.read_table(path, page_checksum_verification=True)
    assert table.column_names == [
        "clip_index", "dataset", "identity", "identity_weights", "view", "covariate", "seed", "silhouette", "quality",
    ]  # fmt: skip
    assert table["clip_index"].to_pylist() == list(range(180, 200))
    assert table["seed"].to_pylist() == [3] * 20
    assert table["view"].to_pylist() == ["000", "090"] * 10
    assert table["identity"].to_pylist() == ["001", "001", "001=0.3+002=0.7", "001=0.3+002=0.7"] * 5
    assert table["identity_weights"].to_pylist()[2] == [{"label": "001", "weight": 0.3}, {"label": "002", "weight": 0.7}]
    assert table["covariate"].null_count == 20
    clips = np.stack([np.unpackbits(np.frombuffer(s, np.uint8)).reshape(4, 16, 16) for s in table["silhouette"].to_pylist()])
    conditions = [GRID.plain(n) for n in range(80, 100)]
    want = np.unpackbits(draw(3, np.arange(180, 200, dtype=np.uint64), (4, 16, 16), conditions), axis=1)
    np.testing.assert_array_equal(clips.reshape(20, -1), want)
    footer = pq.read_metadata(path).metadata
    assert footer[b"synthetic"] == b"true"
    about = json.loads(footer[b"gaitcrafter"])
    assert about["plan"]["model"]["name"] == "stub"
    assert about["plan"]["seed"] == 3
    assert (about["first"], about["clips"]) == (80, 20)
    first = pq.ParquetFile(job / "shards" / "shard-00000000.parquet").metadata
    assert [first.row_group(k).num_rows for k in range(first.num_row_groups)] == [64, 16]
    assert {first.row_group(0).column(c).compression for c in range(first.num_columns)} == {"ZSTD"}


def test_page_checksums_are_in_the_file(job: Path, tmp_path: Path) -> None:
    """pyarrow itself, told to look, notices a flipped bit in the middle of the silhouettes."""
    import pyarrow.parquet as pq

    data = bytearray((job / "shards" / "shard-00000000.parquet").read_bytes())
    column = pq.ParquetFile(job / "shards" / "shard-00000000.parquet").metadata.row_group(0).column(8)
    assert column.path_in_schema == "silhouette"
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    (tmp_path / "flipped").write_bytes(data)
    with pytest.raises(OSError, match=r"CRC|checksum"):
        pq.read_table(tmp_path / "flipped", columns=["silhouette"], page_checksum_verification=True)


def test_bit_order_by_hand() -> None:
    """Three pixels: the first of the clip, the second of the second row, the last of the clip."""

    class ThreePixels(StubEngine):
        def generate(self, conditions, seed=0, *, clip_indices, **settings):  # type: ignore[no-untyped-def]
            packed = np.zeros((len(clip_indices), 2 * 16 * 8 // 8), np.uint8)
            packed[:, 0], packed[:, 1], packed[:, -1] = 0b10000000, 0b01000000, 0b00000001
            return ClipBatch(packed, self.shape, conditions, seed, clip_indices)

    fs = MemoryFileSystem()
    run(ROOT, ThreePixels((2, 16, 8)), fs=fs, clips=1)
    with ClipDataset.open(ROOT, fs) as data:
        clip = data.read([0])[0]
    assert np.argwhere(clip).tolist() == [[0, 0, 0], [0, 1, 1], [1, 15, 7]]


def test_the_same_clips_are_the_same_bytes_whatever_the_blocks() -> None:
    made = []
    for block in (1, 7, 64, 80):
        fs = MemoryFileSystem()
        run(ROOT, fs=fs, clips=100, shard_clips=80, block_clips=block)
        made.append(shards(fs, ROOT))
    assert made[1:] == made[:-1]


def test_dataset_reads_any_clips_in_any_order(job: Path) -> None:
    with ClipDataset.open(job) as data:
        assert (len(data), data.shards, data.shape) == (100, [0, 1], (4, 16, 16))
        all_clips = ClipBatch.concatenate(list(data.batches()))
        assert all_clips.clip_indices.tolist() == list(range(100, 200))
        chosen = data.read([99, 0, 63, 64, 0])
        assert chosen.clip_indices.tolist() == [199, 100, 163, 164, 100]
        np.testing.assert_array_equal(chosen.packed, all_clips.packed[[99, 0, 63, 64, 0]])
        assert chosen.conditions == [GRID.plain(n) for n in (99, 0, 63, 64, 0)]
        assert chosen.provenance["synthetic"] is True
        assert chosen.provenance["model"] == "stub"
        for bad in ([100], [-1]):
            with pytest.raises(InvalidRequestError, match=r"outside 0\.\.99"):
                data.read(bad)
    with ShardFile(job / "shards" / "shard-00000001.parquet") as lone:
        assert sum(map(len, iterate(lone))) == 20


def test_failed_clips_have_no_silhouette(tmp_path: Path) -> None:
    root = tmp_path / "job"
    assert run(root, StubEngine(poison={103})).exit_code == 3
    import pyarrow.parquet as pq

    table = pq.read_table(root / "shards" / "shard-00000000.parquet")
    assert [k for k, s in enumerate(table["silhouette"].to_pylist()) if s is None] == [3]
    assert table["quality"].to_pylist()[3] == Quality.FAILED
    with ClipDataset.open(root) as data:
        assert [len(b) for b in data.batches()] == [7, 4]
        with pytest.raises(DataFormatError, match="quarantined"):
            data.read([3])


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 20, 20), (2, 9, 24)])
def test_quality_flags(shape: tuple[int, int, int]) -> None:
    _, height, width = shape
    walker = np.zeros((8, *shape), np.uint8)
    walker[:, :, 1:-1, width // 3 : width // 2] = 1
    walker[:, 0, 1, width // 2] = 1  # so that no clip is frozen by accident
    walker[1, 1] = 0
    walker[2, 1] = 1
    walker[3, 1] = 0
    walker[3, 1, 0, 0] = 1
    walker[4, 1] = 1
    walker[4, 1, 0, 0] = 0
    walker[5, 1, height // 2] = 0
    walker[6] = walker[6, 0]
    walker[7] = 0
    flags = assess(np.packbits(walker.reshape(8, -1), axis=1), shape)
    assert [names(int(f)) for f in flags] == [
        [], ["empty_frame"], ["full_frame"], ["little_foreground"], ["much_foreground"], ["broken"], ["frozen"],
        ["empty_frame", "frozen"],
    ]  # fmt: skip


def test_grid_is_prefix_stable_and_vectorised_alike() -> None:
    grid = Grid(identity=[{"001": 1.0}, {"002": 1.0}, {"002": 0.5, "001": 0.5}], view=["000", "090"], covariate=["nm"])
    assert grid.combinations == 6
    assert grid.plain(0) == {"identity": {"001": 1.0}, "covariate": {"nm": 1.0}, "view": {"000": 1.0}}
    assert grid.plain(11)["identity"] == {"001": 0.5, "002": 0.5}
    assert [grid.plain(n) for n in range(6)] == [grid.plain(n) for n in range(6, 12)]
    columns = grid.columns(3, 8)
    for k, plain in enumerate(grid.batch(3, 8)):
        assert columns["view"][k].as_py() == next(iter(plain["view"]))
        assert columns["identity"][k].as_py() == identity_name(plain["identity"])
        assert {e["label"]: e["weight"] for e in columns["identity_weights"][k].as_py()} == plain["identity"]
        assert columns["dataset"][k].as_py() is None
    assert Grid().combinations == 1
    assert Grid().plain(7) == {}


def test_identity_names_are_unique_and_fit_a_folder() -> None:
    many = {f"{k:03d}": 1.0 for k in range(100)}
    other = {**many, "000": 2.0}
    assert identity_name({"001": 1.0}) == "001"
    assert len({identity_name(many), identity_name(other)}) == 2
    assert len(identity_name(many)) < 200


def test_shards_tile_the_clips() -> None:
    table = ShardTable([Span(0, 100, 30, 7), Span(100, 101, 64, 1), Span(101, 250, 50, 50)])
    covered = [n for shard in table for n in range(shard.first, shard.first + shard.clips)]
    assert covered == list(range(250))
    for shard in table:
        blocks = [shard.block(b) for b in range(shard.blocks)]
        inside = [n for first, count in blocks for n in range(first, first + count)]
        assert inside == list(range(shard.first, shard.first + shard.clips))
    assert [table.of_clip(n).number for n in (0, 29, 30, 99, 100, 101, 249)] == [0, 0, 1, 3, 4, 5, 7]
    with pytest.raises(IndexError):
        table.of_clip(250)


@pytest.mark.parametrize("clips", [1, 63, 64, 1000, 4096, 262144, 262145, 10**6, 10**9])
def test_default_cut(clips: int) -> None:
    shard, block = default_cut(clips)
    assert 1 <= block <= 64
    assert 64 <= shard <= 4096
    assert shard % block == 0
    assert clips <= 262144 or (shard, block) == (4096, 64)
    assert -(-clips // shard) <= max(64, clips // 4096 + 1)


def rewritten(path: Path, target: Path, change) -> Path:  # type: ignore[no-untyped-def]
    """A shard with another footer or other rows, its Parquet sound."""
    import pyarrow.parquet as pq

    table, metadata = pq.read_table(path), dict(pq.read_metadata(path).metadata)
    about = json.loads(metadata[b"gaitcrafter"])
    table, about = change(table, about)
    with pq.ParquetWriter(target, table.schema.remove_metadata(), compression="zstd", write_page_checksum=True) as out:
        out.write_table(table.replace_schema_metadata(None), row_group_size=64)
        out.add_key_value_metadata({"gaitcrafter": json.dumps(about)})
    return target


HOSTILE = {
    "newer": lambda t, a: (t, {**a, "format_version": 2}),
    "not synthetic": lambda t, a: (t, {**a, "synthetic": False}),
    "no plan": lambda t, a: (t, {k: v for k, v in a.items() if k != "plan"}),
    "another plan": lambda t, a: (t, {**a, "plan": {**a["plan"], "seed": 4}}),
    "huge clips": lambda t, a: (t, {**a, "plan": {**a["plan"], "clip": {"frames": 512, "height": 512, "width": 512}}}),
    "row count lies": lambda t, a: (t, {**a, "clips": 10**9}),
    "fewer rows": lambda t, a: (t.slice(0, 10), a),
    "no hashes": lambda t, a: (t, {**a, "row_groups": []}),
    "hash of something else": lambda t, a: (t, {**a, "row_groups": [hashlib.sha256(b"").hexdigest()]}),
    "missing column": lambda t, a: (t.drop_columns(["quality"]), a),
    "other clip index": lambda t, a: (t.take(list(range(19, -1, -1))), a),
    "text where a number must be": lambda t, a: (t, {**a, "first": "0"}),
    "a list": lambda t, a: (t, [1]),
}


@pytest.mark.parametrize("lie", HOSTILE)
def test_shards_of_strangers(job: Path, tmp_path: Path, lie: str) -> None:
    from gaitcrafter_rt.bulk.verify import verify

    path = rewritten(job / "shards" / "shard-00000001.parquet", tmp_path / "shard", HOSTILE[lie])
    report = verify(path)
    assert len(report.problems) == 1
    assert "gaitcrafter" not in report.problems[0].text.lower() or "upgrade" in report.problems[0].text
    if lie == "newer":
        with pytest.raises(UnsupportedVersionError):
            ShardFile(path)


def test_not_shards(tmp_path: Path) -> None:
    for name, data in (("empty", b""), ("text", b"PAR1 but not really"), ("magic", b"PAR1" + b"\xff" * 100 + b"PAR1")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataFormatError):
            ShardFile(tmp_path / name)
    with pytest.raises(DataFormatError):
        ShardFile(tmp_path / "absent")
    with pytest.raises(DataFormatError, match=r"no plan\.json"):
        ClipDataset.open(tmp_path)
    assert Folder(tmp_path).shard(3).name == "shard-00000003.parquet"


def test_shards_of_the_first_release_are_read() -> None:
    """tests/bulk/golden holds a shard as format version 1 wrote it; every later release must read it."""
    path = Path(__file__).parent / "golden" / "shard-version-1.parquet"
    from gaitcrafter_rt.bulk.verify import verify

    assert verify(path).ok
    with ShardFile(path) as file:
        (batch,) = iterate(file)
    assert batch.clip_indices.tolist() == [100, 101, 102, 103]
    assert batch.conditions[2] == {"identity": {"001": 0.3, "002": 0.7}, "view": {"000": 1.0}}
    want = draw(3, batch.clip_indices, (4, 16, 16), batch.conditions)
    np.testing.assert_array_equal(batch.packed, want)
