"""Rows of the native table against the Python table, and what both refuse."""

from __future__ import annotations

from itertools import product
from typing import Any

import native_sampler
import numpy as np
import pytest

from gaitcrafter_rt.config import Diffusion, SamplerDefaults
from gaitcrafter_rt.errors import InvalidRequestError
from gaitcrafter_rt.samplers.table import coefficients, compile_rows

SAMPLERS: list[dict[str, Any]] = [
    {"kind": "ddpm", "steps": 1000},
    {"kind": "ddpm", "steps": 37},
    {"kind": "ddim", "steps": 20},
    {"kind": "ddim", "steps": 20, "rederive_eps": False},
    {"kind": "ddim", "steps": 50, "eta": 1.0, "spacing": "leading"},
    {"kind": "ddim", "steps": 33, "eta": 0.4, "spacing": "linspace", "rederive_eps": False},
    {"kind": "dpmpp_2m", "steps": 1},
    {"kind": "dpmpp_2m", "steps": 2},
    {"kind": "dpmpp_2m", "steps": 20},
    {"kind": "dpmpp_2m", "steps": 15, "spacing": "leading"},
    {"kind": "dpmpp_2m", "steps": 999, "spacing": "linspace"},
    {"kind": "dpmpp_3m", "steps": 1},
    {"kind": "dpmpp_3m", "steps": 2},
    {"kind": "dpmpp_3m", "steps": 14},
    {"kind": "dpmpp_3m", "steps": 15, "spacing": "leading"},
    {"kind": "unipc", "steps": 1},
    {"kind": "unipc", "steps": 3},
    {"kind": "unipc", "steps": 20, "spacing": "leading"},
]


@pytest.mark.parametrize("options", SAMPLERS, ids=str)
def test_native_rows_are_the_python_rows(options: dict[str, Any]) -> None:
    settings = SamplerDefaults(**options)
    for prediction, schedule in product(("x0", "eps", "v"), ("cosine", "linear")):
        diffusion = Diffusion(prediction=prediction, schedule=schedule)
        native = native_sampler.rows(settings, diffusion)
        python = coefficients(compile_rows(settings, diffusion))
        np.testing.assert_array_equal(native[:, 0], python[:, 0])
        np.testing.assert_allclose(native[:, 2:], python[:, 1:], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("options", "timesteps", "message"),
    [
        ({"steps": 1001}, 1000, r"steps is 1001; this model allows 1 to 1000"),
        ({"steps": 301}, 300, r"steps is 301; this model allows 1 to 300"),
        (
            {"kind": "dpmpp_2m", "eta": 0.5},
            1000,
            r"eta is 0\.5 but dpmpp_2m is deterministic; set eta to 0 or use ddim",
        ),
        ({"kind": "unipc", "eta": 0.5}, 1000, r"eta is 0\.5 but unipc is deterministic; set eta to 0 or use ddim"),
        ({"kind": "ddpm", "eta": 1.0}, 1000, r"eta is 1\.0 but ddpm has no eta .*set eta to 0 or use ddim"),
        ({"kind": "dpmpp_2m", "steps": 1000, "spacing": "linspace"}, 1000, r"visits a timestep twice; use trailing"),
        ({"kind": "dpmpp_2m", "steps": 1000, "spacing": "leading"}, 1000, r"visits a timestep twice; use trailing"),
        ({"steps": 1, "spacing": "linspace"}, 1000, r"begin at timestep 0.*use trailing"),
        ({"steps": 1, "spacing": "leading"}, 1000, r"begin at timestep 0.*use trailing"),
    ],
)
def test_both_refuse_alike(options: dict[str, Any], timesteps: int, message: str) -> None:
    settings, diffusion = SamplerDefaults(**options), Diffusion(timesteps=timesteps)
    with pytest.raises(InvalidRequestError, match=message) as python:
        compile_rows(settings, diffusion)
    with pytest.raises(InvalidRequestError, match=message) as native:
        native_sampler.rows(settings, diffusion)
    assert str(native.value) == str(python.value)


def test_one_timestep_is_enough_for_a_model_of_one() -> None:
    settings, diffusion = SamplerDefaults(steps=1, spacing="leading"), Diffusion(timesteps=1)
    native = native_sampler.rows(settings, diffusion)
    assert native[0, 0] == 0
    np.testing.assert_allclose(native[:, 2:], coefficients(compile_rows(settings, diffusion))[:, 1:], rtol=1e-12)
