"""The cubin backend's own C++ loop with Triton's interpreter in the place of a GPU: the launches that CUDA would get, on the memory
that the engine planned, make the native engine's clips.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gaitcrafter_rt as gc
from gaitcrafter_rt.conditions import ConditionTable
from gaitcrafter_rt.config import ClipShape, Conditioning, Diffusion, Labels, ModelConfig, UNetConfig
from gaitcrafter_rt.export.cubins import key_of
from gaitcrafter_rt.export.kernel_pack import PRECISIONS, Image, write_kernel_pack
from gaitcrafter_rt.export.program import record_program
from gaitcrafter_rt.kernels.launch import INTERPRETED, Launch
from gaitcrafter_rt.nn.unet import UNet3D
from gaitcrafter_rt.package import read_config, write_package

for place in (str(Path(__file__).parents[2] / "native"), os.environ.get("GAITCRAFTER_TEST_MODULE", "")):
    if list(Path(place).glob("_gc_test*.so")):
        sys.path.insert(0, place)
_gc_test = pytest.importorskip("_gc_test", reason="needs the module of single ops (tools/cpp-tests.sh)")
KINDS = {"ddpm": 0, "ddim": 1, "dpmpp_2m": 2, "dpmpp_3m": 3, "unipc": 4}
FIXTURES = Path(__file__).parents[2] / "fixtures"
THRESHOLDS = {"none": 0, "clip": 1, "dynamic": 2}


def fake_image(launch: Launch, chip: str) -> Image:
    """What the stand-in for CUDA takes for code: the kernel's key and its number of pointers."""
    pointers = sum(launch.tensors.get(name) is not None for name in launch.kernel.arg_names)
    return Image(f"{key_of(launch)} {pointers}\0".encode(), f"_{launch.name}", launch.warps, 0)


