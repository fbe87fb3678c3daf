"""What a bulk job tells while it runs: a bar, lines of JSON, metrics."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import OutputError
from .common import console, note

if TYPE_CHECKING:
    from ..bulk.tally import Snapshot

Report = Callable[["Snapshot"], None]
# No line, file or page is written more often than that, however short the blocks are.
_SECONDS = 1.0


@contextmanager
def reports(*, as_json: bool, metrics: Path | None, port: int | None, out: Path, rank: int) -> Iterator[Report]:
    """A function that takes snapshots and passes them on. Raises OutputError if metrics cannot be told, before anything is made."""
    with ExitStack() as stack:
        sinks: list[Report] = []
        if metrics is not None or port is not None:
            sinks.append(stack.enter_context(_metrics(metrics, port, out, rank, as_json)))
        if as_json:
            sinks.append(stack.enter_context(_now_and_then(_line)))
        elif sys.stderr.isatty():
            sinks.append(stack.enter_context(_bar()))

        def report(snapshot: Snapshot) -> None:
            for sink in sinks:
                sink(snapshot)

        yield report


@contextmanager
def _now_and_then(sink: Report) -> Iterator[Report]:
    """Passes on the first snapshot, later ones at most once a second, and the last one."""
    told, held = float("-inf"), None

    def report(snapshot: Snapshot) -> None:
        nonlocal told, held
        held = snapshot
        if time.monotonic() - told >= _SECONDS:
            told, held = time.monotonic(), None
            sink(snapshot)

    try:
        yield report
    finally:
        if held is not None:
            sink(held)


def print_line(event: str, facts: dict[str, Any]) -> None:
    """One JSON object on one line, ASCII."""
    click.echo(json.dumps({"event": event, **facts}, default=str))


def _line(s: Snapshot) -> None:
    rate, left = s.rate, s.seconds_left
    try:
        print_line("progress", {
            "clips": s.clips, "clips_total": s.total, "made": s.made, "failures": s.failures, "shards": s.shards,
            "shards_total": s.shards_total, "workers": s.workers, "seconds": round(s.seconds, 3),
            "clips_per_second": None if rate is None else round(rate, 4),
            "seconds_left": None if left is None else round(left, 1),
        })  # fmt: skip
    except BrokenPipeError:
        pass  # the reader went away; the job goes on


@contextmanager
def _bar() -> Iterator[Report]:
    """A bar on standard error. It is drawn by this thread alone: workers are forked beside it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn("clips  {task.fields[more]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console(err=True), auto_refresh=False) as bar:
        task = bar.add_task("generating", total=None, more="")

        def update(s: Snapshot) -> None:
            rate = f"{s.rate:.2f}/s  " if s.rate else ""
            more = f"{rate}{s.workers} workers" + (f"  {s.failures} failed" if s.failures else "")
            bar.update(task, completed=s.clips, total=s.total, more=more)
            bar.refresh()

        yield update


@contextmanager
def _metrics(path: Path | None, port: int | None, out: Path, rank: int, as_json: bool) -> Iterator[Report]:
    from ..bulk.metrics import Endpoint, Metrics

    figures = Metrics(str(out), rank)
    endpoint = Endpoint(port) if port is not None else None
    troubled = False

    def tell(snapshot: Snapshot) -> None:
        nonlocal troubled
        figures.set(snapshot)
        if endpoint is not None:
            endpoint.tell(figures.text())
        if path is not None:
            try:
                figures.write(path)
            except OutputError as e:
                if not troubled:
                    note(f"note: {e}; the job goes on", as_json)
                troubled = True

    try:
        if path is not None:
            figures.write(path)
        if endpoint is not None:
            note(f"metrics: {endpoint.url}", as_json)
        with _now_and_then(tell) as report:
            yield report
    finally:
        if endpoint is not None:
            endpoint.close()
