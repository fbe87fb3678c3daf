"""The engine on torch: the fused U-Net and the sampler's rows on a GPU as one CUDA graph, or on a CPU as its reference.

Each file knows only those above it: ``settings`` (a request's sampler, checked), ``devices`` (which GPU there is, asked without
starting CUDA), ``requests`` (conditions as they
come), ``runtime`` (memory, streams and capture: a GPU's or a CPU's), ``lanes`` (conditions as rows of numbers), ``program``
(the whole table over one batch), ``calls`` (a request cut into batches, two in flight), ``backend`` (what ``gaitcrafter_rt.Engine``
calls). Importing this package needs no torch.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .backend import TorchBackend

if TYPE_CHECKING:
    from ..backends import Options

__all__ = ["TorchBackend", "open_torch"]


def open_torch(path: str | os.PathLike[str], options: Options) -> TorchBackend:
    """The torch engine as one of ``gaitcrafter_rt.backends``; raises what ``TorchBackend`` does."""
    from ..errors import InvalidRequestError

    for name in ("library", "plan"):
        if getattr(options, name) is not None:
            raise InvalidRequestError(f"the backend torch takes no {name}")
    o = options
    return TorchBackend(
        path, device=o.device, precision=o.precision, batch=o.batch or None, conv=o.conv, identity=o.isa, graphs=o.graphs
    )
