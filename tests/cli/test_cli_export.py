"""``export kernels``: the pack that it writes, and what it refuses before anything is compiled or written."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import MODEL, ROOT, Run, needs_engine

from gaitcrafter_rt.config import ClipShape, Diffusion, ModelConfig, UNetConfig
from gaitcrafter_rt.package import write_package

pytest.importorskip("torch", reason="needs the extra gpu")


@pytest.fixture
def smallest(tmp_path: Path) -> Path:
    """One level, no attention: as few kernels as a network has."""
    from gaitcrafter_rt.nn.unet import UNet3D

    off = dict(spatial_linear_attention=[False], temporal_attention=[False], temporal_conv=[False])
    unet = UNetConfig(
        dim=8, init_dim=8, dim_mults=[1], blocks_per_level=1, norm_groups=4, init_kernel=3, init_temporal_attention=False,
        mid_spatial_attention=False, mid_temporal_attention=False, **off,
    )  # fmt: skip
    config = ModelConfig(
        name="smallest", clip=ClipShape(frames=2, height=8, width=8), unet=unet, diffusion=Diffusion(prediction="x0")
    )  # fmt: skip
    return write_package(tmp_path / "model", config, UNet3D(config).state_dict(), "")


@needs_engine
def test_a_pack_is_compiled_and_checked_when_it_is_opened(run: Run, tmp_path: Path, smallest: Path) -> None:
    pytest.importorskip("triton", reason="needs the extra gpu")
    out = tmp_path / "pack"
    told = run.json("export", "kernels", smallest, out, "--arch", "90", "--precision", "fp16", "--jobs", 2)
    manifest = json.loads((out / "kernels.json").read_text())
    assert told["kernels"] == len(manifest["kernels"]) >= 8
    assert (told["folder"], told["precision"]) == (str(out), "fp16") and told["compiler"].startswith("triton ")
    assert told["images"] == [{"file": "images/sm_90.bin", "capability": 90, "ptx": False}]
    assert told["bytes"] == sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    listed = json.loads((out / "checksums.json").read_text())["sha256"]
    assert listed == {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in listed}
    assert {"kernels.json", "weights.bin", "images/sm_90.bin"} == set(listed)
    # Code of one kernel is an ELF file for the chip.
    entry, first, length, *_ = manifest["kernels"][0]["code"][0]
    code = (out / "images/sm_90.bin").read_bytes()[first : first + length]
    assert code[:4] == b"\x7fELF" and entry.encode() in code
    assert run("export", "kernels", smallest, out)[0] == 5  # nothing is overwritten
    code, _, err = run("generate", tmp_path / "o", "--model", out, "--backend", "cubin", "--format", "npz")
    assert code == 2 and 'backend "cubin" takes "cuda"' in err


@pytest.mark.parametrize(
    "options, code, message",
    [
        (["--arch", "75"], 6, "sm_75 is older than sm_80; there, run the exported ONNX network in fp16 with ONNX Runtime"),
        (["--arch", "90,95"], 2, "chip '95' is unknown; allowed are 80, 86, 89, 90, 100, 120 and ptx"),
        (["--arch", "sm_90"], 2, "chip 'sm_90' is unknown"),
        (["--arch", ","], 2, "no chip is named"),
        (["--precision", "int8"], 2, "int8"),
        (["--jobs", "0"], 2, "jobs"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_requests_write_nothing(run: Run, tmp_path: Path, options: list, code: int, message: str) -> None:
    got, out, err = run("export", "kernels", MODEL, tmp_path / "o", *options)
    assert message in err
    assert (got, out) == (code, "")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_model_and_where_something_stands(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="needs the extra gpu")
    assert run("export", "kernels", "no-such-model", tmp_path / "o")[0] == 4
    (tmp_path / "mine").write_text("x")
    code, _, err = run("export", "kernels", MODEL, tmp_path, "--arch", "90")
    assert code == 5 and "not an empty folder" in err
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name in ("config.json", "model.safetensors", "checksums.json"):
        (damaged / name).write_bytes((MODEL / name).read_bytes() + b" " * (name == "model.safetensors"))
    code, _, err = run("export", "kernels", damaged, tmp_path / "o", "--arch", "90")
    assert code == 4 and "differs from checksums.json" in err


@pytest.mark.parametrize(
    "absent, form, extra", [("triton", "kernels", "gpu"), ("torch", "kernels", "gpu"), ("torch", "onnx", "train")]
)
def test_an_absent_package_is_named_with_its_extra(tmp_path: Path, absent: str, form: str, extra: str) -> None:
    code = f"import sys; sys.modules[{absent!r}] = None; from gaitcrafter_rt.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "export", form, str(MODEL), str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 6 and f"pip install 'gaitcrafter-rt[{extra}]'" in done.stderr, done.stderr
    assert not (tmp_path / "o").exists()


def test_the_interpreter_cannot_compile(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="needs the extra gpu")
    command = [sys.executable, "-m", "gaitcrafter_rt", "export", "kernels", str(MODEL), str(tmp_path / "o"), "--arch", "90"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"})
    assert done.returncode == 6 and "TRITON_INTERPRET=1 turns the compiler off; unset it" in done.stderr
