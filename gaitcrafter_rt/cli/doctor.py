"""``gaitcrafter-rt doctor``."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import click

from ..errors import CapabilityError, GaitcrafterError
from .common import console, human_bytes, json_option, print_json

# Distributions that each extra brings.
EXTRAS = {
    "bulk": ("pyarrow",),
    "train": ("torch", "scipy", "safetensors"),
    "gpu": ("torch", "triton"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "onnx-gpu": ("onnx", "onnxruntime-gpu"),
    "tensorrt": ("tensorrt", "onnx"),
    "tensorrt-rtx": ("tensorrt-rtx-cu13", "onnx"),
    "modelopt": ("nvidia-modelopt",),
    "video": ("imageio-ffmpeg",),
    "lance": ("pylance",),
    "ray": ("ray", "pyarrow"),
    "metrics": ("prometheus-client",),
}
BASE = ("numpy", "pillow", "click", "rich", "pydantic")
TIERS = ("portable", "avx2", "avx512", "avx512_amx")
_LITTLE_DISK = 5_000_000_000


@dataclass
class Check:
    """One line of the report. ``fail`` means that clips cannot be generated."""

    name: str
    status: Literal["ok", "absent", "warn", "fail"]
    text: str


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Check the installation and say what is missing and how to get it.

    Leaves with code 0 if clips can be generated here, 6 if not.

    \b
    gaitcrafter-rt doctor
    """
    checks = [_python(), *_base(), *_native(), _models(), *_extras(), *_runtimes(), *_gpus(), _disk()]
    failed = any(c.status == "fail" for c in checks)
    if as_json:
        print_json({"ok": not failed, "checks": [asdict(c) for c in checks]})
    else:
        _show(checks, failed)
    return CapabilityError.exit_code if failed else 0


def _show(checks: list[Check], failed: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "absent": "dim", "warn": "yellow", "fail": "bold red"}
    table = Table.grid(padding=(0, 2))
    for check in checks:
        table.add_row(Text(check.status, styles[check.status]), Text(check.name, "bold"), Text(check.text))
    out = console()
    out.print(table)
    out.print(Text("clips cannot be generated here; see the lines marked fail", "bold red") if failed else Text("ready", "green"))


def _python() -> Check:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("Python", "ok" if sys.version_info >= (3, 11) else "fail", text)


def _base() -> list[Check]:
    from .. import __version__

    found = []
    for name in BASE:
        got = _installed(name)
        found.append(Check(name, "ok" if got else "fail", got or f"absent: pip install {name}"))
    return [Check("gaitcrafter-rt", "ok", __version__), *found]


def _native() -> list[Check]:
    from ..install import cmake_dir, native

    try:
        module = native()
    except CapabilityError as e:
        return [Check("native engine", "fail", str(e))]
    supported = [tier for tier in TIERS if module.isa_supported(tier)]
    checks = [
        Check("native engine", "ok", f"{module.__version__}, ABI {module.abi_version}"),
        Check("instruction sets", "ok", f"{', '.join(supported)}; {module.isa()} is used"),
    ]
    checks.append(_cache(module.cache()))
    try:
        checks.append(Check("CMake files", "ok", str(cmake_dir())))
    except GaitcrafterError:
        checks.append(Check("CMake files", "absent", "only needed to build C++ programs"))
    return checks


def _cache(cache: dict[str, Any]) -> Check:
    """Without it every engine packs the weights again; clips are the same."""
    if cache["problem"]:
        off = "switched off" in cache["problem"]
        return Check("packed weights", "absent" if off else "warn", f"not kept: {cache['problem']}")
    held = f"{cache['entries']} of {human_bytes(cache['bytes'])}" if cache["entries"] else "none yet"
    return Check("packed weights", "ok", f"kept in {cache['folder']}: {held}")


def _models() -> Check:
    from ..models import list_models

    names = list_models()
    if names:
        return Check("shipped models", "ok", ", ".join(names))
    return Check("shipped models", "warn", "none in this build; --model takes a folder")


def _extras() -> list[Check]:
    checks = []
    for extra, distributions in EXTRAS.items():
        versions = {name: _installed(name) for name in distributions}
        absent = [name for name, got in versions.items() if not got]
        text = ", ".join(f"{name} {got}" for name, got in versions.items() if got)
        if absent:
            text = f"{', '.join(absent)} absent: pip install 'gaitcrafter-rt[{extra}]'"
        checks.append(Check(f"extra {extra}", "absent" if absent else "ok", text))
    return checks


def _runtimes() -> list[Check]:
    """Both wheels write the same module folder; whichever came last wins, often without the GPU."""
    if _installed("onnxruntime") and _installed("onnxruntime-gpu"):
        text = (
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install one of them"
        )
        return [Check("onnxruntime", "warn", text)]
    return []


def _gpus() -> list[Check]:
    """Every GPU that the driver knows, and whether the torch engine can use it."""
    from ..torch_engine.devices import OLDEST, list_gpus

    try:
        gpus = list_gpus()
    except CapabilityError as e:
        return [Check("GPU", "absent", str(e))]
    checks = [Check("GPU", "absent", "the NVIDIA driver knows of none")] if not gpus else []
    for number, gpu in enumerate(gpus):
        text = f"cuda:{number} is {gpu.name}, compute capability {'.'.join(map(str, gpu.capability))}, {human_bytes(gpu.memory)}"
        if gpu.capability < OLDEST:
            text += "; too old for the GPU kernels: export the network and run it in fp16 with ONNX Runtime"
        checks.append(Check("GPU", "ok" if gpu.capability >= OLDEST else "warn", text))
    return [*checks, _torch_on_gpu()] if gpus else checks


def _torch_on_gpu() -> Check:
    if not _installed("torch"):
        return Check("GPU engine", "absent", "torch is absent: pip install 'gaitcrafter-rt[gpu]'")
    try:
        import torch

        if not torch.cuda.is_available():
            built = torch.version.cuda or "no GPU"
            return Check("GPU engine", "warn", f"torch {torch.__version__} (built for {built}) sees no GPU")
    except (ImportError, OSError, RuntimeError) as e:
        return Check("GPU engine", "warn", f"torch does not load: {e}")
    if not _installed("triton"):
        return Check("GPU engine", "warn", "runs on plain torch, slowly: Triton is absent (pip install 'gaitcrafter-rt[gpu]')")
    return Check("GPU engine", "ok", f"torch {torch.__version__}, Triton {_installed('triton')}; --device cuda")


def _disk() -> Check:
    try:
        free = shutil.disk_usage(Path.cwd()).free
    except OSError as e:
        return Check("disk", "warn", f"the current folder cannot be looked at: {e.strerror}")
    little = free < _LITTLE_DISK
    writable = os.access(Path.cwd(), os.W_OK)
    text = f"{human_bytes(free)} free in {Path.cwd()}" + ("" if writable else ", which is not writable")
    return Check("disk", "warn" if little or not writable else "ok", text)


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
