"""Our Triton kernels in a TensorRT engine, by its ahead-of-time Python plugins (``tensorrt.plugin``, 10.14; extra ``gpu``).

A GroupNorm per image with SiLU, and perhaps FiLM, behind it becomes three plugins: moments, affine and apply of
kernels/group_norm_silu.py, with the tensor as channels-last between two transposes. Their PTX goes into the engine, which then
needs neither Python nor Triton. What the pattern does not fit (norms over a whole clip) stays as it is, and without ``plugins`` all
of it does: the plain graph is the fallback.

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


def plugins_of(images: int, channels: int, height: int, width: int, groups: int, dtype: str, film: bool = False) -> list[Plugin]:
    """The plugins of ``silu(group_norm(x))`` for ``x [images, channels, height, width]`` with statistics of each image; ``film``
    puts ``* (scale + 1) + shift`` between, by rows ``[images, 2 channels]``."""
    try:
        import torch

        from ...kernels.group_norm_silu import group_norm_silu
        from ...kernels.launch import recording
    except ImportError as e:
        raise MissingExtraError.for_extra("gpu", "TensorRT plugins", e.name) from e
    kind = getattr(torch, dtype)
    with torch.device("meta"), recording() as recorder:
        x = torch.empty(images, channels, height, width, dtype=kind).to(memory_format=torch.channels_last)
        rows = torch.empty(images, 2 * channels, dtype=kind) if film else None
        group_norm_silu(x, torch.empty(channels, dtype=kind), torch.empty(channels, dtype=kind), groups, 1, "frame", rows)
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
        4: (lambda a, b, c, d: describe(), lambda a, b, c, d, outputs: compile_it()),
    }
    desc, aot = shapes[len(plugin.inputs)]
    desc.__annotations__ = {**dict.fromkeys("abcd"[: len(plugin.inputs)], tensor), "return": tensor}
    trtp.register(full)(desc)
    trtp.aot_impl(full)(aot)


@dataclass(frozen=True)
class _Norm:
    """What of a graph becomes plugins: a norm, the nodes behind it up to the SiLU's product, and the rows of its FiLM if any."""

    node: Any
    behind: tuple[Any, ...]
    film: str | None

    @property
    def out(self) -> str:
        return str(self.behind[-1].output[0])


def insert_norms(model: Any) -> list[Plugin]:
    """Put plugins in place of every norm of single images of known shape with SiLU, and perhaps FiLM, behind it in an ONNX model,
    and say which. Raises CapabilityError if there is none: norms over whole clips, or a graph of any batch."""
    from onnx import helper, shape_inference

    inferred = shape_inference.infer_shapes(model).graph
    values = {v.name: v.type.tensor_type for v in (*inferred.value_info, *inferred.input)}
    finder = _Finder(model.graph)
    used: dict[str, Plugin] = {}
    gone: set[str] = set()  # outputs of nodes
    added: dict[str, list[Any]] = {}
    for node in model.graph.node:
        norm = finder.norm(node)
        shape = [d.dim_value for d in values[node.input[0]].shape.dim] if norm and node.input[0] in values else []
        if norm is None or len(shape) != 4 or not all(shape):
            continue
        groups = next(helper.get_attribute_value(a) for a in node.attribute if a.name == "num_groups")
        dtype = helper.tensor_dtype_to_np_dtype(values[node.input[0]].elem_type).name
        images, channels, height, width = shape
        plugins = plugins_of(images, channels, height, width, groups, dtype, norm.film is not None)
        used.update({p.name: p for p in plugins})
        gone |= {n.output[0] for n in (node, *norm.behind)}
        added[norm.out] = _nodes(helper, norm, plugins)
    if not used:
        raise CapabilityError(
            "this graph has no norm that a plugin can take: those of single images, in a graph of a fixed batch (--batch)"
        )
    nodes = [n for node in model.graph.node for n in (added.get(node.output[0], []) if node.output[0] in gone else [node])]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return list(used.values())


class _Finder:
    """Looks for the patterns of nn/blocks.py in a graph as torch exports it."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.makers = {name: node for node in graph.node for name in node.output}
        self.users: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.ones = {t.name for t in graph.initializer if len(t.dims) == 0 and numpy_helper.to_array(t) == 1}

    def norm(self, node: Any) -> _Norm | None:
        """The norm that ``node`` is, if all behind it has no other user."""
        if node.op_type != "GroupNormalization":
            return None
        if (silu := self._silu(node.output[0])) is not None:
            return _Norm(node, silu, None)
        scaled = self._only(node.output[0], "Mul")
        shifted = self._only(scaled.output[0], "Add") if scaled else None
        if scaled is None or shifted is None or (silu := self._silu(shifted.output[0])) is None:
            return None
        film = self._film(_other(scaled, node.output[0]), _other(shifted, scaled.output[0]))
        return None if film is None else _Norm(node, (scaled, shifted, *silu), film)

    def _film(self, gain: str, shift: str) -> str | None:
        """The rows ``[images, 2 channels]`` that ``gain`` is one more than the first half of, and ``shift`` the second half."""
        plus_one, split = self._made(gain, "Add"), self._made(shift, "Split")
        if plus_one is None or split is None or len(split.output) != 2 or not self.ones & set(plus_one.input):
            return None
        rows = self._made(split.input[0], "Unsqueeze")  # [images, 2 channels, 1, 1]
        in_order = split.output[0] in plus_one.input and split.output[1] == shift
        return str(rows.input[0]) if rows is not None and in_order else None

    def _made(self, name: str, kind: str) -> Any:
        """The node that makes ``name``, if it is of that kind."""
        maker = self.makers.get(name)
        return maker if maker is not None and maker.op_type == kind else None

    def _only(self, name: str, kind: str) -> Any:
        users = self.users.get(name, [])
        return users[0] if len(users) == 1 and users[0].op_type == kind else None

    def _silu(self, name: str) -> tuple[Any, Any] | None:
        """The sigmoid and the product of ``name``, if they alone use it."""
        users = {node.op_type: node for node in self.users.get(name, [])}
        if len(self.users.get(name, [])) != 2 or set(users) != {"Sigmoid", "Mul"}:
            return None
        sigmoid, product = users["Sigmoid"], users["Mul"]
        if self._only(sigmoid.output[0], "Mul") is not product or set(product.input) != {name, sigmoid.output[0]}:
            return None
        return sigmoid, product


def _other(node: Any, name: str) -> str:
    """The input of a node of two that is not ``name``."""
    return str(node.input[1] if node.input[0] == name else node.input[0])


def _nodes(helper: Any, norm: _Norm, plugins: list[Plugin]) -> list[Any]:
    x, weight, bias = norm.node.input
    out = norm.out
    names = {"x": f"{out}_nhwc", "weight": weight, "bias": bias, "moments": f"{out}_moments", "affine": f"{out}_affine"}
    names |= {"y": f"{out}_nhwc_done", "film": norm.film or ""}
    nodes = [helper.make_node("Transpose", [x], [names["x"]], perm=[0, 2, 3, 1])]
    for p in plugins:
        inputs, output = [names[i] for i in p.inputs], [names[p.output]]
        nodes.append(helper.make_node(p.name, inputs, output, plugin_namespace=NAMESPACE, aot=1))
    return [*nodes, helper.make_node("Transpose", [names["y"]], [out], perm=[0, 3, 1, 2])]
