"""Who is measured. A contestant is one engine in one precision on one form of the graph; ``load`` runs in its own process.

A loaded contestant is a function without arguments: it answers the network's prepared inputs (networks.py), all rows of its batch.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .host import host

ROOT = Path(__file__).resolve().parent.parent.parent
Run = Callable[[], np.ndarray]


class Contestant(NamedTuple):
    """``precision`` is the tier whose limit of the core its share is of: fp32, bf16 or int8."""

    engine: str
    precision: str
    form: str = "own"  # own, flat (Conv2d, frames folded) or volume (Conv3d)
    batch: int = 1
    tier: str = ""  # of the native engine, where it differs from the precision

    @property
    def peer(self) -> str:
        """What the tables call it: the forms of one peer compete among themselves."""
        return f"{self.engine} {self.tier or self.precision}"

    @property
    def key(self) -> str:
        return f"{self.peer} {self.form} b{self.batch}"


NATIVE = "gaitcrafter"
TIERS = ("fp32", "fp32-winograd", "bf16", "int8")
ISAS = ("avx512_amx", "avx512", "avx2", "portable")  # the widest first
# The forms that each peer is tried in.
PEERS: dict[tuple[str, str], tuple[str, ...]] = {
    ("OpenVINO", "bf16"): ("flat", "volume"),
    ("OpenVINO", "int8"): ("flat", "volume"),
    ("OpenVINO", "fp32"): ("flat", "volume"),
    ("torch.compile", "bf16"): ("flat", "volume"),
    ("ONNX Runtime", "fp32"): ("flat", "volume"),
    ("torch", "bf16"): ("flat",),
}
VDP = "video-diffusion-pytorch"
# Modules that an engine needs, and the distributions whose versions are written down.
NEEDS = {
    NATIVE: [], "OpenVINO": ["openvino", "nncf"], "ONNX Runtime": ["onnxruntime"], "torch.compile": ["torch"], "torch": ["torch"],
    VDP: ["torch", "einops"],
}  # fmt: skip
INSTALL = "pip install -c constraints.txt '.[train,onnx,dev,bench]'"


def field(network: str, batches: tuple[int, ...]) -> list[Contestant]:
    """Every contestant of a network."""
    found = [Contestant(NATIVE, tier.partition("-")[0], tier=tier) for tier in TIERS]
    found += [
        Contestant(engine, precision, form, batch)
        for (engine, precision), forms in PEERS.items()
        for form in forms
        for batch in batches
    ]
    return [*found, Contestant(VDP, "fp32", "volume")] if network == "paper" else found


def absence(c: Contestant) -> str | None:
    """Why a contestant cannot run here, with the way to it; None if it can."""
    missing = [m for m in NEEDS[c.engine] if find_spec(m) is None]
    if missing:
        return f"{', '.join(missing)} not installed: {INSTALL}"
    if c.engine == VDP and not (ROOT / ".peers" / "base-0.6.3").is_dir():
        return "not installed: python tests/install_peers.py"
    if (c.engine, c.precision) == ("OpenVINO", "bf16") and not has_bf16():
        return "this processor has no avx512_bf16; OpenVINO would compute in fp32"
    if c.engine == NATIVE:
        module = native_module()
        if not module.precision_supported(c.tier, widest_isa()):
            return f"this processor does not run precision {c.tier}"
    return None


def has_bf16() -> bool:
    return "avx512_bf16" in host()["instruction_sets"]


def native_module() -> Any:
    """The module of single ops and raw forwards that the release preset builds (tests/native)."""
    sys.path[:0] = [p for p in (os.environ.get("GAITCRAFTER_TEST_MODULE"), str(ROOT / "tests" / "native")) if p]
    try:
        return importlib.import_module("_gc_test")
    except ImportError as e:
        raise SystemExit(f"{e}: build it first, cmake --preset release && cmake --build --preset release") from e


def widest_isa() -> str:
    module = native_module()
    return next(i for i in ISAS if runs(module, i))


def runs(module: Any, isa: str) -> bool:
    """False too where the module is of a commit that does not know the instruction set (compare.py)."""
    try:
        return bool(module.isa_supported(isa))
    except ValueError:
        return False


def gflop(folder: Path) -> float:
    """Of one network call: convolutions (counted as direct ones), linear layers and attention products."""
    return native_module().UNet(str(folder / "model"), widest_isa(), "fp32").flops / 1e9


def load(c: Contestant, folder: Path) -> Run:
    """Runs in the contestant's process."""
    if c.engine == NATIVE:
        return native(c, folder)
    loader = {"OpenVINO": openvino, "ONNX Runtime": onnx_runtime, VDP: base_network}.get(c.engine, torch_network)
    return loader(c, folder)


