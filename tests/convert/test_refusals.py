"""Files that are not taken: hostile ones, broken ones, and networks that no package can hold."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from base_checkpoints import FRAMES, SIZE, diffusion, saved, unet_state
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gaitcrafter_rt.convert import convert_checkpoint
from gaitcrafter_rt.errors import (
    CapabilityError,
    GaitcrafterError,
    InvalidRequestError,
    MissingExtraError,
    ModelFormatError,
    OutputError,
)

CLIP: dict[str, Any] = {"frames": FRAMES, "size": SIZE}


def refused(file: Path, message: str, error: type[Exception] = ModelFormatError, **options: Any) -> None:
    """Converting raises ``error`` and leaves nothing behind."""
    before = sorted(file.parent.iterdir())
    with pytest.raises(error, match=message):
        convert_checkpoint(file, file.parent / "package", **{**CLIP, **options})
    assert sorted(file.parent.iterdir()) == before


class Payload:
    """Unpickling it with a loader that runs code makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.canary,))


class ShellPayload(Payload):
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.canary}",))


@pytest.mark.parametrize("payload", [Payload, ShellPayload])
@pytest.mark.parametrize("place", ["alone", "beside the weights", "legacy format", "bare pickle"])
def test_pickles_never_run(tmp_path: Path, payload: type[Payload], place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    canary = tmp_path / "canary"
    trap: Any = payload(canary)
    if place == "beside the weights":
        trap = {"model": unet_state(), "config": trap}
    file = tmp_path / "checkpoint.pt"
    if place == "bare pickle":
        file.write_bytes(pickle.dumps(trap))
    else:
        torch.save(trap, file, _use_new_zipfile_serialization=place != "legacy format")
    refused(file, "wants the code of" if place in ("alone", "beside the weights") else "not a zip-format torch checkpoint")
    assert not canary.exists()
    if place == "bare pickle":
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert canary.exists()  # the trap was live


def test_harmless_classes_are_refused_by_name(tmp_path: Path) -> None:
    file = saved(tmp_path, {"model": unet_state(), "args": argparse.Namespace(lr=1e-4)})
    refused(file, r"code of argparse\.Namespace.*save state dicts only")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list; expected a dict of state dicts"),
        ({"step": 3, "loss": 0.5}, "no state dict inside; it holds 'step': int, 'loss': float"),
        ({}, "no state dict inside"),
        ({"model": {}}, "no state dict inside"),
        ({"weight": torch.zeros(3)}, "no tensor 'init_conv.weight' in the state dict; expected a Unet3D"),
        ({"init_conv.weight": torch.zeros(3)}, "expected 5 dimensions"),
        ({"init_conv.weight": torch.zeros(0, 1, 1, 7, 7)}, "none of them 0"),
        ({"init_conv.weight": torch.eye(3).to_sparse()}, "expected a plain dense tensor"),
        ({"init_conv.weight": torch.zeros(1, device="meta")}, "expected a plain dense tensor"),
        ({"init_conv.weight": torch.zeros(1).expand(1 << 40)}, "larger than its data"),
    ],
)
def test_other_contents(tmp_path: Path, content: Any, message: str) -> None:
    refused(saved(tmp_path, content), message)


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "empty.pt").touch()
    refused(tmp_path / "empty.pt", "not a zip-format")
    refused(tmp_path / "absent.pt", "no such file")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as z:
        z.writestr("readme.txt", "hello")
    refused(tmp_path / "other.zip", "expected one data.pkl")


def test_compressed_entries(tmp_path: Path) -> None:
    """torch reads deflated entries, which could unpack to far more than the file."""
    source, packed = saved(tmp_path, unet_state()), tmp_path / "packed.pt"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    refused(packed, "compressed or overlap")


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaitcrafter_rt.convert.checkpoint.MAX_BYTES", 1000)
    refused(saved(tmp_path, unet_state()), "a checkpoint is at most 1000")


def edited(tmp_path: Path, edit: Any, **options: Any) -> Path:
    state = unet_state(**options)
    edit(state)
    return saved(tmp_path, state)


def test_missing_and_extra_tensors(tmp_path: Path) -> None:
    def edit(state: dict[str, Tensor]) -> None:
        del state["mid_block2.block1.proj.bias"]
        state["downs.0.1.attention.weight"] = torch.zeros(3)

    refused(edited(tmp_path, edit), "missing 1: mid_block2.block1.proj.bias; unexpected 1: downs.0.1.attention.weight")


def _rename(state: dict[str, Tensor], old: str, new: str) -> None:
    for name in [n for n in state if old in n]:
        state[name.replace(old, new)] = state.pop(name)


