"""Writes the small random-weight models of tests/fixtures, each with inputs and the torch output in double.

    python tests/make_fixtures.py [FOLDER]

``golden.safetensors`` holds ``x [B, C, F, H, W]`` fp32, ``t [B]`` int64, ``weights.AXIS [B, labels + 1]`` (last column null),
``cond [B, cond_dim]`` where the model has one, and ``out`` (computed in fp64, stored in fp64).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from gaitcrafter_rt.config import (
    ClipShape,
    Conditioning,
    Diffusion,
    Labels,
    ModelConfig,
    Provenance,
    SamplerDefaults,
    paper_preset,
    walker_preset,
)
from gaitcrafter_rt.nn.unet import UNet3D
from gaitcrafter_rt.package import write_package

LABELS = Labels(identity=["001", "002", "003"], view=["000", "090"], covariate=["nm", "bg", "cl"])
SMALL = {"attention_heads": 2, "attention_dim_head": 8, "linear_heads": 2, "linear_dim_head": 8, "rotary_dim": 8}
NOTE = Provenance(training_data="none: random weights", identities="unknown", notes="test fixture")


def _paper(**changes: object) -> ModelConfig:
    unet = paper_preset(
        **{
            **SMALL, "dim": 16, "init_dim": 16, "dim_mults": [1, 2], "norm_groups": 8,
            "spatial_linear_attention": [True, True], "temporal_attention": [True, True],
            "temporal_conv": [False, False], **changes,
        }
    )  # fmt: skip
    return ModelConfig(
        name="tiny-paper", clip=ClipShape(frames=5, height=16, width=16), unet=unet, labels=LABELS, provenance=NOTE,
        conditioning=Conditioning(
            cond_dim=8,
            cond_columns={"identity": [0, 1, 2], "view": [3, 4], "covariate": [5, 6, 7]},
            guidance_trained=True,
        ),
        diffusion=Diffusion(prediction="eps"),
    )  # fmt: skip


def _walker(name: str, cond: Conditioning, **changes: object) -> ModelConfig:
    unet = walker_preset(
        **{
            **SMALL, "dim": 16, "init_dim": 16, "dim_mults": [1, 2], "norm_groups": 4, "temporal_conv": [True, False],
            "spatial_linear_attention": [False, False], "temporal_attention": [False, True], **changes,
        }
    )  # fmt: skip
    return ModelConfig(
        name=name, clip=ClipShape(frames=6, height=32, width=32), unet=unet, labels=LABELS, provenance=NOTE,
        conditioning=cond, diffusion=Diffusion(prediction="x0"), sampler=SamplerDefaults(steps=4),
    )  # fmt: skip


CONFIGS = {
    "tiny-paper": _paper(),
    "tiny-paper-rms": _paper(norm="rms_norm", rotary_dim=4, init_kernel=3),
    "tiny-walker": _walker(
        "tiny-walker",
        Conditioning(identity="block_table", view="block_table", covariate="block_table", guidance_trained=True),
    ),
    "tiny-maps": _walker(
        "tiny-maps",
        Conditioning(identity="block_table", view="input_map", covariate="input_map", encoder_dim=8),
        norm_scope="clip", blocks_per_level=2, dim=24, init_dim=12, patch=2, position_buckets=0,
    ),
}  # fmt: skip


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Weights that exercise every term: nothing stays zero or one, activations keep their size."""
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=gen)
            if name.endswith(("norm1.weight", "norm2.weight", "gamma")):
                p.copy_(1 + 0.2 * noise)
            elif p.ndim >= 2 and "tables" not in name and "embedding" not in name:
                p.copy_(noise * p[0].numel() ** -0.5)
            else:
                p.copy_(0.3 * noise)


def golden(model: UNet3D, seed: int) -> dict[str, torch.Tensor]:
    cfg = model.config
    gen = torch.Generator().manual_seed(seed)
    shape = (3, cfg.unet.channels, cfg.clip.frames, cfg.clip.height, cfg.clip.width)
    out: dict[str, torch.Tensor] = {"x": torch.randn(shape, generator=gen), "t": torch.tensor([0, 417, 999])}
    labels = {}
    for axis in ("identity", "view", "covariate"):
        if getattr(cfg.conditioning, axis) == "none":
            continue
        n = len(getattr(cfg.labels, axis))
        w = torch.zeros(3, n + 1)
        w[0, 0] = 1  # a plain label
        w[1, 0], w[1, n - 1] = 1.0, 0.5  # a blend
        w[2, n] = 1  # null
        labels[axis] = w
        out[f"weights.{axis}"] = w
    cond = None
    if cfg.conditioning.cond_dim:
        cond = torch.randn(3, cfg.conditioning.cond_dim, generator=gen)
        out["cond"] = cond
    double = UNet3D(cfg).double()
    double.load_state_dict(model.state_dict())
    with torch.no_grad():
        out["out"] = double(
            out["x"].double(), out["t"], {k: v.double() for k, v in labels.items()}, None if cond is None else cond.double()
        ).contiguous()
    return out


def main(folder: Path) -> None:
    for k, (name, cfg) in enumerate(CONFIGS.items()):
        model = UNet3D(cfg)
        randomise(model, 100 + k)
        shutil.rmtree(folder / name, ignore_errors=True)
        path = write_package(folder / name, cfg, model.state_dict(), f"# {name}\n\nRandom weights, for tests only.\n")
        save_file(golden(model, 200 + k), path / "golden.safetensors")
        print(path, sum(p.numel() for p in model.parameters()), "parameters")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "fixtures")
