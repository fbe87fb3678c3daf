"""The native test module ``_gc_test``: every op and a raw forward, per instruction set (tests/native/CMakeLists.txt)."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

ISAS = ("portable", "avx2", "avx512")
# Op tables of an instruction set and a precision; the last multiplies by the matrix unit.
BF16_ISAS = ("avx512", "avx512_amx")
BF16 = tuple(f"{isa} bf16" for isa in BF16_ISAS)
HERE = Path(__file__).parent


def load() -> ModuleType:
    """Looks in GAITCRAFTER_TEST_MODULE (a folder), then beside this file."""
    for folder in (os.environ.get("GAITCRAFTER_TEST_MODULE"), str(HERE)):
        if folder and any(Path(folder).glob("_gc_test*.so")):
            sys.path.insert(0, folder)
            return importlib.import_module("_gc_test")
    pytest.skip("_gc_test is not built; configure with -DGAITCRAFTER_TESTS=ON -DGAITCRAFTER_DEV_TREE=ON", allow_module_level=True)


def need(native: ModuleType, table: str, module: bool = False) -> str:
    """Skips the test, or the module, where the processor lacks an op table: an instruction set, or one and a precision."""
    isa, _, precision = table.partition(" ")
    if not native.isa_supported(isa):
        pytest.skip(f"this processor has no {isa}", allow_module_level=module)
    if precision and not native.precision_supported(precision, isa):
        pytest.skip(f"this processor has no {isa}_{precision}", allow_module_level=module)
    return table


def pixels(x: torch.Tensor) -> np.ndarray:
    """``[N, C, H, W]`` to the native ``[N, H, W, C]`` fp32."""
    return np.ascontiguousarray(x.permute(0, 2, 3, 1).float().numpy())


def planes(y: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(y).permute(0, 3, 1, 2).double()


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    assert got.shape == want.shape
    return float((got.double() - want).norm() / want.norm())