EDITS = {
    "shape": (lambda s: s.update({"mid_block1.block1.proj.bias": torch.zeros(5)}), r"block1.proj.bias has shape \[5\]"),
    "not finite": (lambda s: s["final_conv.1.bias"].fill_(float("nan")), "final_conv.1.bias holds values that are not finite"),
    "integers": (lambda s: s.update({"final_conv.1.bias": torch.zeros(1, dtype=torch.int64)}), "expected floating point"),
    "8-bit floats": (
        lambda s: s.update({"final_conv.1.bias": torch.zeros(1).to(torch.float8_e4m3fn)}), "torch.float8.*expected float",
    ),
    "rotary": (lambda s: [v.mul_(2) for k, v in s.items() if k.endswith("freqs")], "other rotary frequencies are not supported"),
    "no rotary": (lambda s: [s.pop(k) for k in list(s) if k.endswith("freqs")], "missing 6: .*rotary_emb.freqs"),
    "widths": (lambda s: s.update({"downs.1.0.block1.proj.weight": torch.zeros(17, 8, 1, 3, 3)}), "not multiples of dim 8"),
    "time": (lambda s: s.update({"time_mlp.1.weight": torch.zeros(30, 8)}), r"expected \[32, 8\]"),
    "norm": (lambda s: _rename(s, "block1.norm.weight", "block1.norm.scale"), "neither downs.0.0.block1.norm.weight"),
    "kernel": (lambda s: s.update({"init_conv.weight": torch.zeros(8, 1, 1, 9, 9)}), "init_kernel"),
    "wrong names": (lambda s: s.update({"module.init_conv.weight": s["init_conv.weight"]}), "two .* named init_conv.weight"),
}  # fmt: skip


@pytest.mark.parametrize("case", EDITS)
def test_broken_networks(tmp_path: Path, case: str) -> None:
    edit, message = EDITS[case]
    refused(edited(tmp_path, edit), message)


def test_networks_that_no_package_can_hold(tmp_path: Path) -> None:
    refused(saved(tmp_path, unet_state(attn_dim_head=16), "a.pt"), "attn_dim_head other than 32")
    refused(saved(tmp_path, unet_state(out_dim=2), "b.pt"), r"final_conv.1.weight has shape \[2, 8, 1, 1, 1\]")


def test_unknown_noise_schedule(tmp_path: Path) -> None:
    state = diffusion().state_dict()
    state["betas"] = torch.linspace(0.001, 0.3, 1000)
    refused(saved(tmp_path, state), "neither the cosine nor the linear schedule")
    state["betas"] = torch.linspace(1e-4, 0.02, 1000)
    assert convert_checkpoint(saved(tmp_path, state), tmp_path / "linear", **CLIP).is_dir()
    del state["betas"]
    refused(saved(tmp_path, state), "but no betas")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thresholding": "none"}, "thresholding is 'none'; allowed are clip and dynamic"),
        ({"prediction": "noise"}, "diffusion.prediction"),
        ({"timesteps": 999}, "trained with 1000; leave it out"),
        ({"timesteps": 0}, "allowed are 1 to 100000"),
        ({"schedule": "linear"}, "betas are cosine"),
        ({"schedule": "karras"}, "allowed are cosine, linear"),
        ({"frames": 0}, "clip.frames"),
        ({"size": 7}, "clip.height"),
        ({"size": 9}, "need a multiple of 2"),
        ({"norm_groups": 3}, "does not divide"),
        ({"name": "x" * 200}, "name"),
        ({"identities": "invented"}, "provenance.identities"),
        ({"which": "teacher"}, "no state dict 'teacher'"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    refused(saved(tmp_path, diffusion().state_dict()), message, (InvalidRequestError, ModelFormatError), **options)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "package"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not an empty folder"):
        convert_checkpoint(tmp_path / "not even there.pt", target)
    assert [p.name for p in target.iterdir()] == ["mine.txt"]


def test_old_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(tmp_path, unet_state())
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    refused(file, "needs torch >= 2.10", CapabilityError)


def test_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gaitcrafter-rt\[train\]'"):
        convert_checkpoint(tmp_path / "a.pt", tmp_path / "p")


def test_import_is_light() -> None:
    code = "import sys, gaitcrafter_rt.convert; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.fixture(scope="module")
def small_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"step": 3, "model": {"init_conv.weight": torch.zeros(8, 1, 1, 7, 7)}}, buffer)
    return buffer.getvalue()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(data=st.data())
def test_damaged_files_raise_typed_errors(tmp_path: Path, small_file: bytes, data: st.DataObject) -> None:
    content = bytearray(small_file)
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    file = tmp_path / "damaged.pt"
    file.write_bytes(content)
    with pytest.raises(GaitcrafterError):
        convert_checkpoint(file, tmp_path / "package", **CLIP)
