"""Objects compiled for one instruction set export their op table and nothing else.

A function that such an object emits as a weak symbol (an inline function of a header, a template) competes with the copies
of other objects, and the linker keeps any one: an AVX-512 copy in a program that runs on an older processor. So the
objects may define no external or weak symbol but the table.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TABLES = {
    "portable": "kOpsPortable",
    "avx2": "kOpsAvx2",
    "avx512": "kOpsAvx512",
    "avx512 bf16": "kOpsAvx512Bf16",
    "avx512 int8": "kOpsAvx512Int8",
    "avx512_amx bf16": "kOpsAmxBf16",
    "avx512_amx int8": "kOpsAmxInt8",
}
AMX = ["-mamx-tile", "-mamx-bf16", "-mamx-int8"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"]
FLAGS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": AVX512,
    "avx512 bf16": [*AVX512, "-mavx512bf16", "-DGC_BF16=1"],
    "avx512 int8": [*AVX512, "-mavx512bf16", "-mavx512vnni", "-DGC_BF16=1", "-DGC_INT8=1"],
    "avx512_amx bf16": [*AVX512, "-mavx512bf16", *AMX, "-DGC_BF16=1", "-DGC_AMX=1"],
    "avx512_amx int8": [*AVX512, "-mavx512bf16", "-mavx512vnni", *AMX, "-DGC_BF16=1", "-DGC_INT8=1", "-DGC_AMX=1"],
}


def defined_symbols(path: Path) -> set[str]:
    """External and weak symbols that an object defines."""
    out = subprocess.run(["nm", "-C", "--defined-only", "-g", str(path)], check=True, capture_output=True, text=True).stdout
    return {line.split(" ", 2)[2] for line in out.splitlines() if line.strip()}


@pytest.mark.parametrize("isa", TABLES)
def test_only_the_table_is_exported(isa: str, tmp_path: Path) -> None:
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None or shutil.which("nm") is None:
        pytest.skip("no C++ compiler or no nm")
    obj = tmp_path / "unit.o"
    command = [compiler, "-std=c++20", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-exceptions"]
    command += [f"-DGC_OP_TABLE={TABLES[isa]}", *FLAGS[isa], f"-I{ROOT / 'csrc'}"]
    command += ["-c", str(ROOT / "csrc/ops/isa_unit.cc"), "-o", str(obj)]
    subprocess.run(command, check=True)
    assert defined_symbols(obj) == {f"gaitcrafter::{TABLES[isa]}"}


def test_the_build_uses_the_flags_tested_here() -> None:
    text = (ROOT / "csrc/ops/CMakeLists.txt").read_text()
    for isa, table in TABLES.items():
        line = next(li for li in text.splitlines() if li.startswith("gaitcrafter_isa_unit(") and table in li.split(")")[0].split())
        assert line.removesuffix(")").split()[2:] == FLAGS[isa]


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_decoders_export_their_table_alone(isa: str, tmp_path: Path) -> None:
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None or shutil.which("nm") is None:
        pytest.skip("no C++ compiler or no nm")
    obj, table = tmp_path / "unit.o", f"kDecode{isa.capitalize()}"
    command = [compiler, "-std=c++20", "-O3", f"-DGC_DECODE_TABLE={table}", *FLAGS[isa], f"-I{ROOT / 'csrc'}"]
    subprocess.run([*command, "-c", str(ROOT / "csrc/reader/decode_unit.cc"), "-o", str(obj)], check=True)
    assert defined_symbols(obj) == {f"gaitcrafter::{table}"}
    line = next(li for li in (ROOT / "csrc/reader/CMakeLists.txt").read_text().splitlines() if f" {table}" in li)
    assert line.removesuffix(")").split()[2:] == FLAGS[isa]
