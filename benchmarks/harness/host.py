"""The machine and the code that figures belong to, and what one core can do."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
# A change elsewhere (docs, results) does not change what is measured.
MEASURED = ("csrc", "kernels", "gaitcrafter_rt", "export", "CMakeLists.txt", "cmake")
SETS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
WIDEST = {"amx_bf16": "amx", "avx512_bf16": "avx512-bf16", "avx512f": "avx512", "avx2": "avx2"}
ARITHMETIC = ("fp32", "bf16", "int8")


def host() -> dict[str, Any]:
    """CPU model, the instruction sets that matter here, processors."""
    name, flags = platform.processor() or platform.machine(), set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() == "flags":
            flags = set(value.split())
    return {"cpu": name, "instruction_sets": [s for s in SETS if s in flags], "processors": len(os.sched_getaffinity(0))}


def machine(found: dict[str, Any]) -> str:
    """The part of a file name that keeps results of different processors apart: "amd-epyc-avx512-bf16" of a ``host()``."""
    words = re.sub(r"\((?:r|tm)\)|@.*|\b(?:processor|cpu)\b", " ", found["cpu"].lower())
    widest = next((name for flag, name in WIDEST.items() if flag in found["instruction_sets"]), "")
    return "-".join([*re.findall(r"[a-z0-9]+", words), *filter(None, [widest])])


def commit(root: Path = ROOT) -> str:
    """Short hash, with -dirty if what is measured differs from it."""

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=False).stdout.strip()

    dirty = git("status", "--porcelain", "--untracked-files=no", "--", *MEASURED)
    return (git("rev-parse", "--short=9", "HEAD") or "unknown") + ("-dirty" if dirty else "")


def versions(distributions: list[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def limits() -> dict[str, float]:
    """GFLOP/s of this core in registers alone, two per multiply-add, by arithmetic; what it lacks is left out."""
    from gaitcrafter_rt import _native
    from gaitcrafter_rt.errors import CapabilityError

    found = {}
    for arithmetic in ARITHMETIC:
        try:
            found[arithmetic] = _native.processor_rate(arithmetic) / 1e9
        except CapabilityError:
            continue
    return found
