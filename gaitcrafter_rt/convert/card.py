"""The model card (README.md) of a converted package."""

from __future__ import annotations

from ..config import AXES, ModelConfig


def model_card(config: ModelConfig) -> str:
    """What a person who meets the package should know, all of it from ``config``."""
    u, clip, cond, p = config.unet, config.clip, config.conditioning, config.provenance
    norm = f"GroupNorm of {u.norm_groups} groups" if u.norm == "group_norm" else "RMSNorm"
    d = config.diffusion
    return f"""# {config.name}

A converted checkpoint of video-diffusion-pytorch's `Unet3D`.

| | |
|---|---|
| clip | {clip.frames} frames of {clip.height}x{clip.width}, {u.channels} channel{"s" if u.channels > 1 else ""} |
| network | dim {u.dim}, multipliers {"-".join(map(str, u.dim_mults))}, {norm}, {u.attention_heads} heads |
| diffusion | predicts {d.prediction}, {d.schedule} schedule, {d.timesteps} timesteps |
| conditions | {_conditions(config)} |
| guidance | {"trained" if cond.guidance_trained else "not trained; only guidance 1 is meaningful"} |
| training data | {_cell(p.training_data)} |
| terms of the training data | {_cell(p.training_data_terms)} |
| identities | {p.identities} |

{p.notes}

The base network's own sampler is `ddpm` with all {d.timesteps} steps; the package's default is `{config.sampler.kind}` with
{config.sampler.steps}. Fewer steps were not validated on this model by the conversion: look at clips before a long run.
"""


def _conditions(config: ModelConfig) -> str:
    cond = config.conditioning
    if not cond.cond_dim:
        return "none"
    named = [f"{len(getattr(config.labels, axis))} of {axis}" for axis in AXES if getattr(config.labels, axis)]
    what = ", ".join(named) if named else "raw vectors only (converted without labels)"
    return f"cond vector of {cond.cond_dim}: {what}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
