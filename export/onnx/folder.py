"""A model package exported to a folder that engines open (``gaitcrafter_rt/backends/exported.py`` says what lies in it)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import cast, get_args

import torch

from ...backends.exported import CONFIG, MANIFEST, Manifest, Precision, SamplerTable, Tensor, file_sha256
from ...config import ModelConfig
from ...errors import InvalidRequestError
from ...files import new_folder
from ...install import version
from ...nn.denoiser import load_unet
from ...package import CARD, WEIGHTS, check_sums
from ...samplers.table import coefficients, compile_rows
from .graph import LARGEST_BYTES, OPSET, TYPES, check_batch, example_inputs, export_onnx, weight_bytes
from .quantise import KINDS, calibrate, insert

GRAPH, EXACT = "model.onnx", "exact.onnx"
COLUMNS = ["timestep", "a_x", "a_out", "c_x", "c_x0", "c_prev1", "c_prev2", "c_raw", "c_noise"]


def export_folder(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    precision: str = "fp32",
    batch: int | None = None,
    external_data: bool = False,
    calibration_clips: int = 8,
) -> Path:
    """Export the package ``model`` to the new folder ``out``.

    ``batch`` None makes a graph for any number of clips. An eps-model below fp32 gets a second graph in fp32: near t = T its
    error is multiplied by up to 64,166, so there it runs exactly. Weights above 1 GiB are always external. "int8" and "fp8"
    quantise the 3x3 convolutions of an fp16 graph, calibrated on ``calibration_clips`` of the model's own runs (quantise.py).

    Raises InvalidRequestError for another precision or a batch outside 1..256, ModelFormatError for a bad package, OutputError if
    ``out`` is occupied or cannot be written, MissingExtraError without the extra ``onnx``.
    """
    if precision not in get_args(Precision):
        raise InvalidRequestError(f"precision is {precision!r:.80}; an ONNX graph is exported in {', '.join(get_args(Precision))}")
    check_batch(batch)
    if not 1 <= calibration_clips <= 4096:
        raise InvalidRequestError(f"calibration clips are {calibration_clips}; allowed are 1 to 4096")
    sums = check_sums(model)
    exact = load_unet(model)
    config: ModelConfig = exact.config
    null = [] if exact.null_cond is None else exact.null_cond.detach().tolist()
    needs_exact = precision != "fp32" and config.diffusion.prediction == "eps"
    scales = calibrate(load_unet(model), precision, calibration_clips) if precision in KINDS else None
    with new_folder(out) as tmp:
        external = external_data or weight_bytes(exact) > LARGEST_BYTES
        if needs_exact:
            export_onnx(exact, tmp / EXACT, batch, external_data=external)
        export_onnx(exact.to(TYPES.get(precision, torch.float16)), tmp / GRAPH, batch, external_data=external)
        if scales is not None:
            insert(tmp / GRAPH, scales, precision)
        for name in (CONFIG, CARD):
            if (Path(model) / name).is_file():
                shutil.copyfile(Path(model) / name, tmp / name)
        manifest = Manifest(
            model_sha256=sums[WEIGHTS], precision=cast(Precision, precision), batch=batch or 0, opset=OPSET, graph=GRAPH,
            exact_graph=EXACT if needs_exact else None, null_cond=null,
            inputs=_inputs(config, batch), outputs=_outputs(config, batch),
            sampler=SamplerTable(
                settings=config.sampler.model_dump(), columns=COLUMNS,
                rows=coefficients(compile_rows(config.sampler, config.diffusion)).tolist(),
            ),
            files={p.name: file_sha256(p) for p in sorted(tmp.iterdir())},
            made_by={"gaitcrafter_rt": version(), "torch": torch.__version__},
        )  # fmt: skip
        (tmp / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return Path(out)


def _inputs(config: ModelConfig, batch: int | None) -> list[Tensor]:
    return [_tensor(name, value, batch) for name, value in example_inputs(config, 1).items()]


def _outputs(config: ModelConfig, batch: int | None) -> list[Tensor]:
    return [_tensor("out", example_inputs(config, 1)["x"], batch)]


def _tensor(name: str, value: torch.Tensor, batch: int | None) -> Tensor:
    shape: list[int | str] = ["batch" if batch is None else batch, *value.shape[1:]]
    return Tensor(name=name, type="int64" if value.dtype == torch.int64 else "float32", shape=shape)
