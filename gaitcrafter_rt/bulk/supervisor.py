"""The processes of one machine: hands tasks to workers, survives their deaths, obeys signals.

Workers are forked from a process that has opened the model and never runs it, so they share its weights. A worker that dies
costs the block it was at; the supervisor knows which clips that was and finds the one that kills (``faults.py``).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from ..errors import CancelledError, GaitcrafterError, InternalError, OutOfMemoryError
from .faults import MEMORY_ADVICE, Range
from .interrupts import Interrupt
from .leases import Leases
from .schedule import Schedule, Task
from .tally import Tally
from .worker import Result, Stop, Worker

_TICK = 5.0
# A worker that got SIGKILL was most likely out of memory; so often the same block may meet that.
_KILLS = 4
MakeWorker = Callable[[Callable[[int, int], None], Stop], Worker]


def do(worker: Worker, task: Task, deadly: dict[Range, int] | None = None) -> Result:
    """Carry out one task."""
    if task.kind == "block":
        return worker.make_block(task.shard, task.block, deadly)
    return worker.seal(task.shard) if task.kind == "seal" else worker.adopt(task.shard)


class _PipeStop(Stop):
    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe

    def poll(self) -> None:
        try:
            while self._pipe.poll():
                kind, value = self._pipe.recv()
                if kind == "stop":
                    self.request(value)
        except (EOFError, OSError):
            os._exit(1)  # the supervisor is gone


def _child(pipe: Connection, others: list[Any], make_worker: MakeWorker) -> None:
    """A worker process: tasks in, results out, until the pipe ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        # Ctrl-C reaches the whole process group; the supervisor alone decides.
        signal.signal(number, signal.SIG_IGN)
    for other in others:
        other.close()
    stop = _PipeStop(pipe)

    def announce(first: int, count: int) -> None:
        try:
            pipe.send(("range", (first, count)))
        except OSError:
            os._exit(1)  # the supervisor is gone, which says nothing about these clips

    worker = make_worker(announce, stop)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            kind, value = pipe.recv()
            if kind == "quit":
                return
            if kind == "stop":
                stop.request(value)
                continue
            try:
                pipe.send(("done", do(worker, *value)))
            except (BrokenPipeError, ConnectionResetError, EOFError):
                return
            except GaitcrafterError as e:
                pipe.send(("error", e))
            except MemoryError as e:
                pipe.send(("error", OutOfMemoryError(f"{e or 'the memory could not be had'}; {MEMORY_ADVICE}")))
            except Exception as e:
                pipe.send(("error", InternalError(f"{value[0].kind} of shard {value[0].shard}: {type(e).__name__}: {e}")))


