"""Whole trajectories: the reference samplers against diffusers and the base network, the native loop against the reference.

diffusers is given our betas (trained_betas: its own cosine schedule caps them elsewhere) and our noise. Its tables, which are
fp32, are checked against ours and then replaced, so that whole trajectories can be compared in double.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import product
from typing import Any

import native_sampler
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from diffusers.schedulers import scheduling_ddpm
from gaussian_model import gaussian_denoiser, relative_l2
from numpy.typing import NDArray
from peers import base_network

from gaitcrafter_rt.config import Diffusion, SamplerDefaults
from gaitcrafter_rt.samplers.noise_reference import normals
from gaitcrafter_rt.samplers.reference import sample
from gaitcrafter_rt.samplers.schedule import alphas_cumprod, betas
from gaitcrafter_rt.samplers.table import compile_rows, run_rows
from gaitcrafter_rt.samplers.thresholds import pack_clip

SHAPE = (3, 16, 8)
N = 3 * 16 * 8
SEED, CLIP = 11, 5
# numpy 2 on diffusers 0.42.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LIMITS_AND_SCHEDULES = [("none", "cosine"), ("clip", "cosine"), ("dynamic", "cosine"), ("none", "linear")]
# diffusers' class and options of our multistep kinds.
MULTISTEP: dict[str, tuple[Any, dict[str, Any]]] = {
    "dpmpp_2m": (DPMSolverMultistepScheduler, {}),
    "dpmpp_3m": (DPMSolverMultistepScheduler, {"solver_order": 3}),
    "unipc": (UniPCMultistepScheduler, {"solver_order": 2, "solver_type": "bh2", "final_sigmas_type": "zero"}),
}
PREDICTIONS = {"x0": "sample", "eps": "epsilon", "v": "v_prediction"}


def clip_noise(stream: int) -> NDArray[np.float32]:
    return normals(SEED, CLIP, stream, N)


def reference(settings: SamplerDefaults, diffusion: Diffusion, dtype: type = np.float64) -> NDArray[Any]:
    """x_0 (N,) of our reference sampler in ``dtype``, from the clip's own noise streams."""
    return sample(
        gaussian_denoiser(diffusion),
        clip_noise(0).astype(dtype),
        settings,
        diffusion,
        lambda t: clip_noise(1 + t).astype(dtype),
    )


def thresholding_options(settings: SamplerDefaults) -> dict[str, Any]:
    """diffusers' words for our thresholding. Its multistep solvers have no clip_sample: dynamic with a maximum of 1 is that."""
    dynamic = settings.thresholding == "dynamic"
    options: dict[str, Any] = {
        "thresholding": dynamic,
        "dynamic_thresholding_ratio": settings.dynamic_percentile,
        "sample_max_value": 1e6 if dynamic else 1.0,
    }
    if settings.kind in MULTISTEP:
        options["thresholding"] = settings.thresholding != "none"
    else:
        options["clip_sample"] = settings.thresholding == "clip"
    return options


def make_scheduler(settings: SamplerDefaults, diffusion: Diffusion) -> Any:
    """diffusers' scheduler with our betas, and with its fp32 tables replaced by ours in double."""
    kinds = {"ddpm": (DDPMScheduler, {}), "ddim": (DDIMScheduler, {}), **MULTISTEP}
    scheduler_class, solver = kinds[settings.kind]
    scheduler = scheduler_class(
        num_train_timesteps=diffusion.timesteps,
        trained_betas=betas(diffusion.schedule, diffusion.timesteps),
        prediction_type=PREDICTIONS[diffusion.prediction],
        timestep_spacing=settings.spacing,
        **thresholding_options(settings),
        **solver,
    )
    abar = torch.from_numpy(alphas_cumprod(diffusion.schedule, diffusion.timesteps))
    # The same schedule, but for the fp32 of 1 - beta: at t = 999 that keeps only 4 digits of 1 - 0.9999.
    np.testing.assert_allclose(scheduler.alphas_cumprod[:-1].numpy(), abar[:-1].numpy(), rtol=1e-5)
    scheduler.alphas_cumprod = abar
    scheduler.set_timesteps(settings.steps)
    if settings.kind in MULTISTEP:
        exact = ((1 - abar) / abar).sqrt()[scheduler.timesteps]
        np.testing.assert_allclose(scheduler.sigmas[:-1].numpy(), exact.numpy(), rtol=1e-6)
        scheduler.sigmas = torch.cat([exact, torch.zeros(1, dtype=torch.float64)])
    return scheduler


