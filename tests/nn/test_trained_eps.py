"""The trained fixture draws the walkers that it learned, so that whole runs on it mean something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from make_trained_eps import COVARIATES, RECORDINGS, VIEWS, rendered

from gaitcrafter_rt.nn.denoiser import Denoiser, load_unet
from gaitcrafter_rt.samplers.noise_reference import normals
from gaitcrafter_rt.samplers.reference import sample

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "trained-eps"


@pytest.mark.parametrize("view", range(len(VIEWS)))
def test_figures_of_the_view_that_was_asked_for(view: int) -> None:
    torch.set_num_threads(1)
    clips, conds = rendered()
    per_view = len(COVARIATES) * RECORDINGS
    asked = view * per_view
    net = load_unet(FOLDER)
    denoiser = Denoiser(net)

    def denoise(x: np.ndarray, t: int) -> np.ndarray:
        return denoiser(torch.from_numpy(x)[None].float(), torch.tensor([t]), cond=conds[asked][None])[0].numpy()

    noise = normals(4, view, 0, clips[0].numel()).reshape(clips[0].shape)
    drawn = sample(denoise, noise, net.config.sampler.model_copy(update={"steps": 10}), net.config.diffusion, np.zeros) > 0
    overlap = [(drawn & c).sum() / (drawn | c).sum() for c in clips.numpy() > 0]
    best = int(np.argmax(overlap))
    assert overlap[best] > 0.6
    assert (best // per_view) % len(VIEWS) == view
