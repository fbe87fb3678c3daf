"""Signals that ask a job to stop: the first finishes or drops what runs within the grace time, the second ends it at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# SIGUSR1 is what Slurm is told to send some time before it kills (--signal=B:USR1@120).
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupt:
    """How often a stop was asked for. ``fileno`` becomes readable with each request, so that a loop can sleep on it."""

    def __init__(self) -> None:
        self.count = 0
        self.name = ""
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def fileno(self) -> int:
        return self._read

    def request(self, name: str = "request") -> None:
        """Ask, as a signal does."""
        self.count += 1
        self.name = self.name or name
        try:
            os.write(self._write, b"!")
        except BlockingIOError:
            pass

    def drain(self) -> None:
        """Make ``fileno`` quiet until the next request."""
        try:
            while os.read(self._read, 64):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


@contextmanager
def on_signals() -> Iterator[Interrupt]:
    """An Interrupt that hears SIGINT, SIGTERM and SIGUSR1 while the block runs. For the main thread."""
    interrupt = Interrupt()

    def handle(number: int, _frame: FrameType | None) -> None:
        interrupt.request(signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        interrupt.close()
