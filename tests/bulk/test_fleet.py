"""A small fleet of simulated machines (fleet.py) in a hostile world: nothing lost, nothing doubled, the same history for a seed."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest
from fleet import Fleet, World

from gaitcrafter_rt.bulk.schedule import Schedule

# Everything that can go wrong does, several times, in a fleet of this size.
SMALL = World(workers=24, shards=48, hours_between_failures=0.6, freezes=0.03, freezes_in_commits=0.01, call_errors=0.004)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_or_doubled(seed: int) -> None:
    """``check`` compares every file with that of one undisturbed worker; here: that the disturbances did happen."""
    fleet = Fleet(replace(SMALL, seed=seed))
    fleet.run()
    fleet.check()
    facts = fleet.facts()
    for event in ("deaths", "freezes in commits", "freezes in the engine", "calls that failed", "workers lost for good"):
        assert facts.get(event, 0) > 0, (event, facts)
    assert facts["clips_made_twice"] >= 0
    assert 0 < facts["workers_that_finished"] < SMALL.workers


def test_the_simulation_notices_a_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that stay with their own shards: those of the dead are missing, and the fleet says so."""
    begin = Schedule.__init__

    def own_only(self, fs, folder, table, done, leases, rank=0, world_size=1):  # type: ignore[no-untyped-def]
        begin(self, fs, folder, table, done, leases, rank, world_size)
        self._waiting = deque(k for k in self._waiting if k % world_size == rank)

    monkeypatch.setattr(Schedule, "__init__", own_only)
    with pytest.raises(AssertionError, match="without all receipts"):
        Fleet(replace(SMALL, lost=1.0)).run()


def test_a_seed_is_a_history() -> None:
    first, second, other = (Fleet(replace(SMALL, shards=20, seed=seed)) for seed in (7, 7, 8))
    for fleet in (first, second, other):
        fleet.run()
    assert first.facts() == second.facts()
    assert first.now == second.now
    assert first.facts() != other.facts()


def test_leases_save_work_and_nothing_hangs_on_them() -> None:
    """Clocks that are off by hours make every lease worthless: more is made twice, all is made."""
    quiet = replace(SMALL, hours_between_failures=1e9, freezes=0, freezes_in_commits=0, call_errors=0, slow=0, skewed=0, workers=12)
    good, bad = Fleet(quiet), Fleet(replace(quiet, skewed=1, skew_seconds=1e6))
    for fleet in (good, bad):
        fleet.run()
        fleet.check()
    assert good.clips_made < bad.clips_made


def test_a_fleet_without_trouble_loses_no_time() -> None:
    """All alike and healthy: done within a fifth of the time that the clips take."""
    calm = replace(SMALL, hours_between_failures=1e9, slow=0, freezes=0, freezes_in_commits=0, call_errors=0, skewed=0)
    fleet = Fleet(replace(calm, workers=10, shards=40))
    fleet.run()
    fleet.check()
    assert fleet.facts()["hours"] < 1.2 * fleet.facts()["hours_undisturbed"]
    assert fleet.facts()["workers_that_finished"] == 10
