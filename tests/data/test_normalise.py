"""OpenGait's normalisation: the resize against another implementation, and the contract of its output."""

import numpy as np
import pytest

from gaitcrafter_rt.data.normalise import normalise_silhouettes, resize_cubic
from gaitcrafter_rt.errors import InvalidRequestError


def person(rows=240, columns=320, top=60, bottom=180, left=100, right=140):
    frame = np.zeros((rows, columns), np.uint8)
    frame[top:bottom, left:right] = 255
    frame[top : top + 20, left + 12 : right] = 0
    return frame


@pytest.mark.parametrize(
    ("rows", "columns", "height", "width"), [(115, 90, 64, 50), (30, 40, 64, 85), (64, 64, 64, 64)]
)
def test_resize_agrees_with_torch_bicubic(rows, columns, height, width):
    torch = pytest.importorskip("torch", reason="torch (extra 'train') is the other implementation")
    image = np.random.default_rng(rows).integers(0, 256, (rows, columns)).astype(np.uint8)
    # Also a = -0.75, half-pixel centres, repeated edges and no smoothing.
    ours = resize_cubic(image, height, width)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None, None].double(), (height, width), mode="bicubic", align_corners=False
    )[0, 0].numpy()
    # Weights in 1/2048 and the final rounding: at most one grey level.
    assert np.abs(ours - theirs.clip(0, 255)).max() <= 1.0
    assert ours.dtype == np.uint8


def test_output_fills_the_height_and_is_centred_wherever_the_person_stands():
    frames = np.stack([person(left=left, right=left + 40) for left in (0, 100, 279)])
    result = normalise_silhouettes(frames)
    assert result.shape == (3, 64, 64) and result.dtype == np.uint8
    assert result[:, 0].any(1).all() and result[:, -1].any(1).all()
    mass = result.sum(1, dtype=int).cumsum(1)
    assert ((mass > mass[:, -1:] / 2).argmax(1) == 32).all()


def test_aspect_is_kept():
    result = normalise_silhouettes([person(top=20, bottom=220)])[0]
    columns = np.flatnonzero((result > 127).any(axis=0))
    assert columns[-1] - columns[0] + 1 == pytest.approx(40 * 64 / 200, abs=1)


def test_wide_foreground_is_cut_and_other_sizes_work():
    frame = np.zeros((100, 400), np.uint8)
    frame[20:60, 20:380] = 255
    assert (normalise_silhouettes([frame]) == 255).all()
    assert normalise_silhouettes([person()], size=128).shape == (1, 128, 128)


def test_frames_with_hardly_any_foreground_are_dropped():
    small = np.zeros((240, 320), np.uint8)
    small[:3, :13] = 255  # 39 pixels: 9945
    assert normalise_silhouettes([small, person(), small * 0]).shape[0] == 1
    small[3, 0] = 255  # 40 pixels: 10200
    assert normalise_silhouettes([small]).shape[0] == 1
    assert normalise_silhouettes([]).shape == (0, 64, 64)


@pytest.mark.parametrize(
    ("frames", "word"),
    [
        ([person().astype(float)], "uint8"), ([person()[None]], "rows, columns"), (["x"], "str"),
        ([np.zeros((0, 4), np.uint8)], "1..8192"), ([np.zeros((1, 8193), np.uint8)], "1..8192"),
        ([np.full((1, 8192), 255, np.uint8)], "columns"),
    ],
)  # fmt: skip
def test_bad_frames(frames, word):
    with pytest.raises(InvalidRequestError, match=word):
        normalise_silhouettes(frames)


@pytest.mark.parametrize("size", [0, 7, 63, 2048, 64.0, True])
def test_bad_sizes(size):
    with pytest.raises(InvalidRequestError, match="size"):
        normalise_silhouettes([person()], size=size)
