"""``gaitcrafter-rt pack``."""

from __future__ import annotations

from pathlib import Path

import click

from .common import FOLDER, json_option, note, print_json, progress


@click.command()
@click.argument("tree", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--mapping", type=FOLDER, help="JSON that says which part of a path is the identity, the view, ... (docs/data.md).")
@click.option("--terms", default="unknown", show_default=True, help="Terms of the data; they go into every model trained on it.")
@click.option("--frames", default=30, show_default=True, help="Frames of a clip.")
@click.option("--stride", type=int, help="Frames from one window to the next.  [default: --frames]")
@click.option("--align", is_flag=True, help="Start windows at double support, where the gait shows one.")
@click.option(
    "--partition", type=FOLDER, help="OpenGait partition JSON: TRAIN_SET trains, TEST_SET is held out, others are left out."
)
@click.option("--skip-damaged", is_flag=True, help="Leave damaged recordings out instead of stopping at the first.")
@json_option
def pack(tree: Path, out: Path, as_json: bool, **options: object) -> None:
    """Pack TREE, real silhouettes as raw CASIA-B frames or OpenGait pickles, into a training set at OUT.

    Look at the tree first: gaitcrafter-rt inspect data TREE. Pickles are read without running anything in them.

    \b
    gaitcrafter-rt pack CASIA-B-pkl packed --partition CASIA-B.json --align --terms "CASIA-B agreement, research only"
    """
    from ..data import build_packed

    with progress("packing", "recordings") as update:
        report = build_packed(tree, out, **options, made_by="gaitcrafter-rt pack", progress=update)  # type: ignore[arg-type]
    if as_json:
        print_json(report.to_dict())
        return
    if options["terms"] == "unknown":
        note("note: the terms of the data are unknown; --terms says them, and they stay with every model trained on it", as_json)
    click.echo(f"{report.clips} clips of {report.recordings} recordings in {report.out}")
    for count, text in (
        (report.too_short, "recordings were too short for a clip"),
        (report.not_listed, "recordings were left out: the partition does not list their identity"),
        (report.unaligned, "recordings showed no clear rhythm and were cut unaligned"),
        (len(report.damaged), "recordings were damaged and left out"),
    ):
        if count:
            note(f"note: {count} {text}", as_json)
    for line in report.damaged[:20]:
        note(f"  {line}", as_json)
