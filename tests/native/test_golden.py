"""The network through the public library (C interface, binding) against torch in double (the stored golden)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gaitcrafter_rt import Engine, _native

FIXTURES = Path(__file__).parent.parent / "fixtures"
NAMES = ("tiny-paper", "tiny-paper-rms", "tiny-walker", "tiny-maps")


def read_golden(path: Path) -> dict[str, np.ndarray]:
    """A safetensors file with numpy alone, so that this runs where the library is absent (and quickly under an emulator)."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    types = {"F32": np.float32, "F64": np.float64, "I64": np.int64}
    out = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            raw = np.frombuffer(data[8 + size + begin : 8 + size + end], types[entry["dtype"]])
            out[name] = raw.reshape(entry["shape"])
    return out


def sparse(golden: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Dense weight rows (last column null) as compressed rows."""
    out = {}
    for key, table in golden.items():
        if key.startswith("weights."):
            rows, labels = np.nonzero(table[:, :-1])
            offsets = np.searchsorted(rows, np.arange(len(table) + 1))
            out[key.removeprefix("weights.")] = (offsets, labels, table[rows, labels])
    return out


def worst_error(name: str, isa: str | None = None) -> float:
    golden = read_golden(FIXTURES / name / "golden.safetensors")
    engine = _native.Engine(str(FIXTURES / name), threads=1, isa=isa, precision="fp32")
    got = engine.forward(golden["x"], golden["t"], sparse(golden), cond=golden.get("cond"))
    want = golden["out"]
    return max(float(np.linalg.norm(g - w) / np.linalg.norm(w)) for g, w in zip(got, want, strict=True))


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
@pytest.mark.parametrize("name", NAMES)
def test_forward(name: str, isa: str) -> None:
    if not _native.isa_supported(isa):
        pytest.skip(f"this processor has no {isa}")
    assert worst_error(name, isa) < 1e-6


# AVX2 without AVX-512, and a processor without AVX: what an older machine would run is executed, not assumed.
@pytest.mark.parametrize(("cpu", "isa"), [("Haswell", "avx2"), ("Nehalem", "portable")])
def test_other_processors(cpu: str, isa: str) -> None:
    qemu = shutil.which("qemu-x86_64")
    if qemu is None:
        pytest.skip("qemu-x86_64 (Debian package qemu-user) is not installed")
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from test_golden import worst_error\nfrom gaitcrafter_rt import _native\n"
        "print(_native.isa(), worst_error('tiny-walker'), worst_error('tiny-maps'))"
    )
    command = [qemu, "-cpu", cpu, sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, timeout=1200, cwd=Path(__file__).parent, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    got_isa, *errors = run.stdout.split()
    assert got_isa == isa
    assert all(float(e) < 1e-6 for e in errors)


def test_sampler_table_is_structured() -> None:
    with Engine(FIXTURES / "tiny-walker", threads=1) as engine:
        table = engine._native.sampler_table({"kind": "dpmpp_2m", "steps": 3})
    assert table.dtype.names == ("timestep", "stream", "a_x", "a_out", "c_x", "c_x0", "c_prev1", "c_prev2", "c_raw", "c_noise")
    assert table["timestep"].tolist() == sorted(table["timestep"].tolist(), reverse=True)
    assert (table["c_prev1"] != 0).any()


def test_pack_is_numpys() -> None:
    x = np.random.default_rng(0).normal(size=77).astype(np.float32)
    packed = _native.pack(x, 0.5)
    assert np.array_equal(packed, np.packbits(x > 0))
    assert np.array_equal(_native.unpack(packed, 77), (x > 0).astype(np.uint8))
