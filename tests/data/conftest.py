"""Made-up trees in the layouts of public data sets. The silhouettes are a walking toy figure, nobody's recording."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def make_figure(frames: int = 32, size: int = 64, start: int = 0, period: float = 26.0) -> np.ndarray:
    """uint8 [T, size, size], 0 and 255: a head, a trunk, and two legs that swing with ``period`` frames."""
    t = (np.arange(frames) + start)[:, None, None]
    y, x = np.arange(size)[None, :, None] * 64 / size, np.arange(size)[None, None, :] * 64 / size
    swing = np.sin(2 * np.pi * t / period) * (y - 36) * 0.55
    legs = ((abs(x - 32 - swing) < 3.2) | (abs(x - 32 + swing) < 3.2)) & (y >= 36)
    body = ((y - 6.5) ** 2 + (x - 32) ** 2 < 42) | ((abs(x - 32) < 6.5) & (y > 11) & (y < 38))
    return ((legs | body) * 255).astype(np.uint8)


def make_raw(frames: int = 32) -> np.ndarray:
    """The figure as a camera sees it: somewhere in a larger picture, uint8 [T, 120, 160]."""
    out = np.zeros((frames, 120, 160), np.uint8)
    for t, frame in enumerate(make_figure(frames, 96)):
        out[t, 12:108, 10 + t : 106 + t] = frame
    return out


@pytest.fixture
def figure() -> Callable[..., np.ndarray]:
    return make_figure


@pytest.fixture
def raw() -> Callable[..., np.ndarray]:
    return make_raw


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """``put("001/nm-01/090/090.pkl", array)`` pickles; a name that ends in .png saves one frame."""

    def write(name: str, content: object, protocol: int = 4) -> Path:
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".png"):
            Image.fromarray(content).save(path)  # type: ignore[arg-type]
        else:
            path.write_bytes(pickle.dumps(content, protocol))
        return tmp_path / "tree"

    return write
