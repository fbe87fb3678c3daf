"""Every error that an engine call can raise, through the Python API: its type, and that it says what is allowed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gaitcrafter_rt import Condition, Engine, Progress, errors
from gaitcrafter_rt.errors import CancelledError, CapabilityError, InvalidRequestError

FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.from_pretrained(FIXTURES / "tiny-walker", threads=2) as e:
        yield e


BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"seed": -1}, r"seed is -1"),
    ({"seed": 2**64}, r"0 to 2\*\*64 - 1"),
    ({"seed": 1.5}, r"seed is 1.5"),
    ({"seed": True}, r"seed is True"),
    ({"start": -1}, r"start is -1"),
    ({"start": 2**64 - 1}, r"exceeds the largest clip index"),
    ({"clip_indices": [1]}, r"1 clip indices for 2 conditions"),
    ({"clip_indices": [0, -1]}, r"clip index is -1"),
    ({"sampler": "euler"}, r"'ddpm', 'ddim', 'dpmpp_2m'"),
    ({"sampler": 3}, r"kind has the wrong type"),
    ({"steps": 0}, r"steps is 0"),
    ({"steps": -1}, r"steps is -1; this model allows 1 to 1000"),
    ({"steps": 1001}, r"steps is 1001; this model allows 1 to 1000"),
    ({"steps": 2.5}, r"steps has the wrong type"),
    ({"steps": True}, r"steps has the wrong type"),
    ({"steps": 2**40}, r"steps has the wrong type or size"),
    ({"eta": -0.1}, r"eta is -0.1"),
    ({"eta": 1.1}, r"eta is 1.1"),
    ({"eta": float("nan")}, r"eta is not a number"),
    ({"sampler": "dpmpp_2m", "eta": 0.5}, r"dpmpp_2m is deterministic"),
    ({"guidance": -1}, r"guidance is -1"),
    ({"guidance": 101}, r"guidance is 101"),
    ({"guidance": float("inf")}, r"guidance is inf"),
    ({"spacing": "karras"}, r"'leading', 'trailing', 'linspace'"),
    ({"thresholding": "soft"}, r"'none', 'clip', 'dynamic'"),
    ({"thresholding": "dynamic", "dynamic_percentile": 1.0}, r"dynamic_percentile is 1"),
    ({"rederive_eps": 1}, r"rederive_eps has the wrong type"),
    ({"null_axes": ["gender"]}, r"axis is 'gender'; allowed are 'dataset', 'identity', 'view', 'covariate'"),
    ({"null_axes": []}, r"null_axes is empty"),
    ({"null_axes": "view"}, r"null_axes must be a list"),
    ({"threshold": 0}, r"threshold"),
    ({"threshold": 1.0}, r"threshold"),
    ({"threshold": float("nan")}, r"threshold"),
    ({"threshold": "half"}, r"threshold is 'half'"),
    ({"initial_noise": np.zeros((2, 1, 6, 32, 31))}, r"initial_noise has shape \(2, 1, 6, 32, 31\)"),
    ({"initial_noise": np.full((2, 1, 6, 32, 32), np.nan)}, r"initial_noise holds a value that is not finite"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS, ids=lambda v: str(v)[:40] if isinstance(v, dict) else "")
def test_bad_arguments(engine: Engine, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        engine.generate([{}, {}], **arguments)


BAD_CONDITIONS: list[tuple[Any, str]] = [
    ({"view": "045"}, r"clip 0: view '045' is unknown; this model has 2 labels: 000, 090"),
    ({"view": 2}, r"view index 2 is outside 0\.\.1 \(2 labels: 000, 090\)"),
    ({"view": -1}, r"view index -1"),
    ({"view": 1.0}, r"must be a name or an index, not float"),
    ({"view": True}, r"must be a name or an index, not bool"),
    ({"view": ["000"]}, r"must be a name or an index, not list"),
    ({"view": {"000": float("nan")}}, r"weight nan is not a finite number"),
    ({"view": {"000": "1"}}, r"weight '1' is not a finite number"),
    ({"view": {"000": 1, 0: 1}}, r"names '000' twice"),
    ({"identity": {"009": 1}}, r"identity '009' is unknown; this model has 3 labels: 001, 002, 003"),
    ({"dataset": "casia-b"}, r"dataset 'casia-b': this model takes none \(it has no such axis\)"),
    ({"gender": "x"}, r"has no field 'gender'; its fields are dataset, identity, view, covariate, cond"),
    ({"cond": [1.0]}, r"takes no raw vector"),
    ("001", r"must be a list, got str"),
    (["001"], r"must be a Condition or a dict, got str"),
    ([], r"0 conditions"),
]


@pytest.mark.parametrize(("conditions", "message"), BAD_CONDITIONS, ids=lambda v: repr(v)[:40])
def test_bad_conditions(engine: Engine, conditions: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        engine.generate(conditions)


def test_the_clip_with_the_bad_condition_is_named(engine: Engine) -> None:
    with pytest.raises(InvalidRequestError, match="clip 2: view '7'"):
        engine.generate([{}, {"view": "000"}, {"view": "7"}])


def test_raw_vectors() -> None:
    with Engine(FIXTURES / "tiny-paper", threads=1) as e:
        for bad, message in (
            ({"cond": [1, 2]}, r"cond has shape \(2,\); this model takes 8 numbers"),
            ({"cond": "abc"}, r"cond must be 8 numbers"),
            ({"cond": [0] * 7 + [float("inf")]}, r"not finite"),
            ({"cond": [0] * 8, "view": "000"}, r"exclude each other"),
            ({"dataset": 0}, r"takes none"),
        ):
            with pytest.raises(InvalidRequestError, match=message):
                e.generate([bad], steps=1)
        with pytest.raises(InvalidRequestError, match="cannot be split by axis"):
            e.generate([Condition(cond=[0] * 8)], steps=1, guidance=2.0, null_axes=["view"])


def test_untrained_guidance_is_refused() -> None:
    with Engine(FIXTURES / "tiny-maps", threads=1) as e:
        assert not e.info["guidance_trained"]
        with pytest.raises(InvalidRequestError, match=r"not trained for guidance .* use guidance 1"):
            e.generate([{}], guidance=1.5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device": "cuda:99"}, CapabilityError, r"no NVIDIA driver|cuda:99 is not there"),
        ({"precision": "fp8"}, InvalidRequestError, r'precision is "fp8"; allowed are "auto", "fp32", .* and "int8"'),
        ({"precision": "bf16", "isa": "portable"}, CapabilityError, "bf16 needs a processor with avx512_bf16"),
        ({"isa": "neon"}, InvalidRequestError, r'"portable", "avx2", "avx512" and "avx512_amx"'),
        ({"threads": 0}, InvalidRequestError, r"1 to 256, or None"),
        ({"threads": 257}, InvalidRequestError, r"1 to 256, or None"),
        ({"threads": 1.5}, InvalidRequestError, r"1 to 256, or None"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Engine(FIXTURES / "tiny-walker", **options)


def test_a_closed_engine_says_so() -> None:
    e = Engine(FIXTURES / "tiny-walker", threads=1)
    e.close()
    e.close()
    with pytest.raises(InvalidRequestError, match="this engine is closed"):
        e.generate([{}])


def test_modes(engine: Engine) -> None:
    for mode in ("fast", None, 1):
        with pytest.raises(InvalidRequestError, match=r"mode is .*; allowed are auto, throughput, latency"):
            engine.generate([{}], mode=mode)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequestError, match="mode is"):
            engine.stream([{}], mode=mode)  # type: ignore[arg-type]


def test_profile(engine: Engine) -> None:
    with engine.profile() as rows:
        assert rows == []
        engine.generate([{}] * 2, steps=3, mode="throughput")
    by_op = {r["op"]: r for r in rows if r["stage"] == "clip"}
    assert by_op["sampler step"]["calls"] == 6
    assert by_op["threshold, pack"]["calls"] == 2
    network = [r for r in rows if r["stage"] == "network"]
    assert sum(r["operations"] for r in network) == pytest.approx(6 * engine.info["flops_per_call"], rel=1e-12)
    assert all(r["seconds"] > 0 and (r["operations"] > 0) == (r["arithmetic"] != "") for r in network)
    with engine.profile() as rows, pytest.raises(InvalidRequestError, match="its own progress callback"):
        engine.generate([{}], steps=1, progress=lambda p: engine.profile().__enter__())
    with engine.profile() as rows:
        pass
    assert rows == []


def test_progress_and_cancelling(engine: Engine) -> None:
    seen: list[Progress] = []
    engine.generate([{}] * 3, steps=2, progress=seen.append)
    assert seen[0] == Progress(0, 6, 0, 3)
    assert seen[-1] == Progress(6, 6, 3, 3)
    with pytest.raises(CancelledError, match="no clip of this call was kept"):
        engine.generate([{}], progress=lambda p: False)
    with pytest.raises(ZeroDivisionError):
        engine.generate([{}], progress=lambda p: 1 / 0)
    assert len(engine.generate([{}], steps=1)) == 1


def test_stream_counts_over_all_batches(engine: Engine) -> None:
    seen: list[Progress] = []
    list(engine.stream([{}] * 5, batch=2, steps=1, progress=seen.append))
    assert seen[-1] == Progress(5, 5, 5, 5)
    assert all(p.clips_total == 5 for p in seen)
    for bad in (0, -1, 1.5, True):
        with pytest.raises(InvalidRequestError, match="batch is"):
            engine.stream([{}], batch=bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="no field 'stepz'"):
        engine.stream([{}], stepz=3)


def test_status_numbers_are_those_of_the_c_header() -> None:
    header = (Path(__file__).parents[2] / "csrc/include/gaitcrafter/gaitcrafter.h").read_text()
    for cls in (
        errors.InvalidRequestError, errors.ModelFormatError, errors.UnsupportedVersionError, errors.DataFormatError,
        errors.OutputError, errors.CapabilityError, errors.MissingExtraError, errors.CancelledError, errors.OutOfMemoryError,
        errors.InternalError,
    ):  # fmt: skip
        name = "GC_" + "".join("_" + c if c.isupper() else c.upper() for c in cls.__name__.removesuffix("Error"))[1:]
        assert f"{name} = {cls.code}" in header


INTERRUPTED = """
import signal, sys, gaitcrafter_rt as gc
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell hands on an ignored SIGINT
e = gc.Engine({path!r}, threads=2)
print("ready", flush=True)
try:
    e.generate([{{}}] * 100000, steps=1000)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_stops_a_call() -> None:
    code = INTERRUPTED.format(path=str(FIXTURES / "tiny-walker"))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.3)
        child.send_signal(signal.SIGINT)
        try:
            out, _ = child.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            child.kill()
            raise
    assert out == "interrupted\n"
    assert child.returncode == 0


STARVED = """
import resource, gaitcrafter_rt as gc
from gaitcrafter_rt.errors import OutOfMemoryError
e = gc.Engine({path!r}, threads=200)
e.generate([{{}}], steps=1)
used = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), used + (4 << 20)))
try:
    e.generate([{{}}] * 200, steps=1)
except OutOfMemoryError as error:
    print(error)
print(len(e.generate([{{}}], steps=1)))
"""


def test_out_of_memory_says_how_much_was_needed() -> None:
    code = STARVED.format(path=str(FIXTURES / "tiny-maps"))
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    assert "MiB for 200 threads, which is not free; use fewer threads" in out[0]
    assert out[1] == "1"
