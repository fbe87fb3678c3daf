"""A small convolutional classifier of view and covariate, trained once per data set and kept in a cache folder.

It learns from the training split alone; what it reads on the held-out split is the ceiling of what it can say about
generated clips, and stands in every report.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn
except ImportError as e:
    from ..errors import MissingExtraError

    raise MissingExtraError.for_extra("train", "evaluating clips", e.name) from e

from ..config import Labels
from ..data.packed import PackedClips
from ..errors import OutputError
from ..torch_threads import torch_threads
from .classifier_input import PLANES, clip_planes
from .clipset import ClipSet

# Part of the cache key: raise it with any change of the network, its input or its training.
CLASSIFIER_VERSION = 1
_EPOCHS, _BATCH, _RATE = 14, 64, 3e-3
_FEWEST_STEPS = 120  # small sets get more epochs
_WIDTH = 16

Progress = Callable[[int, int], None]


class _Net(nn.Module):
    """Three 3x3 convolutions with batch norm and pooling, one hidden layer, two heads."""

    def __init__(self, views: int, covariates: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = PLANES
        for out in (_WIDTH, 2 * _WIDTH, 4 * _WIDTH):
            layers += [nn.Conv2d(width, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
            width = out
        layers += [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16 * width, 128), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.view = nn.Linear(128, views)
        self.covariate = nn.Linear(128, covariates)

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(planes)
        return self.view(hidden), self.covariate(hidden)


@dataclass(frozen=True)
class Classifier:
    """A trained classifier. Make one with :func:`obtain`."""

    net: _Net

    @torch.no_grad()
    def predict(self, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """View and covariate index of each clip from uint8 [N, 7, H / 2, W / 2]; int64 [N] twice."""
        self.net.eval()
        views, covariates = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for start in range(0, len(planes), 256):
            view, covariate = self.net(_scaled(torch.from_numpy(planes[start : start + 256])))
            views.append(view.argmax(1).numpy())
            covariates.append(covariate.argmax(1).numpy())
        return np.concatenate(views), np.concatenate(covariates)


def obtain(
    data: PackedClips, training: ClipSet, cache: Path, *, threads: int | None = None, progress: Progress | None = None
) -> Classifier:
    """The classifier of ``data``: from the cache, or trained (about a CPU minute per 10,000 clips) and put there.

    Args:
        data: names the classifier: its sha256, its labels and its split are the cache key.
        training: the clips of its training split that have a view and a covariate; read only if it must be trained.
        cache: folder, made if absent. A cache that cannot be written raises OutputError; a damaged file in it is replaced.
        threads: for training; the weights may differ in their last bits between thread counts.
        progress: gets (steps done, of).
    """
    path = cache / f"view-covariate-{cache_key(data)}.npz"
    net = _Net(len(data.labels.view), len(data.labels.covariate))
    if path.exists() and _load(net, path):
        return Classifier(net)
    features = np.concatenate([clip_planes(chunk) for chunk in training.chunks()])
    with torch_threads(threads):
        _train(net, training, features, progress)
    _save(net, path)
    return Classifier(net)


def cache_key(data: PackedClips) -> str:
    """32 hex digits that change with any clip, label, split or vocabulary of ``data``, and with CLASSIFIER_VERSION."""
    digest = hashlib.sha256(f"{CLASSIFIER_VERSION} {data.meta.clips_sha256} {_vocabulary(data.labels)}".encode())
    for name in ("view", "covariate", "split"):
        digest.update(np.ascontiguousarray(getattr(data, name)).tobytes())
    return digest.hexdigest()[:32]


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/gaitcrafter-rt/evaluate``, by default under ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gaitcrafter-rt" / "evaluate"


def _train(net: _Net, clips: ClipSet, features: np.ndarray, progress: Progress | None) -> None:
    planes = torch.from_numpy(features)
    view, covariate = (torch.from_numpy(labels) for labels in (clips.view, clips.covariate))
    per_epoch = -(-len(clips) // _BATCH)
    steps = max(_EPOCHS * per_epoch, _FEWEST_STEPS)
    rng = np.random.Generator(np.random.Philox(key=[0, CLASSIFIER_VERSION]))
    _initialise(net, rng)
    optimiser = torch.optim.AdamW(net.parameters(), lr=_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    net.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # dropout
        for step, rows in zip(range(steps), _batches(len(clips), rng), strict=False):
            # A shift of a pixel keeps the classifier from leaning on the exact place of an edge.
            shift = rng.integers(-1, 2, 2).tolist()
            out = net(torch.roll(_scaled(planes[rows]), shift, (2, 3)))
            loss = sum(F.cross_entropy(o, y[rows], label_smoothing=0.05) for o, y in zip(out, (view, covariate), strict=True))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            if progress is not None:
                progress(step + 1, steps)
    net.eval()


def _initialise(net: _Net, rng: np.random.Generator) -> None:
    """He's initialisation from a generator of our own, so that nobody's torch seed matters or is disturbed."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                spread = (2 / module.weight[0].numel()) ** 0.5
                module.weight.copy_(torch.from_numpy(rng.standard_normal(module.weight.shape) * spread))
                module.bias.zero_()


def _batches(count: int, rng: np.random.Generator) -> Iterator[Tensor]:
    while True:
        order = torch.from_numpy(rng.permutation(count))
        yield from order.split(_BATCH)


def _scaled(planes: Tensor) -> Tensor:
    return (planes.float() / 255).contiguous(memory_format=torch.channels_last)


def _vocabulary(labels: Labels) -> str:
    return repr((labels.view, labels.covariate))


def _save(net: _Net, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=".classifier-", suffix=".npz", dir=path.parent)
        try:
            with os.fdopen(fd, "wb") as f:
                np.savez(f, **{k: v.numpy() for k, v in net.state_dict().items()})
            os.replace(name, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)
    except OSError as e:
        raise OutputError(f"{path.parent}: the classifier cannot be kept there: {e.strerror or e}; choose another --cache") from e


def _load(net: _Net, path: Path) -> bool:
    """Fill ``net`` from the cache; False if the file is not what :func:`_save` writes, and it will be made again."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            net.load_state_dict({k: torch.from_numpy(stored[k]) for k in stored.files})
    except Exception:  # numpy, zipfile and torch each have their own errors for a damaged file
        return False
    net.eval()
    return True
