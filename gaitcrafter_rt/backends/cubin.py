"""Backend "cubin": the C++ engine on an NVIDIA GPU by kernels compiled ahead of time; needs CUDA's runtime library, no torch."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from . import Options, Runner, open_native

# Where the wheels nvidia-cuda-runtime (CUDA 13) and nvidia-cuda-runtime-cu12 put libcudart, below the package nvidia.
_WHEELS = ("cu13/lib/libcudart.so.13", "cuda_runtime/lib/libcudart.so.12")


def open_cubin(path: str | os.PathLike[str], options: Options) -> Runner:
    """``path`` is a folder that ``gaitcrafter-rt export kernels`` wrote, or a model whose kernels are ``options.plan``."""
    return open_native(path, options if options.library else replace(options, library=find_cudart()))


def find_cudart() -> str | None:
    """libcudart of an installed wheel; None leaves the search to the loader."""
    spec = find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        for name in _WHEELS:
            if (library := Path(root) / name).is_file():
                return str(library)
    return None
