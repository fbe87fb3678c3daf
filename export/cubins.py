"""Triton kernels ahead of time (extra ``gpu``): a recorded launch becomes a cubin for a given chip, on a machine without a GPU.

What a compiled kernel costs is read from the cubin by the tools inside the triton package: registers and local memory by cuobjdump,
instructions by nvdisasm. Nothing here says that a kernel computes the right thing; tests/kernels does, by Triton's interpreter.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import CapabilityError, InternalError, MissingExtraError
from ..kernels.launch import INTERPRETED, Launch

# Compute capability to the largest shared memory of a block in bytes (CUDA C++ Programming Guide, technical specifications).
SHARED_LIMITS = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
PTX_CAPABILITY = 80  # its PTX runs on every later chip
PTX_SHARED_LIMIT = min(SHARED_LIMITS.values())  # which of them is not known yet
# Registers of a thread that the assembler may give, by chip, kernel and whether its input is fp32. Left to itself it stops these at
# 72 (sm_100) or 128 (sm_120) and spills a few.
_REGISTERS = {(100, "product", False): 255, (100, "product_of", False): 255, (120, "conv2d", True): 255}
_TYPES = {
    torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int64: "i64", torch.int32: "i32", torch.uint8: "u8",
}  # fmt: skip
_CODE = ("KH", "STRIDE", "SPREAD", "FLAT", "T", "TILE", "CP", "WIDTH", "FOLD", "BLOCK_M", "BLOCK_N", "BLOCK_K")
OPTIONAL_VECTORS = ("bias", "film", "null", "limit", "history")
_PRODUCTS = re.compile(r"\b(UTC[A-Z0-9]*MMA|Q?HGMMA|HMMA|DMMA|IMMA)\b")


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel."""

    name: str
    key: str
    capability: int
    cubin: bytes
    ptx: str
    ttir: str
    entry: str
    warps: int
    stages: int
    shared: int  # bytes, dynamic
    scratch: int  # bytes of global scratch; launchers pass no such memory
    parameters: tuple[str, ...]  # tensors in the order of the kernel's pointers


@dataclass(frozen=True)
class Costs:
    """What a cubin holds."""

    spills: int  # stores to local memory
    products: dict[str, int]  # tensor-core instructions by name
    wide_loads: int  # 16 bytes at once, global memory
    loads: int  # all from global memory


def require_triton() -> Any:
    """The module. Raises MissingExtraError without it, CapabilityError under the interpreter, which cannot compile."""
    try:
        import triton
    except ImportError as e:
        raise MissingExtraError.for_extra("gpu", "compiling the GPU kernels", e.name) from e
    if INTERPRETED:
        raise CapabilityError("TRITON_INTERPRET=1 turns the compiler off; unset it to compile the GPU kernels")
    return triton


def signature(launch: Launch) -> dict[str, str]:
    """Triton's type of every parameter of the kernel, in order; what is known at compile time is ``constexpr``."""
    types = {}
    for name in launch.kernel.arg_names:
        tensor = launch.tensors.get(name)
        types[name] = "constexpr" if tensor is None else f"*{_TYPES[tensor.dtype]}"
    return types


def key_of(launch: Launch) -> str:
    """Launches of one key share one compiled kernel: function, types, constants, warps, stages."""
    parts = [launch.name, signature(launch), launch.constants, launch.warps, launch.stages, launch.contract]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def distinct(launches: Iterable[Launch]) -> list[Launch]:
    """One launch of every key, in order of appearance."""
    return list({key_of(launch): launch for launch in reversed(list(launches))}.values())[::-1]


def variants(launches: Iterable[Launch]) -> list[Launch]:
    """The costliest launch of every kernel and of every shape of its code: tiles, kernel size, stride, which tensors are there."""
    found: dict[tuple[Any, ...], Launch] = {}
    for launch in launches:
        present = tuple(name for name, tensor in launch.tensors.items() if tensor is not None and name not in OPTIONAL_VECTORS)
        shape = (launch.name, present, *(launch.constants.get(k) for k in _CODE))
        if shape not in found or launch.flops > found[shape].flops:
            found[shape] = launch
    return list(found.values())


def compile_launch(launch: Launch, capability: int) -> Kernel:
    """Compile for one compute capability (80 is sm_80). Tensors are taken as 16-byte aligned, as every allocation is.

    Raises CapabilityError below sm_80, which these kernels do not serve.
    """
    triton = require_triton()
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if capability < PTX_CAPABILITY:
        raise CapabilityError(
            f"sm_{capability} is older than sm_{PTX_CAPABILITY}; there, run the exported ONNX network in fp16 with ONNX Runtime"
        )
    types = signature(launch)
    names = list(types)
    constants = {(i,): launch.constants.get(name) for i, name in enumerate(names) if types[name] == "constexpr"}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if types[name] != "constexpr"}
    source = ASTSource(fn=launch.kernel, signature=types, constexprs=constants, attrs=aligned)
    options = dict(
        num_warps=launch.warps, num_stages=launch.stages, enable_fp_fusion=launch.contract,
        maxnreg=_REGISTERS.get((capability, launch.name, _takes_fp32(launch))),
    )  # fmt: skip
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    meta = made.metadata
    return Kernel(
        launch.name, key_of(launch), capability, made.asm["cubin"], made.asm["ptx"], made.asm["ttir"], meta.name, meta.num_warps,
        launch.stages, meta.shared, meta.global_scratch_size, tuple(name for name in names if types[name] != "constexpr"),
    )  # fmt: skip


def _takes_fp32(launch: Launch) -> bool:
    x = launch.tensors.get("x", launch.tensors.get("qkv"))
    return x is not None and bool(x.dtype == torch.float32)


def tool(name: str) -> Path:
    """A program inside the triton package."""
    return Path(require_triton().__file__).parent / "backends" / "nvidia" / "bin" / name


def _run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        raise InternalError(f"{Path(command[0]).name} failed: {done.stderr.strip()[-400:]}")
    return done.stdout


def assembled(kernel: Kernel, capability: int) -> Kernel:
    """A kernel's PTX made into a cubin for a later chip, as the driver does when it loads PTX (with its own assembler)."""
    name = "ptxas-blackwell" if capability >= 100 else "ptxas"
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(kernel.ptx)
        _run(tool(name), f"--gpu-name=sm_{capability}", source, "-o", target)
        return replace(kernel, capability=capability, cubin=target.read_bytes())


def sass(cubin: bytes) -> str:
    """Disassembly of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return _run(tool("nvdisasm"), "-c", file.name)


def registers(kernel: Kernel) -> int:
    """Of a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.cubin)
        file.flush()
        usage = _run(tool("cuobjdump"), "--dump-resource-usage", file.name)
    found = re.search(r"\bREG:(\d+)", usage)
    if found is None:
        raise InternalError(f"cuobjdump said nothing of registers: {usage[-400:]}")
    return int(found[1])


def costs(kernel: Kernel) -> Costs:
    """Spills, tensor-core instructions and loads of a compiled kernel, from its disassembly."""
    text = sass(kernel.cubin)
    products: dict[str, int] = {}
    for found in _PRODUCTS.findall(text):
        products[found] = products.get(found, 0) + 1
    global_loads = re.findall(r"\b(?:LDG|LDGSTS|UTMALDG)\.[A-Z0-9.]*", text)
    wide = sum(".128" in load for load in global_loads)
    return Costs(len(re.findall(r"\bSTL\b", text)), products, wide, len(global_loads))
