"""A clip is the same bits in any batch, lane, thread count, mode and call, on one instruction set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gaitcrafter_rt import ClipBatch, Condition, Engine, _native

FIXTURES = Path(__file__).parent.parent / "fixtures"
CLIPS = 16
SETTINGS: dict[str, Any] = {"seed": 2**63 + 11, "start": 2**40, "steps": 3, "eta": 1.0, "sampler": "ddim"}


def conditions(name: str) -> list[Condition]:
    """Plain labels, blends, null, and raw vectors where the model takes them."""
    kinds = [
        Condition(identity="001", view="000"),
        Condition(identity={"001": 1, "003": 1}, covariate="cl"),
        Condition(),
        Condition(view={"000": 0.25, "090": 0.75}),
    ]
    if name == "tiny-paper":
        kinds.append(Condition(cond=np.linspace(-1, 1, 8)))
    return [kinds[i % len(kinds)] for i in range(CLIPS)]


# tiny-paper predicts eps: in bf16 its first call runs in fp32, in memory that lanes share.
CASES = [
    ("tiny-walker", "fp32"), ("tiny-walker", "fp32-winograd"), ("tiny-maps", "fp32"), ("tiny-paper", "fp32"),
    ("tiny-walker", "bf16"), ("tiny-paper", "bf16"),
]  # fmt: skip


def open_engine(case: tuple[str, str], threads: int) -> Engine:
    name, precision = case
    if not _native.precision_supported(precision):
        pytest.skip(f"this processor has no {precision}")
    return Engine(FIXTURES / name, threads=threads, precision=precision)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> Iterator[tuple[Engine, list[Condition], ClipBatch]]:
    with open_engine(request.param, 1) as engine:
        conds = conditions(request.param[0])
        yield engine, conds, engine.generate(conds, **SETTINGS)


def test_clips_differ_from_each_other(case: tuple[Engine, list[Condition], ClipBatch]) -> None:
    _, _, whole = case
    assert len({row.tobytes() for row in whole.packed}) == CLIPS


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 16])
def test_any_batch(case: tuple[Engine, list[Condition], ClipBatch], batch: int) -> None:
    engine, conds, whole = case
    parts = list(engine.stream(iter(conds), batch=batch, **SETTINGS))
    assert [len(p) for p in parts[:-1]] == [batch] * (len(parts) - 1)
    joined = ClipBatch.concatenate(parts)
    assert np.array_equal(joined.packed, whole.packed)
    assert np.array_equal(joined.clip_indices, whole.clip_indices)
    assert joined.conditions == whole.conditions


def test_any_lane(case: tuple[Engine, list[Condition], ClipBatch]) -> None:
    engine, conds, whole = case
    for shift in (1, 5):
        order = np.roll(np.arange(CLIPS), shift)
        turned = engine.generate([conds[i] for i in order], **{**SETTINGS, "start": 0}, clip_indices=whole.clip_indices[order])
        assert np.array_equal(turned.packed, whole.packed[order])


@pytest.mark.parametrize("mode", ["auto", "throughput", "latency"])
def test_any_thread_count_and_mode(
    case: tuple[Engine, list[Condition], ClipBatch], request: pytest.FixtureRequest, mode: str
) -> None:
    one, conds, whole = case
    assert np.array_equal(one.generate(conds, **SETTINGS, mode=mode).packed, whole.packed)
    for threads in (2, 3, 5):
        with open_engine(request.node.callspec.params["case"], threads) as other:
            assert np.array_equal(other.generate(conds, **SETTINGS, mode=mode).packed, whole.packed)
            for count in (1, 4):
                few = other.generate(conds[:count], **SETTINGS, mode=mode)
                assert np.array_equal(few.packed, whole.packed[:count])


def test_any_mode_with_guidance(case: tuple[Engine, list[Condition], ClipBatch], request: pytest.FixtureRequest) -> None:
    one, conds, _ = case
    guidance = 2.0 if one.info["guidance_trained"] else 1.0
    settings = {**SETTINGS, "sampler": "ddpm", "eta": None, "thresholding": "dynamic", "guidance": guidance}
    whole = one.generate(conds[:3], **settings)
    with open_engine(request.node.callspec.params["case"], 3) as other:
        for mode in ("auto", "latency"):
            assert np.array_equal(other.generate(conds[:3], **settings, mode=mode).packed, whole.packed)


def test_alone(case: tuple[Engine, list[Condition], ClipBatch]) -> None:
    engine, conds, whole = case
    for i in (0, 3, 15):
        alone = engine.generate(conds[i], **{**SETTINGS, "start": SETTINGS["start"] + i})
        assert np.array_equal(alone.packed[0], whole.packed[i])


def test_drawn_noise_is_the_noise_stream(case: tuple[Engine, list[Condition], ClipBatch]) -> None:
    engine, conds, whole = case
    shape = (1, *engine.clip_shape)
    n = int(np.prod(shape))
    noise = np.stack([_native.noise_fill(SETTINGS["seed"], int(k), 0, n).reshape(shape) for k in whole.clip_indices])
    assert np.array_equal(engine.generate(conds, **SETTINGS, initial_noise=noise).packed, whole.packed)


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_every_instruction_set(isa: str) -> None:
    if not _native.isa_supported(isa):
        pytest.skip(f"this processor has no {isa}")
    options = {"isa": isa, "precision": "fp32"}
    with (
        Engine(FIXTURES / "tiny-walker", threads=1, **options) as one,
        Engine(FIXTURES / "tiny-walker", threads=3, **options) as three,
    ):
        assert one.info["isa"] == isa
        conds = conditions("tiny-walker")
        whole = one.generate(conds, **SETTINGS)
        assert np.array_equal(ClipBatch.concatenate(list(three.stream(conds, batch=3, **SETTINGS))).packed, whole.packed)