def diffusers_sample(
    settings: SamplerDefaults, diffusion: Diffusion, monkeypatch: pytest.MonkeyPatch, dtype: type
) -> NDArray[Any]:
    """x_0 (N,) of diffusers' scheduler on the same model and noise."""
    scheduler, denoise = make_scheduler(settings, diffusion), gaussian_denoiser(diffusion)
    if dtype is np.float64:
        monkeypatch.setattr(torch, "float32", torch.float64)  # its DPM-Solver++ casts the sample to torch.float32
    # A channel axis, since diffusers' dynamic thresholding takes the quantile over all but the first axis.
    x = torch.from_numpy(clip_noise(0).astype(dtype)).view(1, 1, *SHAPE)
    timesteps = scheduler.timesteps.tolist()
    for i, t in enumerate(timesteps):
        out = torch.from_numpy(denoise(x.numpy().reshape(-1), t)).view_as(x)
        z = torch.from_numpy(clip_noise(1 + t).astype(dtype)).view_as(x)
        if settings.kind == "ddim":
            # Its previous timestep is t - T // steps, which is not the next timestep of every spacing. A fraction whose
            # quotient is the true gap makes it so.
            gap = t - timesteps[i + 1] if i + 1 < len(timesteps) else t + 1
            scheduler.num_inference_steps = Fraction(diffusion.timesteps, gap)
            x = scheduler.step(
                out, t, x, eta=settings.eta, use_clipped_model_output=settings.rederive_eps, variance_noise=z
            ).prev_sample
        else:
            monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *args, z=z, **kwargs: z)
            x = scheduler.step(out, t, x).prev_sample
    monkeypatch.undo()
    assert x.numpy().dtype == dtype
    return x.numpy().reshape(-1)


DIFFUSERS_CASES: list[dict[str, Any]] = [
    {"kind": "ddpm", "steps": 50, "spacing": "leading"},
    {"kind": "ddpm", "steps": 37, "spacing": "linspace"},
    {"kind": "ddim", "steps": 20, "spacing": "leading"},
    {"kind": "ddim", "steps": 20, "spacing": "leading", "rederive_eps": False},
    {"kind": "ddim", "steps": 30, "spacing": "linspace", "eta": 1.0},
    {"kind": "ddim", "steps": 20, "spacing": "leading", "eta": 1.0, "rederive_eps": False},
    {"kind": "dpmpp_2m", "steps": 10, "spacing": "leading"},
    {"kind": "dpmpp_2m", "steps": 20, "spacing": "leading"},
    {"kind": "dpmpp_3m", "steps": 4, "spacing": "leading"},
    {"kind": "dpmpp_3m", "steps": 14, "spacing": "leading"},
    {"kind": "dpmpp_3m", "steps": 20, "spacing": "leading"},
    {"kind": "unipc", "steps": 4, "spacing": "leading"},
    {"kind": "unipc", "steps": 20, "spacing": "leading"},
]


