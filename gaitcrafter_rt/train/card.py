"""The model card that a training run writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..config import AXES

if TYPE_CHECKING:
    from .state import Run


def model_card(run: Run) -> str:
    """Markdown: what the model makes, what it was trained on, and the exact command."""
    cfg = run.config
    clip, p = cfg.clip, cfg.provenance
    labels = "\n".join(
        f"- {axis}: {len(getattr(cfg.labels, axis))} ({', '.join(getattr(cfg.labels, axis)[:12])}"
        + (", ..." if len(getattr(cfg.labels, axis)) > 12 else "")
        + ")"
        for axis in AXES
        if getattr(cfg.labels, axis)
    )
    params = sum(t.numel() for t in run.model.parameters())
    return f"""# {cfg.name}

Generates gait silhouettes: {clip.frames} frames of {clip.height}x{clip.width}, steered by

{labels}

- Identities: **{p.identities}**
- Training data: {p.training_data}
- Terms of the training data: {p.training_data_terms}
- Parameters: {params:,}
- Predicts {cfg.diffusion.prediction}; {cfg.diffusion.schedule} schedule, {cfg.diffusion.timesteps} timesteps
- Trained for {run.step:,} steps of {run.settings.batch} clips, {_time(run)};
  the weights are the moving average
{_error(run)}{_origin(run)}

{p.notes + chr(10) if p.notes else ""}
Command:

```
{p.command}
```
"""


def _error(run: Run) -> str:
    if not run.recent:
        return ""
    return f"- Mean squared x0 error over the last {len(run.recent)} steps: {sum(run.recent) / len(run.recent):.4f}\n"


def _time(run: Run) -> str:
    if run.device.type == "cpu":
        return f"{run.cpu_seconds / 3600:.2f} CPU hours"
    return f"{run.wall_seconds / 60:.1f} minutes on {torch.cuda.get_device_name(run.device)}"


def _origin(run: Run) -> str:
    return f"- {run.origin}\n" if run.origin else ""
