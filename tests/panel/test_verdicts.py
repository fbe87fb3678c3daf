"""Verdicts: planted differences, how often a gate passes wrongly, Holm's correction."""

from __future__ import annotations

import numpy as np
import pytest

from gaitcrafter_rt.panel.verdicts import Difference, decide, draw_weights, p_value, weighted_means


def difference(shift: float, margin: float, *, people: int = 40, noise: float = 0.02, seed: int = 0, **more: bool) -> Difference:
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(people), 5)
    values = shift + noise * (rng.normal(size=people)[owner] + rng.normal(size=people * 5))
    value, redrawn = weighted_means(values, owner, draw_weights(people, seed))
    return Difference(value, redrawn, margin, len(values), people, **more)


@pytest.mark.parametrize(
    ("shift", "margin", "verdict"), [(0.0, 0.03, "pass"), (0.06, 0.03, "fail"), (-0.06, 0.03, "fail"), (0.03, 0.03, "inconclusive")]
)
def test_planted_differences(shift: float, margin: float, verdict: str) -> None:
    (gate,) = decide([difference(shift, margin)])
    assert gate.verdict == verdict
    assert gate.low <= gate.value <= gate.high


def test_better_is_enough_for_a_one_sided_gate() -> None:
    (gate,) = decide([difference(-0.06, 0.0, one_sided=True)])
    assert gate.verdict == "pass"
    (gate,) = decide([difference(0.06, 0.0, one_sided=True)])
    assert gate.verdict == "fail"


def test_a_difference_at_the_margin_passes_about_one_time_in_twenty() -> None:
    passed = sum(decide([difference(0.03, 0.03, seed=seed)])[0].verdict == "pass" for seed in range(200))
    assert passed <= 20  # 5 % of 200 is 10; a bootstrap over 40 people is a little too sure


def test_holms_rule_asks_more_of_many_gates() -> None:
    """One gate that alone just passes at 5 % does not beside nineteen that are undecided: it needs 5 % / 20."""
    redrawn = np.concatenate([np.zeros(3900), np.ones(100)])  # 2.5 % beyond the margin
    borderline = Difference(0.0, redrawn, 0.5, 100, 40)
    assert p_value(borderline) == pytest.approx(101 / 4001)
    assert decide([borderline])[0].verdict == "pass"
    undecided = Difference(0.5, np.linspace(0, 1, 4000), 0.5, 100, 40)
    gates = decide([undecided] * 19 + [borderline])
    assert {g.verdict for g in gates} == {"inconclusive"}
    # Step down: a clear pass does not make the next one easier than 5 % / (gates left).
    clear = Difference(0.0, np.zeros(4000), 0.5, 100, 40)
    assert [g.verdict for g in decide([clear, borderline])] == ["pass", "pass"]
    assert [g.verdict for g in decide([clear, borderline, undecided])] == ["pass", "inconclusive", "inconclusive"]


def test_few_people_and_unmeasurable_figures_decide_nothing() -> None:
    (gate,) = decide([difference(0.0, 0.5, people=9)])
    assert (gate.verdict, gate.reason) == ("inconclusive", "9 identities; an interval needs at least 10")
    (gate,) = decide([Difference(float("nan"), np.full(10, np.nan), 0.1, 0, 40)])
    assert gate.verdict == "inconclusive"
    (gate,) = decide([Difference(0.0, np.zeros(4000), 0.1, 5, 40, reason="use more clips")])
    assert (gate.verdict, gate.reason) == ("inconclusive", "use more clips")
