"""Noise: published integers, exact functions, bits of the native code, and the statistics of what comes out."""

from __future__ import annotations

import hashlib

import native_sampler
import numpy as np
import pytest
from scipy import stats

from gaitcrafter_rt.samplers.noise_reference import ln_unit, normals, philox4x32, sincos_turns

CLIP = 30 * 64 * 64


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers_of_random123(counter: str, key: str, words: str) -> None:
    def parse(text: str) -> list[int]:
        return [int(word, 16) for word in text.split()]

    k0, k1 = parse(key)
    got = philox4x32(np.array(parse(counter), np.uint32), (k0, k1))
    assert got.tolist() == parse(words)


def test_logarithm_is_within_one_ulp_everywhere() -> None:
    k = np.arange(1, 2**24, 7, dtype=np.uint32)  # 2.4 million of the 16.8 million inputs, and the ends
    k = np.concatenate([k, np.arange(2**24 - 4096, 2**24, dtype=np.uint32), np.arange(1, 4096, dtype=np.uint32)])
    u = k.astype(np.float32) * np.float32(2.0**-24)
    exact = np.log(u.astype(np.float64))
    ulps = np.abs(ln_unit(u) - exact) / np.spacing(np.abs(exact).astype(np.float32))
    assert 0.5 < ulps.max() < 0.9
    assert ln_unit(np.float32([1])) == 0


def test_sine_and_cosine_are_within_1e7_everywhere() -> None:
    k = np.concatenate([np.arange(0, 2**24, 7), np.arange(0, 2**24 + 1, 2**21)[:-1]]).astype(np.uint32)
    sin, cos = sincos_turns(k)
    angle = 2 * np.pi * k.astype(np.float64) / 2**24
    assert 1e-8 < np.abs(sin - np.sin(angle)).max() < 9e-8
    assert 1e-8 < np.abs(cos - np.cos(angle)).max() < 9e-8
    quarters = np.array([0, 1, 2, 3], np.uint32) << np.uint32(22)
    sin, cos = sincos_turns(quarters)
    assert sin.tolist() == [0, 1, 0, -1]
    assert cos.tolist() == [1, 0, -1, 0]


@pytest.mark.parametrize("isa", list(native_sampler.ISAS))
def test_native_bits_are_the_reference_bits(isa: str) -> None:
    if not native_sampler.isa_supported(isa):
        pytest.skip(f"this processor has no {isa}")
    for seed, clip, stream, n in [
        (0, 0, 0, CLIP),
        (2**64 - 1, 2**64 - 1, 1000, CLIP),
        (0xDEADBEEF << 20, 1 << 33, 1, 1021),
    ]:
        ours, want = native_sampler.normals(isa, seed, clip, stream, n), normals(seed, clip, stream, n)
        assert ours.tobytes() == want.tobytes()


def test_the_first_clip_of_seed_0_never_changes() -> None:
    digest = hashlib.sha256(normals(0, 0, 0, CLIP).tobytes()).hexdigest()
    assert digest == "578049e5df3ab18d55786610d58c1a7f3f598fbfb68e2c5a062de5e49aa71f75"


def test_normals_are_standard_normal() -> None:
    n = 8 * CLIP
    z = np.concatenate([normals(7, clip, 0, CLIP) for clip in range(8)]).astype(np.float64)
    assert abs(z.mean()) < 4 / np.sqrt(n)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs(stats.skew(z)) < 4 * np.sqrt(6 / n)
    assert abs(stats.kurtosis(z)) < 4 * np.sqrt(24 / n)
    assert stats.kstest(z, "norm").pvalue > 0.001
    assert np.abs(z).max() > 4.5


def test_streams_and_clips_are_uncorrelated() -> None:
    series = [normals(*key, CLIP) for key in [(1, 0, 0), (1, 0, 1), (1, 1, 0), (2, 0, 0), (1, 1 << 32, 0)]]
    series.append(np.roll(series[0], 1))
    series.append(np.roll(series[0], 64))
    correlation = np.corrcoef(np.array(series, np.float64)) - np.eye(len(series))
    assert np.abs(correlation).max() < 5 / np.sqrt(CLIP)
