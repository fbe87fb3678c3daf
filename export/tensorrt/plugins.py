"""Our Triton kernels in a TensorRT engine, by its ahead-of-time Python plugins (``tensorrt.plugin``, 10.14; extra ``gpu``).

A GroupNorm per image with SiLU behind it becomes three plugins: moments, affine and apply of kernels/group_norm_silu.py, with the
tensor as channels-last between two transposes. Their PTX goes into the engine, which then needs neither Python nor Triton. What the
pattern does not fit (FiLM between norm and SiLU, norms over a whole clip) stays as it is, and without ``plugins`` all of it does:
the plain graph is the fallback.

No TensorRT ran this yet. tests/export/test_tensorrt_plugins.py runs the rewritten graph with the ops' references, compiles the PTX
by ptxas, and calls what is registered here as the documentation says that TensorRT does.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from dataclasses import dataclass
from typing import Any

from ...errors import CapabilityError, InternalError, MissingExtraError
from .library import Library

NAMESPACE = "gaitcrafter"


@dataclass(frozen=True)
class Plugin:
    """One kernel start as a plugin: its inputs by parameter name, and what its output is."""

    name: str
    launch: Any  # kernels.launch.Launch
    inputs: tuple[str, ...]
    output: str
    shape: tuple[int, ...]
    type: str  # float32, float16 or bfloat16


def plugins_of(images: int, channels: int, height: int, width: int, groups: int, dtype: str) -> list[Plugin]:
    """The plugins of ``silu(group_norm(x))`` for ``x [images, channels, height, width]`` with statistics of each image."""
    try:
        import torch

        from ...kernels.group_norm_silu import group_norm_silu
        from ...kernels.launch import recording
    except ImportError as e:
        raise MissingExtraError.for_extra("gpu", "TensorRT plugins", e.name) from e
    kind = getattr(torch, dtype)
    with torch.device("meta"), recording() as recorder:
        x = torch.empty(images, channels, height, width, dtype=kind).to(memory_format=torch.channels_last)
        group_norm_silu(x, torch.empty(channels, dtype=kind), torch.empty(channels, dtype=kind), groups, 1, "frame")
    return [_plugin(launch) for launch in recorder.launches]


def _plugin(launch: Any) -> Plugin:
    tensors = {name: tensor for name, tensor in launch.tensors.items() if tensor is not None}
    *inputs, output = tensors
    out = tensors[output]
    shape = tuple(out.shape) if out.dim() != 4 or output != "y" else tuple(out.permute(0, 2, 3, 1).shape)
    dtypes = {name: str(t.dtype).removeprefix("torch.") for name, t in tensors.items()}
    key = hashlib.sha256(repr((launch.name, launch.grid, sorted(launch.constants.items()), dtypes)).encode()).hexdigest()[:12]
    return Plugin(f"{launch.name}_{key}", launch, tuple(inputs), output, shape, dtypes[output])


def kernel_ptx(plugin: Plugin, capability: int) -> tuple[str, str, int, int]:
    """(entry, PTX, threads of a block, shared memory in bytes) for a chip, with parameters for tensors alone."""
    from ..cubins import compile_launch

    made = compile_launch(plugin.launch, capability)
    if made.scratch:
        raise CapabilityError(f"{made.entry} needs scratch memory, which TensorRT does not give")
    if made.parameters != (*plugin.inputs, plugin.output):
        raise InternalError(f"{made.entry} takes {made.parameters}, TensorRT passes {(*plugin.inputs, plugin.output)}")
    return made.entry, without_scratch(made.ptx, made.entry, len(made.parameters)), made.warps * 32, made.shared


def without_scratch(ptx: str, entry: str, keep: int) -> str:
    """Without the parameters behind the first ``keep``: Triton appends two for scratch memory, and TensorRT passes only tensors, so
    that the driver would read beyond the list. Raises InternalError if the kernel uses one."""
    head = re.search(rf"\.entry {re.escape(entry)}\(\s*(.*?)\n\)", ptx, re.S)
    parameters = head[1].split(",") if head else []
    dropped = [p.split()[-1] for p in parameters[keep:]]
    if head is None or len(dropped) > 2 or any(ptx.count(name) != 1 for name in dropped):
        raise InternalError(f"the PTX of {entry} uses more than its {keep} tensors")
    return ptx[: head.start(1)] + ",".join(parameters[:keep]) + ptx[head.end(1) :]


def register(library: Library, plugins: list[Plugin], capability: int) -> None:
    """Tell TensorRT of the plugins; a name that is known already is left alone. Raises CapabilityError without the plugin route."""
    try:
        trtp = importlib.import_module(f"{library.name}.plugin")
    except ImportError as e:
        raise CapabilityError(f"{library.name} {library.version} has no Python plugins ({e}); build without plugins") from e
    for plugin in plugins:
        if plugin.name not in _registered:
            _register(trtp, library.module, plugin, capability)
            _registered.add(plugin.name)


_registered: set[str] = set()


def _register(trtp: Any, trt: Any, plugin: Plugin, capability: int) -> None:
    full = f"{NAMESPACE}::{plugin.name}"

    def describe() -> Any:
        return trtp.from_shape_expr(plugin.shape, dtype=getattr(trt, plugin.type))

    def compile_it() -> Any:
        entry, ptx, threads, shared = kernel_ptx(plugin, capability)
        grid_x, grid_y, grid_z = plugin.launch.grid
        params = trtp.KernelLaunchParams(
            grid_x=grid_x, grid_y=grid_y, grid_z=grid_z, block_x=threads, block_y=1, block_z=1, shared_mem=shared
        )
        return entry.encode(), ptx.encode(), params, trtp.SymIntExprs(0)

    # TensorRT reads the signatures: one parameter per input, with its type.
    tensor = trtp.TensorDesc
    shapes: dict[int, tuple[Any, Any]] = {
        1: (lambda a: describe(), lambda a, outputs: compile_it()),
        2: (lambda a, b: describe(), lambda a, b, outputs: compile_it()),
        3: (lambda a, b, c: describe(), lambda a, b, c, outputs: compile_it()),
    }
    desc, aot = shapes[len(plugin.inputs)]
    desc.__annotations__ = {**dict.fromkeys("abc"[: len(plugin.inputs)], tensor), "return": tensor}
    trtp.register(full)(desc)
    trtp.aot_impl(full)(aot)


def insert_norms(model: Any) -> list[Plugin]:
    """Put plugins in place of every ``GroupNormalization -> Sigmoid -> Mul`` on an image of known shape in an ONNX model, and say
    which. Raises CapabilityError if there is none, as in a model whose norms are over whole clips or a graph of any batch."""
    from onnx import helper, shape_inference

    inferred = shape_inference.infer_shapes(model).graph
    values = {v.name: v.type.tensor_type for v in (*inferred.value_info, *inferred.input)}
    users: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    used: dict[str, Plugin] = {}
    gone: set[str] = set()  # outputs of nodes
    added: dict[str, list[Any]] = {}
    for norm in model.graph.node:
        silu = _silu_behind(norm, users)
        shape = [d.dim_value for d in values[norm.input[0]].shape.dim] if norm.input and norm.input[0] in values else []
        if silu is None or len(shape) != 4 or not all(shape):
            continue
        groups = next(helper.get_attribute_value(a) for a in norm.attribute if a.name == "num_groups")
        dtype = helper.tensor_dtype_to_np_dtype(values[norm.input[0]].elem_type).name
        images, channels, height, width = shape
        plugins = plugins_of(images, channels, height, width, groups, dtype)
        used.update({p.name: p for p in plugins})
        gone |= {node.output[0] for node in (norm, *silu)}
        added[silu[-1].output[0]] = _nodes(helper, norm, silu[-1].output[0], plugins)
    if not used:
        raise CapabilityError(
            "this graph has no norm that a plugin can take: those of single images, in a graph of a fixed batch (--batch)"
        )
    nodes = [n for node in model.graph.node for n in (added.get(node.output[0], []) if node.output[0] in gone else [node])]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return list(used.values())


def _silu_behind(norm: Any, users: dict[str, list[Any]]) -> tuple[Any, Any] | None:
    """The sigmoid and the product behind a norm, if they alone use it."""
    if norm.op_type != "GroupNormalization":
        return None
    behind = users.get(norm.output[0], [])
    by_type = {node.op_type: node for node in behind}
    if len(behind) != 2 or set(by_type) != {"Sigmoid", "Mul"}:
        return None
    sigmoid, product = by_type["Sigmoid"], by_type["Mul"]
    if users.get(sigmoid.output[0], []) != [product] or set(product.input) != {norm.output[0], sigmoid.output[0]}:
        return None
    return sigmoid, product


def _nodes(helper: Any, norm: Any, out: str, plugins: list[Plugin]) -> list[Any]:
    x, weight, bias = norm.input
    names = {"x": f"{out}_nhwc", "weight": weight, "bias": bias, "moments": f"{out}_moments", "affine": f"{out}_affine"}
    names["y"] = f"{out}_nhwc_done"
    nodes = [helper.make_node("Transpose", [x], [names["x"]], perm=[0, 2, 3, 1])]
    for p in plugins:
        inputs, output = [names[i] for i in p.inputs], [names[p.output]]
        nodes.append(helper.make_node(p.name, inputs, output, plugin_namespace=NAMESPACE, aot=1))
    return [*nodes, helper.make_node("Transpose", [names["y"]], [out], perm=[0, 3, 1, 2])]
