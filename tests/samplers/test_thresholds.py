"""Dynamic thresholds against torch.quantile, packing against numpy.packbits, native code against both."""

from __future__ import annotations

import native_sampler
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gaitcrafter_rt.errors import InvalidRequestError
from gaitcrafter_rt.samplers.thresholds import check_threshold, pack_clip, threshold

FLOATS = st.floats(-1e6, 1e6, width=32)


@pytest.mark.parametrize("percentile", [0.001, 0.5, 0.9, 0.95, 0.995, 0.9999])
@pytest.mark.parametrize("n", [1, 2, 5, 384, 30 * 64 * 64])
def test_dynamic_limit_is_torchs_quantile(n: int, percentile: float) -> None:
    x0 = (np.random.default_rng(n).standard_normal(n) * 3).astype(np.float32)
    want = max(1.0, torch.quantile(torch.from_numpy(x0).double().abs(), percentile).item())
    assert native_sampler.dynamic_limit(x0, percentile) == pytest.approx(want, rel=2e-7)
    np.testing.assert_allclose(threshold(x0, "dynamic", percentile), x0.clip(-want, want) / want, rtol=5e-7)


@settings(deadline=None, max_examples=200)
@given(hnp.arrays(np.float32, st.integers(1, 60), elements=FLOATS), st.floats(0.01, 0.99))
def test_dynamic_limit_of_any_values(x0: np.ndarray, percentile: float) -> None:
    want = max(1.0, float(np.quantile(np.abs(x0).astype(np.float64), percentile)))
    assert native_sampler.dynamic_limit(x0, percentile) == pytest.approx(want, rel=5e-7)


def test_thresholding_keeps_dtype_and_range() -> None:
    x0 = np.array([-3, -1, -0.2, 0, 0.7, 5], np.float32)
    assert threshold(x0, "none") is x0
    np.testing.assert_array_equal(threshold(x0, "clip"), np.float32([-1, -1, -0.2, 0, 0.7, 1]))
    for kind in ("clip", "dynamic"):
        got = threshold(x0, kind)
        assert got.dtype == np.float32
        assert np.abs(got).max() == 1
    small = x0 / 10
    np.testing.assert_array_equal(threshold(small, "dynamic"), small)


@settings(deadline=None, max_examples=200)
@given(
    hnp.arrays(np.float32, st.integers(1, 70), elements=st.floats(-1, 1, width=32) | st.just(float("nan"))),
    st.floats(0, 1, width=32),
)
def test_packing_is_packbits(x: np.ndarray, value: float) -> None:
    packed, non_finite = native_sampler.pack(x, value)
    level = np.float32(2) * np.float32(value) - np.float32(1)
    np.testing.assert_array_equal(packed, np.packbits(x > level))
    np.testing.assert_array_equal(packed, pack_clip(x, value))
    assert non_finite == np.isnan(x).sum()


def test_binarisation_thresholds_outside_the_range_are_refused() -> None:
    for value in (-0.01, 1.01, float("nan")):
        with pytest.raises(InvalidRequestError, match="0 to 1"):
            check_threshold(value)
