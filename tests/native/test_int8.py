"""The int8 tier: the convolution against exact integers and its rounding's bound, the network against torch on rounded operands,
whole runs of the model that ships against fp32, and refusals where ranges or instructions are missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from native_ops import BF16_ISAS, load, need, pixels, planes

from gaitcrafter_rt import Engine
from gaitcrafter_rt.errors import CapabilityError
from gaitcrafter_rt.evaluate.agreement import agreement
from gaitcrafter_rt.models import resolve_model
from gaitcrafter_rt.nn.denoiser import load_unet
from gaitcrafter_rt.nn.unet import UNet3D
from gaitcrafter_rt.package import read_config, read_weights
from gaitcrafter_rt.quantise import quantise_model
from gaitcrafter_rt.quantise.balance import rounding_error
from gaitcrafter_rt.quantise.runs import spread_conditions
from gaitcrafter_rt.ranges import split_ranges

native = load()
FIXTURES = Path(__file__).parent.parent / "fixtures"
needs_int8 = pytest.mark.skipif(
    not native.precision_supported("int8", "avx512"), reason="this processor has no avx512_bf16 or no avx512_vnni"
)


@pytest.fixture(params=BF16_ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return need(native, f"{request.param} int8").split()[0]


# frames, height, width, in, out: no full vector, one pixel, odd sizes, several blocks of channels, several panels, small frames
SHAPES = [
    (1, 1, 1, 1, 1), (2, 5, 7, 4, 12), (1, 1, 9, 19, 20), (3, 8, 8, 48, 20), (1, 33, 64, 64, 64), (2, 6, 17, 130, 80),
    (9, 4, 4, 300, 36),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def f32(x: Any) -> np.ndarray:
    return np.ascontiguousarray(x, np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_integers_are_exact(isa: str, shape: tuple[int, ...]) -> None:
    """Activations on the grid of their range, some beyond it, and weights on theirs: only the result is rounded, to bfloat16.

    Zero points differ between the channels, so the border is right only if what lies outside is each channel's own zero.
    """
    frames, height, width, channels, outputs = shape
    rng = np.random.default_rng(channels)
    step = 2.0 ** rng.integers(-6, 3, channels)
    zero = rng.integers(0, 256, channels)
    level = rng.integers(-3, 260, (frames, channels, height, width))  # bfloat16 holds these integers: below 2^8 either way
    x = (level - zero[:, None, None]) * step[:, None, None]
    x = torch.from_numpy(x).bfloat16().double()
    weight = rng.integers(-127, 128, (outputs, channels, 3, 3)) / step[:, None, None]
    n = np.arange(outputs)
    weight[n, n % channels, 1, 1] = 127 / step[n % channels]  # so that every output's step is 1
    bias = rng.integers(-1000, 1000, outputs)
    low, high = -zero * step, (255 - zero) * step
    seen = x.clamp(torch.from_numpy(low)[:, None, None], torch.from_numpy(high)[:, None, None])
    sums = F.conv2d(seen, torch.from_numpy(weight), padding=1).float()  # beyond 2^24 fp32 rounds them, here and there
    want = (sums + torch.from_numpy(bias).float()[:, None, None]).bfloat16().double()
    got = planes(native.conv2d_int8(isa, pixels(x), f32(weight), f32(bias), f32(low), f32(high)))
    assert torch.equal(got, want)


def test_the_border_is_zero_after_the_activation(isa: str) -> None:
    """With x = 0 and the shift 128, where SiLU is the identity, every tap inside gives 128 and every one outside nothing."""
    for size in ((1, 1), (1, 5), (5, 3), (33, 64)):
        x, weight, ones = torch.zeros(2, 16, *size), np.ones((20, 16, 3, 3)), np.ones((1, 16))
        got = native.conv2d_int8(
            isa, pixels(x), f32(weight), f32(np.zeros(20)), f32(0 * ones[0]), f32(255 * ones[0]), f32(ones), f32(128 * ones)
        )  # fmt: skip
        taps = F.conv2d(torch.ones(2, 1, *size), torch.ones(20, 1, 3, 3), padding=1).double()
        assert torch.equal(planes(got), 128 * 16 * taps)


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("shape", SHAPES[3:])
def test_error_is_that_of_the_rounding(isa: str, shape: tuple[int, ...], pending: bool) -> None:
    """At most half a step of every activation and weight, and on the whole what independent rounding errors add up to."""
    frames, height, width, channels, outputs = shape
    gen = torch.Generator().manual_seed(channels)
    x = torch.randn(frames, channels, height, width, generator=gen).bfloat16().double()
    weight = torch.randn(outputs, channels, 3, 3, generator=gen).double().float().double()
    bias = torch.randn(outputs, generator=gen).double().float().double()
    scale, shift = (torch.randn(1, channels, generator=gen).double() * k for k in (0.5, 1.0))
    read, extra = x, ()
    if pending:
        read, extra = F.silu(x * scale.float()[0, :, None, None] + shift.float()[0, :, None, None]), (f32(scale), f32(shift))
    low, high = read.amin((0, 2, 3)).clamp(max=0).numpy(), read.amax((0, 2, 3)).clamp(min=0).numpy()
    got = planes(native.conv2d_int8(isa, pixels(x), f32(weight), f32(bias), f32(low), f32(high), *extra))
    want = F.conv2d(read, weight, bias, padding=1)

    step = torch.from_numpy(high - low)[:, None, None] / 255
    weight_step = (weight * step).abs().amax((1, 2, 3), keepdim=True) / 127 / step
    half = F.conv2d(torch.ones_like(read) * step / 2, weight.abs() + weight_step / 2, padding=1)
    half += F.conv2d(read.abs(), weight_step.expand_as(weight) / 2, padding=1)
    stored = want.abs() * 2.0**-8  # bfloat16's own rounding of the result
    assert ((got - want).abs() <= 1.001 * (half + stored)).all()

    expected = rounding_error(weight.numpy(), read.square().mean((0, 2, 3)).numpy(), step.flatten().numpy())
    expected += float(want.square().mean((0, 2, 3)).sum()) * 2.0**-18 / 1.5
    measured = float((got - want).square().mean((0, 2, 3)).sum())
    assert measured < 1.2 * expected


def calibrated(model: str, folder: Path) -> Path:
    """The model with ranges: its own, or those of a few clips."""
    source = FIXTURES / model if (FIXTURES / model).exists() else resolve_model(model)
    if read_config(source).quantisation is not None:
        return source
    return quantise_model(source, folder / model, clips=2).folder


@pytest.fixture(scope="module")
def walker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return calibrated("walker", tmp_path_factory.mktemp("int8"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return calibrated("tiny-walker", tmp_path_factory.mktemp("int8"))


def rounded_network(folder: Path) -> UNet3D:
    """The torch network in double whose calibrated convolutions read eight-bit activations and weights."""
    model = load_unet(folder, torch.float64)
    _, ranges = split_ranges(model.config, read_weights(folder), "")
    for layer, (low, high) in ranges.items():
        conv = model.get_submodule(layer)
        step = torch.from_numpy((high - low) / np.float32(255)).double()[:, None, None]
        zero = torch.round(-torch.from_numpy(low).double()[:, None, None] / step).clamp(0, 255)
        folded = conv.weight * step
        scale = folded.abs().amax((1, 2, 3), keepdim=True) / 127
        conv.weight = torch.nn.Parameter(torch.round(folded / scale) * scale / step)
        conv.register_forward_pre_hook(
            lambda _m, args, step=step, zero=zero: ((torch.round(args[0] / step + zero).clamp(0, 255) - zero) * step,)
        )
    return model


@torch.no_grad()
def test_forward_is_that_of_rounded_operands(isa: str, walker: Path) -> None:
    """The engine rounds what the package says: most of its error is that of torch on the same rounded operands."""
    exact, rounded = load_unet(walker, torch.float64), rounded_network(walker)
    clip = exact.config.clip
    x = torch.randn(1, 1, clip.frames, clip.height, clip.width, generator=torch.Generator().manual_seed(3))
    want, expected = (net(x.double(), torch.tensor([999]))[0].numpy() for net in (exact, rounded))
    got = native.UNet(str(walker), isa, "int8").forward(x[0].numpy(), 999)
    l2 = np.linalg.norm
    assert 1e-3 * l2(want) < l2(expected - want) < 0.03 * l2(want)
    assert l2(got - want) < 1.2 * l2(expected - want)
    assert l2(got - expected) < 0.6 * l2(expected - want), "another rounding would be farther from it than the exact result"


def test_layers_without_ranges_run_in_bf16(isa: str, tmp_path: Path) -> None:
    """One call: with one convolution in int8 the output lies between bf16's and that of all of them."""
    one = quantise_model(FIXTURES / "tiny-walker", tmp_path / "one", clips=1, layers=["mid_block1.conv2"]).folder
    every = quantise_model(FIXTURES / "tiny-walker", tmp_path / "all", clips=1).folder
    x = np.random.default_rng(0).normal(size=(1, 6, 32, 32)).astype(np.float32)

    def forward(folder: Path, precision: str) -> np.ndarray:
        return native.UNet(str(folder), isa, precision).forward(x, 600)

    bf16 = forward(every, "bf16")
    assert np.array_equal(forward(one, "bf16"), bf16), "ranges are nothing to the other tiers"
    assert np.array_equal(forward(every, "fp32"), forward(FIXTURES / "tiny-walker", "fp32"))
    near, far = (float(np.linalg.norm(forward(folder, "int8") - bf16)) for folder in (one, every))
    assert 0 < near < 0.5 * far


