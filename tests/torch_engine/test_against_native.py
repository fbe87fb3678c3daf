"""The torch engine on the CPU makes the native engine's clips."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra train or gpu")
pytest.importorskip("gaitcrafter_rt._native", reason="the native engine is not built in this tree")

from gaitcrafter_rt import Engine
from gaitcrafter_rt.models import resolve_model

FIXTURES = Path(__file__).parents[1] / "fixtures"
MODELS = ["tiny-walker", "tiny-paper", "tiny-paper-rms", "tiny-maps", "trained-eps"]
SAMPLERS: list[dict[str, Any]] = [
    dict(), dict(sampler="ddpm", steps=4), dict(sampler="ddim", steps=3, eta=0.5),
    dict(sampler="ddim", steps=3, rederive_eps=False, thresholding="none"),
    dict(sampler="dpmpp_2m", steps=4, thresholding="dynamic"),
    dict(sampler="dpmpp_3m", steps=5, dynamic_percentile=0.5, thresholding="dynamic"),
    dict(sampler="unipc", steps=4, spacing="linspace"),
]  # fmt: skip
LEAST_AGREEMENT = 0.999  # of pixels


@cache
def engines(name: str, batch: int | None = None) -> tuple[Engine, Engine]:
    path = FIXTURES / name if name.startswith(("tiny", "trained")) else resolve_model(name)
    return Engine(path, precision="fp32", threads=1), Engine(path, backend="torch", batch=batch)


def conditions(engine: Engine, count: int) -> list[dict[str, Any]]:
    """Every usable axis named, then a blend of the first axis, then nothing."""
    usable = {axis: names for axis, names in engine.vocabulary.labels.items() if names and engine.vocabulary.usable[axis]}
    made: list[dict[str, Any]] = [{axis: names[i % len(names)] for axis, names in usable.items()} for i in range(count)]
    if count > 2 and usable:
        axis, names = next(iter(usable.items()))
        made[1] = {axis: {names[0]: 0.5, names[-1]: 1.5}} if len(names) > 1 else {}
        made[2] = {}
    return made


def agreement(a: Any, b: Any) -> float:
    assert a.shape == b.shape and a.conditions == b.conditions and np.array_equal(a.clip_indices, b.clip_indices)
    return float((a.frames == b.frames).mean())


@pytest.mark.parametrize("settings", SAMPLERS, ids=lambda s: " ".join(map(str, s.values())) or "default")
@pytest.mark.parametrize("name", MODELS)
def test_every_sampler(name: str, settings: dict[str, Any]) -> None:
    native, engine = engines(name)
    wanted = conditions(native, 2)
    assert agreement(engine.generate(wanted, seed=2**63 + 5, **settings), native.generate(wanted, seed=2**63 + 5, **settings)) >= (
        LEAST_AGREEMENT
    )


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("name", ["tiny-walker", "tiny-maps", "tiny-paper"])
def test_guidance_and_conditions(name: str, guidance: float) -> None:
    """One program serves several guidances; a blend and an unconditional clip are among the clips."""
    native, engine = engines(name, 2)
    if guidance != 1 and not native.info["guidance_trained"]:
        pytest.skip(f"{name} was not trained for guidance")
    wanted = conditions(native, 3)
    for scale in {guidance, guidance if guidance in (0, 1) else guidance / 2}:
        a, b = (e.generate(wanted, seed=1, guidance=scale, threshold=0.4) for e in (native, engine))
        assert agreement(a, b) >= LEAST_AGREEMENT


def test_guidance_along_one_axis() -> None:
    native, engine = engines("tiny-walker", 2)
    wanted = conditions(native, 2)
    axis = next(iter(wanted[0]))
    a, b = (e.generate(wanted, seed=1, guidance=2.0, null_axes=[axis]) for e in (native, engine))
    assert agreement(a, b) >= LEAST_AGREEMENT
    assert not np.array_equal(b.packed, engine.generate(wanted, seed=1, guidance=2.0).packed)


def test_given_noise_and_indices() -> None:
    native, engine = engines("tiny-walker", 2)
    wanted = conditions(native, 3)
    noise = np.random.default_rng(0).standard_normal((3, 1, *native.clip_shape), dtype=np.float32)
    more: dict[str, Any] = dict(seed=7, clip_indices=[2**64 - 1, 0, 5], initial_noise=noise, sampler="ddpm", steps=3)
    assert agreement(native.generate(wanted, **more), engine.generate(wanted, **more)) >= LEAST_AGREEMENT


def test_raw_vectors() -> None:
    """The base network's wiring: a cond vector for some clips, none for others."""
    native, engine = engines("tiny-paper", 2)
    vector = np.random.default_rng(0).standard_normal(native.info["cond_dim"]).astype(np.float32)
    wanted = [dict(cond=vector), {}, dict(cond=-vector)]
    assert agreement(native.generate(wanted, seed=7), engine.generate(wanted, seed=7)) >= LEAST_AGREEMENT


def test_the_shipped_model_agrees_in_its_default_setting() -> None:
    native, engine = engines("walker")
    wanted = [dict(identity="001", view="090", covariate="nm")]
    assert agreement(native.generate(wanted, seed=3), engine.generate(wanted, seed=3)) >= LEAST_AGREEMENT


def test_a_clip_does_not_depend_on_its_call() -> None:
    """In a batch of fixed size: alone with padding, among others, in a stream."""
    _, engine = engines("tiny-walker", 3)
    wanted = conditions(engine, 5)
    whole = engine.generate(wanted, seed=4)
    assert np.array_equal(engine.generate(wanted[4:], seed=4, start=4).packed[0], whole.packed[4])
    streamed = [clips.packed for clips in engine.stream(wanted, batch=2, seed=4)]
    assert np.array_equal(np.concatenate(streamed), whole.packed)


def test_bf16_on_the_cpu_loses_little() -> None:
    """The type that a GPU uses, rounded as torch rounds: most pixels stay."""
    native, _ = engines("tiny-walker")
    with Engine(FIXTURES / "tiny-walker", backend="torch", precision="bf16", batch=2) as engine:
        wanted = conditions(native, 2)
        assert engine.info["precision"] == "bf16"
        assert agreement(native.generate(wanted, seed=3), engine.generate(wanted, seed=3)) > 0.97


def test_an_eps_model_runs_its_noisiest_rows_in_fp32() -> None:
    """As the native engine does: where the estimate divides by almost no signal, bf16 would drown it."""
    from gaitcrafter_rt.torch_engine.program import EXACT_AMPLIFICATION

    source = (Path(__file__).parents[2] / "csrc" / "engine" / "cpu_backend.h").read_text()
    assert f"kExactAmplification = {EXACT_AMPLIFICATION}f" in source
    native, _ = engines("trained-eps")
    with Engine(FIXTURES / "trained-eps", backend="torch", precision="bf16", batch=2) as engine:
        clips = engine.generate([{}, {}], seed=3)
        networks = engine._native._started._networks
        assert networks.exact is not None and networks.exact.dtype.itemsize == 4
        assert agreement(native.generate([{}, {}], seed=3), clips) > 0.97
