"""Clips that are broken on purpose, one way at a time: a panel that does not flag each of them is not to be believed.

Each takes uint8 [N, F, H, W] of 0 and 1 and returns the same shape; ``key`` seeds what is random, per clip number.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..evaluate.agreement import near_boundary

COLLAPSED_TO = 8
FLICKER = 0.02


def shuffled(clips: np.ndarray, key: int = 0) -> np.ndarray:
    """The frames in another order: no set of frames can tell."""
    return np.stack([clip[_rng(key, i).permutation(len(clip))] for i, clip in enumerate(clips)])


def frozen(clips: np.ndarray, key: int = 0) -> np.ndarray:
    """The first frame for ever."""
    return np.repeat(clips[:, :1], clips.shape[1], axis=1)


def dilated(clips: np.ndarray, key: int = 0) -> np.ndarray:
    """Every figure a pixel thicker all around (four neighbours)."""
    out = clips.copy()
    out[:, :, 1:] |= clips[:, :, :-1]
    out[:, :, :-1] |= clips[:, :, 1:]
    out[..., 1:] |= clips[..., :-1]
    out[..., :-1] |= clips[..., 1:]
    return out


def collapsed(clips: np.ndarray, key: int = 0) -> np.ndarray:
    """Eight clips over and over, whatever was asked for."""
    chosen = _rng(key, 0).choice(len(clips), min(COLLAPSED_TO, len(clips)), replace=False)
    return clips[chosen[np.arange(len(clips)) % len(chosen)]]


def edge_flicker(clips: np.ndarray, key: int = 0) -> np.ndarray:
    """2 % of the pixels at an edge flipped, frame by frame."""
    out = clips.copy()
    for i, clip in enumerate(clips):
        hit = near_boundary(clip != 0) & (_rng(key, i).random(clip.shape) < FLICKER)
        out[i] ^= hit.astype(np.uint8)
    return out


CONTROLS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "frames shuffled": shuffled,
    "frozen": frozen,
    "dilated": dilated,
    "mode collapse": collapsed,
    "2 % edge flicker": edge_flicker,
}


def _rng(key: int, clip: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[key, clip]))