def inputs_of(folder: Path, batch: int) -> dict[str, np.ndarray]:
    with np.load(folder / "inputs.npz") as arrays:
        return {name: np.ascontiguousarray(arrays[name][:batch]) for name in arrays}


def native(c: Contestant, folder: Path) -> Run:
    package = folder / ("int8" if c.tier == "int8" else "model")
    unet = native_module().UNet(str(package), widest_isa(), c.tier)
    rows = inputs_of(folder, 1)
    labels = {
        name.removeprefix("weights."): [(int(i), float(w[0, i])) for i in np.flatnonzero(w[0, :-1])]
        for name, w in rows.items()
        if name.startswith("weights.")
    }
    x, t, cond = rows["x"][0], int(rows["t"][0]), rows["cond"][0] if "cond" in rows else None
    return lambda: unet.forward(x, t, labels, cond)[None]


def openvino(c: Contestant, folder: Path) -> Run:
    import openvino as ov

    from .quantised import quantised_graph

    core = ov.Core()
    graph = folder / f"{c.form}-b{c.batch}.onnx"
    if c.precision == "int8":
        graph = quantised_graph(folder, c.form, c.batch)
    hint = "bf16" if c.precision != "fp32" and has_bf16() else "f32"
    settings = {
        "INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }  # fmt: skip
    compiled = core.compile_model(core.read_model(graph), "CPU", settings)
    request = compiled.create_infer_request()
    feeds = inputs_of(folder, c.batch)
    return lambda: request.infer(feeds, share_inputs=True)[compiled.output(0)]


def onnx_runtime(c: Contestant, folder: Path) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(folder / f"{c.form}-b{c.batch}.onnx"), options, providers=["CPUExecutionProvider"])
    feeds = inputs_of(folder, c.batch)
    return lambda: session.run(None, feeds)[0]


def torch_network(c: Contestant, folder: Path) -> Run:
    """Our torch network, whose form was tuned for a CPU, in bf16 and channels-last: eager, or compiled with frozen weights."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    import torch

    from gaitcrafter_rt.nn.denoiser import load_unet

    from .networks import arguments
    from .volumes import Volumes

    torch.set_num_threads(1)
    net: Any = load_unet(folder / "model", torch.bfloat16)
    if c.form == "flat":
        net = net.to(memory_format=torch.channels_last)
    else:
        net = Volumes(net).eval()
    if c.engine == "torch.compile":
        import torch._inductor.config as inductor

        inductor.freezing = True
        net = torch.compile(net)
    x, t, labels, cond = arguments(inputs_of(folder, c.batch), 0, c.batch)
    x, labels = x.bfloat16(), {axis: w.bfloat16() for axis, w in labels.items()}
    cond = None if cond is None else cond.bfloat16()

    def run() -> np.ndarray:
        with torch.inference_mode() if c.engine == "torch" else torch.no_grad():
            return net(x, t, labels, cond).float().numpy()

    return run


def base_network(c: Contestant, folder: Path) -> Run:
    import torch

    from . import networks

    torch.set_num_threads(1)
    net = networks.base_network()
    x, t, _, cond = networks.arguments(inputs_of(folder, 1), 0, 1)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return net(x, t, cond=cond).numpy()

    return run
