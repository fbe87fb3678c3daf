"""Trains tests/fixtures/trained-eps: a small noise-predicting model with the base network's wiring, for whole-run judgements.

    nice python tests/make_trained_eps.py [FOLDER] [--steps 950]

8 frames of 32x32 of a few rendered walkers; `cond` columns 0-1 identity, 2-3 view, 4-5 covariate; fp16 weights. Prints its CPU time
and writes sheet.png into the folder: a row per label set, 20 DDIM steps, the rendered clip of those labels below it.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gaitcrafter_rt.config import (
    ClipShape,
    Conditioning,
    Diffusion,
    Labels,
    ModelConfig,
    Provenance,
    SamplerDefaults,
    paper_preset,
)
from gaitcrafter_rt.nn.unet import UNet3D
from gaitcrafter_rt.package import write_package
from gaitcrafter_rt.samplers.reference import sample
from gaitcrafter_rt.samplers.schedule import alphas_cumprod
from gaitcrafter_rt.walkers import render_clip, sample_identity

FRAMES, SIZE, POPULATION, IDENTITIES, VIEWS, COVARIATES, RECORDINGS = 8, 32, 11, 2, (0, 90), ("nm", "cl"), 2
STRIDE = 3  # 8 frames, 3 apart, are about one cycle of 27


def configuration(command: str) -> ModelConfig:
    levels = {"spatial_linear_attention": [True] * 3, "temporal_attention": [True] * 3, "temporal_conv": [False] * 3}
    heads = {"attention_heads": 2, "attention_dim_head": 16, "linear_heads": 2, "linear_dim_head": 16, "rotary_dim": 16}
    return ModelConfig(
        name="trained-eps", clip=ClipShape(frames=FRAMES, height=SIZE, width=SIZE),
        unet=paper_preset(dim=16, init_dim=16, dim_mults=[1, 2, 4], **heads, **levels),
        labels=Labels(
            identity=[f"walker{i}" for i in range(IDENTITIES)], view=[f"{v:03}" for v in VIEWS], covariate=list(COVARIATES)
        ),
        conditioning=Conditioning(
            cond_dim=6, cond_columns={"identity": [0, 1], "view": [2, 3], "covariate": [4, 5]}, guidance_trained=True
        ),
        diffusion=Diffusion(prediction="eps"), sampler=SamplerDefaults(steps=20),
        provenance=Provenance(
            training_data="rendered walkers", training_data_terms="this project's own", identities="rendered",
            command=command, notes="Test fixture: two walkers, two views, two covariates, learned by heart.",
        ),
    )  # fmt: skip


def rendered() -> tuple[torch.Tensor, torch.Tensor]:
    """Clips ``[N, 1, 8, 32, 32]`` in -1 and 1, and their cond vectors ``[N, 6]``."""
    clips, conds = [], []
    for i, (v, view), (c, covariate), k in itertools.product(
        range(IDENTITIES), enumerate(VIEWS), enumerate(COVARIATES), range(RECORDINGS)
    ):
        clip = render_clip(sample_identity(POPULATION, i), view, covariate, k, frames=FRAMES * STRIDE, size=SIZE)
        clips.append(clip[::STRIDE])
        conds.append(torch.zeros(6).index_fill(0, torch.tensor([i, 2 + v, 4 + c]), 1.0))
    return torch.from_numpy(np.stack(clips))[:, None].float() / 127.5 - 1, torch.stack(conds)


def train(config: ModelConfig, steps: int, batch: int = 4) -> UNet3D:
    """The average of the weights (EMA 0.99).

    The figure is formed at the noisy end, where a small error of eps is a large one of x0: such timesteps come more often, and
    weigh by (1 - abar) / abar, from 1 to 20. Without that, some labels gave no figure after the same time.
    """
    torch.manual_seed(0)
    net = UNet3D(config).to(memory_format=torch.channels_last)
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-4)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.05)
    clips, conds = rendered()
    abar = torch.from_numpy(alphas_cumprod("cosine", 1000)).float()
    for step in range(steps):
        pick = torch.randint(len(clips), (batch,))
        t = torch.where(torch.rand(batch) < 0.5, torch.randint(1000, (batch,)), torch.randint(400, 1000, (batch,)))
        x0, eps, a = clips[pick], torch.randn(batch, 1, FRAMES, SIZE, SIZE), abar[t].view(-1, 1, 1, 1, 1)
        cond = torch.where(torch.rand(batch, 1) < 0.1, net.null_cond, conds[pick])
        error = net(a.sqrt() * x0 + (1 - a).sqrt() * eps, t, cond=cond) - eps
        loss = (((1 - a) / a).clamp(1, 20) * error.square()).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        plan.step()
        average.update_parameters(net)
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.4f} CPU {time.process_time():.0f} s", flush=True)
    return average.module.eval()


@torch.no_grad()
def sheet(net: UNet3D, path: Path) -> None:
    clips, conds = rendered()
    rows = []
    for k in range(0, len(clips), RECORDINGS):
        noise = torch.randn(clips[k].shape, generator=torch.Generator().manual_seed(k)).numpy()

        def denoise(x: np.ndarray, t: int, cond: torch.Tensor = conds[k : k + 1]) -> np.ndarray:
            return net(torch.from_numpy(x)[None].float(), torch.tensor([t]), cond=cond)[0].numpy()

        x0 = sample(denoise, noise, net.config.sampler, net.config.diffusion, np.zeros)
        rows += [np.hstack(x0[0] > 0), np.hstack(clips[k, 0].numpy() > 0) * 0.6]
    Image.fromarray((np.vstack(rows) * 255).astype(np.uint8)).resize((SIZE * FRAMES * 2, SIZE * len(rows) * 2), 0).save(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent / "fixtures" / "trained-eps")
    parser.add_argument("--steps", type=int, default=950)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = train(configuration(f"python tests/make_trained_eps.py --steps {args.steps}"), args.steps).half().float()
    card = "# trained-eps\n\nA test fixture (tests/make_trained_eps.py): two rendered walkers, learned by heart.\n"
    write_package(args.folder, model.config, {k: v.half() for k, v in model.state_dict().items()}, card)
    sheet(model, args.folder / "sheet.png")
    print(f"{args.folder}: {time.process_time():.0f} CPU seconds")
