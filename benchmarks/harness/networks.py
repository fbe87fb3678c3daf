"""The two networks that are compared, made once into a folder: weights, inputs, reference output, calibration inputs, graphs.

    model/, int8/        packages; int8 with ranges calibrated on calibration.npz
    inputs.npz           x [B, C, F, H, W], t [B], weights.AXIS [B, labels + 1] or cond [B, cond_dim]
    reference.npy        the torch network's answer to them, in double
    calibration.npz      more such inputs, for our int8 and for NNCF's alike
    FORM-bN.onnx         the graph for batch N, frames folded ("flat") or 5-D ("volume")

Everything here needs the extras train and, for the graphs, onnx; it runs in a process of its own.
"""

from __future__ import annotations

import copy
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaitcrafter_rt.config import AXES, ModelConfig, Quantisation, resnet_convolutions
from gaitcrafter_rt.export.onnx import export_onnx
from gaitcrafter_rt.models import resolve_model
from gaitcrafter_rt.nn.denoiser import load_unet
from gaitcrafter_rt.nn.unet import UNet3D
from gaitcrafter_rt.package import read_config, read_stored_weights, write_package
from gaitcrafter_rt.quantise import calibrate
from gaitcrafter_rt.quantise.runs import sample_clips, spread_conditions
from gaitcrafter_rt.ranges import HIGH, LOW, range_tensors

from .descriptions import NETWORKS, PAPER, Network
from .volumes import Volumes

ROOT = Path(__file__).resolve().parent.parent.parent
FORMS = ("flat", "volume")
# Rises when files made here change their meaning: older folders are made again.
LAYOUT = 1


Arrays = dict[str, np.ndarray]


def prepare(name: str, folder: Path, graphs: bool = True) -> None:
    """Make the folder of a network, or what is missing there."""
    stamp = folder / "made.json"
    network = NETWORKS[name]
    made = {"layout": LAYOUT, "torch": torch.__version__, "weights": _weights_id(network)}
    if not stamp.exists() or json.loads(stamp.read_text()) != made:
        _make(name, folder)
        stamp.write_text(json.dumps(made))
    missing = [(f, b) for b in network.batches for f in FORMS if not (folder / f"{f}-b{b}.onnx").exists()]
    if graphs and missing:
        net = load_unet(folder / "model")
        for form, batch in missing:
            model: Any = net if form == "flat" else Volumes(net)
            # The opset of the recorded results: the newer one writes GroupNorm as one op, which runtimes treat otherwise.
            export_onnx(model, folder / f"{form}-b{batch}.onnx", batch, opset=20)


def _make(name: str, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        net, inputs, calibration = _paper(folder) if name == "paper" else _walker(folder)
        np.savez(folder / "inputs.npz", **inputs)
        np.savez(folder / "calibration.npz", **calibration)
        np.save(folder / "reference.npy", answer(copy.deepcopy(net).double(), inputs))
        _calibrated(net, calibration, folder)


def _weights_id(network: Network) -> str:
    if network is PAPER:
        return "torch initialisation of video-diffusion-pytorch 0.6.3, seed 0"
    return str(json.loads((resolve_model("walker") / "checksums.json").read_text()))


def base_network() -> Any:
    """The paper's network as video-diffusion-pytorch has it (GroupNorm generation), seed 0. Needs tests/install_peers.py."""
    sys.path.insert(0, str(ROOT / "tests"))
    import peers

    if not (ROOT / ".peers").is_dir():
        raise FileNotFoundError("video-diffusion-pytorch is absent: run python tests/install_peers.py")
    torch.manual_seed(0)
    net = peers.base_network("group_norm").Unet3D(dim=64, cond_dim=74, channels=1)
    peers.randomise_norms(net, 1)
    return net.eval()


def _paper(folder: Path) -> tuple[UNet3D, Arrays, Arrays]:
    base = base_network()  # puts tests/ on the path

    import peers

    net = peers.our_network(base, 30, 64).eval()
    write_package(folder / "model", net.config, net.state_dict(), "# random weights for a benchmark\n")
    gen = torch.Generator().manual_seed(1)
    shape = (net.config.unet.channels, 30, 64, 64)
    null = net.null_cond.detach()

    def drawn(*timesteps: int) -> Arrays:
        n = len(timesteps)
        cond = torch.randn(n, len(null), generator=gen)
        cond[::2] = null
        return {
            "x": torch.randn(n, *shape, generator=gen).numpy(), "t": np.array(timesteps, np.int64), "cond": cond.numpy(),
        }  # fmt: skip

    return net, drawn(417), drawn(50, 300, 600, 900)


def _walker(folder: Path) -> tuple[UNet3D, Arrays, Arrays]:
    shutil.copytree(resolve_model("walker"), folder / "model")
    net = load_unet(folder / "model")
    calls = recorded_calls(net, 8, seed=0)
    others = recorded_calls(net, 8, seed=1)
    # One call of each clip, at timesteps that differ; every other one is the lane without conditions.
    per_clip = len(others["t"]) // 8
    picked = [clip * per_clip + (3 * clip) % per_clip for clip in range(8)]
    return net, {name: rows[picked] for name, rows in others.items()}, calls


def recorded_calls(net: UNet3D, clips: int, seed: int) -> Arrays:
    """The inputs of every network call of ``clips`` sampling runs, a row per lane."""
    rows: dict[str, list[Tensor]] = {}

    def see(_module: Any, args: tuple[Any, ...]) -> None:
        x, t, labels, _ = args
        for name, value in {"x": x, "t": t, **{f"weights.{a}": w for a, w in labels.items()}}.items():
            rows.setdefault(name, []).append(value.clone())

    hook = net.register_forward_pre_hook(see)
    for _ in sample_clips(net, spread_conditions(net.config, clips, seed), seed):
        pass
    hook.remove()
    return {name: torch.cat(values).numpy() for name, values in rows.items()}


def arguments(arrays: Arrays, begin: int, end: int) -> tuple[Tensor, Tensor, dict[str, Tensor], Tensor | None]:
    """Rows [begin, end) as the arguments of ``UNet3D.forward``."""
    rows = {name: torch.from_numpy(np.ascontiguousarray(value[begin:end])) for name, value in arrays.items()}
    labels = {axis: rows[f"weights.{axis}"] for axis in AXES if f"weights.{axis}" in rows}
    return rows["x"], rows["t"], labels, rows.get("cond")


def answer(net: torch.nn.Module, inputs: Arrays) -> np.ndarray:
    """The network's output for every row, in the type of its weights, row by row."""
    dtype = next(net.parameters()).dtype
    out = []
    for k in range(len(inputs["t"])):
        x, t, labels, cond = arguments(inputs, k, k + 1)
        labels = {axis: w.to(dtype) for axis, w in labels.items()}
        out.append(net(x.to(dtype), t, labels, None if cond is None else cond.to(dtype)).numpy())
    return np.concatenate(out)


def _calibrated(net: UNet3D, calibration: Arrays, folder: Path) -> None:
    """The package of the int8 tier."""
    calls = [arguments(calibration, k, k + 1) for k in range(len(calibration["t"]))]
    ranges = calibrate(net, calls)
    config = read_config(folder / "model")
    made = Quantisation(layers=list(resnet_convolutions(config.unet)), clips=len(calls), method="inputs of a benchmark")
    config = ModelConfig.model_validate({**dict(config), "format_version": 2, "quantisation": made})
    weights = {k: v for k, v in read_stored_weights(folder / "model").items() if not k.endswith((LOW, HIGH))}
    write_package(folder / "int8", config, {**weights, **range_tensors(ranges)}, "# ranges for a benchmark\n")
