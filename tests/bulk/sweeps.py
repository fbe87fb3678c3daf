"""What can go wrong at the k-th call of a run, for any k: each function makes one fault, judges it, and lets the job finish.

They return False when the run has no k-th call, so a sweep ends with a clean pass. tests/bulk/test_crash.py runs samples of them,
tests/bulk/torture.py all of them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from faulty_fs import CHANGING, LOSE, READING, Crash, FailAt, Hooked, MemoryFileSystem, at_random
from scenarios import Scenario

from gaitcrafter_rt.bulk import DiskFullError
from gaitcrafter_rt.errors import GaitcrafterError

Keep = Callable[[], bool]


def keep(seed: int) -> Keep:
    """What the cache happened to write out at a power cut: nothing for seed 0, else anything, by chance."""
    return at_random(seed) if seed else LOSE


def crash(here: Scenario, fs: MemoryFileSystem, k: int) -> bool:
    """The process dies at its k-th changing call; the machine runs on, and so does its cache."""
    hook = FailAt(k, Crash)
    try:
        here.act(Hooked(fs, hook))  # type: ignore[arg-type]
    except Crash:
        return True
    assert not hook.failed
    return False


def power_cut(here: Scenario, k: int, seed: int) -> bool:
    """The power fails at the k-th changing call."""
    fs = here.new()
    if not crash(here, fs, k):
        return False
    fs.power_cut(keep(seed))
    here.assert_no_lies(fs)
    here.finish(fs)
    here.assert_whole(fs)
    return True


def crash_run_power_cut(here: Scenario, k: int, seed: int) -> bool:
    """A process dies at its k-th changing call, another one completes the job and returns 0, then the power fails."""
    fs = here.new()
    if not crash(here, fs, k):
        return False
    here.act(fs)
    _cut_after_promise(here, fs, here.promised(fs), seed)
    return True


def crash_crash_power_cut(here: Scenario, k: int, second: int, seed: int) -> bool:
    """Two processes die one after the other, then the power fails."""
    fs = here.new()
    if not crash(here, fs, k):
        return False
    crash(here, fs, second)
    fs.power_cut(keep(seed))
    here.assert_no_lies(fs)
    here.finish(fs)
    here.assert_whole(fs)
    return True


def overtaken(here: Scenario, k: int, seed: int) -> bool:
    """At a writer's k-th changing call a second one does a whole run and returns 0; at the next one the power fails."""
    fs, seen, promised = here.new(), 0, {}

    def hook(name: str) -> None:
        nonlocal seen, promised
        if name in CHANGING or seen >= k:
            seen += 1
            if seen == k:
                here.act(fs)
                promised = here.promised(fs)
            elif seen > k:
                raise Crash

    try:
        here.act(Hooked(fs, hook))  # type: ignore[arg-type]
    except Crash:
        pass
    if seen < k:
        return False
    _cut_after_promise(here, fs, {n: d for n, d in promised.items() if not n.startswith(here.frail)}, seed)
    return True


def interleaved(here: Scenario, k: int) -> bool:
    """At a writer's k-th changing call a second one does a whole run; then the first one goes on."""
    fs, seen = here.new(), 0

    def hook(name: str) -> None:
        nonlocal seen
        seen += name in CHANGING
        if seen == k:
            seen += 1 << 20
            here.act(fs)

    here.act(Hooked(fs, hook))  # type: ignore[arg-type]
    if seen < k:
        return False
    here.finish(fs)
    here.assert_whole(fs)
    return True


def failing(here: Scenario, k: int, error: int, *, sticky: bool, reading: bool = False, cut: bool = False) -> bool:
    """The k-th call fails, once or from then on; ``cut``: and then the power does."""
    fs, calls = here.new(), READING if reading else CHANGING
    hook, outcome = FailAt(k, error, sticky=sticky, calls=calls), None
    try:
        here.act(Hooked(fs, hook))  # type: ignore[arg-type]
    except GaitcrafterError as e:
        outcome = (type(e), e.exit_code)
    if not hook.failed:
        assert outcome is None
        return False
    if error == errno.ENOSPC and not reading:
        assert outcome in (None, (DiskFullError, 75)), outcome
    here.assert_no_lies(fs)
    if cut:
        fs.power_cut(LOSE)
        here.assert_no_lies(fs)
    here.finish(fs)
    here.assert_whole(fs, damaged=reading)
    return True


def _cut_after_promise(here: Scenario, fs: MemoryFileSystem, promised: dict[str, bytes], seed: int) -> None:
    fs.power_cut(keep(seed))
    after = fs.tree(here.root)
    lost = [name for name, data in promised.items() if after.get(name) != data]
    assert not lost, f"a run returned 0 and the power cut took {lost}"
    here.assert_no_lies(fs)
    here.finish(fs)
    here.assert_whole(fs)


def moments(here: Scenario, after: str = "") -> list[int]:
    """One k for every kind of moment: every pair of a call and the one before it, on every kind of file, where it comes first.

    ``after``: only those right after that call.
    """
    trace: list[tuple[str, str]] = []
    here.act(Hooked(here.new(), lambda name: None, trace))  # type: ignore[arg-type]
    first: dict[object, int] = {}
    for k, pair in enumerate(zip([None, *trace], [*trace, None], strict=True), 1):
        first.setdefault(pair, k)
    return [k for k in sorted(first.values()) if k <= len(trace) and (not after or (k > 1 and trace[k - 2][0] == after))]
