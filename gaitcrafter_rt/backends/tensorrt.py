"""Backend "tensorrt": an exported graph by a TensorRT engine of this machine's cache, which is built if it is not there.

"tensorrt-cpp" runs the same engines by libgaitcrafter (csrc/backends/tensorrt), where it was built with them. Before anything of
TensorRT is touched, CUDA is asked which GPU there is: without a driver TensorRT's first call crashes. Processes of their own ask
and build, so that one that opened an engine may fork; "tensorrt-cpp" asks in this one, and must be opened after a fork.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CapabilityError, InternalError, InvalidRequestError, error_for_code
from ..export.tensorrt.build import Flags, Profile, logger
from ..export.tensorrt.cache import cache_root
from ..export.tensorrt.engines import engine_for, find_engine
from ..export.tensorrt.library import Library, open_library
from . import Options, Runner, open_native
from .cudart import Cuda, Gpu, device_number, gpu_elsewhere, open_cuda
from .graph_runner import GraphRunner
from .table_loop import Arrays


def open_engine_runner(path: str | os.PathLike[str], options: Options) -> EngineRunner:
    """See ``Engine.from_pretrained``; ``path`` is an export folder, ``device`` "cuda" or "cuda:N"."""
    return EngineRunner(path, options)


class EngineRunner(GraphRunner):
    """Raises CapabilityError without a GPU, for a version of TensorRT that is not taken, or where no engine can be built."""

    name = "tensorrt"

    def __init__(self, path: str | os.PathLike[str], options: Options) -> None:
        if options.isa is not None or options.library is not None or options.plan is not None:
            raise InvalidRequestError("isa, library and plan are not for backend 'tensorrt'; it runs the installed package")
        self.device = device_number(options.device, self.name)
        super().__init__(path, options)
        gpu = gpu_elsewhere(self.device)
        self.library = open_library()
        graphs = {False: self.exported.graph} | ({True: self.exported.exact_graph} if self.exported.exact_graph else {})
        engines = {exact: self._engine(graph, gpu) for exact, graph in graphs.items()}
        # Two builds of one network can differ in bits, so that the engines and not the graphs are what runs.
        each = "".join(hashlib.sha256(engine).hexdigest() for engine in engines.values())
        self.info = self.describe(
            device=options.device, backend_sha256=hashlib.sha256(each.encode()).hexdigest(),
            runtime=f"tensorrt {self.library.version} (Python)",
        )  # fmt: skip
        self.cuda: Cuda | None = None
        self._waiting = engines
        self._sessions: dict[bool, EngineSession] = {}

    def _engine(self, graph: Path, gpu: Gpu) -> bytes:
        profile = Profile(self.batch, self.batch, self.batch)
        if cache_root() is None:
            self._owner = os.getpid()  # built here, so that this process has used CUDA
        elif find_engine(self.library, self.exported, graph, gpu, [profile]) is None:
            build_elsewhere(self.exported.folder, self.device, self.batch)
        return engine_for(self.library, self.exported, graph, gpu, [profile], Flags()).engine

    def close(self) -> None:
        super().close()
        self._waiting = {}
        while self._sessions:
            self._sessions.popitem()[1].close()

    def call(self, x: np.ndarray, t: np.ndarray, conditions: Arrays, exact: bool) -> np.ndarray:
        exact = exact and self.exported.exact_graph is not None
        self.cuda = self.cuda or open_cuda()
        self.cuda.use(self.device)
        if exact not in self._sessions:
            self._sessions[exact] = EngineSession(self.library, self.cuda, self._waiting.pop(exact))
        return self._sessions[exact].run({"x": x, "t": t, **conditions})


def build_elsewhere(folder: Path, device: int, batch: int) -> None:
    """Build the engines of an export into the cache by ``gaitcrafter-rt export tensorrt``. Raises what that raises."""
    command = ["export", "tensorrt", str(folder), "--device", str(device), "--batch", str(batch), "--json"]
    done = subprocess.run([sys.executable, "-m", "gaitcrafter_rt", *command], capture_output=True, text=True)
    if done.returncode == 0:
        return
    try:
        found = json.loads(done.stdout)["error"]
    except (ValueError, KeyError) as e:
        raise InternalError(f"building an engine of {folder} died ({done.returncode}): {done.stderr.strip()[-400:]}") from e
    raise error_for_code(found["code"], found["message"])


class EngineSession:
    """A loaded engine with memory for its tensors. Every method raises CapabilityError or InternalError with TensorRT's reason."""

    def __init__(self, library: Library, cuda: Cuda, engine: bytes) -> None:
        self._cuda, self._memory = cuda, {}  # type: tuple[Cuda, dict[str, tuple[int, int]]]
        self._stream = 0
        self._said = logger(library)
        runtime = self._there(library.module.Runtime(self._said), "starting")
        self._engine: Any = self._there(runtime.deserialize_cuda_engine(engine), "loading an engine")
        self._context: Any = self._there(self._engine.create_execution_context(), "making an execution context")
        self._runtime = runtime  # lives as long as its engine
        self._stream = cuda.stream()

    def run(self, inputs: Arrays) -> np.ndarray:
        """The output for inputs of the engine's own names and batch, from and to the host."""
        out = np.empty_like(inputs["x"])
        arrays = {name: np.ascontiguousarray(value) for name, value in inputs.items()}
        for name, value in {**arrays, "out": out}.items():
            address = self._room(name, value.nbytes)
            if name != "out":
                self._check(self._context.set_input_shape(name, value.shape), f"taking {name} of shape {value.shape}")
                self._cuda.copy_in(address, value, self._stream)
            self._check(self._context.set_tensor_address(name, address), f"taking the memory of {name}")
        self._launch()
        self._cuda.copy_out(out, self._memory["out"][0], self._stream)
        self._cuda.synchronize(self._stream)
        return out

    def execute(self) -> None:
        """Run once more on the inputs of the last ``run``, which stay on the GPU, and wait."""
        self._launch()
        self._cuda.synchronize(self._stream)

    def _launch(self) -> None:
        self._check(self._context.execute_async_v3(self._stream), "running")

    def close(self) -> None:
        """Give the GPU's memory back."""
        self._context = self._engine = None
        for address, _ in self._memory.values():
            self._cuda.free(address)
        self._memory = {}
        if self._stream:
            self._cuda.destroy_stream(self._stream)
            self._stream = 0

    def _room(self, name: str, size: int) -> int:
        if name in self._memory and self._memory[name][1] != size:
            self._cuda.free(self._memory.pop(name)[0])
        if name not in self._memory:
            self._memory[name] = (self._cuda.memory(size), size)
        return self._memory[name][0]

    def _there(self, made: Any, doing: str) -> Any:
        if made is None:
            raise CapabilityError(f"TensorRT: {doing} failed: {self._why()}")
        return made

    def _check(self, fine: bool, doing: str) -> None:
        if not fine:
            raise InternalError(f"TensorRT: {doing} failed: {self._why()}")

    def _why(self) -> str:
        return "; ".join(dict.fromkeys(self._said.errors)) or "it gave no reason"


def open_cpp(path: str | os.PathLike[str], options: Options) -> Runner:
    """Backend "tensorrt-cpp": the same engines by libgaitcrafter, with libnvinfer of the installed wheel unless
    ``options.library`` or GAITCRAFTER_TENSORRT names another. It builds none: gaitcrafter-rt export tensorrt does."""
    device_number(options.device, "tensorrt-cpp")
    open_cuda()  # so that the loader has libcudart, wherever the wheels put it
    library = options.library or os.environ.get("GAITCRAFTER_TENSORRT") or installed_library()
    return open_native(path, replace(options, backend="tensorrt", library=library))


def installed_library() -> str | None:
    """libnvinfer of the installed wheels, which are not imported; None leaves the search to the loader."""
    for package in ("tensorrt_libs", "tensorrt_cu13_libs", "tensorrt_cu12_libs"):
        spec = find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec else []:
            if (library := Path(root) / "libnvinfer.so.10").is_file():
                return str(library)
    return None
