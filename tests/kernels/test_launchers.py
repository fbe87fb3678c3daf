"""What launchers ask of CUDA, and what they refuse; nothing runs."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch

from gaitcrafter_rt.errors import CapabilityError, InvalidRequestError
from gaitcrafter_rt.export.kernel_table import all_launches, paper
from gaitcrafter_rt.export.launches import network_launches
from gaitcrafter_rt.kernels import launch as launching
from gaitcrafter_rt.kernels.conv2d import conv2d, pack_conv
from gaitcrafter_rt.kernels.group_norm_silu import group_norm_silu
from gaitcrafter_rt.kernels.launch import GRID_LIMITS, recording
from gaitcrafter_rt.kernels.sampler_step import initial_noise
from gaitcrafter_rt.kernels.temporal_attention import attend_frames

pytest.importorskip("triton", reason="needs the extra gpu")


# 16 clips of 64x64 sites are 65,536 sequences, one more than CUDA's second and third grid axes take; 245 are a million.
@pytest.mark.parametrize("clips", [16, 245], ids=["65,536 sequences", "1,003,520 sequences"])
def test_grids_stay_within_cudas_limits(clips: int) -> None:
    for launch in network_launches(paper(), clips):
        assert all(1 <= got <= limit for got, limit in zip(launch.grid, GRID_LIMITS, strict=True)), launch.name


def test_constants_and_tiles_do_not_depend_on_the_batch() -> None:
    """So a clip's arithmetic, and the compiled code, are the same in every batch; only the first grid axis grows."""
    one, many = all_launches(1), all_launches(48)
    assert len(one) == len(many) > 200
    for a, b in zip(one, many, strict=True):
        assert (a.kernel, a.constants, a.warps, a.stages) == (b.kernel, b.constants, b.warps, b.stages)
        assert (48 * a.grid[0], *a.grid[1:]) == b.grid


def test_every_kernel_is_started() -> None:
    names = {launch.name for launch in all_launches()}
    assert names == {
        "conv2d", "moments", "affine", "apply", "rms", "block", "attend", "context", "product", "temporal_conv", "initial_noise",
        "step", "pack", "limit", "unshuffle", "shuffle", "add_repeated", "linear", "context_of", "product_of",
    }  # fmt: skip


def test_operations_are_those_of_the_network() -> None:
    """472.7 GFLOP by torch's own counter on the base network (docs/cpu-engine.md); norms and softmax add a little here."""
    counted = sum(launch.flops for launch in network_launches(paper(), 1))
    assert 472.6e9 < counted < 1.01 * 472.7e9


def test_too_large_a_grid_is_refused() -> None:
    with recording(), pytest.raises(CapabilityError, match="grid axis 0, CUDA allows 2147483647"):
        initial_noise(torch.empty(2**26, 2**15, device="meta"), *(torch.empty(2**26, dtype=torch.int64, device="meta"),) * 2)


def test_too_large_a_clip_is_refused() -> None:
    qkv = torch.empty(30, 512, 512, 768, device="meta").permute(0, 3, 1, 2)
    with recording(), pytest.raises(CapabilityError, match="fewer than 2147483648"):
        attend_frames(qkv, 30, 8)


def test_other_strides_are_refused_not_copied() -> None:
    x = torch.empty(2, 16, 4, 4, device="meta")
    vector = torch.empty(16, device="meta")
    with recording() as recorder:
        with pytest.raises(InvalidRequestError, match="channels-last"):
            group_norm_silu(x, vector, vector, 8, 2, "clip")
        weight = pack_conv(torch.empty(16, 16, 3, 3, device="meta"))
        with pytest.raises(InvalidRequestError, match=r"LayerNorm on load goes with a 1x1"):
            conv2d(x.to(memory_format=torch.channels_last), None, weight, None, 1, None, vector)
    assert not recorder.launches


def test_an_empty_batch_launches_nothing() -> None:
    x = torch.empty(0, 4, 4, 16, device="meta").permute(0, 3, 1, 2)
    with recording() as recorder:
        assert attend_frames(torch.empty(0, 4, 4, 48, device="meta").permute(0, 3, 1, 2), 2, 1).shape == x.shape
    assert not recorder.launches


def test_without_triton_ops_are_plain_torch_and_say_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cuda:
        is_cuda = True

    monkeypatch.setattr(launching, "triton", None)
    monkeypatch.setattr(launching, "_told", [])
    with pytest.warns(UserWarning, match=r"Triton is absent.*gaitcrafter-rt\[gpu\]"):
        assert not launching.use_kernel(Cuda())  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not launching.use_kernel(Cuda())  # type: ignore[arg-type]


def test_everything_imports_and_runs_without_triton() -> None:
    """In a process where importing triton fails."""
    code = """
import sys
sys.modules["triton"] = None
import torch
from gaitcrafter_rt.kernels.conv2d import conv2d, pack_conv
from gaitcrafter_rt.kernels.launch import triton
import gaitcrafter_rt.nn.fused, gaitcrafter_rt.kernels.sampler_step
from gaitcrafter_rt.errors import MissingExtraError
from gaitcrafter_rt.export.cubins import require_triton
assert triton is None
y, _ = conv2d(torch.ones(1, 1, 2, 2), None, pack_conv(torch.ones(1, 1, 3, 3)), None)
assert y.flatten().tolist() == [4.0] * 4
try:
    require_triton()
except MissingExtraError as e:
    print(e)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pip install 'gaitcrafter-rt[gpu]'" in done.stdout
