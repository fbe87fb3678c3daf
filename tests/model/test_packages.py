"""Packages that Python writes are what the native reader expects: for any config, the same tensors; hostile folders are refused."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")

from gaitcrafter_rt import Engine  # noqa: E402
from gaitcrafter_rt.config import (  # noqa: E402
    ClipShape,
    Conditioning,
    Labels,
    ModelConfig,
    Quantisation,
    paper_preset,
    resnet_convolutions,
    walker_preset,
)
from gaitcrafter_rt.errors import ModelFormatError  # noqa: E402
from gaitcrafter_rt.nn.denoiser import load_unet  # noqa: E402
from gaitcrafter_rt.nn.unet import UNet3D  # noqa: E402
from gaitcrafter_rt.package import read_weights, write_package  # noqa: E402
from gaitcrafter_rt.ranges import range_tensors, split_ranges  # noqa: E402

FIXTURE = Path(__file__).parent.parent / "fixtures" / "tiny-walker"
HEADS = dict(attention_heads=2, attention_dim_head=4, linear_heads=3, linear_dim_head=2, rotary_dim=4)
TWO = dict(spatial_linear_attention=[True, False], temporal_attention=[False, True], temporal_conv=[True, True])
LABELS = Labels(dataset=["d"], identity=["001", "002"], view=["000", "090"], covariate=["nm"])
CONFIGS = {
    "paper": ModelConfig(unet=paper_preset(dim=8, init_dim=8, **HEADS), clip=ClipShape(frames=2, height=8, width=16)),
    "every axis": ModelConfig(
        unet=walker_preset(**{**HEADS, **TWO, "dim": 8, "init_dim": 12, "dim_mults": [1, 3], "norm_groups": 4, "patch": 2}),
        clip=ClipShape(frames=3, height=8, width=4),
        labels=LABELS,
        conditioning=Conditioning(
            dataset="input_map", identity="block_table", view="input_map", covariate="block_table", encoder_dim=3
        ),
    ),
    "nothing optional": ModelConfig(
        unet=paper_preset(
            **{**HEADS, "dim": 4, "init_dim": 6, "dim_mults": [1], "norm": "rms_norm", "spatial_linear_attention": [False],
               "temporal_attention": [False], "temporal_conv": [False], "init_temporal_attention": False, "channels": 2,
               "mid_spatial_attention": False, "mid_temporal_attention": False, "position_buckets": 0, "init_kernel": 1}
        ),
        clip=ClipShape(frames=1, height=4, width=4),
    ),
    "cond vector": ModelConfig(
        unet=paper_preset(dim=8, init_dim=8, blocks_per_level=1, positional_embedding=True, **HEADS),
        clip=ClipShape(frames=2, height=8, width=8),
        labels=LABELS,
        conditioning=Conditioning(cond_dim=5, cond_columns={"view": [3, 4]}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_native_reads_what_python_writes(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """And computes the same: the torch network on the stored (rounded) weights is the judge."""
    config = CONFIGS[name]
    torch.manual_seed(1)
    model = UNet3D(config)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_((p + 0.05 * torch.randn_like(p)).to(dtype).float())
    folder = write_package(tmp_path / "m", config, {k: v.to(dtype) for k, v in model.state_dict().items()}, "# test\n")
    x = torch.randn(1, config.unet.channels, config.clip.frames, config.clip.height, config.clip.width)
    with torch.no_grad():
        want = model.double()(x.double(), torch.tensor([3])).numpy()
    with Engine(folder, threads=1, precision="fp32") as engine:
        got = engine._native.forward(x.numpy(), np.array([3]))
    assert np.linalg.norm(got - want) < 2e-6 * np.linalg.norm(want)


def _quantised(tmp_path: Path, **changes: np.ndarray) -> Path:
    """A package whose every ResNet convolution has the range [-1, 2], written with ``changes`` of its tensors."""
    config = CONFIGS["every axis"]
    layers = resnet_convolutions(config.unet)
    quantised = ModelConfig.model_validate({**dict(config), "format_version": 2, "quantisation": Quantisation(layers=list(layers))})
    ranges = {name: (np.full(n, -1, np.float32), np.full(n, 2, np.float32)) for name, n in layers.items()}
    tensors = {k: v.numpy() for k, v in UNet3D(config).state_dict().items()}
    return write_package(tmp_path, quantised, {**tensors, **range_tensors(ranges), **changes}, "# test\n")


def test_ranges_are_read_and_checked_alike(tmp_path: Path) -> None:
    """The two readers name the same layers with the same widths, and refuse the same ranges."""
    good = _quantised(tmp_path / "good")
    net = load_unet(good)
    Engine(good, precision="fp32").close()
    widths = {name: m.in_channels for name, m in net.named_modules() if name.endswith((".conv1", ".conv2"))}
    assert resnet_convolutions(net.config.unet) == widths
    _, ranges = split_ranges(net.config, read_weights(good), "m")
    assert {k: (low.size, high.max()) for k, (low, high) in ranges.items()} == {k: (n, 2) for k, n in widths.items()}

    name, n = "ups.0.blocks.0.conv1", widths["ups.0.blocks.0.conv1"]
    bad = {
        "positive": {f"{name}.input_low": np.full(n, 0.1, np.float32)},
        "negative": {f"{name}.input_high": np.full(n, -0.5, np.float32)},
        "empty": {f"{name}.input_low": np.zeros(n, np.float32), f"{name}.input_high": np.zeros(n, np.float32)},
        "nan": {f"{name}.input_low": np.full(n, np.nan, np.float32)},
        "infinite": {f"{name}.input_high": np.full(n, np.inf, np.float32)},
        "short": {f"{name}.input_low": np.full(n - 1, -1, np.float32)},
    }
    for case, changes in bad.items():
        folder = _quantised(tmp_path / case, **changes)
        with pytest.raises(ModelFormatError, match=name):
            load_unet(folder)
        with pytest.raises(ModelFormatError, match=name):
            Engine(folder)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURE, tmp_path / "m"))


class Bomb:
    def __reduce__(self) -> tuple:
        return os.system, ("touch /tmp/gaitcrafter-pickle-ran",)


def test_a_pickle_is_never_opened(package: Path) -> None:
    mark = Path("/tmp/gaitcrafter-pickle-ran")
    mark.unlink(missing_ok=True)
    for protocol in (2, 4, 5):
        (package / "model.safetensors").write_bytes(pickle.dumps(Bomb(), protocol))
        with pytest.raises(ModelFormatError, match=r"a PyTorch pickle; run `gaitcrafter-rt convert`"):
            Engine(package)
    torch.save({"model": {}}, package.parent / "model-1.pt")
    with pytest.raises(ModelFormatError, match=r"model-1.pt: a PyTorch pickle; run `gaitcrafter-rt convert`"):
        Engine.from_pretrained(package.parent / "model-1.pt")
    assert not mark.exists()


def test_a_damaged_file_is_noticed(package: Path) -> None:
    path = package / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 64
    path.write_bytes(data)
    with pytest.raises(ModelFormatError, match="SHA-256"):
        Engine(package)


def test_a_header_longer_than_the_file_is_refused(package: Path) -> None:
    path = package / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + path.read_bytes()[8:])
    with pytest.raises(ModelFormatError):
        Engine(package)


def test_a_lone_file_and_a_missing_name(package: Path) -> None:
    with pytest.raises(ModelFormatError, match="give the model folder"):
        Engine.from_pretrained(package / "model.safetensors")
    with pytest.raises(ModelFormatError, match="neither a model folder nor a known name"):
        Engine.from_pretrained("no-such-model")
    with pytest.raises(ModelFormatError, match=r"no config\.json there"):
        Engine.from_pretrained(package.parent)
    with pytest.raises(ModelFormatError, match="neither a model folder nor a known name"):
        Engine.from_pretrained("")
