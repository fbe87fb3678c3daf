"""Moving pictures: GIF and WebP through Pillow, MP4 through imageio-ffmpeg (extra ``video``)."""

from __future__ import annotations

import io
import math
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ..clips import ClipBatch
from ..errors import InvalidRequestError, MissingExtraError, OutputError
from ..files import PathLike, new_file, refuse_existing_file
from .canvas import FAINT, MARGIN, blank, checked, enlarge, fit, text_width, write
from .labels import label_lines

MAX_CLIPS = 64
_TEXT = 12
_GAP = 6


def draw_frames(batch: ClipBatch, *, scale: int = 3, columns: int | None = None) -> list[Image.Image]:
    """All clips in a grid, each with its labels below, one greyscale picture per frame.

    Raises InvalidRequestError for no clips or more than 64, or a bad ``scale`` (1..8) or ``columns`` (1..64).
    """
    count = len(batch)
    if not 1 <= count <= MAX_CLIPS:
        raise InvalidRequestError(
            f"an animation shows 1 to {MAX_CLIPS} clips, got {count}: slice the batch, as in batch[:{MAX_CLIPS}]"
        )
    scale = checked("scale", scale, 1, 8)
    columns = checked("columns", columns or min(count, max(1, math.ceil(math.sqrt(count * 1.6)))), 1, MAX_CLIPS)
    columns = min(columns, count)
    rows = -(-count // columns)
    _, height, width = batch.shape
    cell_w, cell_h = width * scale, height * scale
    captions = [[batch.label(i)] for i in range(count)]
    if any(text_width(text, _TEXT) > cell_w for (text,) in captions):
        captions = [list(label_lines(batch, i)) for i in range(count)]
    line = len(captions[0]) * (_TEXT + 2) + 4
    page = blank(2 * MARGIN + columns * (cell_w + _GAP) - _GAP, 2 * MARGIN + rows * (cell_h + line + _GAP) - _GAP)
    corners = [(MARGIN + (i % columns) * (cell_w + _GAP), MARGIN + (i // columns) * (cell_h + line + _GAP)) for i in range(count)]
    for i, (x, y) in enumerate(corners):
        for k, text in enumerate(captions[i]):
            place = (x + cell_w // 2, y + cell_h + 3 + k * (_TEXT + 2))
            write(page, *place, fit(text, _TEXT, cell_w), _TEXT, ink=FAINT, anchor="ma")
    base = np.asarray(page)
    pictures = []
    for frame in range(batch.shape[0]):
        picture = base.copy()
        for i, (x, y) in enumerate(corners):
            picture[y : y + cell_h, x : x + cell_w] = enlarge(batch.frames[i, frame], scale)
        pictures.append(Image.fromarray(picture))
    return pictures


def animation_bytes(
    batch: ClipBatch, kind: Literal["gif", "webp"], *, scale: int = 3, fps: float = 25, columns: int | None = None
) -> bytes:
    """An endless animation as bytes. ``fps`` is 1..50; CASIA-B was filmed at 25."""
    if not 1 <= fps <= 50:
        raise InvalidRequestError(f"fps must lie in 1..50, got {fps!r}")
    pictures = draw_frames(batch, scale=scale, columns=columns)
    out = io.BytesIO()
    options = {"save_all": True, "append_images": pictures[1:], "loop": 0}
    if kind == "gif":
        # GIF counts time in hundredths of a second.
        pictures[0].save(out, "GIF", duration=max(2, round(100 / fps)) * 10, **options)
    else:
        pictures[0].save(out, "WEBP", duration=round(1000 / fps), lossless=True, method=3, **options)
    return out.getvalue()


def save_animation(
    batch: ClipBatch, path: PathLike, kind: Literal["gif", "webp"], *, scale: int = 3, fps: float = 25, columns: int | None = None
) -> Path:
    """Write an animated GIF or WebP. Raises OutputError if ``path`` exists or cannot be written."""
    refuse_existing_file(path)
    data = animation_bytes(batch, kind, scale=scale, fps=fps, columns=columns)
    with new_file(path) as f:
        f.write(data)
    return Path(path)


def save_mp4(
    batch: ClipBatch, path: PathLike, *, scale: int = 4, fps: float = 25, columns: int | None = None, loops: int = 4
) -> Path:
    """Write an H.264 video. Raises MissingExtraError without the extra ``video``, OutputError if ``path`` exists."""
    try:
        import imageio_ffmpeg
    except ImportError as e:
        raise MissingExtraError.for_extra("video", "writing MP4", e.name) from e
    if not 1 <= fps <= 120:
        raise InvalidRequestError(f"fps must lie in 1..120, got {fps!r}")
    loops = checked("loops", loops, 1, 1000)
    refuse_existing_file(path)
    pictures = [_even(np.asarray(p)) for p in draw_frames(batch, scale=scale, columns=columns)]
    height, width = pictures[0].shape
    with new_file(path) as f, tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "clip.mp4"
        writer = imageio_ffmpeg.write_frames(
            str(made), (width, height), pix_fmt_in="gray", pix_fmt_out="yuv420p", fps=fps, codec="libx264",
            quality=None, macro_block_size=1, ffmpeg_log_level="error", output_params=["-crf", "12", "-movflags", "+faststart"],
        )  # fmt: skip
        try:
            writer.send(None)
            for picture in pictures * loops:
                writer.send(np.ascontiguousarray(picture))
            writer.close()
        except OSError as e:
            raise OutputError(f"{path}: the video writer failed: {e}") from e
        f.write(made.read_bytes())
    return Path(path)


def _even(picture: np.ndarray) -> np.ndarray:
    # H.264 with 4:2:0 colour needs even sides.
    return np.pad(picture, ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2)), constant_values=255)
