"""What benchmarks/ does with its measurements: statistics, when a commit counts as slower, stored rounds, tables, workers.

No peer is needed and nothing is timed for its speed.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import compare
import ops
from harness import stats, tables
from harness.contestants import ISAS, Contestant, field, runs
from harness.host import machine
from harness.results import Results
from harness.workers import Worker, WorkerError

# Last on the path from now on: other tests mean tests/peers.py, which has a namesake there.
sys.path.sort(key=str(Path(__file__).resolve().parents[2] / "benchmarks").__eq__)


@pytest.mark.parametrize("n", [6, 7, 8, 15, 30, 101])
def test_median_bounds_hold_the_median_as_often_as_they_say(n: int) -> None:
    low, high = stats.median_bounds(list(range(1, n + 1)))
    assert low == n + 1 - high  # symmetric
    k = int(low)  # the k-th smallest; misses if fewer than k samples lie below the median
    inside = 1 - 2 * scipy_stats.binom.cdf(k - 1, n, 0.5)
    assert inside >= 0.95
    assert 1 - 2 * scipy_stats.binom.cdf(k, n, 0.5) < 0.95  # and no narrower range does


def test_median_bounds_of_few_samples_are_the_extremes() -> None:
    assert stats.median_bounds([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert stats.median_bounds([4.0]) == (4.0, 4.0)


def rounds(ratio: float, noise: float, count: int = 20) -> tuple[list[float], list[float]]:
    """Times of A and of B, which takes ``ratio`` times as long; rounds differ much, within a round both meet the same machine."""
    draw = random.Random(1)
    machine = [draw.uniform(1, 1.6) for _ in range(count)]
    return [m * draw.gauss(1, noise) for m in machine], [ratio * m * draw.gauss(1, noise) for m in machine]


@pytest.mark.parametrize(
    ("ratio", "noise", "lost"),
    [
        (1.00, 0.01, False),
        (1.03, 0.005, False),  # a loss, but an allowed one
        (1.08, 0.01, True),
        (1.08, 0.15, False),  # as large, but lost in the noise
        (1.30, 0.10, True),
        (0.80, 0.01, False),  # a gain
    ],
)
def test_verdict(ratio: float, noise: float, lost: bool) -> None:
    v = stats.verdict(*rounds(ratio, noise))
    assert v.low <= v.ratio <= v.high
    assert v.ratio == pytest.approx(ratio, rel=4 * noise)
    assert v.lost is lost


def test_a_single_outlier_is_no_loss() -> None:
    before, after = rounds(1.0, 0.005)
    after[3] *= 10
    assert not stats.verdict(before, after).lost


def test_exit_code_and_report_of_a_comparison() -> None:
    kept = compare.Row("walker", "bf16", stats.verdict(*rounds(1.0, 0.01)))
    lost = compare.Row("walker", "fp32", stats.verdict(*rounds(1.2, 0.01)))
    new = compare.Row("walker", "int8", None, "not in A: no such precision")
    broken = compare.Row("walker", "int8", None, "not in B: no such precision", broken=True)
    assert compare.exit_code([kept, new]) == 0
    assert compare.exit_code([kept, lost]) == 1
    assert compare.exit_code([kept, broken]) == 1
    told = compare.report([kept, lost, new])
    assert told.count("LOST") == 1 and "| walker | fp32 | +19.7 % |" in told and "not in A" in told


def test_ratio_is_that_of_the_rounds() -> None:
    r = stats.ratio([2.0, 6.0, 4.0], [1.0, 2.0, 4.0])
    assert (r.median, r.least, r.most, r.count) == (2.0, 1.0, 3.0, 3)
    with pytest.raises(ValueError, match="argument 2"):
        stats.ratio([1.0], [1.0, 2.0])


@pytest.mark.parametrize("samples", [[], [1.0, 0.0], [1.0, float("nan")], [-1.0]])
def test_summary_refuses_what_no_clock_gives(samples: list[float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        stats.summary(samples)


HOST = {"cpu": "a processor", "instruction_sets": ["avx2", "avx512_bf16"], "processors": 2}


def identity(commit: str) -> dict[str, Any]:
    return {
        "network": "paper", "title": "a network", "calibration": "nothing", "host": HOST, "commit": commit,
        "versions": {"torch": "1"},
    }  # fmt: skip


def entry(c: Contestant, trial: float, **changes: Any) -> dict[str, Any]:
    return {
        "peer": c.peer, "engine": c.engine, "precision": c.precision, "form": c.form, "batch": c.batch, "state": "ok", "note": "",
        "error": 0.01, "peak_mb": 123.4, "trial": trial, **changes,
    }  # fmt: skip


OURS = Contestant("gaitcrafter", "bf16", tier="bf16")
FLAT, VOLUME = Contestant("OpenVINO", "bf16", "flat"), Contestant("OpenVINO", "bf16", "volume")
ABSENT = Contestant("ONNX Runtime", "fp32", "flat")


def stored(path: Path, commit: str = "abc") -> Results:
    results = Results(path, identity(commit))
    results.gflop = 200.0
    results.contestants = {
        OURS.key: entry(OURS, 2.0), FLAT.key: entry(FLAT, 5.0), VOLUME.key: entry(VOLUME, 4.0),
        ABSENT.key: {**entry(ABSENT, 0.0), "state": "absent", "note": "not installed: pip install onnxruntime"},
    }  # fmt: skip
    for ours, theirs in ((2.0, 4.0), (2.5, 4.0), (2.0, 5.0)):
        seconds = {OURS.key: ours, VOLUME.key: theirs}
        results.rounds.append({"at": "", "load": 0.0, "limits": {"fp32": 100.0, "bf16": 200.0}, "seconds": seconds})
    results.save()
    return results


def test_rounds_are_added_while_the_identity_holds(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    stored(path)
    again = Results(path, identity("abc"))
    assert again.dropped == [] and len(again.rounds) == 3 and again.gflop == 200.0
    other = Results(path, identity("def"))
    assert other.dropped == ["commit"] and other.rounds == [] and other.contestants == {}
    assert Results(path, identity("abc"), fresh=True).rounds == []
    assert json.loads(path.read_text())["identity"]["commit"] == "abc"  # nothing is written before something was measured
    assert os.listdir(tmp_path) == ["peers.json"]


def test_tables_show_the_best_form_shares_and_ratios(tmp_path: Path) -> None:
    results = stored(tmp_path / "peers.json")
    assert results.best_forms() == [OURS.key, VOLUME.key]
    shown = tables.comparison(results)
    # 200 GFLOP in 2 s of a limit of 200 GFLOP/s; the peer needs 4 s.
    assert "| gaitcrafter bf16 | 2.00 | 2.00 to 2.50 | 100 | 50% | 123 | 1.0e-02 |" in shown
    assert "| OpenVINO bf16 | 4.00 | 4.00 to 5.00 | 50 | 25% | 123 | 1.0e-02 |" in shown
    assert "| OpenVINO bf16 | 2.00 (1.60 to 2.50) | Conv3d, batch 1 |" in shown
    tried = tables.forms(results)
    assert "pip install onnxruntime" in tried and "5.00" in tried and "gaitcrafter" not in tried
    assert "no avx512_bf16" not in tables.conditions(results)


def test_a_processor_without_bf16_is_said_to_be_one(tmp_path: Path) -> None:
    results = stored(tmp_path / "peers.json")
    results.identity = {**results.identity, "host": {**HOST, "instruction_sets": ["avx2"]}}
    for r in results.rounds:
        del r["limits"]["bf16"]
    assert "no avx512_bf16" in tables.conditions(results)
    assert "| gaitcrafter bf16 | 2.00 | 2.00 to 2.50 | 100 | - |" in tables.comparison(results)


@pytest.mark.parametrize(
    ("cpu", "sets", "name"),
    [
        ("AMD EPYC", ["avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni"], "amd-epyc-avx512-bf16"),
        ("Intel(R) Xeon(R) Processor", ["avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8"], "intel-xeon-amx"),
        ("Intel(R) Core(TM) i5-4460 CPU @ 3.20GHz", ["avx2", "fma"], "intel-core-i5-4460-avx2"),
        ("cortex", [], "cortex"),
    ],
)
def test_results_of_a_processor_have_a_name(cpu: str, sets: list[str], name: str) -> None:
    assert machine({"cpu": cpu, "instruction_sets": sets, "processors": 2}) == name


def test_the_widest_instruction_set_of_an_older_module() -> None:
    """compare.py loads modules of commits that do not know avx512_amx; the module raises for a name that it does not know."""


    class Older:
        def isa_supported(self, isa: str) -> bool:
            if isa not in ("avx512", "avx2", "portable"):
                raise ValueError(f"unknown instruction set {isa}")
            return isa != "avx512"

    assert next(isa for isa in ISAS if runs(Older(), isa)) == "avx2"


def test_every_contestant_has_a_key_of_its_own() -> None:
    for network, batches in (("paper", (1,)), ("walker", (1, 8))):
        keys = [c.key for c in field(network, batches)]
        assert len(keys) == len(set(keys))
        assert any("flat" in k for k in keys) and any("volume" in k for k in keys)


def spin(seconds: float) -> Any:
    def run() -> np.ndarray:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        return np.ones(3)

    return run


def faulty() -> Any:
    raise RuntimeError("cannot load this graph")


def dying() -> Any:
    return lambda: os._exit(9)


def test_a_worker_answers_with_its_own_cpu_seconds() -> None:
    with Worker(spin, 0.02) as worker:
        assert (worker.output() == 1).all()
        assert 0.02 <= worker.seconds(3) < 1
        assert 5 < worker.memory() < 5000


def test_a_worker_that_fails_says_why() -> None:
    with Worker(faulty) as worker, pytest.raises(WorkerError, match="cannot load this graph"):
        worker.output()
    with Worker(dying) as worker, pytest.raises(WorkerError, match="exit code 9"):
        worker.output()


def test_rows_of_single_ops_have_their_share() -> None:
    measured = {
        "context": {"limit_fp32": "100.0", "limit_bf16": "200.0", "host_name": "x"},
        "benchmarks": [
            {
                "name": "paper/bf16/convolution 3x3/64x64/64/3",
                "cpu_time": 2.0,
                "time_unit": "ms",
                "label": "bf16",
                "operations": 3e8,
            },
            {"name": "paper/bf16/linear/64x64/1/90", "cpu_time": 500.0, "time_unit": "us", "label": "fp32", "operations": 1e7},
            {"name": "paper/bf16/shuffle/64x64/1/91", "cpu_time": 7.0, "time_unit": "us", "label": "", "operations": 0.0},
        ],
    }
    rows = list(ops.rows_of(measured))
    assert [r["share"] for r in rows] == [pytest.approx(0.75), pytest.approx(0.2), None]
    shown = ops.report(rows)
    assert "| convolution 3x3 | 64x64 | 64 | 2,000.0 | bf16 | 150 | 75% |" in shown and "| shuffle | 64x64 | 1 | 7.0 |" in shown
