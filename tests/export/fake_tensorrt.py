"""A stand-in for the module ``tensorrt`` that records calls and gives nothing where a test says so.

It has the calls that this package makes, with the arguments and results that TensorRT's documentation gives them;
``Tensorrt("name")`` makes one whose call of that name fails as TensorRT fails: None, False or -1, and a line in the logger.
"""

from __future__ import annotations

import types
from typing import Any


class Logger:
    class Severity:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class Tensorrt:
    """``module`` is what to put into ``sys.modules``. Engines are b"engine of" and the graph's path."""

    def __init__(self, fails: str = "", version: str = "10.14.1") -> None:
        self.fails, self.calls = fails, []  # type: tuple[str, list[tuple[Any, ...]]]
        self.logger: Any = None
        self.inputs = {"x": (-1, 1, 2, 8, 8), "t": (-1,)}
        self.network: Any = None
        m: Any = types.ModuleType("tensorrt")
        m.__version__, m.ILogger = version, Logger
        m.NetworkDefinitionCreationFlag = types.SimpleNamespace(STRONGLY_TYPED=1)
        m.BuilderFlag = types.SimpleNamespace(TF32="tf32")
        m.Builder, m.OnnxParser, m.Runtime = self.builder, self.parser, self.runtime
        self.module = m

    def give(self, name: str, what: Any, failure: Any = None, *arguments: Any) -> Any:
        self.calls.append((name, *arguments))
        if name != self.fails:
            return what
        if self.logger is not None:
            self.logger.log(Logger.Severity.ERROR, f"{name} said no")
        return failure

    def count(self, name: str) -> int:
        return sum(call[0] == name for call in self.calls)

    def builder(self, logger: Any) -> Any:
        self.logger = logger
        return self.give("Builder", types.SimpleNamespace(
            create_network=self.create_network,
            create_builder_config=lambda: self.give("create_builder_config", self.config()),
            create_optimization_profile=lambda: self.give("create_optimization_profile", types.SimpleNamespace(
                set_shape=lambda *shapes: self.give("set_shape", None, None, *shapes))),
            build_serialized_network=lambda n, c: self.give("build_serialized_network", b"engine of " + self.graph.encode()),
        ))  # fmt: skip

    def create_network(self, flags: int) -> Any:
        tensors = [types.SimpleNamespace(name=n, shape=s) for n, s in self.inputs.items()]
        self.network = types.SimpleNamespace(
            num_inputs=len(tensors), get_input=lambda i: self.give("get_input", tensors[i], None, i)
        )
        return self.give("create_network", self.network, None, flags)

    def parser(self, network: Any, logger: Any) -> Any:
        def parse(path: str) -> bool:
            self.graph = path.rpartition("/")[2]
            return self.give("parse_from_file", True, False, path)

        error = types.SimpleNamespace(desc=lambda: "no such op", node_operator=lambda: "Foo")
        return self.give(
            "OnnxParser", types.SimpleNamespace(parse_from_file=parse, num_errors=1, get_error=lambda i: error)
        )

    def config(self) -> Any:
        cache = types.SimpleNamespace(serialize=lambda: self.give("serialize", b"timings"))
        return types.SimpleNamespace(
            set_flag=lambda f: self.give("set_flag", None, None, f), clear_flag=lambda f: self.give("clear_flag", None, None, f),
            create_timing_cache=lambda b: self.give("create_timing_cache", cache, None, b),
            set_timing_cache=lambda c, ignore: self.give("set_timing_cache", True, False, ignore),
            get_timing_cache=lambda: self.give("get_timing_cache", cache),
            add_optimization_profile=lambda p: self.give("add_optimization_profile", 0, -1),
        )  # fmt: skip

    def runtime(self, logger: Any) -> Any:
        self.logger = logger
        return self.give(
            "Runtime",
            types.SimpleNamespace(deserialize_cuda_engine=lambda b: self.give("deserialize_cuda_engine", self.engine(b), None, b)),
        )

    def engine(self, serialised: bytes) -> Any:
        names = [*self.inputs, "out"]
        context = types.SimpleNamespace(
            set_optimization_profile_async=lambda i, s: self.give("set_optimization_profile_async", True, False, i, s),
            set_input_shape=lambda n, s: self.give("set_input_shape", True, False, n, tuple(s)),
            set_tensor_address=lambda n, a: self.give("set_tensor_address", True, False, n, a),
            execute_async_v3=lambda s: self.give("execute_async_v3", True, False, s),
        )
        return types.SimpleNamespace(
            num_io_tensors=len(names), get_tensor_name=lambda i: names[i], num_optimization_profiles=1,
            create_execution_context=lambda: self.give("create_execution_context", context),
        )  # fmt: skip
