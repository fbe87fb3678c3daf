"""An export against torch: the network's output and whole clips, on a CPU.

Graphs run on ONNX Runtime, but bf16 ones on OpenVINO (extra ``openvino``), since ONNX Runtime's CPU provider lacks most bf16
operations. OpenVINO is asked to compute in fp32 what it may: its own bf16 kernels are not what is verified.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...backends.exported import Exported, read_export
from ...backends.onnxruntime import open_session, runtime
from ...backends.table_loop import Arrays, Conditions, Network, TableLoop
from ...conditions import ConditionTable, Vocabulary
from ...config import AXES, ModelConfig
from ...errors import InternalError, InvalidRequestError, MissingExtraError, ModelFormatError
from ...install import native
from ...nn.denoiser import load_unet
from ...nn.unet import UNet3D
from ...package import WEIGHTS, check_sums
from .quantise import KINDS, quantised_torch, read_scales

# fp32 sums run in another order. A lower precision may lose at most twice what eager torch loses in it.
FP32_DIFFERENCE = 1e-5  # of the output's norm
FP32_DISAGREEMENT = 1e-3  # of the pixels
EAGER_LOSSES = 2.0
LOW = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Verification:
    """``largest`` and ``relative`` compare one network call with torch in fp32: the largest difference of a value, and the norm of
    all differences as a share of the output's. ``agreement`` is the share of equal pixels in ``clips`` whole clips.
    ``eager_relative`` and ``eager_agreement`` are those of torch itself in that precision (int8 and fp8: with the same scales);
    0 and 1 for fp32."""

    runtime: str
    precision: str
    largest: float
    relative: float
    clips: int
    steps: int
    agreement: float
    eager_relative: float
    eager_agreement: float

    @property
    def passed(self) -> bool:
        relative = FP32_DIFFERENCE + EAGER_LOSSES * self.eager_relative
        return self.relative <= relative and 1 - self.agreement <= FP32_DISAGREEMENT + EAGER_LOSSES * (1 - self.eager_agreement)


def verify_export(folder: str | os.PathLike[str], model: str | os.PathLike[str], clips: int = 4, seed: int = 0) -> Verification:
    """Compare the export in ``folder`` with the package ``model`` that it was made from.

    Raises ModelFormatError if it was made from another, InvalidRequestError unless ``clips`` is 1..256, MissingExtraError without
    the runtime for its precision.
    """
    if not 1 <= clips <= 256:
        raise InvalidRequestError(f"clips is {clips}; allowed are 1 to 256")
    exported = read_export(folder)
    if (made_from := check_sums(model)[WEIGHTS]) != exported.manifest.model_sha256:
        raise ModelFormatError(f"{folder} was exported from other weights than those of {model} (sha256 {made_from[:16]}...)")
    batch = exported.manifest.batch or min(clips, 2)
    name, graph = (_openvino if exported.manifest.precision == "bf16" else _onnx_runtime)(exported, batch)
    networks = {"torch": _torch(load_unet(model)), "graph": graph}
    if exported.manifest.precision != "fp32":
        networks["eager"] = _eager(load_unet(model), exported)
    config = exported.config
    given = spread(config, max(clips, batch))
    x, t, conditions = _one_call(config, exported, given, batch, seed)
    want = networks["torch"](x, t, conditions, False)
    pixels = clips * config.unet.channels * config.clip.frames * config.clip.height * config.clip.width
    right = _clips(networks["torch"], exported, given, batch, clips, seed)
    largest, relative, agreement = {}, {"eager": 0.0}, {"eager": 1.0}
    for what in list(networks)[1:]:
        got = networks[what](x, t, conditions, False)
        if got.shape != want.shape:
            raise InternalError(f"the graph gives {got.shape}, the network {want.shape}")
        largest[what] = float(np.abs(got - want).max())
        relative[what] = float(np.linalg.norm(got - want) / max(float(np.linalg.norm(want)), 1e-30))
        made = _clips(networks[what], exported, given, batch, clips, seed)
        agreement[what] = 1 - int(np.unpackbits(right ^ made).sum()) / pixels
    return Verification(
        name, exported.manifest.precision, largest["graph"], relative["graph"], clips, config.sampler.steps, agreement["graph"],
        relative["eager"], agreement["eager"],
    )


def spread(config: ModelConfig, count: int) -> ConditionTable:
    """Conditions of ``count`` clips spread over the labels of every axis that has a meaning; every fourth clip is null."""
    usable = {axis: _usable(config, axis) for axis in AXES}
    labels = {axis: list(getattr(config.labels, axis)) for axis in AXES}
    clips: list[dict[str, Any]] = []
    for i in range(count):
        stride = 1 + i * 7
        clips.append({} if i % 4 == 3 else {axis: stride % len(labels[axis]) for axis in AXES if usable[axis]})
    return ConditionTable(Vocabulary(labels, usable, config.conditioning.cond_dim), clips)


def _usable(config: ModelConfig, axis: str) -> bool:
    wired = getattr(config.conditioning, axis) != "none" or axis in (config.conditioning.cond_columns or {})
    return wired and bool(getattr(config.labels, axis))


def _one_call(
    config: ModelConfig, exported: Exported, given: ConditionTable, batch: int, seed: int
) -> tuple[np.ndarray, np.ndarray, Arrays]:
    """Normal noise at timesteps spread from the first to the last."""
    shape = (batch, config.unet.channels, config.clip.frames, config.clip.height, config.clip.width)
    x = np.random.default_rng(seed).standard_normal(shape, np.float32)
    t = np.linspace(config.diffusion.timesteps - 1, 0, batch + 2)[1:-1].astype(np.int64)
    dense = Conditions(config, exported.manifest.null_cond, given.axes, given.cond, given.cond_given).dense(np.arange(batch))
    return x, t, dense


def _clips(network: Network, exported: Exported, given: ConditionTable, batch: int, clips: int, seed: int) -> np.ndarray:
    """Packed clips by the model's default sampler, uint8 [clips, bytes]."""
    described = native().Engine(os.fsencode(exported.folder), backend="none")
    settings = described.resolve_sampler({})
    packed = np.empty((clips, described.info["packed_bytes"]), np.uint8)
    TableLoop(network, exported.config, exported.manifest.null_cond, batch).generate(
        described.sampler_table(settings), settings, count=clips, seed=seed, clip_indices=np.arange(clips, dtype=np.uint64),
        axes=given.axes, cond=given.cond, cond_given=given.cond_given, threshold=0.5, initial_noise=None, packed=packed,
        progress=None,
    )  # fmt: skip
    return packed


