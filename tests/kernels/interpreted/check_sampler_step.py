"""sampler_step.py under Triton's interpreter: the bits of the engine's noise, rows and packing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gaitcrafter_rt.config import Diffusion, SamplerDefaults
from gaitcrafter_rt.kernels.dynamic_limits import dynamic_limits
from gaitcrafter_rt.kernels.launch import plain_torch
from gaitcrafter_rt.kernels.sampler_step import (
    CLIPPED,
    KEEPS,
    NEWEST,
    PREV1,
    PREV2,
    RAW,
    DeviceTable,
    as_signed,
    initial_noise,
    pack_clips,
    sampler_step,
    threshold_level,
)
from gaitcrafter_rt.samplers.noise_reference import normals
from gaitcrafter_rt.samplers.table import compile_rows, run_rows

SEEDS = np.array([0, 2**63 + 5, 2**64 - 1], np.uint64)
CLIPS = np.array([2**64 - 1, 2**32 + 3, 0], np.uint64)
ELEMENTS = 1501  # two programs, and no whole number of counters or bytes
SAMPLERS = [
    SamplerDefaults(kind="ddpm", steps=4, thresholding="clip"),
    SamplerDefaults(kind="ddim", steps=3, eta=0.5, rederive_eps=False, thresholding="none"),
    SamplerDefaults(kind="dpmpp_2m", steps=4, thresholding="dynamic"),
]


def run(settings: SamplerDefaults, diffusion: Diffusion, outputs: dict[int, np.ndarray], x: torch.Tensor) -> torch.Tensor:
    """The whole table in place, and how many values were not finite."""
    seeds, clips = as_signed(SEEDS, "cpu"), as_signed(CLIPS, "cpu")
    rows = compile_rows(settings, diffusion)
    table = DeviceTable.of(rows, settings, x.shape[1], "cpu")
    history, limit = torch.zeros(len(x), 2, x.shape[1]), torch.zeros(len(x))
    bad = torch.zeros(len(x), dtype=torch.int32)
    for i, row in enumerate(rows):
        out = torch.from_numpy(outputs[row.t])
        if table.is_dynamic:
            dynamic_limits(x, out, None, table.rows[i], table.integers[i], limit)
        sampler_step(x, out, None, table.rows[i], table.integers[i], seeds, clips, limit, history, bad)
    return bad


def test_initial_noise_is_the_engines_bit_for_bit() -> None:
    x = torch.empty(3, ELEMENTS)
    initial_noise(x, as_signed(SEEDS, "cpu"), as_signed(CLIPS, "cpu"))
    expected = [normals(int(s), int(c), 0, ELEMENTS) for s, c in zip(SEEDS, CLIPS, strict=True)]
    assert np.array_equal(x.numpy(), np.stack(expected))


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
@pytest.mark.parametrize("settings", SAMPLERS, ids=lambda s: s.kind)
def test_rows_are_the_engines_bit_for_bit(settings: SamplerDefaults, prediction: str) -> None:
    diffusion = Diffusion(prediction=prediction)
    rows = compile_rows(settings, diffusion)
    draw = np.random.default_rng(1)
    start = draw.standard_normal((3, ELEMENTS), dtype=np.float32)
    outputs = {row.t: draw.standard_normal((3, ELEMENTS), dtype=np.float32) for row in rows}
    x = torch.from_numpy(start.copy())
    bad = run(settings, diffusion, outputs, x)
    for i in range(3):
        expected = run_rows(
            rows, lambda _, t, i=i: outputs[t][i], start[i], lambda t, i=i: normals(int(SEEDS[i]), int(CLIPS[i]), 1 + t, ELEMENTS),
            settings,
        )  # fmt: skip
        assert np.array_equal(x[i].numpy(), expected)
    assert bad.tolist() == [0, 0, 0]
    with plain_torch():
        y = torch.from_numpy(start.copy())
        run(settings, diffusion, outputs, y)
    assert torch.equal(x, y)


def test_guidance_and_two_earlier_estimates() -> None:
    """Terms that the three samplers above lack, against numpy in fp32."""
    draw = np.random.default_rng(2)
    v, one, two = (draw.standard_normal((1, 40), dtype=np.float32) for _ in range(3))
    out, null = lanes = draw.standard_normal((2, 40), dtype=np.float32)
    numbers = draw.standard_normal(12).astype(np.float32)
    history = torch.from_numpy(np.stack((two[0], one[0]))[None].copy())
    x, bad = torch.from_numpy(v.copy()), torch.zeros(1, dtype=torch.int32)
    index = torch.zeros(1, dtype=torch.int64)
    both = torch.from_numpy(lanes).view(1, 2, 40)
    integers = torch.tensor([0, 0, NEWEST | CLIPPED | KEEPS | PREV1 | PREV2 | RAW, 0], dtype=torch.int32)
    sampler_step(x, both[:, 0], both[:, 1], torch.from_numpy(numbers), integers, index, index, torch.zeros(1), history, bad)
    guided = null + (out - null) * numbers[8]
    raw = numbers[0] * v + numbers[1] * guided
    x0 = np.clip(raw, -1, 1)
    expected = numbers[2] * v + numbers[3] * x0 + numbers[4] * one + numbers[5] * two + numbers[6] * raw
    assert np.array_equal(x.numpy(), expected)
    assert np.array_equal(history.numpy()[0], np.stack((x0[0], one[0])))


@pytest.mark.parametrize("elements", [1, 8, 30 * 4 * 4, 2049 * 8 + 3], ids=["one bit", "one byte", "a clip", "many programs"])
def test_packed_bits(elements: int) -> None:
    x = np.random.default_rng(3).standard_normal((2, elements), dtype=np.float32)
    x[0, 0] = np.float32(-0.4)  # exactly the level of threshold 0.3 is background
    bad = torch.zeros(2, dtype=torch.int32)
    level = np.float32(2) * np.float32(0.3) - np.float32(1)
    x[0, -1] = level
    packed = pack_clips(torch.from_numpy(x), threshold_level(0.3, "cpu"), bad)
    assert np.array_equal(packed.numpy(), np.packbits(x > level, axis=1))
    with plain_torch():
        assert torch.equal(pack_clips(torch.from_numpy(x), threshold_level(0.3, "cpu"), bad), packed)
    assert bad.tolist() == [0, 0]


def test_values_that_are_not_finite_are_counted_where_they_are() -> None:
    x = torch.zeros(3, ELEMENTS)
    out = torch.zeros(3, ELEMENTS)
    out[1, [0, 1500]] = torch.tensor([float("nan"), float("inf")])
    seeds, clips, bad = as_signed(SEEDS, "cpu"), as_signed(CLIPS, "cpu"), torch.zeros(3, dtype=torch.int32)
    row = torch.tensor([0, 1, 0, 1] + [0] * 8, dtype=torch.float32)
    integers = torch.zeros(4, dtype=torch.int32)
    sampler_step(x, out, None, row, integers, seeds, clips, torch.zeros(3), torch.zeros(3, 2, ELEMENTS), bad)
    assert bad.tolist() == [0, 2, 0]
    pack_clips(x, threshold_level(0.5, "cpu"), bad)
    assert bad.tolist() == [0, 4, 0]
