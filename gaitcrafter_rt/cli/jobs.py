"""``gaitcrafter-rt jobs``: a bulk job as its folder shows it."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import OutputError
from .common import FOLDER, human_bytes, json_option, note, print_json, printable, progress

if TYPE_CHECKING:
    from ..bulk.watch import JobView

_GALLERY = 12


@click.command()
@click.argument("job", type=FOLDER)
@click.option("--html", type=FOLDER, help="Write a page with throughput over time and the newest clips; replaces an earlier one.")
@json_option
def jobs(job: Path, html: Path | None, as_json: bool) -> None:
    """Show how far JOB is, finished or running, from its folder alone.

    Any machine that sees the folder may look; nothing in it is changed, and no process is asked. Rates come from the times of
    receipts and blocks.

    \b
    gaitcrafter-rt jobs train
    gaitcrafter-rt jobs train --html train.html
    watch -n 10 gaitcrafter-rt jobs train
    """
    from ..bulk.watch import as_dict, look

    if html is not None:
        from ..bulk.arrow import arrow

        arrow("the page of a job")
        _refuse_strange(html)
    with progress("reading", "receipts", show=not as_json) as update:
        view = look(job, progress=update)
    if html is not None:
        from ..bulk.gallery import recent
        from ..bulk.page import page

        _replace(html, page(view, recent(view, _GALLERY)))
        note(f"wrote {html}", as_json)
    if as_json:
        print_json({**as_dict(view), "html": None if html is None else str(html)})
        return
    _show(view)


def _show(view: JobView) -> None:
    from ..bulk.page import duration
    from .inspect import print_rows

    spec, rate, left = view.plan.spec, view.rate, view.seconds_left
    share = 100 * (view.clips + view.waiting) / view.clips_total
    waiting = f", {view.waiting} of them in {view.blocks} blocks of shards that are not whole yet" if view.waiting else ""
    lately = "lately" if view.state == "running" else "at the end"
    made = f"{spec.model.name}, {spec.engine.made_by}, {spec.engine.precision}"
    rows = [
        ("job", f"{view.root}, plan {view.plan.plan_id[:12]}"),
        ("state", view.state + (f", {duration(view.now - view.last)} after its last commit" if view.state != "complete" else "")),
        ("clips", f"{view.clips + view.waiting} of {view.clips_total} ({share:.1f} %){waiting}"),
        ("shards", f"{view.shards} of {view.shards_total}, {human_bytes(view.bytes)}"),
        ("rate", "too little to tell" if rate is None else f"{rate:.2f} clips per second {lately}"),
        ("left", "unknown" if left is None else "nothing" if view.complete else duration(left)),
        ("at work", f"{len(view.working)} shards have a living lease" + _ages(view)),
        ("made with", f"{made}; {view.engine_seconds:.0f} engine seconds"),
        ("hosts", ", ".join(f"{host} {n}" for host, n in view.hosts.most_common(8)) or "none"),
        ("flags", ", ".join(f"{name} {n}" for name, n in sorted(view.quality.items())) or "none"),
        ("quarantined", f"{len(view.quarantined)}, {view.retries} retries"),
    ]
    print_rows(rows)
    for text in view.problems[:20]:
        click.secho("wrong: ", fg="red", nl=False)
        click.echo(printable(text))
    for failure in view.quarantined[:10]:
        click.echo(f"  clip {failure.clip} (index {failure.clip_index}): {printable(failure.error)}")
    if len(view.quarantined) > 10:
        click.echo(f"  ... {len(view.quarantined)} in all; gaitcrafter-rt dataset stats lists them")


def _ages(view: JobView) -> str:
    if not view.working:
        return ""
    oldest = max(view.working, key=lambda shard: view.working[shard])
    return f"; the oldest was renewed {view.working[oldest]:.0f} s ago"


def _refuse_strange(path: Path) -> None:
    """Raises OutputError before anything is read, if something stands there that is no page of ours."""
    from ..bulk.page import MARK

    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise OutputError(f"{path} is not a file; choose another name")
        with path.open("rb") as f:
            if f.read(len(MARK)) != MARK.encode():
                raise OutputError(f"{path} exists and is no page of gaitcrafter-rt jobs; choose another name or remove it")
    except FileNotFoundError:
        pass
    except OutputError:
        raise
    except OSError as e:
        raise OutputError(f"{path}: {e.strerror or e}") from e


def _replace(path: Path, text: str) -> None:
    """A browser that reloads sees the old page or the new one."""
    temporary = path.with_name(f".{path.name[:64]}-{secrets.token_hex(6)}")
    try:
        temporary.write_text(text, encoding="utf-8", errors="replace")
        os.replace(temporary, path)
    except OSError as e:
        raise OutputError(f"{path} could not be written: {e.strerror or e}") from e
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
