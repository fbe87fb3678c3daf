"""The order of what a GPU is asked for, told by a stand-in that finishes late; the layer over CUDA itself is for make gpu-check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra train or gpu")

from gaitcrafter_rt import Engine
from gaitcrafter_rt.torch_engine import calls
from gaitcrafter_rt.torch_engine.runtime import HostRuntime, Slot

WALKER = Path(__file__).parents[1] / "fixtures" / "tiny-walker"


class LateRuntime(HostRuntime):
    """Results arrive only when somebody waits for them, as late as a device may be; until then the host's memory holds rubbish."""

    made: list[LateRuntime]

    def __init__(self) -> None:
        self.log: list[str] = []
        self.captured = 0
        self._inside = False
        type(self).made.append(self)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1
        name = f"graph {self.captured}"

        def replay() -> None:
            self.log.append(name)
            self._inside = True
            work()
            self._inside = False

        return replay

    def upload(self, target: Any, source: Any) -> None:
        assert not self._inside, "a graph takes nothing from the host"
        super().upload(target, source)

    def download(self, slot: Slot, packed: Any, bad: Any) -> None:
        self.log.append("download")
        slot.staged[0].copy_(packed)
        slot.staged[1].copy_(bad)
        slot.packed.fill_(0xAA)
        slot.bad.fill_(99)
        slot.ready = False

    def is_ready(self, slot: Slot) -> bool:
        return slot.ready is not None

    def wait(self, slot: Slot) -> None:
        self.log.append("wait")
        slot.packed.copy_(slot.staged[0])
        slot.bad.copy_(slot.staged[1])


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> type[LateRuntime]:
    LateRuntime.made = []
    monkeypatch.setattr(calls, "HostRuntime", LateRuntime)
    return LateRuntime


def test_two_batches_are_in_flight_and_come_back_whole(
    late: type[LateRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [{} for _ in range(5)]
    plain = Engine(WALKER, backend="torch", batch=2).generate(wanted, seed=3, steps=2)
    [first] = late.made
    started = ["graph 1", "download"]
    assert first.log == [*started, *started, "wait", *started, "wait", "wait"]
    late.made.clear()
    monkeypatch.setattr(calls, "HostRuntime", HostRuntime)
    assert np.array_equal(Engine(WALKER, backend="torch", batch=2).generate(wanted, seed=3, steps=2).packed, plain.packed)


def test_one_capture_serves_what_differs_in_numbers_only(late: type[LateRuntime]) -> None:
    """Seeds, clips, conditions, guidance and threshold are read from buffers; other tables or lanes are other graphs."""
    engine = Engine(WALKER, backend="torch", batch=2)
    labels = next(names for axis, names in engine.vocabulary.labels.items() if names and engine.vocabulary.usable[axis])
    axis = next(axis for axis, names in engine.vocabulary.labels.items() if names is labels)
    common: dict[str, Any] = dict(steps=2, guidance=2.0)
    first = engine.generate([{}], **common)
    other = engine.generate([{axis: labels[0]}], seed=9, start=4, threshold=0.3, steps=2, guidance=3.0)
    [runtime] = late.made
    assert runtime.captured == 1 and not np.array_equal(first.packed, other.packed)
    assert np.array_equal(engine.generate([{}], **common).packed, first.packed), "what an earlier call wrote is still there"
    engine.generate([{}], steps=2, guidance=1.0)
    engine.generate([{}], steps=3, guidance=2.0)
    engine.generate([{}], initial_noise=np.zeros((1, 1, *engine.clip_shape), np.float32), **common)
    assert runtime.captured == 4


def test_programs_are_kept_up_to_a_number(late: type[LateRuntime], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "KEPT_PROGRAMS", 2)
    engine = Engine(WALKER, backend="torch")
    for steps in (1, 2, 1, 3, 1, 2):
        engine.generate([{}], steps=steps)
    [runtime] = late.made
    assert runtime.captured == 4  # 2 went when 3 came


def test_lanes_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from gaitcrafter_rt.nn.fused import FusedUNet

    counted: list[int] = []
    inner = FusedUNet.condition_terms
    monkeypatch.setattr(FusedUNet, "condition_terms", lambda self, *a: (counted.append(a[2]), inner(self, *a))[1])
    engine = Engine(WALKER, backend="torch", batch=2)
    engine.generate([{}] * 4, steps=1, guidance=2.0)
    assert counted == [1], "both lanes of every clip are the null lane"
