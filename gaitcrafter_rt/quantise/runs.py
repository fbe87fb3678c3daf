"""The runs that calibration watches: the model's default sampler on the torch network, conditions spread over the labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import AXES, ModelConfig
from ..nn.denoiser import label_weights
from ..nn.unet import UNet3D
from ..samplers.noise_reference import normals
from ..samplers.table import compile_rows, run_rows

Choice = dict[str, int | None]


def spread_conditions(config: ModelConfig, clips: int, seed: int) -> list[Choice]:
    """Label indices per axis for ``clips`` clips: a Latin hypercube, so that few clips still pass over every vocabulary.

    Every fourth clip leaves one axis null, in turn, as requests may.
    """
    rng = np.random.default_rng(seed)
    axes = [a for a in AXES if getattr(config.labels, a) and _usable(config, a)]
    columns = {a: rng.permutation(np.arange(clips) * len(getattr(config.labels, a)) // clips) for a in axes}
    choices: list[Choice] = [{a: int(columns[a][k]) for a in axes} for k in range(clips)]
    for turn, k in enumerate(range(3, clips, 4)):
        if axes:
            choices[k][axes[turn % len(axes)]] = None
    return choices


def _usable(config: ModelConfig, axis: str) -> bool:
    return getattr(config.conditioning, axis) != "none" or axis in (config.conditioning.cond_columns or {})


@torch.no_grad()
def sample_clips(
    model: UNet3D, conditions: Sequence[Choice], seed: int, progress: Callable[[int, int], None] | None = None
) -> Iterator[np.ndarray]:
    """x_0 ``[C, F, H, W]`` of one clip after the other, as the engine makes them: same noise, table and lanes.

    ``progress(done, of)`` counts network calls; the null lane of guidance shares one with the conditioned lane.
    """
    config = model.config
    rows = compile_rows(config.sampler, config.diffusion)
    shape = (config.unet.channels, config.clip.frames, config.clip.height, config.clip.width)
    total, done = len(conditions) * len(rows), 0
    for clip, choice in enumerate(conditions):
        labels, cond = _lanes(model, choice, np.random.default_rng([seed, clip]))

        def denoise(x: np.ndarray, t: int, labels: dict[str, Tensor] = labels, cond: Tensor | None = cond) -> np.ndarray:
            nonlocal done
            out = _guided(model, torch.from_numpy(np.ascontiguousarray(x)), t, labels, cond)
            done += 1
            if progress:
                progress(done, total)
            return out.numpy()

        def noise(stream: int, clip: int = clip) -> np.ndarray:
            return normals(seed, clip, stream, int(np.prod(shape))).reshape(shape)

        yield run_rows(rows, denoise, noise(0), lambda t, noise=noise: noise(1 + t), config.sampler)  # type: ignore[misc]


def _guided(model: UNet3D, x: Tensor, t: int, labels: dict[str, Tensor], cond: Tensor | None) -> Tensor:
    guidance = model.config.sampler.guidance
    lanes = _lane_count(model.config)
    out = model(x.expand(lanes, *x.shape), torch.full((lanes,), t), labels, cond)
    return out[0] if lanes == 1 else out[1] + (out[0] - out[1]) * guidance


def _lane_count(config: ModelConfig) -> int:
    return 1 if config.sampler.guidance == 1 else 2


def _lanes(model: UNet3D, choice: Choice, rng: np.random.Generator) -> tuple[dict[str, Tensor], Tensor | None]:
    """Conditions of the conditioned lane and, with guidance, of the null lane behind it."""
    config = model.config
    lanes = _lane_count(config)
    labels: dict[str, Any] = {}
    for axis, index in choice.items():
        if getattr(config.conditioning, axis) != "none":
            chosen = None if index is None else {index: 1.0}
            labels[axis] = label_weights(config, axis, [chosen, None][:lanes])
    if model.null_cond is None:
        return labels, None
    null = model.null_cond.detach()
    vectors = [_cond_vector(config, choice, null, rng), null][:lanes]
    return labels, torch.stack(vectors)


def _cond_vector(config: ModelConfig, choice: Choice, null: Tensor, rng: np.random.Generator) -> Tensor:
    """One-hot columns where labels have them; else null and standard normal vectors by turns of chance."""
    columns = config.conditioning.cond_columns
    if not columns:
        drawn = rng.standard_normal(len(null)).astype(np.float32)
        return null if rng.random() < 0.5 else torch.from_numpy(drawn)
    given = [columns[axis][i] for axis, i in choice.items() if i is not None and axis in columns]
    if not given:
        return null
    vector = torch.zeros_like(null)
    vector[given] += 1
    return vector
