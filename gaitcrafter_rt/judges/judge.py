"""A trained judge: clips in, one embedding per part of the body out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

try:
    import torch
    from safetensors.torch import load as load_tensors
    from torch.nn.utils.fusion import fuse_conv_bn_eval
except ImportError as e:
    from ..errors import MissingExtraError

    raise MissingExtraError.for_extra("train", "judging clips", e.name) from e

from ..documents import read_object, validated
from ..errors import DataFormatError, InvalidRequestError, ModelFormatError
from ..evaluate.clipset import ClipSet
from ..files import PathLike
from ..torch_threads import torch_threads
from .networks import build
from .settings import FORMAT, FORMAT_VERSION, JudgeConfig
from .training import CONFIG, WEIGHTS

_LIMIT = 64 << 20  # bytes of either file
# Few enough that what lies between two layers stays in the cache and below the size at which malloc maps fresh pages.
_CHUNK = 4


@dataclass(frozen=True)
class Judge:
    """A recogniser in evaluation mode. Make one with :meth:`open`."""

    net: torch.nn.Module
    config: JudgeConfig

    @classmethod
    def open(cls, folder: PathLike) -> Judge:
        """Read a folder that ``train_judge`` wrote. No pickle is read.

        Raises ModelFormatError (malformed, damaged, or other tensors than its config asks for), UnsupportedVersionError.
        """
        config = _read_config(Path(folder) / CONFIG)
        path = Path(folder) / WEIGHTS
        raw = _read(path)
        if hashlib.sha256(raw).hexdigest() != config.weights_sha256:
            raise ModelFormatError(f"{path}: its sha256 is not the one in {CONFIG}; the file is damaged, or another judge's")
        net = build(config.settings, len(config.identities))
        try:
            net.load_state_dict(load_tensors(raw))
        except Exception as e:  # safetensors and torch have their own errors
            raise ModelFormatError(f"{path}: not the weights of this judge: {str(e)[:200]}") from e
        net = _fold_norms(net.eval())
        # Frames come channels-last; weights that do not are laid out anew at every call.
        return cls(net.to(memory_format=torch.channels_last) if config.settings.kind == "set" else net, config)

    @property
    def name(self) -> str:
        """Kind and the first digits of the weights' hash."""
        return f"{self.config.settings.kind}-{self.config.weights_sha256[:8]}"

    @torch.no_grad()
    def embed(self, clips: np.ndarray) -> np.ndarray:
        """Embeddings float32 [N, P, D] of clips [N, T, H, W], foreground where not zero; InvalidRequestError for another size."""
        wanted = (self.config.height, self.config.width)
        if clips.ndim != 4 or clips.shape[2:] != wanted:
            raise InvalidRequestError(f"clips have shape {clips.shape}; this judge takes [clips, frames, {wanted[0]}, {wanted[1]}]")
        out = []
        with torch_threads(self.config.settings.threads):
            for start in range(0, len(clips), _CHUNK):
                chunk = torch.from_numpy((clips[start : start + _CHUNK] != 0).astype(np.float32))
                out.append(self.net(chunk)[0].numpy())
        return np.concatenate(out) if out else np.empty((0, 0, 0), np.float32)

    def embed_set(self, clips: ClipSet) -> np.ndarray:
        """Embeddings of a ClipSet, float32 [N, P, D]."""
        return np.concatenate([self.embed(chunk) for chunk in clips.chunks()])

    def refuse_acquaintances(self, clips_sha256: str, identities: list[str]) -> None:
        """Raises DataFormatError if this judge was trained on the clips with that hash or on people of those names."""
        known = sorted(set(self.config.identities) & set(identities))
        if self.config.clips_sha256 == clips_sha256 or known:
            whom = ", ".join(known[:5]) or "all of them"
            raise DataFormatError(
                f"judge {self.name} was trained on people that it is to judge ({whom}); train one on other identities "
                "('gaitcrafter-rt walkers render --first-identity N' renders some)"
            )


def _fold_norms(net: torch.nn.Module) -> torch.nn.Module:
    """``net`` in evaluation mode with every batch norm that follows a convolution in a Sequential folded into it, in place."""
    for name, child in net.named_children():
        if not isinstance(child, torch.nn.Sequential):
            _fold_norms(child)
            continue
        layers: list[torch.nn.Module] = []
        for layer in child:
            if isinstance(layer, (torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)) and layers:
                layers[-1] = fuse_conv_bn_eval(layers[-1], layer)
            else:
                layers.append(_fold_norms(torch.nn.Sequential(layer))[0] if isinstance(layer, torch.nn.Sequential) else layer)
        setattr(net, name, torch.nn.Sequential(*layers))
    return net


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LIMIT:
            raise ModelFormatError(f"{path}: larger than {_LIMIT} bytes; not a judge of this program")
        return path.read_bytes()
    except OSError as e:
        raise ModelFormatError(f"{path} cannot be read ({e.strerror}); 'gaitcrafter-rt eval train-recogniser' makes a judge") from e


def _read_config(path: Path) -> JudgeConfig:
    text = _read(path)
    read_object(text, path, FORMAT_VERSION, ModelFormatError, FORMAT)
    return validated(JudgeConfig, text, path, ModelFormatError)