def _eager(model: UNet3D, exported: Exported) -> Network:
    """The same network in plain torch in the graph's precision."""
    precision = exported.manifest.precision
    if precision not in KINDS:
        return _torch(model, LOW[precision])
    low = quantised_torch(copy.deepcopy(model), read_scales(exported.graph), precision)
    return _torch(model, torch.float16, low)


def _torch(model: UNet3D, dtype: torch.dtype = torch.float32, low: UNet3D | None = None) -> Network:
    low = copy.deepcopy(model).to(dtype) if low is None else low

    @torch.no_grad()
    def call(x: np.ndarray, t: np.ndarray, conditions: Arrays, exact: bool) -> np.ndarray:
        kind = torch.float32 if exact else dtype
        given = {name: torch.from_numpy(value).to(kind) for name, value in conditions.items()}
        cond = given.pop("cond", None)
        labels = {name.removeprefix("weights."): value for name, value in given.items()}
        out: np.ndarray = (model if exact else low)(torch.from_numpy(x).to(kind), torch.from_numpy(t), labels, cond).float().numpy()
        return out

    return call


def _onnx_runtime(exported: Exported, batch: int) -> tuple[str, Network]:
    graphs = {False: exported.graph, True: exported.exact_graph or exported.graph}
    sessions: dict[bool, Any] = {}

    def call(x: np.ndarray, t: np.ndarray, conditions: Arrays, exact: bool) -> np.ndarray:
        if exact not in sessions:
            sessions[exact] = open_session(graphs[exact], "cpu", batch)
        out: np.ndarray = sessions[exact].run(["out"], {"x": x, "t": t, **conditions})[0]
        return out

    return f"onnxruntime {runtime().__version__}", call


def _openvino(exported: Exported, batch: int) -> tuple[str, Network]:
    try:
        import openvino
    except ImportError as e:
        raise MissingExtraError.for_extra("openvino", "verifying a bf16 graph", e.name) from e
    core = openvino.Core()
    graphs = {False: exported.graph, True: exported.exact_graph or exported.graph}
    compiled: dict[bool, Any] = {}

    def call(x: np.ndarray, t: np.ndarray, conditions: Arrays, exact: bool) -> np.ndarray:
        if exact not in compiled:
            model = core.read_model(graphs[exact])
            compiled[exact] = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        out: np.ndarray = compiled[exact]({"x": x, "t": t, **conditions})[0]
        return np.array(out)

    return f"openvino {openvino.__version__.partition('-')[0]}", call
