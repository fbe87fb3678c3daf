"""One call from a checkpoint file of the base network to a model package (docs/convert.md)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..config import ModelConfig, UNetConfig
from ..errors import InvalidRequestError
from ..files import refuse_occupied_folder
from ..package import write_package
from .base_network import infer_unet, package_tensors
from .card import model_card
from .checkpoint import BaseState, Checkpoint, read_checkpoint, split_state
from .labels import read_labels
from .schedule import infer_schedule

if TYPE_CHECKING:
    from torch import Tensor

# What neither names nor shapes tell; a caller who knows better says so.
ASSUMED = {"frames": 30, "size": 64, "norm_groups": 8}
NULL_TOLERANCE = 1e-5
BERT_DIM = 768


def convert_checkpoint(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    which: str = "auto",
    labels: str | os.PathLike[str] | Mapping[str, Mapping[str, int]] | None = None,
    frames: int | None = None,
    size: int | None = None,
    norm_groups: int | None = None,
    thresholding: str = "clip",
    prediction: str = "eps",
    timesteps: int | None = None,
    schedule: str | None = None,
    guidance_trained: bool = False,
    name: str | None = None,
    training_data: str = "unknown",
    training_data_terms: str = "unknown",
    identities: str = "unknown",
    command: str = "",
) -> Path:
    """Convert a ``.pt`` file of video-diffusion-pytorch (0.6.3 or 0.7.0) to a model package; returns its folder.

    ``which``: "ema", "model", another top-level key of the file, or "auto" (ema, else model, else the only state dict).
    ``labels``: per axis the cond column of every label (a JSON file or a mapping); without it the package takes raw cond
    vectors only. ``frames``, ``size`` (pixels, square) and ``norm_groups`` cannot be read from a checkpoint: 30, 64 and 8 are
    assumed and the package's provenance says so. ``thresholding``: "clip" or "dynamic", as the model was sampled in training.
    ``prediction``: "eps", the base network's objective, or "x0" or "v" for a fork's. ``timesteps`` and ``schedule`` are read
    from the schedule buffers; for a bare U-Net 1000 and "cosine" are assumed unless given. ``guidance_trained``: whether the
    null condition was seen in training (``null_cond_prob > 0``); the base network's trainer does not do that by itself.
    The rest goes to the package's provenance.

    Raises ModelFormatError for a file that is no such checkpoint (above all for a pickle that names code), InvalidRequestError
    for an option that does not fit it, OutputError if ``out`` is not empty, CapabilityError for torch < 2.10 and
    MissingExtraError without torch.
    """
    if thresholding not in ("clip", "dynamic"):
        raise InvalidRequestError(f"thresholding is {thresholding!r}; allowed are clip and dynamic")
    refuse_occupied_folder(out)
    checkpoint = read_checkpoint(path)
    state = checkpoint.choose(which)
    given = {"frames": frames, "size": size, "norm_groups": norm_groups}
    sizes = {k: v if v is not None else ASSUMED[k] for k, v in given.items()}
    assumed = [k for k, v in given.items() if v is None]
    unet, cond_dim = infer_unet(state.unet, sizes["norm_groups"])
    if unet.norm == "rms_norm" and norm_groups is None:
        assumed.remove("norm_groups")
    kind, steps, assumed_schedule = infer_schedule(state.buffers, timesteps, schedule)
    columns = read_labels(labels, cond_dim) if labels is not None else None
    remarks = _check_guidance(checkpoint, state, cond_dim) if guidance_trained else []
    if cond_dim == BERT_DIM and columns is None:
        remarks.append("A cond vector of 768 may be BERT's: text is not read here, give its vectors as raw cond.")
    raw: dict[str, Any] = {
        "name": name or Path(path).stem or "unnamed",
        "clip": {"frames": sizes["frames"], "height": sizes["size"], "width": sizes["size"]},
        "conditioning": {
            "cond_dim": cond_dim,
            "cond_columns": {axis: list(c.values()) for axis, c in columns.items()} if columns else None,
            "guidance_trained": guidance_trained,
        },
        "labels": {axis: list(c) for axis, c in (columns or {}).items()},
        "diffusion": {"prediction": prediction, "schedule": kind, "timesteps": steps},
        "sampler": {"thresholding": thresholding, "steps": min(20, steps)},
        "provenance": {
            "training_data": training_data, "training_data_terms": training_data_terms, "identities": identities,
            "command": command,
        },
    }  # fmt: skip
    raw["provenance"]["notes"] = " ".join([*_origin(Path(path), checkpoint, state),
                                           *_assumptions(sizes, assumed, assumed_schedule, kind, steps), *remarks])  # fmt: skip
    config = _validated(raw, unet)
    tensors = package_tensors(state.unet, _wanted_shapes(config), unet.rotary_dim)
    return write_package(out, config, _storable(tensors), model_card(config))


def _validated(raw: dict[str, Any], unet: UNetConfig) -> ModelConfig:
    try:
        return ModelConfig.model_validate({**raw, "unet": unet})
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "config"
        raise InvalidRequestError(f"{where}: {first['msg']} (got {first.get('input')!r:.80})") from e


def _wanted_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    import torch

    from ..nn.unet import UNet3D

    with torch.device("meta"):  # names and shapes, no memory
        return {k: tuple(v.shape) for k, v in UNet3D(config).state_dict().items()}


def _check_guidance(checkpoint: Checkpoint, chosen: BaseState, cond_dim: int) -> list[str]:
    """Whether the null embedding can have been trained: a trained one moves, so that its average lags behind it."""
    if not cond_dim:
        raise InvalidRequestError("guidance_trained is set, but this checkpoint has no conditions (null_cond_emb); leave it out")
    if not {"model", "ema"} <= checkpoint.states.keys():
        return []
    model, ema = (split_state(k, checkpoint.states[k]).unet for k in ("model", "ema"))
    if not _same(model, ema, "null_cond_emb"):
        return []
    if all(_same(model, ema, k) for k in model):
        return ["model and ema are equal, so that nothing could be checked about the training of the null condition."]
    raise InvalidRequestError(
        f"guidance_trained is set, but null_cond_emb is the same in model and ema (within {NULL_TOLERANCE:g}) while other "
        f"weights moved: it was never trained (state dict {chosen.key!r}); convert without guidance_trained"
    )


def _same(a: dict[str, Tensor], b: dict[str, Tensor], key: str) -> bool:
    if key not in a or key not in b or a[key].shape != b[key].shape:
        return False
    return bool(((a[key].double() - b[key].double()).abs() <= NULL_TOLERANCE).all())


def _storable(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Doubles rounded to float32, other float types as they are; each with memory of its own, as safetensors wants it."""
    import torch

    return {k: (t.float() if t.dtype == torch.float64 else t).clone() for k, t in tensors.items()}


def _origin(path: Path, checkpoint: Checkpoint, state: BaseState) -> list[str]:
    with path.open("rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    step = f", step {checkpoint.step}" if checkpoint.step is not None else ""
    part = f"state dict {state.key!r}" if state.key else "bare state dict"
    return [f"Converted from {path.name[:200]} (sha256 {digest}, {part[:200]}{step})."]


def _assumptions(
    sizes: dict[str, int], assumed: list[str], assumed_schedule: list[str], kind: str, steps: int
) -> list[str]:
    values = {**sizes, "schedule": kind, "timesteps": steps}
    names = [*assumed, *assumed_schedule]
    if not names:
        return []
    return ["Assumed, since the checkpoint does not tell: " + ", ".join(f"{k} {values[k]}" for k in names) + "."]