@pytest.mark.parametrize("prediction", list(PREDICTIONS))
@pytest.mark.parametrize("options", DIFFUSERS_CASES, ids=str)
def test_reference_against_diffusers_in_double(
    options: dict[str, Any], prediction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every thresholding and schedule, from t = 999 too; what is left is diffusers' float32 thresholds of its tables."""
    spacings = {options["spacing"], "trailing"}
    for spacing, (thresholding, schedule) in product(spacings, LIMITS_AND_SCHEDULES):
        settings = SamplerDefaults(**(options | {"spacing": spacing, "thresholding": thresholding}))
        diffusion = Diffusion(prediction=prediction, schedule=schedule)
        theirs = diffusers_sample(settings, diffusion, monkeypatch, np.float64)
        assert relative_l2(theirs, reference(settings, diffusion)) < 1e-9, (spacing, thresholding, schedule)


@pytest.mark.parametrize("prediction", list(PREDICTIONS))
@pytest.mark.parametrize("options", DIFFUSERS_CASES, ids=str)
def test_native_loop_against_diffusers_in_single(
    options: dict[str, Any], prediction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for thresholding in ("none", "clip", "dynamic"):
        settings = SamplerDefaults(**(options | {"spacing": "leading", "thresholding": thresholding}))
        diffusion = Diffusion(prediction=prediction)
        theirs = diffusers_sample(settings, diffusion, monkeypatch, np.float32)
        ours = native_sampler.sample(gaussian_denoiser(diffusion), settings, diffusion, SEED, CLIP, N)[0]
        assert relative_l2(ours, theirs) < 1e-5, thresholding


@pytest.mark.parametrize("dynamic", [False, True])
def test_full_ddpm_is_the_base_networks_sampler(dynamic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    timesteps = 200
    diffusion = Diffusion(timesteps=timesteps)
    denoise = gaussian_denoiser(diffusion)

    class Model(torch.nn.Module):
        def forward_with_cond_scale(self, x: torch.Tensor, t: torch.Tensor, **_: Any) -> torch.Tensor:
            return torch.from_numpy(denoise(x.numpy().reshape(-1), int(t[0]))).view_as(x)

    peer = base_network("rms_norm").GaussianDiffusion(
        Model(), image_size=8, num_frames=3, channels=1, timesteps=timesteps, use_dynamic_thres=dynamic
    )
    x = torch.from_numpy(clip_noise(0)).view(1, 1, *SHAPE)
    for t in reversed(range(timesteps)):
        z = torch.from_numpy(clip_noise(1 + t)).view_as(x)
        monkeypatch.setattr(torch, "randn_like", lambda _, z=z: z)
        x = peer.p_sample(x, torch.tensor([t]))
    settings = SamplerDefaults(kind="ddpm", steps=timesteps, thresholding="dynamic" if dynamic else "clip")
    assert relative_l2(x.numpy().reshape(-1), reference(settings, diffusion)) < 2e-6


NATIVE_CASES = [
    *DIFFUSERS_CASES,
    {"kind": "ddpm", "steps": 120, "spacing": "trailing"},
    {"kind": "ddim", "steps": 7, "spacing": "trailing", "eta": 0.5},
    {"kind": "ddim", "steps": 20, "spacing": "trailing"},
    {"kind": "dpmpp_2m", "steps": 2, "spacing": "trailing"},
    {"kind": "dpmpp_2m", "steps": 20, "spacing": "trailing"},
    {"kind": "dpmpp_3m", "steps": 3, "spacing": "trailing"},
    {"kind": "dpmpp_3m", "steps": 16, "spacing": "linspace"},
    {"kind": "unipc", "steps": 3, "spacing": "trailing"},
    {"kind": "unipc", "steps": 10, "spacing": "linspace"},
]


@pytest.mark.parametrize("options", NATIVE_CASES, ids=str)
def test_native_loop_against_the_reference(options: dict[str, Any]) -> None:
    """Bit for bit against the rows in float32 numpy, and near the papers' equations in double."""
    for prediction, thresholding in product(PREDICTIONS, ("none", "clip", "dynamic")):
        settings = SamplerDefaults(**(options | {"thresholding": thresholding}))
        diffusion = Diffusion(prediction=prediction)
        denoise, rows = gaussian_denoiser(diffusion), compile_rows(settings, diffusion)
        x_0, packed, non_finite = native_sampler.sample(denoise, settings, diffusion, SEED, CLIP, N, threshold=0.4)
        in_numpy = run_rows(rows, denoise, clip_noise(0), lambda t: clip_noise(1 + t), settings)
        assert x_0.tobytes() == in_numpy.tobytes(), (prediction, thresholding)

        # The first x0 carries the rounding of x and out times a_x: 64,166 for an eps model at t = 999.
        tolerance = max(1e-6, 2.0**-24 * rows[0].a_x)
        assert relative_l2(x_0, reference(settings, diffusion)) < tolerance, (prediction, thresholding)
        assert non_finite == 0
        np.testing.assert_array_equal(packed, pack_clip(x_0, 0.4))


def test_native_loop_reports_what_is_not_finite() -> None:
    def grey_but(value: float, when: int) -> Callable[[NDArray[Any], int], NDArray[Any]]:
        def denoise(x: NDArray[Any], t: int) -> NDArray[Any]:
            out = np.full_like(x, 0.5)
            out[17] = value if t == when else 0.5
            return out

        return denoise

    def count(f: Callable[[NDArray[Any], int], NDArray[Any]]) -> int:
        settings, diffusion = SamplerDefaults(steps=4), Diffusion(prediction="x0")
        return native_sampler.sample(f, settings, diffusion, SEED, CLIP, N)[2]

    assert count(grey_but(0.5, 0)) == 0
    assert count(grey_but(np.inf, 499)) == 1  # clipped to 1, so that only the model's output shows it
    assert count(grey_but(np.nan, 999)) == 2  # stays in x, and is seen there again at the end