class _Process:
    def __init__(self, make_worker: MakeWorker, others: list[Any]) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_child, args=(theirs, [*others, self.pipe], make_worker), daemon=True)
        self._process.start()
        theirs.close()
        self.task: Task | None = None
        self.range: Range | None = None

    def send(self, kind: str, value: Any = None) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send((kind, value))

    def end(self) -> int:
        """Kill if need be; the exit code, negative for a signal."""
        self.pipe.close()
        self._process.join(0.2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        code = self._process.exitcode or 0
        self._process.close()
        return code

    def kill(self) -> None:
        self._process.kill()


class Supervisor:
    """Runs a schedule to its end with up to ``limit`` worker processes.

    Args:
        grace: seconds that running blocks get when a stop is asked for.
    """

    def __init__(
        self,
        make_worker: MakeWorker,
        schedule: Schedule,
        leases: Leases,
        tally: Tally,
        limit: int,
        interrupt: Interrupt,
        grace: float,
    ) -> None:
        self._make_worker, self._schedule, self._leases, self._tally = make_worker, schedule, leases, tally
        self._limit, self._interrupt, self._grace = limit, interrupt, grace
        self._workers: list[_Process] = []
        self._deadly: dict[Task, dict[Range, int]] = {}
        self._deaths: dict[Task, int] = {}
        self._kills: dict[Task, int] = {}
        self._fatal: GaitcrafterError | None = None
        self._deadline: float | None = None

    def run(self) -> None:
        """Until the schedule is finished or a stop was asked for. Raises the first error that is not a clip's."""
        try:
            while True:
                self._hand_out()
                if not any(w.task for w in self._workers):
                    break
                self._wait()
        finally:
            for worker in self._workers:
                worker.send("quit")
            for worker in self._workers:
                worker.end()
            self._workers.clear()
        if self._fatal is not None:
            raise self._fatal

    @property
    def _stopping(self) -> bool:
        return self._deadline is not None

    def _hand_out(self) -> None:
        while not self._stopping:
            idle = next((w for w in self._workers if w.task is None), None)
            if idle is None and len(self._workers) >= self._limit:
                return
            task = self._schedule.next()
            if task is None:
                return
            if idle is None:
                idle = _Process(self._make_worker, [w.pipe for w in self._workers])
                self._workers.append(idle)
                self._tally.workers = len(self._workers)
            idle.task, idle.range = task, None
            idle.send("task", (task, self._deadly.get(task)))

    def _wait(self) -> None:
        timeout = _TICK
        if self._deadline is not None:
            timeout = self._deadline - time.monotonic()
            if timeout <= 0:
                self._kill_all()
                return
        ready = wait([*(w.pipe for w in self._workers), self._interrupt.fileno()], timeout)
        self._leases.renew()
        if not ready:
            self._tally.tell()
        if self._interrupt.fileno() in ready:
            self._interrupt.drain()
        if self._interrupt.count > 1:
            self._kill_all()
            return
        if self._interrupt.count and not self._stopping:
            self._stop(self._grace)
        for worker in [w for w in self._workers if w.pipe in ready]:
            self._hear(worker)

    def _hear(self, worker: _Process) -> None:
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, OSError):
            self._died(worker)
            return
        if kind == "range":
            worker.range = value
            return
        task, worker.task = worker.task, None
        assert task is not None
        if kind == "error":
            self._schedule.returned(task)
            self._failed(worker, value)
            return
        self._schedule.completed(task, value.done is not None)
        try:
            self._tally.add(value)
        except GaitcrafterError as e:
            self._end_with(e)

    def _failed(self, worker: _Process, error: GaitcrafterError) -> None:
        if isinstance(error, CancelledError) and self._stopping:
            return
        if isinstance(error, OutOfMemoryError) and self._fewer():
            self._workers.remove(worker)
            worker.end()
            return
        self._end_with(error)

    def _died(self, worker: _Process) -> None:
        """A worker process is gone: find out over which clips, and hand its task out again."""
        self._workers.remove(worker)
        code, task = worker.end(), worker.task
        if task is None:
            return
        self._schedule.returned(task)
        if self._stopping:
            return
        if code == -signal.SIGKILL:
            self._kills[task] = self._kills.get(task, 0) + 1
            # Once may be anybody's hand; twice at the same block is the machine's.
            if self._kills[task] >= _KILLS or (self._kills[task] >= 2 and not self._fewer() and self._kills[task] >= 3):
                self._end_with(OutOfMemoryError(f"workers were killed {self._kills[task]} times over one block; {MEMORY_ADVICE}"))
            return
        if worker.range is not None:
            deadly = self._deadly.setdefault(task, {})
            deadly[worker.range] = deadly.get(worker.range, 0) + 1
            return
        self._deaths[task] = self._deaths.get(task, 0) + 1
        if self._deaths[task] > 2:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            self._end_with(InternalError(f"workers died ({how}) {self._deaths[task]} times over {task.kind} of shard {task.shard}"))

    def _fewer(self) -> bool:
        """One worker less from now on, if there are several."""
        if self._limit <= 1:
            return False
        self._limit = max(1, min(self._limit, len(self._workers)) - 1)
        self._tally.notes.append(f"memory is short: going on with {self._limit} workers; the clips stay the same")
        return True

    def _end_with(self, error: GaitcrafterError) -> None:
        self._fatal = self._fatal or error
        if not self._stopping:
            self._stop(self._grace)

    def _stop(self, seconds: float) -> None:
        # Workers judge by themselves whether they can end in time; those that cannot tell drop their block at once.
        self._deadline = time.monotonic() + seconds + 1.0
        for worker in self._workers:
            worker.send("stop", seconds)

    def _kill_all(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.task = None
