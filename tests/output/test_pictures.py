"""Sheets and moving pictures, read back with other readers."""

from __future__ import annotations

import base64
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gaitcrafter_rt.clips import ClipBatch
from gaitcrafter_rt.errors import InvalidRequestError, MissingExtraError
from gaitcrafter_rt.output.animation import draw_frames
from gaitcrafter_rt.output.canvas import fit, text_width


def holds(picture: np.ndarray, frame: np.ndarray, scale: int) -> bool:
    """Whether the frame, enlarged, stands somewhere in the picture, pixel for pixel."""
    want = np.repeat(np.repeat(frame, scale, 0), scale, 1)
    windows = np.lib.stride_tricks.sliding_window_view(picture, want.shape)[:, :, want.shape[0] // 2, :]
    near = np.argwhere((windows == want[want.shape[0] // 2]).all(axis=2))
    return any((picture[y : y + want.shape[0], x : x + want.shape[1]] == want).all() for y, x in near)


def test_sheet_shows_clips_down_and_frames_across(batch: ClipBatch, tmp_path: Path) -> None:
    picture = np.asarray(Image.open(batch.save_sheet(tmp_path / "s.png", frames=5, scale=2)))
    assert picture.ndim == 2
    for clip in (0, 5):
        for frame in (0, 6, 24):
            assert holds(picture, batch[clip][frame], 2)
    assert not holds(picture, 255 - batch[0][0], 2)
    # Labels: ink left of the first row of clips.
    assert (picture[:, :60] < 128).any()


def test_sheet_labels_differ_with_the_labels(make: Callable[..., ClipBatch]) -> None:
    from gaitcrafter_rt.output.sheet import draw_sheet

    a, b = (np.asarray(draw_sheet(make([{"identity": name}]), frames=1)) for name in ("001", "002"))
    assert a.shape == b.shape
    assert (a != b).any()


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_animations(batch: ClipBatch, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    getattr(batch, f"save_{kind}")(path, scale=1, fps=25)
    with Image.open(path) as picture:
        assert picture.format == kind.upper()
        assert picture.n_frames == 30
        lasts = []
        for frame in (0, 7, 29):
            picture.seek(frame)
            picture.load()
            shown = np.asarray(picture.convert("L"))
            lasts.append(picture.info["duration"])
            assert holds(shown, batch[2][frame], 1)
        assert lasts == [40, 40, 40]
        assert picture.info["loop"] == 0


def test_video(batch: ClipBatch, tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="the extra 'video' is not installed")
    path = batch[:2].save_mp4(tmp_path / "v.mp4", scale=2, loops=2)
    reader = ffmpeg.read_frames(str(path))
    about = next(reader)
    width, height = about["size"]
    frames = [np.frombuffer(f, np.uint8).reshape(height, width, 3)[..., 0] for f in reader]
    assert len(frames) == 60
    assert about["fps"] == 25
    assert about["codec"] == "h264"
    want = np.repeat(np.repeat(batch[0][4], 2, 0), 2, 1)
    got = frames[4][8 : 8 + 128, 8 : 8 + 128]
    assert np.abs(got.astype(int) - want).mean() < 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v.mp4"]


def test_video_without_the_extra(batch: ClipBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingExtraError, match=r"gaitcrafter-rt\[video\]"):
        batch.save_mp4(tmp_path / "v.mp4")


def test_notebook_pictures(batch: ClipBatch) -> None:
    assert Image.open(io.BytesIO(batch._repr_png_())).format == "PNG"
    html = batch._repr_html_()
    gif = base64.b64decode(re.search(r"base64,([^\"]+)", html).group(1))
    assert Image.open(io.BytesIO(gif)).n_frames == 30
    assert "6 clips" in html


def test_notebook_escapes_what_strangers_named(batch: ClipBatch) -> None:
    batch.provenance["model"] = '"><script>alert(1)</script>'
    assert "<script>" not in batch._repr_html_()


@pytest.mark.parametrize(
    "save, options",
    [
        ("save_sheet", {"frames": 0}), ("save_sheet", {"scale": 9}), ("save_sheet", {"scale": True}), ("save_gif", {"fps": 0}),
        ("save_gif", {"fps": 51}), ("save_gif", {"columns": 65}), ("save_webp", {"scale": 0}),
    ],
)  # fmt: skip
def test_bad_options(batch: ClipBatch, tmp_path: Path, save: str, options: dict) -> None:
    with pytest.raises(InvalidRequestError):
        getattr(batch, save)(tmp_path / "x", **options)
    assert list(tmp_path.iterdir()) == []


def test_too_many_and_no_clips(make: Callable[..., ClipBatch], tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="slice the batch"):
        make([{}] * 65, (2, 16, 16)).save_gif(tmp_path / "x")
    with pytest.raises(InvalidRequestError, match="at least one"):
        make()[:0].save_sheet(tmp_path / "x")
    with pytest.raises(InvalidRequestError, match="smaller scale"):
        make([{}] * 300, (10, 64, 64)).save_sheet(tmp_path / "x", frames=10, scale=8)


def test_text_fits() -> None:
    assert fit("short", 13, 200) == "short"
    cut = fit("a very long identity name " * 10, 13, 100)
    assert cut.endswith("...")
    assert text_width(cut, 13) <= 100
    assert fit("a\nb\x00", 13, 200) == "a b "


def test_captions_that_do_not_fit_take_two_lines(make: Callable[..., ClipBatch]) -> None:
    """The cells of clips of 32 pixels at scale 2 hold a view, and no blend beside it."""
    short = make([{"view": "090"}], (1, 32, 32))
    long = make([{"view": "090", "identity": {"001": 1, "002": 1}}], (1, 32, 32))
    one, two = (draw_frames(batch, scale=2)[0] for batch in (short, long))
    assert two.width == one.width
    assert two.height == one.height + 14
    text = np.asarray(two)[-2 * 14 - 8 :]
    assert (text[:14] < 200).any() and (text[14:] < 200).any()
