"""Who runs the network of an :class:`~gaitcrafter_rt.engine.Engine`. The table here is the one place that knows the names."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from ..errors import InvalidRequestError
from ..install import native

# Name to (module, function of the module). The function takes (path, Options) and returns a Runner.
BACKENDS: dict[str, tuple[str, str]] = {
    "native": (".", "open_native"),
    "torch": ("..torch_engine", "open_torch"),
    "cubin": (".cubin", "open_cubin"),
    "onnxruntime": (".onnxruntime", "open_session_runner"),
    "onnxruntime-cpp": (".onnxruntime", "open_cpp"),
    "tensorrt": (".tensorrt", "open_engine_runner"),
    "tensorrt-cpp": (".tensorrt", "open_cpp"),
}


@dataclass(frozen=True)
class Options:
    """How a model is opened; see ``Engine.from_pretrained``. ``batch`` 0 and ``library`` None are the backend's own choice.

    ``conv`` and ``graphs`` belong to the torch engine; a backend refuses what it does not have.
    """

    backend: str = "native"
    device: str = "cpu"
    precision: str = "auto"
    threads: int = 0
    isa: str | None = None
    batch: int = 0
    library: str | None = None
    plan: str | None = None
    conv: str = "triton"
    graphs: bool = True


class Runner(Protocol):
    """What an engine asks of a backend; arguments are those of the native module (csrc/python/module.cc)."""

    @property
    def info(self) -> dict[str, Any]: ...

    def labels(self, axis: str) -> list[str]: ...

    def axis_usable(self, axis: str) -> bool: ...

    def resolve_sampler(self, sampler: dict[str, Any]) -> dict[str, Any]: ...

    def generate(self, **arguments: Any) -> None: ...

    def profile(self, on: bool) -> None: ...

    def profile_rows(self) -> list[dict[str, Any]]: ...

    def close(self) -> None: ...


def open_runner(path: str | os.PathLike[str], options: Options) -> Runner:
    """Open ``path`` on ``options.backend``. Raises InvalidRequestError for an unknown name, and what the backend raises."""
    if options.backend not in BACKENDS:
        raise InvalidRequestError(f"backend is {options.backend!r:.80}; allowed are {', '.join(BACKENDS)}")
    if options.backend != "torch" and (options.conv != "triton" or not options.graphs):
        raise InvalidRequestError(f"conv and graphs are for backend 'torch'; backend is {options.backend!r}")
    module, function = BACKENDS[options.backend]
    opener: Callable[[str | os.PathLike[str], Options], Runner] = getattr(import_module(module, __package__), function)
    return opener(path, options)


def open_native(path: str | os.PathLike[str], options: Options) -> Runner:
    """The C++ engine, on its own network or on a backend of its own (csrc/backends)."""
    o = options
    runner: Runner = native().Engine(
        os.fsencode(path), device=o.device, precision=o.precision, isa=o.isa, threads=o.threads, backend=o.backend,
        library=o.library, plan=o.plan, batch=o.batch,
    )  # fmt: skip
    return runner
