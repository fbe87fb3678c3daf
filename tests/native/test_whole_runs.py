"""Whole sampling runs on trained weights: native engine against the torch network under the reference sampler.

The same noise goes in; binarised clips must agree on 99.9 % of the pixels. Random weights would amplify rounding without
bound, so only trained models are judged this way: a small eps-model and the x0-model that ships.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")

import gaitcrafter_rt as gc  # noqa: E402
from gaitcrafter_rt.config import AXES, SamplerDefaults  # noqa: E402
from gaitcrafter_rt.models import resolve_model  # noqa: E402
from gaitcrafter_rt.nn.denoiser import Denoiser, label_weights, load_unet  # noqa: E402
from gaitcrafter_rt.package import read_config  # noqa: E402
from gaitcrafter_rt.samplers.noise_reference import normals  # noqa: E402
from gaitcrafter_rt.samplers.reference import sample  # noqa: E402

FIXTURES = Path(__file__).parent.parent / "fixtures"
SEED = 20


def _torch_clip(folder: Path, condition: dict[str, str], clip: int, settings: SamplerDefaults) -> np.ndarray:
    """Foreground mask of one clip by the torch network and the reference sampler, fp32."""
    torch.set_num_threads(1)
    config = read_config(folder)
    denoiser = Denoiser(load_unet(folder))
    shape = (config.unet.channels, config.clip.frames, config.clip.height, config.clip.width)
    labels, cond = _conditions(config, condition)

    def denoise(x: np.ndarray, t: int) -> np.ndarray:
        batch = torch.from_numpy(np.ascontiguousarray(x, np.float32)).view(1, *shape)
        return denoiser(batch, torch.tensor([t]), labels, cond, settings.guidance).numpy().reshape(x.shape)

    def noise(stream: int) -> np.ndarray:
        return normals(SEED, clip, stream, int(np.prod(shape))).reshape(shape)

    return sample(denoise, noise(0), settings, config.diffusion, lambda t: noise(1 + t))[0] > 0


def _conditions(config, condition):  # type: ignore[no-untyped-def]
    index = {axis: getattr(config.labels, axis).index(name) for axis, name in condition.items()}
    columns = config.conditioning.cond_columns
    if columns is None:
        wired = {a: i for a, i in index.items() if getattr(config.conditioning, a) != "none"}
        return {a: label_weights(config, a, [{i: 1.0}]) for a, i in wired.items()}, None
    vector = torch.zeros(1, config.conditioning.cond_dim)
    for axis, i in index.items():
        vector[0, columns[axis][i]] = 1
    return {}, vector


def _plain(config, k: int) -> dict[str, str]:  # type: ignore[no-untyped-def]
    """Some label of every axis; k walks through the vocabularies."""
    return {a: getattr(config.labels, a)[(3 * k) % len(getattr(config.labels, a))] for a in AXES if getattr(config.labels, a)}


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("trained-eps", {"kind": "ddim", "steps": 10}),
        ("trained-eps", {"kind": "ddim", "steps": 10, "eta": 1.0, "rederive_eps": False}),
        ("trained-eps", {"kind": "dpmpp_2m", "steps": 8}),
        ("walker", {}),
        ("walker", {"kind": "ddim", "steps": 4, "guidance": 2.0}),
    ],
    ids=lambda v: v if isinstance(v, str) else "-".join(str(x) for x in v.values()) or "default",
)
def test_native_and_torch_make_the_same_clip(model: str, changes: dict) -> None:
    folder = FIXTURES / model if (FIXTURES / model).exists() else resolve_model(model)
    config = read_config(folder)
    settings = config.sampler.model_copy(update=changes)
    clips = 2
    conditions = [_plain(config, k) for k in range(clips)]
    with gc.Engine.from_pretrained(folder, precision="fp32", threads=1) as engine:
        native = engine.generate(
            conditions, seed=SEED, sampler=settings.kind, steps=settings.steps, eta=settings.eta, guidance=settings.guidance,
            spacing=settings.spacing, thresholding=settings.thresholding, rederive_eps=settings.rederive_eps,
        ).frames  # fmt: skip
    for k, condition in enumerate(conditions):
        expected = _torch_clip(Path(folder), condition, k, settings)
        share = expected.mean()
        assert 0.02 < share < 0.98, "a trained model draws a figure"
        assert (native[k].astype(bool) == expected).mean() >= 0.999
