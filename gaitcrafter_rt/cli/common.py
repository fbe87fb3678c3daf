"""What the commands share: output, progress, parsing of lists."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InvalidRequestError

if TYPE_CHECKING:
    from rich.console import Console

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
FOLDER = click.Path(path_type=Path)
SAMPLERS = ("ddpm", "ddim", "dpmpp_2m", "dpmpp_3m", "unipc")


def print_error(kind: str, code: int, exit_code: int, message: str, as_json: bool) -> int:
    """One line on standard error, or {"error": {...}} on standard output; returns the exit code."""
    line = " ".join(message.split())
    if as_json:
        # One line, since a bulk job prints lines.
        click.echo(json.dumps({"error": {"type": kind, "code": code, "exit_code": exit_code, "message": line}}))
    else:
        click.secho("error: ", fg="red", bold=True, nl=False, err=True)
        click.echo(printable(line), err=True)
    return exit_code


def print_json(value: Any) -> None:
    """One document, then a newline. ASCII, so that names of strangers cannot reach the terminal as control codes."""
    click.echo(json.dumps(value, indent=2, default=str))


def printable(text: str) -> str:
    """``text`` with control characters and half characters made visible."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def console(*, err: bool = False) -> Console:
    """A rich console; markup in names of strangers is never interpreted."""
    from rich.console import Console

    return Console(stderr=err, markup=False, highlight=False, emoji=False)


def note(text: str, as_json: bool) -> None:
    """A message for people on standard error."""
    if not as_json:
        click.echo(printable(text), err=True)


@contextmanager
def progress(what: str, unit: str, *, show: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error if that is a terminal; yields ``update(done, of)``."""
    if not show or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=36), MofNCompleteColumn(), TextColumn(unit),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console(err=True), transient=False) as bar:
        task = bar.add_task(what, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update


def command_to_type() -> str:
    """``gaitcrafter-rt``, or its path where the shell would find none or another one (a virtual environment that is not active)."""
    name, started = "gaitcrafter-rt", Path(sys.argv[0])
    if started.name != name:
        return name
    found = shutil.which(name)
    if found is not None and Path(found).resolve() == started.resolve():
        return name
    return shlex.quote(str(started))


def split_list(values: Sequence[str]) -> list[str]:
    """``("a,b", "c")`` to ``["a", "b", "c"]``; empty entries are dropped."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def whole_numbers(text: str, option: str) -> list[int]:
    """``4,8,20`` to numbers. Raises InvalidRequestError that names the option."""
    try:
        numbers = [int(part) for part in split_list([text])]
    except ValueError:
        numbers = []
    if not numbers:
        raise InvalidRequestError(f"{option} takes whole numbers with commas between them, as in 4,8,20; got {text!r}")
    return numbers


def human_bytes(size: float) -> str:
    """``15.4 GB``; powers of ten."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
