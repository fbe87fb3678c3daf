"""Drawing shared by contact sheets and animations."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import InvalidRequestError

PAPER, INK, FAINT = 255, 0, 110
MARGIN = 8
_MAX_PIXELS = 64_000_000


@lru_cache(maxsize=8)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, so that pictures look alike everywhere."""
    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> int:
    """Width of one line in pixels. Control characters count as spaces."""
    return int(np.ceil(font(size).getlength(_one_line(text))))


def fit(text: str, size: int, width: int) -> str:
    """``text`` cut with an ellipsis so that it is at most ``width`` pixels wide. Control characters become spaces."""
    text = _one_line(text)
    if text_width(text, size) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text_width(text[:middle] + "...", size) <= width else (low, middle - 1)
    return text[:low] + "..."


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def enlarge(frames: np.ndarray, scale: int) -> np.ndarray:
    """Each pixel of uint8 [..., H, W] becomes a square of ``scale`` pixels."""
    return np.repeat(np.repeat(frames, scale, axis=-2), scale, axis=-1)


def blank(width: int, height: int) -> Image.Image:
    """A white greyscale picture. Raises InvalidRequestError beyond 64 million pixels."""
    if width * height > _MAX_PIXELS:
        raise InvalidRequestError(
            f"the picture would be {width}x{height}; at most {_MAX_PIXELS} pixels are allowed: take fewer clips or a smaller scale"
        )
    return Image.new("L", (width, height), PAPER)


def write(picture: Image.Image, x: int, y: int, text: str, size: int, *, ink: int = INK, anchor: str = "la") -> None:
    """Draw one line of text with its anchor at (x, y)."""
    ImageDraw.Draw(picture).text((x, y), text, fill=ink, font=font(size), anchor=anchor)


def checked(name: str, value: int, low: int, high: int) -> int:
    """``value`` if it is a whole number in low..high. Raises InvalidRequestError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise InvalidRequestError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
    return int(value)
