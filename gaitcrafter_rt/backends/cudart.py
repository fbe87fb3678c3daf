"""The few calls of CUDA's runtime library that a Python backend makes, by ctypes: which GPUs, memory, copies, a stream."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from ..errors import (
    CapabilityError,
    GaitcrafterError,
    InternalError,
    InvalidRequestError,
    MissingExtraError,
    OutOfMemoryError,
    error_for_code,
)
from .cubin import find_cudart

# cudaDeviceAttr: processors, second-level cache in bytes, memory bus in bits, compute capability.
_PROCESSORS, _L2, _BUS, _MAJOR, _MINOR = 16, 38, 37, 75, 76
_TO_DEVICE, _TO_HOST, _NON_BLOCKING = 1, 2, 1
_OUT_OF_MEMORY, _ABSENT = 2, (35, 100, 101)
_NAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")


@dataclass(frozen=True)
class Gpu:
    """What tells one model of GPU from another; ``str`` is how it stands in the key of an engine (gpu_text in C++)."""

    device: int
    capability: int
    processors: int
    l2_bytes: int
    bus_bits: int

    def __str__(self) -> str:
        return f"sm_{self.capability} {self.processors} processors {self.l2_bytes} bytes L2 {self.bus_bits} bits bus"


class Cuda:
    """An opened libcudart. Every method raises CapabilityError, OutOfMemoryError or InternalError for CUDA's errors."""

    def __init__(self, library: Any) -> None:
        self._library = library
        library.cudaGetErrorString.restype = ctypes.c_char_p

    def _call(self, what: str, name: str, *arguments: Any) -> None:
        if (error := getattr(self._library, name)(*arguments)) == 0:
            return
        self._library.cudaGetLastError()  # takes it back, so that later calls do not report it again
        said = (self._library.cudaGetErrorString(error) or b"unknown error").decode(errors="replace")
        message = f"{what} failed: {said} (CUDA error {error})"
        if error == _OUT_OF_MEMORY:
            raise OutOfMemoryError(f"{message}; use a smaller batch")
        if error in _ABSENT:
            raise CapabilityError(f'{message}; this needs an NVIDIA GPU and its driver, else use device "cpu"')
        raise InternalError(message)

    def gpu(self, device: int) -> Gpu:
        """What ``device`` is, and make it this thread's. Raises CapabilityError if there is no such GPU."""
        count = ctypes.c_int(0)
        self._call("looking for GPUs", "cudaGetDeviceCount", ctypes.byref(count))
        if device >= count.value:
            raise CapabilityError(f"device is cuda:{device}; this machine has {count.value} NVIDIA GPUs")
        self.use(device)
        major, minor, processors, l2, bus = (self._attribute(n, device) for n in (_MAJOR, _MINOR, _PROCESSORS, _L2, _BUS))
        return Gpu(device, 10 * major + minor, processors, l2, bus)

    def use(self, device: int) -> None:
        """Make ``device`` this thread's."""
        self._call(f"taking GPU {device}", "cudaSetDevice", device)

    def _attribute(self, number: int, device: int) -> int:
        value = ctypes.c_int(0)
        self._call("asking what the GPU is", "cudaDeviceGetAttribute", ctypes.byref(value), number, device)
        return value.value

    def memory(self, size: int) -> int:
        """The address of ``size`` bytes on the GPU."""
        pointer = ctypes.c_void_p(None)
        self._call(f"taking {size} bytes of GPU memory", "cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size))
        if not pointer.value:
            raise InternalError("cudaMalloc gave no address")
        return pointer.value

    def free(self, address: int) -> None:
        self._call("giving GPU memory back", "cudaFree", ctypes.c_void_p(address))

    def stream(self) -> int:
        stream = ctypes.c_void_p(None)
        self._call("making a CUDA stream", "cudaStreamCreateWithFlags", ctypes.byref(stream), _NON_BLOCKING)
        return stream.value or 0

    def destroy_stream(self, stream: int) -> None:
        self._call("ending a CUDA stream", "cudaStreamDestroy", ctypes.c_void_p(stream))

    def synchronize(self, stream: int) -> None:
        self._call("waiting for the GPU", "cudaStreamSynchronize", ctypes.c_void_p(stream))

    def copy_in(self, address: int, array: Any, stream: int) -> None:
        """From a contiguous numpy array to the GPU, in the order of ``stream``."""
        host = ctypes.c_void_p(array.ctypes.data)
        self._copy(ctypes.c_void_p(address), host, array.nbytes, _TO_DEVICE, stream)

    def copy_out(self, array: Any, address: int, stream: int) -> None:
        host = ctypes.c_void_p(array.ctypes.data)
        self._copy(host, ctypes.c_void_p(address), array.nbytes, _TO_HOST, stream)

    def _copy(self, to: Any, source: Any, size: int, kind: int, stream: int) -> None:
        self._call("copying", "cudaMemcpyAsync", to, source, ctypes.c_size_t(size), kind, ctypes.c_void_p(stream))


@cache
def open_cuda() -> Cuda:
    """Raises MissingExtraError without CUDA's runtime library."""
    why = ""
    for name in (path,) if (path := find_cudart()) else _NAMES:
        try:
            return Cuda(ctypes.CDLL(name))
        except OSError as e:
            why = why or str(e)
    raise MissingExtraError(f"CUDA's runtime library is not there ({why}); install it: pip install nvidia-cuda-runtime")


def device_number(device: str, backend: str) -> int:
    """ "cuda" or "cuda:3" to the number of the GPU. Raises InvalidRequestError."""
    kind, colon, number = device.partition(":")
    if kind != "cuda" or (colon and not (number.isascii() and number.isdigit() and len(number) < 6)):
        raise InvalidRequestError(f'device is {device!r:.80}; backend "{backend}" takes "cuda" or "cuda:0", "cuda:1", ...')
    return int(number or 0)


def gpu_elsewhere(device: int) -> Gpu:
    """As ``open_cuda().gpu(device)``, asked by a process of its own: CUDA does not survive a fork, and this process may fork later.

    Raises what that raises.
    """
    done = subprocess.run([sys.executable, "-m", __name__, str(device)], capture_output=True, text=True, timeout=300)
    try:
        found = json.loads(done.stdout)
    except ValueError as e:
        raise InternalError(f"asking CUDA for its GPUs gave no answer: {done.stderr.strip()[-400:]}") from e
    if "error" in found:
        raise error_for_code(found["error"], found["message"])
    return Gpu(**found)


def _main(device: int) -> None:
    try:
        print(json.dumps(asdict(open_cuda().gpu(device))))
    except GaitcrafterError as e:
        print(json.dumps({"error": e.code, "message": str(e)}))


if __name__ == "__main__":
    _main(int(sys.argv[1]))
