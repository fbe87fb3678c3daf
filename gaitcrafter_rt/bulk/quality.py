"""Quality flags: what is odd about a clip, told beside it and never acted on."""

from __future__ import annotations

from enum import IntFlag

import numpy as np

# Foreground of one frame as a share of its pixels, outside of which a walker is not plausible: 50 and 3000 of 64 x 64.
LITTLE, MUCH = 50 / 4096, 3000 / 4096


class Quality(IntFlag):
    """Bits of the column ``quality`` (uint16). 0 is a clip without findings."""

    FAILED = 1
    """No silhouette: the clip was quarantined, its receipt says why."""
    NON_FINITE = 2
    """The network returned values that are not finite (comes with FAILED)."""
    EMPTY_FRAME = 4
    """Some frame has no foreground."""
    FULL_FRAME = 8
    """Some frame is all foreground."""
    LITTLE_FOREGROUND = 16
    """Some frame has less than 1.2 % foreground (and some)."""
    MUCH_FOREGROUND = 32
    """Some frame has more than 73 % foreground (and is not full)."""
    BROKEN = 64
    """In some frame an empty row lies between rows with foreground: the figure is torn across."""
    FROZEN = 128
    """All frames are equal."""


def assess(packed: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Flags of clips. uint8 [N, bytes] of clips [frames, height, width] to uint16 [N]."""
    frames, height, width = shape
    count = len(packed)
    if width % 8:
        bits = np.unpackbits(packed, axis=1, count=frames * height * width).reshape(count, frames, height, width)
        rows = bits
        area = bits.sum((2, 3), dtype=np.int64)
    else:
        rows = packed.reshape(count, frames, height, width // 8)
        area = _popcount(rows.reshape(count, frames, -1))
    occupied = _any_set(rows)
    figures = occupied[..., 0] + np.count_nonzero(occupied[..., 1:] & ~occupied[..., :-1], axis=-1)
    pixels = height * width
    found = (
        (Quality.EMPTY_FRAME, area == 0),
        (Quality.FULL_FRAME, area == pixels),
        (Quality.LITTLE_FOREGROUND, (area > 0) & (area < LITTLE * pixels)),
        (Quality.MUCH_FOREGROUND, (area < pixels) & (area > MUCH * pixels)),
        (Quality.BROKEN, figures > 1),
    )
    flags = np.zeros(count, np.uint16)
    for flag, in_frame in found:
        flags |= np.where(in_frame.any(1), np.uint16(flag), np.uint16(0))
    if frames > 1:
        still = (rows == rows[:, :1]).reshape(count, -1).all(1)
        flags |= np.where(still, np.uint16(Quality.FROZEN), np.uint16(0))
    return flags


def names(flags: int) -> list[str]:
    """``["empty_frame", "frozen"]``."""
    return [flag.name.lower() for flag in Quality if flags & flag and flag.name]


def count(flags: np.ndarray) -> dict[str, int]:
    """How many clips carry each flag; flags that none carries are left out."""
    totals = {str(f.name).lower(): int(np.count_nonzero(flags & np.uint16(f))) for f in Quality}
    return {name: n for name, n in totals.items() if n}


_BITS = np.array([bin(i).count("1") for i in range(256)], np.uint8)


def _popcount(groups: np.ndarray) -> np.ndarray:
    """Set bits per group. uint8 [N, F, bytes] to int64 [N, F]."""
    if hasattr(np, "bitwise_count"):  # numpy 2
        wide = groups.view(np.uint64) if groups.shape[-1] % 8 == 0 else groups
        return np.bitwise_count(wide).sum(-1, dtype=np.int64)
    return _BITS[groups].sum(-1, dtype=np.int64)


def _any_set(rows: np.ndarray) -> np.ndarray:
    """uint8 [N, F, H, bytes] to bool [N, F, H]."""
    if rows.shape[-1] == 8:
        return rows.view(np.uint64)[..., 0] != 0
    return np.asarray(rows.any(-1))
