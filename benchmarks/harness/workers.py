"""A contestant in a process of its own that stays alive: it loads once and answers requests over a pipe.

Times are CPU seconds of that process, all its threads together, so other work on the machine does not count and a peer that starts
a second thread gains nothing. Peak memory is the process's own: interpreter, library, weights and the call.
"""

from __future__ import annotations

import multiprocessing as mp
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

Load = Callable[..., Callable[[], np.ndarray]]


class WorkerError(RuntimeError):
    """What went wrong in the worker, in one line."""


def serve(load: Load, args: tuple[Any, ...], pipe: Connection) -> None:
    """Child: "output" gives the result, ("time", calls) CPU seconds a call after one untimed call, "memory" peak MB."""
    try:
        run = load(*args)
        while (request := pipe.recv()) != "end":
            if request == "output":
                pipe.send(run())
            elif request == "memory":
                pipe.send(peak_mb())
            else:
                pipe.send(cpu_seconds(run, request[1]))
    except (Exception, SystemExit) as e:
        lines = traceback.format_exc().strip().splitlines()
        pipe.send(WorkerError(f"{type(e).__name__}: {lines[-1]:.300}"))


def cpu_seconds(run: Callable[[], Any], calls: int) -> float:
    """Per call. Many short calls are led by an untimed one, which fills the caches that another contestant has emptied."""
    if calls > 1:
        run()
    begin = time.process_time()
    for _ in range(calls):
        run()
    return (time.process_time() - begin) / calls


def peak_mb() -> float:
    """Peak resident memory of this process; ru_maxrss would count the parent it was started from."""
    line = next(li for li in Path("/proc/self/status").read_text().splitlines() if li.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


class Worker:
    """Raises WorkerError from any request if loading or running failed, or the process died."""

    def __init__(self, load: Load, *args: Any) -> None:
        context = mp.get_context("spawn")
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=serve, args=(load, args, child), daemon=True)
        self._process.start()
        child.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def output(self) -> np.ndarray:
        return self._ask("output")

    def seconds(self, calls: int = 1) -> float:
        return self._ask(("time", calls))

    def memory(self) -> float:
        return self._ask("memory")

    def _ask(self, request: Any) -> Any:
        try:
            self._pipe.send(request)
            answer = self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as e:
            self._process.join()
            if isinstance(self._failure(), WorkerError):
                raise self._failure() from e  # type: ignore[misc]
            raise WorkerError(f"the process died, exit code {self._process.exitcode}") from e
        if isinstance(answer, WorkerError):
            raise answer
        return answer

    def _failure(self) -> Any:
        """What the child sent before it left, if a request met a closed pipe."""
        try:
            return self._pipe.recv() if self._pipe.poll() else None
        except (EOFError, OSError):
            return None

    def close(self) -> None:
        try:
            self._pipe.send("end")
        except OSError:
            pass
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def in_process(function: Callable[..., None], *args: Any) -> None:
    """Run ``function`` in a fresh process, so that what it loads is gone afterwards. Raises WorkerError."""
    process = mp.get_context("spawn").Process(target=function, args=args)
    process.start()
    process.join()
    if process.exitcode:
        raise WorkerError(f"{function.__name__} failed, exit code {process.exitcode}")
