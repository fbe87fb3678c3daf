"""Reads checkpoint files of others: state dicts only, no code, sizes checked before memory is taken.

What the base network's ``Trainer`` writes is ``{'step', 'model', 'ema', 'scaler'}``, the two in the middle being
state dicts of ``GaussianDiffusion``: schedule buffers, and the U-Net under ``denoise_fn.``. Users who train with conditions write
their own loop, so bare U-Net state dicts and other top-level keys are read too.
"""

from __future__ import annotations

import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CapabilityError, InvalidRequestError, MissingExtraError, ModelFormatError

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES = 8 << 30
MAX_PICKLE_BYTES = 64 << 20
MAX_ENTRIES = 100_000
OLDEST_TORCH = (2, 10)

PREFIXES = ("module.", "_orig_mod.", "denoise_fn.")
BUFFERS = frozenset(
    {
        "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
        "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
    }
)  # fmt: skip


@dataclass(frozen=True)
class BaseState:
    """One state dict of a checkpoint, with wrappers stripped off its names."""

    key: str
    """Where it stood in the file; empty for a bare state dict."""
    unet: dict[str, Tensor]
    buffers: dict[str, Tensor]
    """The schedule of ``GaussianDiffusion``; empty for a bare U-Net."""


@dataclass(frozen=True)
class Checkpoint:
    """All state dicts of a file by their top-level key (a bare one under the empty key), and the training step."""

    states: dict[str, dict[str, Tensor]]
    step: int | None

    def choose(self, which: str) -> BaseState:
        """``which`` is a top-level key, or "auto": ema, else model, else the only one there is."""
        names = list(self.states)
        if which == "auto":
            preferred = [k for k in ("ema", "model") if k in names] or names
            if len(preferred) > 1 and preferred[0] != "ema":
                raise InvalidRequestError(f"the checkpoint holds several state dicts ({_few(names)}); name one with `which`")
            return split_state(preferred[0], self.states[preferred[0]])
        if which not in names:
            held = f"state dicts under {_few(names)}" if names != [""] else "one bare state dict; use which='auto'"
            raise InvalidRequestError(f"no state dict {which!r} in the checkpoint; it holds {held}")
        return split_state(which, self.states[which])


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a ``torch.save`` file.

    Raises ModelFormatError for anything that is not a plain zip-format checkpoint of tensors (above all for a pickle that
    names code), CapabilityError for a torch older than 2.10, MissingExtraError without torch.
    """
    path = Path(path)
    torch = _safe_torch()
    if not path.is_file():
        raise ModelFormatError(f"{path}: no such file; expected a .pt file written by torch.save")
    with path.open("rb") as file:
        limit = _check_container(path, file)
        file.seek(0)
        try:
            raw = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as e:  # torch raises many kinds here, and all of them mean a file that we do not take
            raise ModelFormatError(_refusal(path, e)) from e
    states = _state_dicts(path, raw)
    for key, state in states.items():
        _check_tensors(path, key, state, limit)
    step = raw.get("step")
    return Checkpoint(states, step if isinstance(step, int) and not isinstance(step, bool) else None)


def _safe_torch() -> Any:
    try:
        import torch
    except ImportError as e:
        raise MissingExtraError.for_extra("train", "converting a checkpoint", e.name) from e
    found = tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2])
    if found < OLDEST_TORCH:
        raise CapabilityError(
            f"torch {torch.__version__} is installed; reading checkpoints needs torch >= {'.'.join(map(str, OLDEST_TORCH))}, "
            "whose weights_only loader has its known holes closed: pip install -U torch"
        )
    return torch


def _check_container(path: Path, file: Any) -> int:
    """Refuse what could unpack to more than it is. Returns the file's size."""
    size = file.seek(0, os.SEEK_END)
    if size > MAX_BYTES:
        raise ModelFormatError(f"{path}: {size} bytes; a checkpoint is at most {MAX_BYTES}")
    try:
        entries = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as e:
        raise ModelFormatError(
            f"{path}: not a zip-format torch checkpoint ({e}); files of torch before 1.6 must be saved again by a newer torch"
        ) from e
    if len(entries) > MAX_ENTRIES:
        raise ModelFormatError(f"{path}: {len(entries)} zip entries; at most {MAX_ENTRIES} are allowed")
    if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > size:
        raise ModelFormatError(f"{path}: its zip entries are compressed or overlap; torch.save writes them stored")
    pickles = [e for e in entries if e.filename.endswith("data.pkl")]
    if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
        raise ModelFormatError(f"{path}: expected one data.pkl of at most {MAX_PICKLE_BYTES} bytes inside")
    return size


def _refusal(path: Path, error: Exception) -> str:
    wanted = re.search(r"GLOBAL\s+([\w.]+)", str(error))
    if wanted:
        return (
            f"{path}: its pickle wants the code of {wanted[1]}, which is never run here; "
            "save state dicts only: torch.save({'model': net.state_dict()}, path)"
        )
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{path}: not a checkpoint of plain tensors: {first[:300]}"


def _state_dicts(path: Path, raw: Any) -> dict[str, dict[str, Tensor]]:
    import torch

    def is_state(value: Any) -> bool:
        return isinstance(value, dict) and bool(value) and all(
            isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items()
        )  # fmt: skip

    if is_state(raw):
        return {"": dict(raw)}
    if not isinstance(raw, dict):
        raise ModelFormatError(f"{path}: holds a {type(raw).__name__}; expected a dict of state dicts")
    states = {k: dict(v) for k, v in raw.items() if isinstance(k, str) and is_state(v)}
    if not states:
        held = [f"{k!r}: {type(v).__name__}" for k, v in raw.items()]
        raise ModelFormatError(f"{path}: no state dict inside; it holds {_few(held)}")
    return states


def _check_tensors(path: Path, key: str, state: dict[str, Tensor], limit: int) -> None:
    """A tensor may claim more elements than its storage holds (stride 0): no copy is made of such ones."""
    import torch

    total = 0
    for name, t in state.items():
        where = f"{path}: {key + '/' if key else ''}{name:.200}"
        if t.layout is not torch.strided or t.device.type != "cpu" or t.is_quantized or t.is_complex():
            raise ModelFormatError(f"{where}: {t.dtype}, {t.layout} on {t.device}; expected a plain dense tensor")
        size = t.numel() * t.element_size()
        total += size
        if size > t.untyped_storage().nbytes() or total > limit:
            raise ModelFormatError(f"{where}: shape {list(t.shape)} is larger than its data in the file")


def split_state(key: str, state: dict[str, Tensor]) -> BaseState:
    """Strip wrapper prefixes and part the schedule buffers from the U-Net."""
    unet: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    for name, tensor in state.items():
        short = name
        while short.startswith(PREFIXES):
            short = short[short.index(".") + 1 :]
        kind = buffers if short in BUFFERS else unet
        if short in kind:
            raise ModelFormatError(f"two tensors of the state dict {key!r} are named {short:.200} once prefixes are off")
        kind[short] = tensor
    return BaseState(key, unet, buffers)


def _few(names: list[str], count: int = 6) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(n[:120] for n in names[:count]) + more
