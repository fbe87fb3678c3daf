"""Which GPU there is. Asked of the driver's management library, so that CUDA is not started: a process that has started CUDA
cannot fork workers that use it, and bulk jobs fork (docs/bulk.md).
"""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass

from ..errors import CapabilityError, InvalidRequestError

OLDEST = (8, 0)  # compute capability that the kernels serve
LIBRARY = "libnvidia-ml.so.1"


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver knows it."""

    name: str
    capability: tuple[int, int]
    memory: int  # bytes


def parse(device: str) -> tuple[str, int]:
    """``cpu``, ``cuda`` or ``cuda:N`` as (kind, number). Raises InvalidRequestError for anything else."""
    found = re.fullmatch(r"(cpu|cuda)(?::(\d{1,3}))?", device)
    if found is None or (found[1] == "cpu" and found[2]):
        raise InvalidRequestError(f"device is {device!r:.40}; the torch engine runs on cpu, cuda or cuda:N")
    return found[1], int(found[2] or 0)


def find_gpu(number: int) -> Gpu:
    """GPU ``number`` of those that CUDA_VISIBLE_DEVICES leaves. Raises CapabilityError if it is not there or too old."""
    gpus = _visible(list_gpus())
    if number >= len(gpus):
        there = f"{len(gpus)} visible: {', '.join(gpu.name for gpu in gpus)}" if gpus else "none is visible to this process"
        raise CapabilityError(
            f"device cuda:{number} is not there; {there}. Look at nvidia-smi and CUDA_VISIBLE_DEVICES, or use device cpu"
        )
    gpu = gpus[number]
    if gpu.capability < OLDEST:
        raise CapabilityError(
            f"{gpu.name} has compute capability {gpu.capability[0]}.{gpu.capability[1]}; the kernels need "
            f"{OLDEST[0]}.{OLDEST[1]}. Export the network (gaitcrafter-rt export onnx) and run it in fp16 with ONNX Runtime, "
            "or use device cpu"
        )
    return gpu


def list_gpus() -> list[Gpu]:
    """All GPUs of this machine. Raises CapabilityError without a driver."""
    try:
        nvml = ctypes.CDLL(LIBRARY)
    except OSError as e:
        raise CapabilityError(f"no NVIDIA driver here ({LIBRARY} does not load); install one, or use device cpu") from e
    if (status := nvml.nvmlInit_v2()) != 0:
        raise CapabilityError(f"the NVIDIA driver does not answer (nvmlInit says {status}); see nvidia-smi, or use device cpu")
    try:
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return []
        return [gpu for i in range(count.value) if (gpu := _describe(nvml, i)) is not None]
    finally:
        nvml.nvmlShutdown()


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


def _describe(nvml: ctypes.CDLL, index: int) -> Gpu | None:
    handle, name, memory = ctypes.c_void_p(), ctypes.create_string_buffer(96), _Memory()
    major, minor = ctypes.c_int(), ctypes.c_int()
    calls = (
        nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)),
        nvml.nvmlDeviceGetName(handle, name, ctypes.c_uint(len(name))),
        nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor)),
        nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)),
    )
    if any(calls):
        return None
    return Gpu(name.value.decode(errors="replace"), (major.value, minor.value), memory.total)


def _visible(gpus: list[Gpu]) -> list[Gpu]:
    """What CUDA_VISIBLE_DEVICES leaves where it lists numbers; other forms of it (UUIDs) are counted, in the driver's order."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return gpus
    entries = [entry.strip() for entry in listed.split(",") if entry.strip()]
    if not all(entry.lstrip("-").isdigit() for entry in entries):
        return gpus[: len(entries)]
    chosen = []
    for entry in entries:
        if not 0 <= int(entry) < len(gpus):
            break  # as CUDA does, the first one that is not there ends the list
        chosen.append(gpus[int(entry)])
    return chosen
