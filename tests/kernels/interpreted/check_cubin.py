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
from gaitcrafter_rt.config import ModelConfig
from gaitcrafter_rt.export.cubins import key_of
from gaitcrafter_rt.export.kernel_pack import PRECISIONS, Image, write_kernel_pack
from gaitcrafter_rt.export.program import record_program
from gaitcrafter_rt.kernels.launch import INTERPRETED, Launch
from gaitcrafter_rt.package import read_config

FIXTURES = Path(__file__).parents[2] / "fixtures"
for place in (str(Path(__file__).parents[2] / "native"), os.environ.get("GAITCRAFTER_TEST_MODULE", "")):
    if list(Path(place).glob("_gc_test*.so")):
        sys.path.insert(0, place)
_gc_test = pytest.importorskip("_gc_test", reason="needs the module of single ops (tools/cpp-tests.sh)")
KINDS = {"ddpm": 0, "ddim": 1, "dpmpp_2m": 2, "dpmpp_3m": 3, "unipc": 4}
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


class Case:
    """A fixture's pack on the fake GPU."""

    def __init__(self, folder: Path, name: str, precision: str, batch: int, graphs: bool) -> None:
        self.config = read_config(FIXTURES / name)
        pack = folder / f"{name}-{precision}"
        if not pack.exists():
            write_kernel_pack(FIXTURES / name, pack, precision=precision, chips=["90"], compiler=fake_image)
        self.engine = _gc_test.FakeCubin(str(pack), batch, graphs, executor(self.config, precision))

    def generate(self, clips: list[dict[str, Any]], sampler: dict[str, Any], first: int = 0, rows: bool = False) -> Any:
        numbers = {**sampler, "kind": KINDS[sampler["kind"]], "thresholding": THRESHOLDS[sampler["thresholding"]]}
        result = self.engine.generate(clips, 7, first, numbers, 0.5, rows)
        assert self.engine.problems == []
        return result


def conditions(config: ModelConfig, count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Labels by index for the fake, and by name for the engine; one clip is a blend."""
    by_index, by_name = [], []
    for i in range(count):
        index, name = {}, {}
        for axis in ("identity", "view", "covariate"):
            names = getattr(config.labels, axis)
            if not names or (i == 1 and axis == "view"):
                continue
            k = i % len(names)
            index[axis] = [(k, 1.0)] if axis != "identity" or len(names) < 2 else [(0, 0.5), (k, 0.75)] if k else [(0, 1.0)]
            name[axis] = {names[j]: w for j, w in index[axis]}
        by_index.append(index)
        by_name.append(name)
    return by_index, by_name


@pytest.fixture(autouse=True)
def interpreted() -> None:
    assert INTERPRETED


RUNS = [
    ("tiny-walker", {"kind": "unipc", "steps": 3, "thresholding": "clip", "eta": 0.0, "guidance": 2.0}),
    ("tiny-walker", {"kind": "ddpm", "steps": 2, "thresholding": "dynamic", "eta": 0.0, "guidance": 1.0}),
    ("tiny-paper", {"kind": "dpmpp_3m", "steps": 2, "thresholding": "none", "eta": 0.0, "guidance": 1.0}),
]


@pytest.mark.parametrize(("name", "sampler"), RUNS, ids=lambda v: v if isinstance(v, str) else v["kind"])
def test_the_launch_list_makes_the_native_engines_clips(name: str, sampler: dict[str, Any], tmp_path: Path) -> None:
    """fp32: x_0 within what two orders of summation differ by, and the same pixels."""
    case = Case(tmp_path, name, "fp32", 2, True)
    by_index, by_name = conditions(case.config, 3)
    packed, x0 = case.generate(by_index, sampler, first=5)
    settings = {k: v for k, v in sampler.items() if k not in ("kind", "eta")}
    with gc.Engine(FIXTURES / name, precision="fp32") as engine:
        batch = engine.generate(by_name, seed=7, start=5, sampler=sampler["kind"], **settings)
    assert np.isfinite(x0).all()
    agree = np.unpackbits(packed ^ batch.packed).mean()
    assert agree < 1e-3, agree
