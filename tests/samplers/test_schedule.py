"""Schedules against the base network's own buffers; spacings against diffusers; both against the native code."""

from __future__ import annotations

from collections.abc import Callable

import native_sampler
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from peers import base_network

from gaitcrafter_rt.config import Diffusion, SamplerDefaults
from gaitcrafter_rt.errors import InvalidRequestError
from gaitcrafter_rt.samplers.schedule import alphas_cumprod, betas, spaced_timesteps
from gaitcrafter_rt.samplers.table import compile_rows

# numpy 2 on diffusers 0.42.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCHEDULERS = {
    "ddpm": DDPMScheduler, "ddim": DDIMScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler, "dpmpp_3m": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler,
}  # fmt: skip
COUNTS = [*range(1, 70), 100, 103, 121, 122, 125, 200, 201, 250, 333, 499, 500, 501, 667, 750, 998, 999, 1000]


def test_cosine_schedule_has_the_base_networks_values() -> None:
    abar = alphas_cumprod("cosine", 1000)
    golden = {
        0: 0.99995869, 250: 0.84588796, 500: 0.49228516, 750: 0.14317864, 998: 2.4287669e-06, 999: 2.4287669e-10
    }  # fmt: skip
    for t, value in golden.items():
        assert abar[t] == pytest.approx(value, rel=5e-8)
    b = betas("cosine", 1000)
    assert b[[0, 1, 999]] == pytest.approx([4.1284224e-05, 4.6141751e-05, 0.9999], rel=5e-8)
    assert 1 / np.sqrt(abar[998]) == pytest.approx(641.663, rel=1e-6)
    assert 1 / np.sqrt(abar[999]) == pytest.approx(64166.3, rel=1e-6)


@pytest.mark.parametrize("timesteps", [1000, 300])
def test_rows_are_the_base_networks_buffers(timesteps: int) -> None:
    diffusion = Diffusion(timesteps=timesteps)
    peer = base_network("rms_norm").GaussianDiffusion(
        torch.nn.Identity(), image_size=8, num_frames=2, timesteps=timesteps
    )

    def reversed_buffer(name: str) -> np.ndarray:
        return getattr(peer, name).numpy()[::-1].astype(np.float64)

    rows = compile_rows(SamplerDefaults(kind="ddpm", steps=timesteps), diffusion)
    assert [row.t for row in rows] == list(reversed(range(timesteps)))
    for name, values in {
        "sqrt_recip_alphas_cumprod": [row.a_x for row in rows],
        "sqrt_recipm1_alphas_cumprod": [-row.a_out for row in rows],
        "posterior_mean_coef1": [row.c_x0 for row in rows],
        "posterior_mean_coef2": [row.c_x for row in rows],
        "posterior_variance": [row.c_noise**2 for row in rows],
    }.items():
        np.testing.assert_allclose(values, reversed_buffer(name), rtol=1.2e-7, err_msg=name)


def test_linear_schedule_is_ddpms_at_1000_timesteps() -> None:
    theirs = DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear").betas
    np.testing.assert_allclose(betas("linear", 1000), theirs.numpy(), rtol=3e-7)
    np.testing.assert_allclose(betas("linear", 250)[[0, -1]], [4e-4, 0.08], rtol=1e-12)


@pytest.mark.parametrize("timesteps", [1, 20])
def test_linear_schedules_too_short_are_refused(timesteps: int) -> None:
    if timesteps == 1:
        assert betas("linear", 1).tolist() == [0.1]
        return
    with pytest.raises(InvalidRequestError, match="more than 20 timesteps"):
        betas("linear", timesteps)


@pytest.mark.parametrize("timesteps", [1000, 300, 50])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind", list(SCHEDULERS))
def test_timesteps_are_diffusers_timesteps(kind: str, spacing: str, timesteps: int) -> None:
    scheduler = SCHEDULERS[kind](num_train_timesteps=timesteps, timestep_spacing=spacing, steps_offset=0)
    compared = 0
    for steps in (n for n in COUNTS if n <= timesteps):
        scheduler.set_timesteps(steps)
        theirs = scheduler.timesteps.tolist()
        if theirs[-1] == -1 and len(theirs) == steps + 1:
            theirs.pop()  # diffusers' arange runs one over
        ours = _timesteps_or_none(lambda n=steps: spaced_timesteps(kind, spacing, n, timesteps))
        if ours is None:
            assert len(set(theirs)) < steps or theirs[0] == 0
            continue
        assert ours == theirs, steps
        compared += 1
        if steps in (1, 2, 7, 20, 61, 122, 333, 999):
            native = native_sampler.rows(
                SamplerDefaults(kind=kind, spacing=spacing, steps=steps), Diffusion(timesteps=timesteps)
            )
            assert native[:, 0].astype(int).tolist() == ours
            assert native[:, 1].tolist() == [1 + t for t in ours]
    assert compared >= sum(n <= timesteps for n in COUNTS) - 2


def _timesteps_or_none(f: Callable[[], list[int]]) -> list[int] | None:
    try:
        return f()
    except InvalidRequestError as error:
        if "use trailing spacing" not in str(error):
            raise
        return None


def test_some_trailing_counts_of_diffusers_end_at_minus_one() -> None:
    """The reason for the pop above; when this fails, diffusers was mended and the exception can go."""
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(61)
    assert scheduler.timesteps.tolist()[-1] == -1
    assert spaced_timesteps("ddim", "trailing", 61, 1000)[-1] == 15
