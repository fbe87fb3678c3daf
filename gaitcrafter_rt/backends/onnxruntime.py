"""Backend "onnxruntime": an exported graph in a session of the ``onnxruntime`` package, the sampler's loop in Python.

The same graph runs from C++ without Python, as backend "onnxruntime-cpp" here (csrc/backends/onnxruntime). Every call has one
fixed batch, so that a clip's bits do not depend on the other clips; they depend on the batch, the graph and the runtime, which is
why ``Engine.info`` and every clip's provenance name all three.
"""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CapabilityError, InternalError, InvalidRequestError, MissingExtraError
from . import Options, Runner, open_native
from .graph_runner import GraphRunner
from .table_loop import Arrays

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
TENSORRT_REMEDY = "it needs onnxruntime-gpu and TensorRT 10's libnvinfer.so.10 on the library path"
REMEDIES = {
    "cuda": "it needs an NVIDIA GPU and pip install 'gaitcrafter-rt[onnx-gpu]' in place of the package onnxruntime",
    "tensorrt": TENSORRT_REMEDY,
}


def open_session_runner(path: str | os.PathLike[str], options: Options) -> SessionRunner:
    """See ``Engine.from_pretrained``; ``path`` is an export folder and ``device`` the provider: cpu, cuda or tensorrt."""
    return SessionRunner(path, options)


def runtime() -> Any:
    """The module ``onnxruntime``. Raises MissingExtraError."""
    try:
        import onnxruntime
    except ImportError as e:
        raise MissingExtraError.for_extra("onnx", "backend 'onnxruntime'", e.name) from e
    return onnxruntime


def provider_of(device: str) -> str:
    """Raises InvalidRequestError for an unknown device, CapabilityError for one that the installed package lacks."""
    if device not in PROVIDERS:
        raise InvalidRequestError(f"device is {device!r:.80}; backend 'onnxruntime' takes {', '.join(PROVIDERS)}")
    name, there = PROVIDERS[device], runtime().get_available_providers()
    if name not in there:
        have = ", ".join(there)
        raise CapabilityError(f"device {device!r}: the installed onnxruntime has no {name} (it has {have}); {REMEDIES[device]}")
    return name


def open_session(graph: str | os.PathLike[str], device: str, batch: int, threads: int = 0) -> Any:
    """A session on exactly the provider of ``device``, for calls of ``batch`` clips; ``threads`` 0 is ONNX Runtime's choice.

    Raises InvalidRequestError, CapabilityError as ``provider_of`` does, and CapabilityError where the session would run on
    another provider than the one asked for.
    """
    ort, name = runtime(), provider_of(device)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    settings.use_deterministic_compute = True
    settings.add_free_dimension_override_by_name("batch", batch)
    try:
        session = ort.InferenceSession(os.fspath(graph), settings, providers=[name])
    except Exception as e:  # onnxruntime's own classes, which share no base
        raise CapabilityError(f"onnxruntime {ort.__version__} does not take {graph}: {str(e).splitlines()[0]}") from e
    if session.get_providers()[:1] != [name]:
        raise CapabilityError(
            f"device {device!r}: onnxruntime fell back to {', '.join(session.get_providers())}, because {name} could not be "
            f"loaded; {REMEDIES.get(device, '')}"
        )
    return session


class SessionRunner(GraphRunner):
    """Sessions are made by the first call: their threads do not survive a fork."""

    name = "onnxruntime"

    def __init__(self, path: str | os.PathLike[str], options: Options) -> None:
        if options.isa is not None or options.library is not None or options.plan is not None:
            raise InvalidRequestError("isa, library and plan are not for backend 'onnxruntime'; it runs the installed package")
        super().__init__(path, options)
        self.device, self.threads = options.device, options.threads
        provider_of(self.device)
        self.info = self.describe(
            device=self.device, backend_sha256=self.exported.sha256, runtime=f"onnxruntime {runtime().__version__} (Python)"
        )
        if self.threads:
            self.info["threads"] = self.threads
        self._sessions: dict[bool, Any] = {}

    def close(self) -> None:
        super().close()
        self._sessions.clear()

    def call(self, x: np.ndarray, t: np.ndarray, conditions: Arrays, exact: bool) -> np.ndarray:
        graph = self.exported.exact_graph if exact else None
        if graph is None:
            exact, graph = False, self.exported.graph
        if exact not in self._sessions:
            self._sessions[exact] = open_session(graph, self.device, self.batch, self.threads)
        try:
            out: np.ndarray = self._sessions[exact].run(["out"], {"x": x, "t": t, **conditions})[0]
        except Exception as e:  # onnxruntime's own classes
            raise InternalError(f"onnxruntime: {str(e).splitlines()[0]}") from e
        return out


def open_cpp(path: str | os.PathLike[str], options: Options) -> Runner:
    """Backend "onnxruntime-cpp": the same graph by libgaitcrafter itself, with the library of the installed wheel unless
    ``options.library`` names another. Raises MissingExtraError without either."""
    library = options.library or os.environ.get("GAITCRAFTER_ONNXRUNTIME") or installed_library()
    return open_native(path, replace(options, backend="onnxruntime", library=library))


def installed_library() -> str:
    """libonnxruntime of the installed wheel, which is not imported. Raises MissingExtraError."""
    spec = find_spec("onnxruntime")
    found = sorted(Path(spec.origin).parent.glob("capi/libonnxruntime.so.*")) if spec and spec.origin else []
    if not found:
        raise MissingExtraError.for_extra("onnx", "backend 'onnxruntime-cpp'", "onnxruntime")
    return str(found[-1])