def executor(config: ModelConfig, precision: str) -> Callable[..., None]:
    """Runs what CUDA would be given: kernels by key, on memory by address."""
    exact = config.diffusion.prediction == "eps" and precision != "fp32"
    program = record_program(config, PRECISIONS[precision], exact)
    kernels = {key_of(call.launch): call.launch for calls in program.lists.values() for call in calls}

    def execute(code: str, entry: str, grid: list[int], pointers: list[int], rooms: list[int]) -> None:
        launch = kernels[code]
        assert entry == f"_{launch.name}"
        names = [name for name in launch.kernel.arg_names if launch.tensors.get(name) is not None]
        tensors: dict[str, torch.Tensor | None] = dict.fromkeys(launch.tensors)
        for name, pointer, room in zip(names, pointers, rooms, strict=True):
            size = launch.tensors[name].element_size()
            assert pointer % 16 == 0
            bytes_ = np.ctypeslib.as_array((ctypes.c_uint8 * (room // size * size)).from_address(pointer))
            tensors[name] = torch.from_numpy(bytes_).view(launch.tensors[name].dtype)
        launch.kernel[tuple(grid)](**tensors, **launch.constants, num_warps=launch.warps)

    return execute


def micro(prediction: str, wiring: str) -> ModelConfig:
    """Two levels with most kinds of layers, a few thousand pixels: what the interpreter takes a minute for."""
    return ModelConfig(
        name="micro", clip=ClipShape(frames=3, height=8, width=8),
        unet=UNetConfig(
            dim=8, init_dim=8, dim_mults=[1, 2], blocks_per_level=1, patch=2, init_kernel=3, norm_scope="frame", norm_groups=4,
            attention_heads=2, attention_dim_head=8, linear_heads=2, linear_dim_head=8, spatial_linear_attention=[False, True],
            temporal_attention=[True, True], temporal_conv=[True, False], init_temporal_attention=False,
            mid_temporal_attention=False, rotary_dim=8, position_buckets=8, position_max_distance=8, positional_embedding=True,
        ),
        conditioning=Conditioning(identity="block_table", view=wiring, guidance_trained=True),
        labels=Labels(identity=["001", "002", "003"], view=["000", "090"]),
        diffusion=Diffusion(prediction=prediction, timesteps=100),
    )  # fmt: skip


class Case:
    """A network of random weights, on the fake GPU and by the native engine."""

    def __init__(self, folder: Path, config: ModelConfig, precision: str, batch: int, graphs: bool = True) -> None:
        torch.manual_seed(0)
        model = UNet3D(config)
        with torch.no_grad():
            for parameter in model.parameters():  # null rows and gains are no longer all zero or one
                parameter.add_(torch.randn_like(parameter) * 0.1)
        self.model = write_package(folder / "model", config, model.state_dict(), "")
        write_kernel_pack(self.model, folder / "pack", precision=precision, chips=["90"], compiler=fake_image)
        self.engine = _gc_test.FakeCubin(str(folder / "pack"), batch, graphs, executor(config, precision))

    def gpu(self, sampler: dict[str, Any], count: int, row_by_row: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Packed clips and x_0."""
        numbers = {**sampler, "kind": KINDS[sampler["kind"]], "thresholding": THRESHOLDS[sampler["thresholding"]]}
        result = self.engine.generate([_by_index(i) for i in range(count)], 7, 5, numbers, 0.5, row_by_row)
        assert self.engine.problems == []
        return result

    def cpu(self, sampler: dict[str, Any], count: int) -> tuple[np.ndarray, np.ndarray]:
        """The same of the native engine in fp32."""
        with gc.Engine(self.model, precision="fp32") as engine:
            table = ConditionTable(engine.vocabulary, [_by_name(i) for i in range(count)])
            packed = np.empty((count, engine.info["packed_bytes"]), np.uint8)
            x0 = np.empty((count, engine.info["clip_floats"]), np.float32)
            engine._native.generate(
                count=count, seed=7, clip_indices=np.arange(5, 5 + count, dtype=np.uint64), axes=table.axes,
                sampler=engine.resolve_sampler(**{"sampler" if k == "kind" else k: v for k, v in sampler.items()}),
                packed=packed, x0=x0,
            )  # fmt: skip
        return packed, x0


def _by_index(clip: int) -> dict[str, Any]:
    """One clip with labels, one a blend with a null view."""
    return {"identity": [(1, 1.0)], "view": [(1, 1.0)]} if clip % 2 == 0 else {"identity": [(0, 0.5), (2, 0.75)]}


def _by_name(clip: int) -> dict[str, Any]:
    return {"identity": "002", "view": "090"} if clip % 2 == 0 else {"identity": {"001": 0.5, "003": 0.75}}


@pytest.fixture(autouse=True)
def small_grids() -> None:
    """Lifts the limit on programs; a network has more."""
    assert INTERPRETED


def test_the_launch_list_makes_the_native_engines_clips(tmp_path: Path) -> None:
    """One graph, two clips with two lanes each, two rows: x_0 within what another order of summation makes of fp32."""
    sampler = {"kind": "unipc", "steps": 2, "thresholding": "clip", "eta": 0.0, "guidance": 2.0}
    case = Case(tmp_path, micro("x0", "block_table"), "fp32", batch=2)
    (packed, x0), (expected, exact) = case.gpu(sampler, 2), case.cpu(sampler, 2)
    assert np.abs(x0 - exact).max() < 2e-5
    assert np.unpackbits(packed ^ expected).sum() <= np.count_nonzero(np.abs(exact) < 2e-5)
    assert case.engine.calls.count("GraphLaunch") == 1


@pytest.mark.slow
def test_exact_rows_dynamic_limits_noise_and_maps_row_by_row(tmp_path: Path) -> None:
    """An eps-model in fp16 with input maps: its first row runs in fp32. Through the sampler's loop, in batches of one."""
    sampler = {"kind": "ddpm", "steps": 2, "thresholding": "dynamic", "eta": 0.0, "guidance": 1.0}
    case = Case(tmp_path, micro("eps", "input_map"), "fp16", batch=1, graphs=False)
    (packed, x0), (_, exact) = case.gpu(sampler, 2, row_by_row=True), case.cpu(sampler, 2)
    assert np.abs(x0 - exact).max() < 0.05 * np.abs(exact).max()
    again, x0_again = case.gpu(sampler, 2)
    assert np.array_equal(again, packed) and np.array_equal(x0_again, x0)
    assert "GraphLaunch" not in case.engine.calls


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-paper", "tiny-walker", "rms"])
def test_every_network(tmp_path: Path, name: str) -> None:
    """Both presets and the RMSNorm generation, whole: one clip, one row, fp32."""
    sampler = {"kind": "ddim", "steps": 1, "thresholding": "none", "eta": 0.0, "guidance": 1.0}
    config = micro("x0", "block_table") if name == "rms" else read_config(FIXTURES / name)
    if name == "rms":
        config = config.model_copy(update={"unet": config.unet.model_copy(update={"norm": "rms_norm"})})
    case = Case(tmp_path, config, "fp32", batch=1)
    (_, x0), (_, exact) = case.gpu(sampler, 1), case.cpu(sampler, 1)
    assert np.isfinite(exact).all() and np.abs(exact).max() > 0.1
    assert np.abs(x0 - exact).max() < 1e-4 * np.abs(exact).max()
