"""The engine's noise in numpy, bit for bit: the test oracle of ``csrc/noise/normal.cc``.

Integers: Philox4x32-10 (Salmon et al., SC 2011). Floats: float32 operations in the same order as the C++, each rounded
once, so the bits must agree on every processor (docs/samplers.md, "Noise").
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = np.float32
_MASK = np.uint64(0xFFFFFFFF)
_MUL = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)

# csrc/noise/fit_polynomials.py prints these.
_LN = [
    F32(c)
    for c in (
        0.333333313, -0.24999997, 0.200007156, -0.166678026, 0.142490581,
        -0.124256872, 0.116854198, -0.114797339, 0.0697161183,
    )
]  # fmt: skip
_SIN = [F32(c) for c in (6.28318548, -41.3416634, 81.5925446, -75.4016113)]
_COS = [F32(c) for c in (1.0, -19.7392082, 64.9393158, -85.4428482, 59.2201691)]
_LN2_HIGH, _LN2_LOW = F32(0.693359375), F32(-2.12194440e-4)
_SQRT_HALF_BITS = np.uint32(0x3F3504F3)
_TWO_TO_MINUS_24 = F32(2.0**-24)


def philox4x32(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Philox4x32-10 words of ``counter`` (..., 4) under one key, same shape."""
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _MUL[0] * c0, _MUL[1] * c2
        c0, c1, c2, c3 = (
            (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            p1 & _MASK,
            (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def ln_unit(u: NDArray[np.float32]) -> NDArray[np.float32]:
    """Natural logarithm of float32 values in (0, 1]."""
    offset = u.view(np.uint32) - _SQRT_HALF_BITS
    e = (offset.view(np.int32) >> 23).astype(F32)
    f = ((offset & np.uint32(0x007FFFFF)) + _SQRT_HALF_BITS).view(F32) - F32(1)
    g = f * f
    p = np.full_like(f, _LN[8])
    for c in _LN[7::-1]:
        p = p * f + c
    y = f * g * p
    y = y + e * _LN2_LOW
    y = y - F32(0.5) * g
    return (f + y) + e * _LN2_HIGH


def sincos_turns(turns: NDArray[np.uint32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(sin, cos) of 2 pi turns / 2^24, turns in 0..2^24 - 1."""
    t = turns.astype(np.int32)
    quarter = (t + np.int32(1 << 21)) >> 22
    f = (t - (quarter << 22)).astype(F32) * _TWO_TO_MINUS_24
    g = f * f
    s = f * (((_SIN[3] * g + _SIN[2]) * g + _SIN[1]) * g + _SIN[0])
    c = (((_COS[4] * g + _COS[3]) * g + _COS[2]) * g + _COS[1]) * g + _COS[0]
    odd = (quarter & 1).astype(bool)
    sin, cos = np.where(odd, c, s), np.where(odd, s, c)
    return np.where(quarter & 2, -sin, sin), np.where((quarter + 1) & 2, -cos, cos)


def normals(seed: int, clip: int, stream: int, n: int) -> NDArray[np.float32]:
    """Elements 0..n-1 of a clip's noise stream, float32 (n,). Stream 0 is x_T, 1 + t the noise of timestep t."""
    blocks = -(-n // 4)
    counter = np.empty((blocks, 4), np.uint32)
    counter[:, 0] = np.arange(blocks, dtype=np.uint32)
    counter[:, 1] = stream
    counter[:, 2] = clip & 0xFFFFFFFF
    counter[:, 3] = clip >> 32
    words = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))
    u1 = ((words[:, 0::2] >> np.uint32(8)) + np.uint32(1)).astype(F32) * _TWO_TO_MINUS_24
    r = np.sqrt(F32(-2) * ln_unit(u1))
    sin, cos = sincos_turns(words[:, 1::2] >> np.uint32(8))
    return np.stack([r * cos, r * sin], axis=-1).reshape(-1)[:n]
