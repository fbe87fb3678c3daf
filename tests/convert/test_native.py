"""From a checkpoint of the base network to the native engine: its forward against the base network's own, in double."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from base_checkpoints import COND, FRAMES, SIZE, diffusion, saved_by_trainer
from peers import in_double, relative_l2

from gaitcrafter_rt.convert import convert_checkpoint

MODULES = os.environ.get("GAITCRAFTER_TEST_MODULE", str(Path(__file__).resolve().parent.parent / "native"))
if MODULES not in sys.path:
    sys.path.insert(0, MODULES)
native = pytest.importorskip("_gc_test", reason="_gc_test is not built (tests/native/CMakeLists.txt)")


@pytest.mark.parametrize("norm", ["group_norm", "rms_norm"])
@pytest.mark.parametrize("conditioned", [True, False])
def test_native_forward_of_a_converted_checkpoint(tmp_path: Path, norm: str, conditioned: bool) -> None:
    base = diffusion(norm, dim=16, dim_mults=(1, 2, 2), cond_dim=COND if conditioned else None)
    file = saved_by_trainer(tmp_path, base, base, norm)
    net = native.UNet(str(convert_checkpoint(file, tmp_path / "package", frames=FRAMES, size=SIZE)), "portable")
    judge = in_double(base.denoise_fn)
    x = torch.randn(1, 1, FRAMES, SIZE, SIZE)
    cond = torch.randn(1, COND) if conditioned else None
    for t in (999, 500, 0):
        with torch.no_grad():
            want = judge(x.double(), torch.tensor([t]), cond=None if cond is None else cond.double())
        got = net.forward(x[0].numpy(), t, cond=None if cond is None else cond[0].numpy())
        assert relative_l2(torch.from_numpy(got)[None], want) < 5e-6
