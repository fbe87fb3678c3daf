"""Backend cubin where something is missing: one typed error with the remedy, the GPU untouched (the rest: cubin_test.cc)."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

import gaitcrafter_rt as gc
from gaitcrafter_rt.errors import CapabilityError, InvalidRequestError, MissingExtraError

MODEL = Path(__file__).parents[1] / "fixtures" / "tiny-walker"


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack whose machine code is a stand-in."""
    pytest.importorskip("triton", reason="needs the extra gpu")
    from gaitcrafter_rt.export.kernel_pack import Image, write_kernel_pack

    out = tmp_path_factory.mktemp("cubin") / "pack"
    write_kernel_pack(MODEL, out, chips=["90"], compiler=lambda launch, _: Image(b"code", f"_{launch.name}", launch.warps, 0))
    return out


@pytest.mark.parametrize(
    "library, error, message",
    [
        ("/no/such/libcudart.so", "MissingExtraError", "pip install nvidia-cuda-runtime"),
        ("libm.so.6", "CapabilityError", "needs the CUDA runtime 12.8 or newer"),
    ],
)
def test_the_runtime_library(pack: Path, library: str, error: str, message: str) -> None:
    """In a process of its own: the library that is found first is kept."""
    code = f"""
import gaitcrafter_rt as gc
try:
    gc.Engine({str(pack)!r}, backend="cubin", device="cuda", library={library!r})
except gc.errors.GaitcrafterError as e:
    print(type(e).__name__, e)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith(error) and message in done.stdout, done.stdout + done.stderr


def test_the_driver(pack: Path) -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with pytest.raises((CapabilityError, MissingExtraError), match=r"no NVIDIA driver here|pip install nvidia-cuda-runtime"):
            gc.Engine(pack, backend="cubin", device="cuda")
    else:
        pytest.skip("this machine has NVIDIA's driver")


@pytest.mark.parametrize("backend", ["native", "cubin", "onnxruntime"])
@pytest.mark.parametrize("option", [{"conv": "torch"}, {"graphs": False}], ids=str)
def test_options_of_the_torch_engine_are_refused(backend: str, option: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError, match=f"conv and graphs are for backend 'torch'; backend is '{backend}'"):
        gc.Engine(MODEL, backend=backend, **option)
