"""What a library cannot take of a graph is rewritten in a copy that lives as long as the build (needs the package ``onnx``)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import MissingExtraError
from .library import Library


@contextmanager
def graph_for(library: Library, graph: Path, plugins: int = 0) -> Iterator[Path]:
    """``graph`` itself, or a rewritten copy. TensorRT-RTX 1.7 has no transposed convolution in bf16: there it runs in fp32, on the
    same weights, and its result is rounded to bf16. ``plugins``, a compute capability, puts our kernels in (plugins.py)."""
    if library.name != "tensorrt_rtx" and not plugins:
        yield graph
        return
    try:
        import onnx
    except ImportError as e:
        raise MissingExtraError.for_extra("onnx", "rewriting a graph for TensorRT", e.name) from e
    model = onnx.load(graph, load_external_data=False)
    bf16 = any(t.data_type == onnx.TensorProto.BFLOAT16 for t in model.graph.initializer)
    upsamples = library.name == "tensorrt_rtx" and bf16 and any(n.op_type == "ConvTranspose" for n in model.graph.node)
    if not upsamples and not plugins:
        yield graph
        return
    model = onnx.load(graph)
    if upsamples:
        upsample_in_fp32(onnx, model)
    if plugins:
        from .plugins import insert_norms, register

        register(library, insert_norms(model), plugins)
    with tempfile.TemporaryDirectory(prefix="gaitcrafter-") as folder:  # 0700
        path = Path(folder) / graph.name
        onnx.save(model, path, save_as_external_data=True, location=f"{graph.name}.data")
        yield path


def upsample_in_fp32(onnx: Any, model: Any) -> None:
    """Casts around every transposed convolution whose weights are bf16."""
    types = {t.name: t.data_type for t in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "ConvTranspose" or types.get(node.input[1]) != onnx.TensorProto.BFLOAT16:
            nodes.append(node)
            continue
        given, out = list(node.input), node.output[0]
        exact = [f"{out}_fp32_{i}" for i in range(len(given))]
        nodes += [onnx.helper.make_node("Cast", [a], [b], to=onnx.TensorProto.FLOAT) for a, b in zip(given, exact, strict=True)]
        node.input[:] = exact
        node.output[0] = f"{out}_fp32"
        nodes += [node, onnx.helper.make_node("Cast", [f"{out}_fp32"], [out], to=onnx.TensorProto.BFLOAT16)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
