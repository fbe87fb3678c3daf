"""A clip is the same bits in any batch, lane, thread count, mode and call, on one instruction set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gaitcrafter_rt import ClipBatch, Condition, Engine, _native
from gaitcrafter_rt.quantise import quantise_model

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
    ("tiny-walker", "fp32", ""), ("tiny-walker", "fp32-winograd", ""), ("tiny-maps", "fp32", ""), ("tiny-paper", "fp32", ""),
    *((name, precision, isa)
      for isa in ("avx512", "avx512_amx")
      for name, precision in (("tiny-walker", "bf16"), ("tiny-paper", "bf16"), ("tiny-walker", "int8"))),
]  # fmt: skip
OpenEngine = Callable[[int], Engine]
Case = tuple[Engine, list[Condition], ClipBatch]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(filter(None, case)))
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, OpenEngine]:
    """A model's name, and a function that opens it with so many threads."""
    name, precision, isa = request.param
    if isa and not _native.isa_supported(isa):
        pytest.skip(f"this processor has no {isa}")
    if not _native.precision_supported(precision):
        pytest.skip(f"this processor has no {precision}")
    folder = FIXTURES / name
    if precision == "int8":
        folder = quantise_model(folder, tmp_path_factory.mktemp("int8") / name, clips=2).folder
    return name, lambda threads: Engine(folder, threads=threads, precision=precision, isa=isa or None)


@pytest.fixture(scope="module")
def open_engine(opened: tuple[str, OpenEngine]) -> OpenEngine:
    return opened[1]


@pytest.fixture(scope="module")
def case(opened: tuple[str, OpenEngine]) -> Iterator[Case]:
    name, open_engine = opened
    with open_engine(1) as engine:
        conds = conditions(name)
        yield engine, conds, engine.generate(conds, **SETTINGS)


def test_clips_differ_from_each_other(case: Case) -> None:
    _, _, whole = case
    assert len({row.tobytes() for row in whole.packed}) == CLIPS


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 16])
def test_any_batch(case: Case, batch: int) -> None:
    engine, conds, whole = case
    parts = list(engine.stream(iter(conds), batch=batch, **SETTINGS))
    assert [len(p) for p in parts[:-1]] == [batch] * (len(parts) - 1)
    joined = ClipBatch.concatenate(parts)
    assert np.array_equal(joined.packed, whole.packed)
    assert np.array_equal(joined.clip_indices, whole.clip_indices)
    assert joined.conditions == whole.conditions


def test_any_lane(case: Case) -> None:
    engine, conds, whole = case
    for shift in (1, 5):
        order = np.roll(np.arange(CLIPS), shift)
        turned = engine.generate([conds[i] for i in order], **{**SETTINGS, "start": 0}, clip_indices=whole.clip_indices[order])
        assert np.array_equal(turned.packed, whole.packed[order])


@pytest.mark.parametrize("mode", ["auto", "throughput", "latency"])
def test_any_thread_count_and_mode(case: Case, open_engine: OpenEngine, mode: str) -> None:
    one, conds, whole = case
    assert np.array_equal(one.generate(conds, **SETTINGS, mode=mode).packed, whole.packed)
    for threads in (2, 3, 5):
        with open_engine(threads) as other:
            assert np.array_equal(other.generate(conds, **SETTINGS, mode=mode).packed, whole.packed)
            for count in (1, 4):
                few = other.generate(conds[:count], **SETTINGS, mode=mode)
                assert np.array_equal(few.packed, whole.packed[:count])


def test_any_mode_with_guidance(case: Case, open_engine: OpenEngine) -> None:
    one, conds, _ = case
    guidance = 2.0 if one.info["guidance_trained"] else 1.0
    settings = {**SETTINGS, "sampler": "ddpm", "eta": None, "thresholding": "dynamic", "guidance": guidance}
    whole = one.generate(conds[:3], **settings)
    with open_engine(3) as other:
        for mode in ("auto", "latency"):
            assert np.array_equal(other.generate(conds[:3], **settings, mode=mode).packed, whole.packed)


def test_alone(case: Case) -> None:
    engine, conds, whole = case
    for i in (0, 3, 15):
        alone = engine.generate(conds[i], **{**SETTINGS, "start": SETTINGS["start"] + i})
        assert np.array_equal(alone.packed[0], whole.packed[i])


def test_drawn_noise_is_the_noise_stream(case: Case) -> None:
    engine, conds, whole = case
    shape = (1, *engine.clip_shape)
    n = int(np.prod(shape))
    noise = np.stack([_native.noise_fill(SETTINGS["seed"], int(k), 0, n).reshape(shape) for k in whole.clip_indices])
    assert np.array_equal(engine.generate(conds, **SETTINGS, initial_noise=noise).packed, whole.packed)


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "avx512_amx"])
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
