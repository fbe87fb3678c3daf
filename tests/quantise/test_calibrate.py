"""Calibration: the ranges are those of what the convolutions read, and the runs it watches are the engine's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")

import torch.nn.functional as F  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402

from gaitcrafter_rt import Engine  # noqa: E402
from gaitcrafter_rt.config import AXES, ModelConfig, resnet_convolutions  # noqa: E402
from gaitcrafter_rt.errors import InvalidRequestError, ModelFormatError  # noqa: E402
from gaitcrafter_rt.nn.denoiser import label_weights, load_unet  # noqa: E402
from gaitcrafter_rt.nn.unet import UNet3D  # noqa: E402
from gaitcrafter_rt.quantise import calibrate  # noqa: E402
from gaitcrafter_rt.quantise.balance import balanced, rounding_error  # noqa: E402
from gaitcrafter_rt.quantise.runs import sample_clips, spread_conditions  # noqa: E402

FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Convolutions(TorchFunctionMode):
    """What every call of conv2d reads, by the identity of its weight: no hook of ours is in it."""

    def __init__(self, model: UNet3D) -> None:
        super().__init__()
        self.names = {id(p): name.removesuffix(".weight") for name, p in model.named_parameters()}
        self.seen: dict[str, list[np.ndarray]] = {}

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function is F.conv2d and id(args[1]) in self.names:
            values = args[0].detach().transpose(0, 1).flatten(1).numpy()
            self.seen.setdefault(self.names[id(args[1])], []).append(values)
        return function(*args, **(kwargs or {}))


def _inputs(config: ModelConfig, calls: int) -> list[tuple]:
    gen = torch.Generator().manual_seed(3)
    shape = (2, config.unet.channels, config.clip.frames, config.clip.height, config.clip.width)
    labels = {"identity": label_weights(config, "identity", [{0: 1.0}, None])}
    return [(torch.randn(shape, generator=gen), torch.tensor([900, 5 + k]), labels) for k in range(calls)]


def test_ranges_are_those_of_what_the_convolutions_read() -> None:
    model = load_unet(FIXTURES / "tiny-walker")
    inputs = _inputs(model.config, 3)
    ranges = calibrate(model, inputs, balance=False)
    with torch.no_grad(), Convolutions(model) as watched:
        for call in inputs:
            model(*call)
    assert list(ranges) == list(resnet_convolutions(model.config.unet))
    for layer, (low, high) in ranges.items():
        values = np.concatenate(watched.seen[layer], axis=1)
        assert low.dtype == high.dtype == np.float32
        assert np.array_equal(low, np.minimum(values.min(1), 0))
        assert np.array_equal(high, np.maximum(values.max(1), 0))
    # The second convolution reads SiLU's output, which is never below its minimum.
    assert min(float(low.min()) for k, (low, _) in ranges.items() if k.endswith("conv2")) >= -0.27847


def test_percentiles_are_numpys_in_every_call() -> None:
    model = load_unet(FIXTURES / "tiny-walker")
    inputs = _inputs(model.config, 2)
    layer = "mid_block1.conv1"
    ranges = calibrate(model, inputs, layers=[layer], percentile=97.5, balance=False)
    with torch.no_grad(), Convolutions(model) as watched:
        for call in inputs:
            model(*call)
    low = np.min([np.percentile(v, 2.5, axis=1, method="lower") for v in watched.seen[layer]], axis=0)
    high = np.max([np.percentile(v, 97.5, axis=1, method="higher") for v in watched.seen[layer]], axis=0)
    assert list(ranges) == [layer]
    assert np.array_equal(ranges[layer][0], np.minimum(low, 0))
    assert np.array_equal(ranges[layer][1], np.maximum(high, 0))


def test_a_silent_channel_gets_a_range_all_the_same() -> None:
    model = load_unet(FIXTURES / "tiny-walker")
    with torch.no_grad():
        # SiLU of a norm without gain and FiLM's shift of 0 is 0 for every input.
        for tensor in (model.final_block.norm1.weight[3:5], model.final_block.norm1.bias[3:5]):
            tensor.zero_()
    low, high = calibrate(model, _inputs(model.config, 1), balance=False)["final_block.conv2"]
    assert (low[3:5] == 0).all() and (high[3:5] > 0).all()
    assert (high[3:5] < 0.01 * high.max()).all()


def test_what_cannot_be_calibrated_is_refused() -> None:
    model = load_unet(FIXTURES / "tiny-walker")
    with pytest.raises(InvalidRequestError, match=r"'init_conv' is no ResNet convolution.*downs\.0\.blocks\.0\.conv1"):
        calibrate(model, _inputs(model.config, 1), layers=["init_conv"])
    with pytest.raises(InvalidRequestError, match="percentile is 50; allowed are 90 to 100"):
        calibrate(model, _inputs(model.config, 1), percentile=50)
    with pytest.raises(InvalidRequestError, match="no input"):
        calibrate(model, [])
    with torch.no_grad():
        model.mid_block1.conv1.weight.fill_(3e38)
    with pytest.raises(ModelFormatError, match=r"mid_block1\.conv2 reads values that are not finite"):
        calibrate(model, _inputs(model.config, 1))
    assert not any(m._forward_pre_hooks for m in model.modules()), "the hooks are gone, after errors too"


def _int8(x: np.ndarray, w: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The convolution on activations and weights rounded to eight bits, one weight step per output channel."""
    step = (high - low) / 255
    zero = np.round(-low / step)
    q = np.clip(np.round(x / step[:, None, None] + zero[:, None, None]), 0, 255) - zero[:, None, None]
    folded = w * step[:, None, None]
    scale = np.abs(folded).max((1, 2, 3), keepdims=True) / 127
    return F.conv2d(torch.from_numpy(q), torch.from_numpy(np.round(folded / scale) * scale), padding=1).numpy()


