"""The packed training set: exact bits back, whole or absent, hostile folders refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from gaitcrafter_rt.data.packed import SPLIT_TEST, PackedClips, PackedWriter
from gaitcrafter_rt.errors import DataFormatError, InvalidRequestError, OutputError, UnsupportedVersionError

LABELS = {"dataset": [], "identity": ["001", "002"], "view": ["000", "090"], "covariate": ["nm"]}


def make(folder: Path, count: int = 5, shape: tuple[int, int, int] = (3, 8, 8)) -> np.ndarray:
    clips = (np.random.default_rng(0).random((count, *shape)) < 0.3).astype(np.uint8)
    f, h, w = shape
    with PackedWriter(folder, labels=LABELS, source="rendered", frames=f, height=h, width=w, terms="free", made_by="test") as out:
        for i, clip in enumerate(clips):
            out.append(
                clip * 255, identity="002" if i % 2 else "001", view=i % 2, covariate=None, sequence=i, split=int(i == count - 1)
            )
    return clips


@pytest.mark.parametrize("shape", [(3, 8, 8), (30, 64, 64), (3, 5, 5)], ids=["small", "paper", "bits not a multiple of 8"])
def test_round_trip(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    clips = make(tmp_path / "set", shape=shape)
    packed = PackedClips.open(tmp_path / "set")
    assert len(packed) == 5
    np.testing.assert_array_equal(packed.batch([4, 0, 0]), clips[[4, 0, 0]])
    np.testing.assert_array_equal(packed.clips[-1], clips[-1])
    np.testing.assert_array_equal(packed.clips[1:3], clips[1:3])
    np.testing.assert_array_equal(np.asarray(packed.bits), np.packbits(clips.reshape(5, -1), axis=1))
    assert packed.names(1) == {"dataset": None, "identity": "002", "view": "090", "covariate": None}
    assert packed.select(identity="001", split=SPLIT_TEST).tolist() == [4]
    assert isinstance(packed.bits, np.memmap)
    packed.verify()


def test_bit_order_is_pinned_by_hand(tmp_path: Path) -> None:
    clip = np.zeros((1, 4, 4), np.uint8)
    clip[0, 0, 0] = clip[0, 0, 3] = clip[0, 3, 3] = 1
    with PackedWriter(tmp_path / "s", labels={}, source="real", frames=1, height=4, width=4) as out:
        out.append(clip)
    assert PackedClips.open(tmp_path / "s").bits[0].tolist() == [0b1001_0000, 0b0000_0001]


def test_travels_to_workers_by_name(tmp_path: Path) -> None:
    make(tmp_path / "set")
    data = pickle.dumps(PackedClips.open(tmp_path / "set"))
    assert len(data) < 1000
    assert len(pickle.loads(data)) == 5


def test_many_rows_keep_the_header_size(tmp_path: Path) -> None:
    with PackedWriter(tmp_path / "s", labels={}, source="rendered", frames=1, height=4, width=4) as out:
        for _ in range(3):
            out.append_packed(np.ones((40_000, 2), np.uint8))
    assert np.load(tmp_path / "s" / "clips.npy").shape == (120_000, 2)


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError), PackedWriter(tmp_path / "s", labels={}, source="real") as out:
        out.append_many(np.zeros((2, 30, 64, 64), np.uint8), sequence=[1])
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    make(tmp_path / "set")
    with pytest.raises(OutputError, match="not an empty folder"):
        make(tmp_path / "set")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError):
        make(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "set"]


@pytest.mark.parametrize(
    "labels, message",
    [
        ({"identity": "003"}, "001, 002"),
        ({"identity": 2}, "-1 to 1"),
        ({"dataset": 0}, "-1 to -1"),
        ({"split": 2}, "0 to 1"),
        ({"sequence": -2}, "allowed is -1"),
        ({"view": 0.5}, "whole number"),
    ],
)
def test_bad_labels_are_named(tmp_path: Path, labels: dict, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message), PackedWriter(tmp_path / "s", labels=LABELS, source="real") as out:
        out.append(np.zeros((30, 64, 64), np.uint8), **labels)
    assert not (tmp_path / "s").exists()


def test_bad_shape_source_and_emptiness(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="64, 64"), PackedWriter(tmp_path / "s", labels={}, source="real") as out:
        out.append(np.zeros((30, 64, 44), np.uint8))
    with pytest.raises(InvalidRequestError, match="source"):
        PackedWriter(tmp_path / "s", labels={}, source="fake")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="at least one"), PackedWriter(tmp_path / "s", labels={}, source="real"):
        pass
    assert list(tmp_path.iterdir()) == []


def _meta(folder: Path, **changes: object) -> None:
    path = folder / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: _meta(d, clips=6), "meta.json says"),
        (lambda d: _meta(d, clips=2**39), "meta.json says"),
        (lambda d: _meta(d, frames=10**9), "frames"),
        (lambda d: _meta(d, format="other"), "format"),
        (lambda d: _meta(d, extra=1), "extra"),
        (lambda d: _meta(d, labels={"identity": ["001"], "view": ["000", "090"]}), "identity.npy holds 1"),
        (lambda d: (d / "meta.json").write_text("[" * 100_000), "not JSON"),
        (lambda d: (d / "meta.json").unlink(), "walkers render"),
        (lambda d: (d / "view.npy").unlink(), "view.npy"),
        (lambda d: np.save(d / "view.npy", np.zeros(5, np.int64)), "int64"),
        (lambda d: np.save(d / "split.npy", np.full(5, 9, np.uint8)), "split.npy holds 9"),
        (lambda d: np.save(d / "sequence.npy", np.full(5, -9, np.int32)), "-9"),
        (lambda d: (d / "clips.npy").write_bytes((d / "clips.npy").read_bytes()[:-1]), "clips.npy"),
        (lambda d: np.save(d / "clips.npy", np.array([print] * 5), allow_pickle=True), "clips.npy"),
    ],
)
def test_damaged_and_hostile_folders_are_refused(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path / "set")
    change(tmp_path / "set")
    with pytest.raises(DataFormatError, match=message):
        PackedClips.open(tmp_path / "set")


def test_newer_version(tmp_path: Path) -> None:
    make(tmp_path / "set")
    _meta(tmp_path / "set", format_version=2)
    with pytest.raises(UnsupportedVersionError, match="upgrade"):
        PackedClips.open(tmp_path / "set")


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    make(tmp_path / "set")
    path = tmp_path / "set" / "clips.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataFormatError, match="sha256"):
        PackedClips.open(tmp_path / "set").verify()


@pytest.mark.parametrize("indices", [[5], [-1], [[0]], [0.5]])
def test_bad_batch_indices(tmp_path: Path, indices: list) -> None:
    make(tmp_path / "set")
    with pytest.raises(InvalidRequestError):
        PackedClips.open(tmp_path / "set").batch(indices)
