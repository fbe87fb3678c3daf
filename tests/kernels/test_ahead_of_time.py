"""Kernels compiled for real chips on a machine without one: what the machine code holds. If it is right is for a GPU to say."""

from __future__ import annotations

import multiprocessing
import operator
import os
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="needs the extra gpu")

from gaitcrafter_rt.errors import CapabilityError
from gaitcrafter_rt.export import kernel_pack
from gaitcrafter_rt.export.cubins import compile_launch, variants
from gaitcrafter_rt.export.kernel_table import TARGETS, Facts, all_launches, measure, measure_all
from gaitcrafter_rt.kernels.launch import Launch

WITH_PRODUCTS = {"conv2d", "block", "attend", "context", "product", "temporal_conv", "linear", "context_of", "product_of"}
# They read a few numbers per program, or gather.
WITHOUT_WIDE_LOADS = {"initial_noise", "affine", "unshuffle", "shuffle"}
# What multiplies matrices on each chip; small tiles fall back to HMMA everywhere.
PRODUCTS = {
    "sm_80": {"HMMA"}, "sm_86": {"HMMA"}, "sm_89": {"HMMA"}, "sm_90": {"HGMMA", "HMMA"}, "sm_100": {"UTCHMMA", "HMMA"},
    "sm_120": {"HMMA"}, "compute_80 on sm_121": {"HMMA"},
}  # fmt: skip
OPERATIONS = {  # of values that are never negative
    "muli": operator.mul, "addi": operator.add, "subi": operator.sub, "divsi": operator.floordiv, "remsi": operator.mod,
    "minsi": min, "maxsi": max,
}  # fmt: skip
MILLION = 245  # clips of 64x64 sites
JOBS = len(os.sched_getaffinity(0))


def check(facts: Facts) -> None:
    assert facts.spills == 0 and facts.scratch == 0 and facts.shared <= facts.shared_limit, facts
    assert facts.products.keys() <= PRODUCTS[facts.target] and bool(facts.products) == (facts.name in WITH_PRODUCTS), facts
    if facts.name not in WITHOUT_WIDE_LOADS:
        assert facts.wide_loads > 0, facts


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


_cases: list[Launch] = []


def _on_one_chip(index: int) -> tuple[Facts, bool]:
    """Facts of a kernel on sm_90, and whether it has 64-bit offsets; its offsets are checked."""
    launch = _cases[index]
    facts = measure(launch, "90", with_registers=False)
    check(facts)
    ttir = compile_launch(launch, 90).ttir  # from Triton's cache
    assert check_offsets(ttir, launch.grid) > 0
    return facts, max(re.findall(r"tt\.addptr %\w+, %\w+ : !tt\.ptr<\w+>, (i64)", ttir), default="") == "i64"


def forked(work: Callable[[int], Any], count: int) -> list[Any]:
    """``work`` of 0 to ``count`` by all processors; an assertion that fails there fails here."""
    with multiprocessing.get_context("fork").Pool(JOBS) as pool:
        return pool.map(work, range(count), chunksize=2)


def test_every_kernel_on_one_chip() -> None:
    """No spills, tensor cores where there are products, 16-byte loads, shared memory, and offsets at a million sequences."""
    _cases[:] = variants(all_launches(MILLION))
    found = forked(_on_one_chip, len(_cases))
    assert len({facts.name for facts, _ in found}) == 20 and sum(is_wide for _, is_wide in found) > 20
    # Where tiles are large enough, the chip's own instructions are used.
    assert {facts.name for facts, _ in found if "HGMMA" in facts.products} >= {"conv2d", "linear", "product", "product_of", "block"}


def test_a_32_bit_offset_would_be_noticed() -> None:
    text = "%a = tt.get_program_id x : i32\n%c = arith.constant 3000000 : i32\n%b = arith.muli %a, %c : i32"
    with pytest.raises(AssertionError, match="does not fit"):
        check_offsets(text, (1000, 1, 1))


@pytest.mark.parametrize(
    "change",
    [{"spills": 1}, {"scratch": 8}, {"shared": 101377}, {"wide_loads": 0}, {"products": {}}, {"products": {"HGMMA": 8}}],
    ids=str,
)
def test_each_fault_would_be_noticed(change: dict[str, Any]) -> None:
    good = Facts("conv2d", "bf16", "sm_86", 4, 128, 0, 99 << 10, 99 << 10, 0, {"HMMA": 16}, 4, 4)
    check(good)
    with pytest.raises(AssertionError):
        check(replace(good, **change))


def test_chips_before_tensor_core_bf16_are_refused() -> None:
    with pytest.raises(CapabilityError, match="sm_75 is older than sm_80; there, run the exported ONNX network in fp16"):
        compile_launch(all_launches()[0], 75)


def test_a_pack_refuses_what_a_chip_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """PTX may meet a chip with the least shared memory, whatever the chip that it was compiled for has."""
    launch = next(launch for launch in all_launches() if launch.name == "shuffle")
    real = compile_launch(launch, 80)
    for chip, largest in (("80", 163), ("86", 99), ("90", 227), ("ptx", 99)):
        for kilobytes, scratch in ((largest, 0), (largest + 1, 0), (0, 16)):
            made = replace(real, capability=80 if chip == "ptx" else int(chip), shared=kilobytes << 10, scratch=scratch)
            monkeypatch.setattr(kernel_pack, "compile_launch", lambda *_, made=made: made)
            if (kilobytes, scratch) == (largest, 0):
                assert kernel_pack.compile_image(launch, chip).shared == kilobytes << 10
            else:
                with pytest.raises(
                    CapabilityError, match=f"takes {kilobytes << 10} bytes of shared memory and {scratch} of scratch"
                ):
                    kernel_pack.compile_image(launch, chip)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("chip", TARGETS)
def test_every_kernel_on_every_chip(chip: str, dtype: torch.dtype) -> None:
    for facts in measure_all(variants(all_launches(MILLION, dtype)), [chip], JOBS):
        check(facts)
        assert 0 < facts.registers <= 255, facts