def test_whole_runs_agree_with_fp32(isa: str, walker: Path) -> None:
    """Default steps, the same noise, trained weights: mean IoU of the binarised clips at least 0.98, none below 0.95."""
    config = read_config(walker)
    assert config.sampler.eta == 0, "a deterministic run"
    conditions = spread_conditions(config, 6, seed=11)
    frames = {}
    for precision in ("fp32", "int8"):
        with Engine(walker, precision=precision, isa=isa) as engine:
            assert engine.info["precision"] == precision
            frames[precision] = engine.generate(conditions, seed=11).frames
    assert all(0.02 < (clip != 0).mean() < 0.98 for clip in frames["fp32"]), "a trained model draws a figure"
    found = agreement(frames["fp32"], frames["int8"])
    print(f"walker, {len(config.quantisation.layers)} convolutions in int8: {found}")
    assert found.iou_mean >= 0.98 and found.iou_min >= 0.95, found


def test_bits_depend_on_the_clip_alone(isa: str, tiny: Path) -> None:
    """Any batch, lane and thread count."""
    conditions = spread_conditions(read_config(tiny), 8, seed=2)
    settings: dict[str, Any] = {"seed": 2**63 + 11, "steps": 3, "eta": 1.0}
    options = {"precision": "int8", "isa": isa}
    with Engine(tiny, threads=1, **options) as one, Engine(tiny, threads=3, **options) as three:
        whole = one.generate(conditions, start=5, **settings).packed
        assert np.array_equal(three.generate(conditions, start=5, **settings).packed, whole)
        parts = [batch.packed for batch in three.stream(iter(conditions), batch=3, start=5, **settings)]
        assert np.array_equal(np.concatenate(parts), whole)
        turned = one.generate(conditions[::-1], clip_indices=list(range(12, 4, -1)), **settings).packed
        assert np.array_equal(turned[::-1], whole)
        assert np.array_equal(one.generate(conditions[3], start=8, **settings).packed[0], whole[3])
        assert one.generate(conditions, start=5, **settings).provenance["engine"]["precision"] == "int8"


@needs_int8
def test_a_model_without_ranges_is_refused() -> None:
    with pytest.raises(CapabilityError, match=r"needs calibrated ranges.*gaitcrafter-rt quantise MODEL OUT, or use precision bf16"):
        Engine(FIXTURES / "tiny-walker", precision="int8")


def test_a_processor_without_the_instructions_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAITCRAFTER_ISA", "portable")
    with pytest.raises(CapabilityError, match=r"int8 needs a processor with avx512_bf16 and avx512_vnni.*runs portable"):
        Engine(tiny, precision="int8")
    with Engine(tiny) as engine:
        assert engine.info["precision"] == "fp32", "auto never takes what the processor lacks"
