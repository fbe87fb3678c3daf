"""The native noise and sampler for Python tests, compiled once from source into the temporary folder.

The library is keyed by its sources, so a change rebuilds it; it needs a C++20 compiler (``CXX``, default ``c++``).
"""

from __future__ import annotations

import ctypes as c
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gaitcrafter_rt.config import Diffusion, SamplerDefaults
from gaitcrafter_rt.errors import error_for_code

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [
    *sorted((ROOT / "csrc" / "noise").glob("*.cc")),
    *sorted((ROOT / "csrc" / "sampler").glob("*.cc")),
    ROOT / "csrc" / "core" / "isa.cc",
    ROOT / "csrc" / "core" / "team.cc",
    ROOT / "tests" / "samplers" / "native_shim.cc",
]
# As in csrc/noise/CMakeLists.txt and csrc/sampler/CMakeLists.txt.
FLAGS = ["-std=c++20", "-O3", "-ffp-contract=off", "-fno-fast-math", "-fno-math-errno", "-fPIC", "-shared"]

ISAS = {"portable": 0, "avx2": 1, "avx512": 2, "avx512_amx": 3}
_KINDS = ["ddpm", "ddim", "dpmpp_2m", "dpmpp_3m", "unipc"]
_SPACINGS = ["leading", "trailing", "linspace"]
_THRESHOLDINGS = ["none", "clip", "dynamic"]
_PREDICTIONS = ["x0", "eps", "v"]
_SCHEDULES = ["cosine", "linear"]

_DENOISE = c.CFUNCTYPE(None, c.POINTER(c.c_float), c.c_int32, c.POINTER(c.c_float))


class _Settings(c.Structure):
    _fields_ = [
        *((name, c.c_int32) for name in ("kind", "steps", "spacing", "thresholding", "rederive_eps")),
        *((name, c.c_int32) for name in ("prediction", "schedule", "timesteps")),
        *((name, c.c_double) for name in ("eta", "dynamic_percentile", "guidance")),
    ]


@cache
def library() -> c.CDLL:
    """The loaded library; skips the calling test where there is no compiler."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler: set CXX to build the native sampler for this test")
    headers = [h for part in ("core", "model", "noise", "sampler") for h in sorted((ROOT / "csrc" / part).glob("*.h"))]
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in [*SOURCES, *headers]:
        digest.update(path.read_bytes())
    target = Path(tempfile.gettempdir()) / f"gaitcrafter-native-sampler-{os.getuid()}-{digest.hexdigest()[:16]}.so"
    if not target.exists():
        scratch = target.with_suffix(f".{os.getpid()}")
        command = [compiler, *FLAGS, f"-I{ROOT / 'csrc'}", *map(str, SOURCES), "-o", str(scratch)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        scratch.rename(target)
    lib = c.CDLL(str(target))
    lib.shim_rows.restype = lib.shim_sample.restype = lib.shim_pack.restype = c.c_int64
    lib.shim_dynamic_limit.restype = c.c_float
    return lib


def _settings(sampler: SamplerDefaults, diffusion: Diffusion) -> _Settings:
    return _Settings(
        kind=_KINDS.index(sampler.kind),
        steps=sampler.steps,
        spacing=_SPACINGS.index(sampler.spacing),
        thresholding=_THRESHOLDINGS.index(sampler.thresholding),
        rederive_eps=sampler.rederive_eps,
        prediction=_PREDICTIONS.index(diffusion.prediction),
        schedule=_SCHEDULES.index(diffusion.schedule),
        timesteps=diffusion.timesteps,
        eta=sampler.eta,
        dynamic_percentile=sampler.dynamic_percentile,
        guidance=sampler.guidance,
    )


def _pointer(array: NDArray[Any]) -> c.c_void_p:
    return c.c_void_p(array.ctypes.data)


def _checked(result: int, message: c.Array[c.c_char]) -> int:
    if result < 0:
        raise error_for_code(-result, message.value.decode())
    return result


def rows(sampler: SamplerDefaults, diffusion: Diffusion) -> NDArray[np.float64]:
    """Native rows, float64 (rows, 10): t, stream, and the eight coefficients in the order of table.h."""
    table = np.zeros((max(sampler.steps, 1), 10))
    message = c.create_string_buffer(512)
    settings = _settings(sampler, diffusion)
    count = library().shim_rows(c.byref(settings), _pointer(table), message)
    assert _checked(count, message) == sampler.steps
    return table


def sample(
    denoise: Any, sampler: SamplerDefaults, diffusion: Diffusion, seed: int, clip: int, n: int, threshold: float = 0.5
) -> tuple[NDArray[np.float32], NDArray[np.uint8], int]:
    """Runs the native loop over ``denoise(x, t)`` (float32 (n,) in and out): x_0, packed bits, count of non-finite values."""

    def call(x: Any, t: int, out: Any) -> None:
        np.ctypeslib.as_array(out, (n,))[:] = denoise(np.ctypeslib.as_array(x, (n,)), t)

    x_0, packed = np.empty(n, np.float32), np.zeros(-(-n // 8), np.uint8)
    message = c.create_string_buffer(512)
    settings = _settings(sampler, diffusion)
    count = library().shim_sample(
        c.byref(settings), _DENOISE(call), c.c_uint64(seed), c.c_uint64(clip), c.c_size_t(n), c.c_float(threshold),
        _pointer(x_0), _pointer(packed), message,
    )  # fmt: skip
    return x_0, packed, _checked(count, message)


def isa_supported(isa: str) -> bool:
    """Whether this processor runs the tier."""
    return bool(library().shim_isa_supported(ISAS[isa]))


def normals(isa: str, seed: int, clip: int, stream: int, n: int) -> NDArray[np.float32]:
    """``fill_normal`` on one tier."""
    out = np.empty(n, np.float32)
    library().shim_normals(
        ISAS[isa], c.c_uint64(seed), c.c_uint64(clip), c.c_uint32(stream), _pointer(out), c.c_size_t(n)
    )
    return out


def dynamic_limit(values: NDArray[np.float32], percentile: float) -> float:
    """The native dynamic threshold of one clip."""
    copy = np.array(values, np.float32).reshape(-1)
    return float(library().shim_dynamic_limit(_pointer(copy), c.c_size_t(copy.size), c.c_double(percentile)))


def pack(x: NDArray[np.float32], threshold: float) -> tuple[NDArray[np.uint8], int]:
    """Native packing of one clip and its count of non-finite values."""
    packed = np.zeros(-(-x.size // 8), np.uint8)
    count = library().shim_pack(_pointer(x), c.c_size_t(x.size), c.c_float(threshold), _pointer(packed))
    return packed, int(count)