def test_balanced_ranges_lose_less_in_eight_bits() -> None:
    """Judged by rounding for real: the widened ranges help, and the expected error is what is measured."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(8, 24, 10, 10)) * np.where(np.arange(24) == 7, 20, rng.uniform(0.1, 1, 24))[:, None, None]
    w = rng.normal(size=(16, 24, 3, 3))
    low, high = x.min((0, 2, 3)), x.max((0, 2, 3))
    wide_low, wide_high = balanced(w, np.square(x).mean((0, 2, 3)), low, high)
    tolerance = 1e-6 * (high - low)
    assert (wide_low <= low + tolerance).all() and (wide_high >= high - tolerance).all()
    exact = F.conv2d(torch.from_numpy(x), torch.from_numpy(w), padding=1).numpy()
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # border pixels have fewer taps
    errors, expected = [], []
    for a, b in ((low, high), (wide_low, wide_high)):
        errors.append(np.square(_int8(x, w, a, b) - exact)[inside].sum(1).mean())
        expected.append(rounding_error(w, np.square(x).mean((0, 2, 3)), (b - a) / 255))
    assert errors[1] < 0.5 * errors[0]
    assert np.allclose(errors, expected, rtol=0.15)


def test_channels_that_no_weight_reads_keep_their_range() -> None:
    rng = np.random.default_rng(5)
    w = rng.normal(size=(4, 6, 3, 3))
    w[:, 2] = 0
    low, high = balanced(w, np.ones(6), np.full(6, -1.0), np.full(6, 2.0))
    assert (low[2], high[2]) == (-1, 2)
    assert np.isfinite(low).all() and np.isfinite(high).all()
    nothing = balanced(0 * w, np.ones(6), np.full(6, -1.0), np.full(6, 2.0))
    assert (nothing[0] == -1).all() and (nothing[1] == 2).all()


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_watched_runs_are_the_engines(guidance: float) -> None:
    """Same noise, conditions, table and null lane: binarised clips of a trained model agree with the native engine's."""
    net = load_unet(FIXTURES / "trained-eps")
    sampler = net.config.sampler.model_copy(update={"steps": 5, "guidance": guidance})
    net.config = net.config.model_copy(update={"sampler": sampler})
    conditions = spread_conditions(net.config, 4, seed=5)
    calls: list[tuple[int, int]] = []
    made = [x > 0 for x in sample_clips(net, conditions, 5, progress=lambda *p: calls.append(p))]
    assert calls == [(i + 1, 20) for i in range(20)]
    assert sum(None in c.values() for c in conditions) == 1
    with Engine(FIXTURES / "trained-eps", precision="fp32", threads=1) as engine:
        native = engine.generate(conditions, seed=5, steps=5, guidance=guidance).frames
    for ours, theirs in zip(made, native, strict=True):
        assert 0.02 < ours.mean() < 0.98
        assert (ours[0] == theirs.astype(bool)).mean() >= 0.999


def test_conditions_pass_over_every_vocabulary() -> None:
    config = load_unet(FIXTURES / "tiny-maps").config
    conditions = spread_conditions(config, 13, seed=1)
    for axis in AXES[1:]:
        counts = np.bincount([c[axis] for c in conditions if c[axis] is not None], minlength=len(getattr(config.labels, axis)))
        assert counts.min() >= len(conditions) // len(counts) - 2
        assert sum(c[axis] is None for c in conditions) == 1
    assert conditions == spread_conditions(config, 13, seed=1)
    assert conditions != spread_conditions(config, 13, seed=2)


@pytest.mark.parametrize("case", ["no conditions", "raw vectors"])
def test_models_without_labels_run(case: str) -> None:
    raw = {"cond_dim": 4} if case == "raw vectors" else {}
    base = load_unet(FIXTURES / "tiny-paper").config
    config = ModelConfig.model_validate(
        {**base.model_dump(), "conditioning": raw, "labels": {}, "sampler": {"steps": 2, "guidance": 2.0}, "quantisation": None}
    )
    torch.manual_seed(0)
    net = UNet3D(config).eval()
    vectors = []
    hook = net.register_forward_pre_hook(lambda _module, args: vectors.append(args[3]))
    for x in sample_clips(net, spread_conditions(config, 6, 0), 0):
        assert np.isfinite(x).all()
    hook.remove()
    if case == "no conditions":
        assert all(v is None for v in vectors)
        return
    null = net.null_cond.detach()
    first = torch.stack([v[0] for v in vectors[::2]])
    assert all(torch.equal(v[1], null) for v in vectors), "the null lane"
    nulls = int((first == null).all(1).sum())
    assert 0 < nulls < len(first), "null and drawn vectors"
