"""Kernels compiled for real chips on a machine without one: what the machine code holds. If it is right is for a GPU to say."""

from __future__ import annotations

import operator
import re
from functools import cache

import pytest
from networks import all_launches

pytest.importorskip("triton", reason="needs the extra gpu")

from gaitcrafter_rt.errors import CapabilityError
from gaitcrafter_rt.export.cubins import SHARED_LIMITS, Kernel, compile_launch, costs, variants
from gaitcrafter_rt.kernels.launch import Launch

WITH_PRODUCTS = {"conv2d", "block", "attend", "context", "product", "temporal_conv", "linear", "context_of", "product_of"}
# They read a few numbers per program, or gather.
WITHOUT_WIDE_LOADS = {"initial_noise", "affine", "unshuffle", "shuffle"}
# What multiplies matrices on each chip; small tiles fall back to HMMA everywhere.
PRODUCTS = {80: {"HMMA"}, 86: {"HMMA"}, 89: {"HMMA"}, 90: {"HGMMA", "HMMA"}, 100: {"UTCHMMA", "HMMA"}, 120: {"HMMA"}}
OPERATIONS = {  # of values that are never negative
    "muli": operator.mul, "addi": operator.add, "subi": operator.sub, "divsi": operator.floordiv, "remsi": operator.mod,
    "minsi": min, "maxsi": max,
}  # fmt: skip
MILLION = 245  # clips of 64x64 sites


@cache
def cases() -> list[Launch]:
    return variants(all_launches(MILLION))


def check(launch: Launch, capability: int) -> Kernel:
    kernel = compile_launch(launch, capability)
    found = costs(kernel)
    where = f"{launch.name} {launch.constants} sm_{capability}: {found}, {kernel.shared} bytes shared"
    assert found.spills == 0, where
    assert kernel.shared <= SHARED_LIMITS[capability], where
    assert kernel.scratch == 0, where
    assert found.products.keys() <= PRODUCTS[capability] and bool(found.products) == (launch.name in WITH_PRODUCTS), where
    if launch.name not in WITHOUT_WIDE_LOADS:
        assert found.wide_loads > 0, where
    return kernel


def check_offsets(ttir: str, programs: tuple[int, int, int]) -> int:
    """Evaluate the scalar integers of Triton's intermediate code for the last program of a grid, as written and without limit of
    width; both must agree. Returns how many values were compared, pointers' scalar offsets among them.
    """
    exact: dict[str, int] = {}
    compared = 0
    axes = {"x": programs[0] - 1, "y": programs[1] - 1, "z": programs[2] - 1}
    for line in ttir.splitlines():
        if found := re.match(r"\s*(%\w+) = tt\.get_program_id (\w)", line):
            exact[found[1]] = axes[found[2]]
        elif found := re.match(r"\s*(%\w+) = arith\.constant (-?\d+) : i(?:32|64)", line):
            exact[found[1]] = int(found[2])
        elif found := re.match(r"\s*(%\w+) = arith\.extsi (%\w+) : i32 to i64", line):
            if found[2] in exact:
                exact[found[1]] = exact[found[2]]
        elif found := re.match(r"\s*(%\w+) = arith\.(\w+) (%\w+), (%\w+)[^:]*: (i32|i64)", line):
            name, op, a, b, kind = found.groups()
            if a in exact and b in exact:
                value = OPERATIONS[op](exact[a], exact[b])
                bits = int(kind[1:])
                assert -(2 ** (bits - 1)) <= value < 2 ** (bits - 1), f"{value} does not fit {line.strip()}"
                exact[name] = value
                compared += 1
    return compared


def test_every_kernel_on_one_chip() -> None:
    """No spills, tensor cores where there are products, 16-byte loads, shared memory, and offsets at a million sequences."""
    names, wide = set(), 0
    for launch in cases():
        kernel = check(launch, 90)
        assert check_offsets(kernel.ttir, launch.grid) > 0
        names.add(launch.name)
        wide += max(re.findall(r"tt\.addptr %\w+, %\w+ : !tt\.ptr<\w+>, (i64)", kernel.ttir), default="") == "i64"
    assert len(names) == 20 and wide > 20


def test_a_32_bit_offset_would_be_noticed() -> None:
    text = "%a = tt.get_program_id x : i32\n%c = arith.constant 3000000 : i32\n%b = arith.muli %a, %c : i32"
    with pytest.raises(AssertionError, match="does not fit"):
        check_offsets(text, (1000, 1, 1))


def test_chips_before_tensor_core_bf16_are_refused() -> None:
    with pytest.raises(CapabilityError, match="sm_75 is older than sm_80; there, run the exported ONNX network in fp16"):
        compile_launch(cases()[0], 75)


@pytest.mark.slow
@pytest.mark.parametrize("capability", sorted(SHARED_LIMITS))
def test_every_kernel_on_every_chip(capability: int) -> None:
    for launch in cases():
        check(launch, capability)
