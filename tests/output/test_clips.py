"""ClipBatch: what it holds, how it slices, and that npz gives it back."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from gaitcrafter_rt.clips import ClipBatch, condition_text
from gaitcrafter_rt.errors import DataFormatError, InvalidRequestError, OutputError, UnsupportedVersionError


def test_frames_are_unpacked_lazily(batch: ClipBatch) -> None:
    assert "frames" not in batch.__dict__
    frames = batch.frames
    assert frames.shape == (6, 30, 64, 64)
    assert frames.dtype == np.uint8
    assert set(np.unique(frames)) == {0, 255}
    np.testing.assert_array_equal(np.packbits(frames.reshape(6, -1) > 0, axis=1), batch.packed)
    assert batch.frames is frames


def test_indexing(batch: ClipBatch) -> None:
    np.testing.assert_array_equal(batch[-1], batch.frames[5])
    part = batch[1:3]
    assert len(part) == 2
    assert part.clip_indices.tolist() == [2**40 + 1, 2**40 + 2]
    assert part.conditions == batch.conditions[1:3]
    np.testing.assert_array_equal(batch[[4, 0]].frames, batch.frames[[4, 0]])
    assert sum(1 for _ in batch) == len(batch) == 6
    with pytest.raises(IndexError):
        batch[6]
    joined = ClipBatch.concatenate([batch[:2], batch[2:]])
    np.testing.assert_array_equal(joined.packed, batch.packed)


def test_conditions_have_one_form(batch: ClipBatch) -> None:
    assert batch.conditions[0] == {"identity": {"001": 1.0}, "view": {"090": 1.0}, "covariate": {"nm": 1.0}}
    assert batch.provenance["synthetic"] is True
    assert [batch.label(i) for i in (0, 1, 2, 3)] == [
        "001, view 090, nm", "0.5*001 + 0.5*002, view 090, bg", "002 + 001, view 000 + 0.5*018", "unconditional",
    ]  # fmt: skip
    assert condition_text({"cond": [0, 1]}) == "cond vector of 2"


def test_parts_must_fit(batch: ClipBatch) -> None:
    for changes in (
        {"packed": batch.packed[:, :-1]}, {"packed": batch.packed.astype(int)}, {"conditions": [{}]}, {"clip_indices": [1]},
        {"conditions": [{"person": "001"}] * 6}, {"shape": (30, 64, 44)},
    ):  # fmt: skip
        with pytest.raises(InvalidRequestError):
            ClipBatch(**({"packed": batch.packed, "shape": batch.shape, "conditions": batch.conditions, "seed": 0,
                          "clip_indices": batch.clip_indices} | changes))  # fmt: skip
    with pytest.raises(InvalidRequestError):
        ClipBatch.concatenate([])
    with pytest.raises(InvalidRequestError):
        ClipBatch.concatenate([batch, ClipBatch(batch.packed, batch.shape, batch.conditions, 1, batch.clip_indices)])


def test_npz_round_trip_and_plain_numpy(batch: ClipBatch, tmp_path: Path) -> None:
    path = batch.save_npz(tmp_path / "c.npz")
    back = ClipBatch.load_npz(path)
    assert (back.shape, back.seed, back.conditions, back.provenance) == (
        batch.shape,
        batch.seed,
        batch.conditions,
        batch.provenance,
    )
    np.testing.assert_array_equal(back.clip_indices, batch.clip_indices)
    np.testing.assert_array_equal(back.packed, batch.packed)
    with np.load(path) as z:  # the reading that the documentation promises, without this package
        f, h, w = z["shape"]
        frames = np.unpackbits(z["packed"], axis=1, count=f * h * w).reshape(-1, f, h, w)
        assert json.loads(str(z["provenance"]))["synthetic"] is True
    np.testing.assert_array_equal(frames * 255, batch.frames)
    assert batch.save_npz(tmp_path / "d.npz").read_bytes() == path.read_bytes()


def test_empty_batch(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    empty = make()[:0]
    assert len(ClipBatch.load_npz(empty.save_npz(tmp_path / "e.npz"))) == 0
    assert empty._repr_png_() is None
    assert "0 clips" in empty._repr_html_()


def test_files_are_never_overwritten(batch: ClipBatch, tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    path.write_text("precious")
    for save in (batch.save_npz, batch.save_gif, batch.save_webp, batch.save_sheet):
        with pytest.raises(OutputError, match="exists"):
            save(path)
    assert path.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["mine.npz"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="not writable"):
        batch.save_npz(tmp_path / "file" / "below.npz")


def test_a_full_disk_leaves_nothing(batch: ClipBatch, tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        for save in (batch.save_npz, batch.save_gif, batch.save_opengait):
            with pytest.raises(OutputError, match="could not be written"):
                save(tmp_path / "big")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def _rewrite(path: Path, name: str, data: bytes) -> None:
    with zipfile.ZipFile(path) as z:
        members = {n: z.read(n) for n in z.namelist()}
    path.unlink()
    with zipfile.ZipFile(path, "w") as z:
        for n, d in (members | {name: data}).items():
            z.writestr(n, d)


def _npy(value: object, **options: object) -> bytes:
    import io

    out = io.BytesIO()
    np.save(out, value, **options)  # type: ignore[arg-type]
    return out.getvalue()


HUGE = b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999, 15360), }".ljust(127) + b"\n"


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("packed.npy", _npy(np.array([print], object), allow_pickle=True), "does not fit"),
        ("packed.npy", _npy(np.zeros((6, 5), np.uint8)), "packed clips"),
        ("packed.npy", _npy(np.zeros((7, 15360), np.uint8)), "packed clips"),
        ("packed.npy", _npy(np.zeros((6, 15360), np.uint8))[:-9], "does not fit"),
        ("packed.npy", HUGE, "does not fit"),
        ("packed.npy", b"nothing", "not an array"),
        ("shape.npy", _npy(np.array([0, 64, 64])), "1..512"),
        ("shape.npy", _npy(np.array([30, 64])), "1..512"),
        ("conditions.npy", _npy(np.array("{}")), "conditions"),
        ("conditions.npy", _npy(np.array("[" * 100_000)), ""),
        ("conditions.npy", _npy(np.array('[{"identity": 5}]')), ""),
        ("seed.npy", _npy(np.array([1, 2])), ""),
        ("extra.npy", _npy(np.array(1)), "not clips"),
    ],
)  # fmt: skip
def test_hostile_npz(batch: ClipBatch, tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = batch.save_npz(tmp_path / "c.npz")
    _rewrite(path, name, data)
    with pytest.raises(DataFormatError, match=f"c.npz.*{message}"):
        ClipBatch.load_npz(path)


def test_npz_bombs_newer_versions_and_other_files(batch: ClipBatch, tmp_path: Path) -> None:
    path = batch.save_npz(tmp_path / "c.npz")
    _rewrite(path, "format_version.npy", _npy(np.int32(2)))
    with pytest.raises(UnsupportedVersionError, match="upgrade"):
        ClipBatch.load_npz(path)
    bomb = tmp_path / "bomb.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as z:
        for n in ("format_version", "shape", "seed", "clip_indices", "conditions", "provenance"):
            z.writestr(f"{n}.npy", b"")
        z.writestr("packed.npy", bytes(300 << 20), compresslevel=1)
    with pytest.raises(DataFormatError, match="zip bomb"):
        ClipBatch.load_npz(bomb)
    (tmp_path / "text").write_text("hello")
    for other in ("text", "absent"):
        with pytest.raises(DataFormatError, match="npz"):
            ClipBatch.load_npz(tmp_path / other)
