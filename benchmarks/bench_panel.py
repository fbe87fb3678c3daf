"""The panel on recordings alone: three further recordings of every cell stand in for teacher, fast column and noise floor.

No model is involved: nothing may fail, and broken controls must be flagged. `--family boxes` asks that of walkers that are drawn
otherwise and seen by a worse camera. `--data` is a packed set of the same family, people 0 and up; the judges are of other people.

    gaitcrafter-rt walkers render boxes48 --family boxes --train-sequences 4
    python benchmarks/bench_panel.py --data boxes48 --family boxes --judge boxes-set --judge boxes-temporal --out report.json
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

from gaitcrafter_rt.data.packed import PackedClips, pack
from gaitcrafter_rt.evaluate.clipset import ClipSet
from gaitcrafter_rt.files import new_file, refuse_existing_file
from gaitcrafter_rt.judges import Judge
from gaitcrafter_rt.panel import PanelClips, render_markdown, run_panel
from gaitcrafter_rt.panel.cells import spread_cells
from gaitcrafter_rt.walkers import FAMILIES, render_clip, sample_identity

FIRST_RECORDING = (1000, 2000, 3000)  # of teacher, fast and floor; a packed set counts from 0


def recordings(data: PackedClips, count: int, first: int, family: str) -> ClipSet:
    """``count`` fresh recordings over the cells of the panel, the n-th time round of a cell being recording ``first`` + n."""
    labels, rows, clips = data.labels, [], []
    cells = len(labels.identity) * len(labels.view) * len(labels.covariate)
    for number, cell in enumerate(spread_cells(labels, count)):
        walker = sample_identity(0, int(cell["identity"]) - 1)
        sequence = first + number // cells
        clips.append(render_clip(walker, int(cell["view"]), cell["covariate"], sequence, family=family) // 255)
        rows.append([getattr(labels, axis).index(cell[axis]) for axis in ("identity", "view", "covariate")])
    identity, view, covariate = np.array(rows, np.int64).T
    shape = data.meta.shape
    return ClipSet(pack(np.stack(clips)), shape, identity, view, covariate, np.full(count, -1, np.int64))


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Packed set of rendered walkers, people 0 and up.")
@click.option("--family", type=click.Choice(FAMILIES), default="hulls", show_default=True, help="How the recordings are drawn.")
@click.option("--judge", "judges", required=True, multiple=True, type=click.Path(path_type=Path), help="Recogniser of others.")
@click.option("--n", "count", default=512, show_default=True, type=click.IntRange(1), help="Clips of every column.")
@click.option("--cache", type=click.Path(path_type=Path), help="Where classifiers are kept.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the report as JSON to this new file.")
def main(data: Path, family: str, judges: tuple[Path, ...], count: int, cache: Path | None, out: Path | None) -> None:
    if out is not None:
        refuse_existing_file(out)
    packed = PackedClips.open(data)
    teacher, fast, floor = (recordings(packed, count, first, family) for first in FIRST_RECORDING)
    report = run_panel(PanelClips(teacher, fast, floor), packed, [Judge.open(judge) for judge in judges], cache=cache)
    report |= {"note": "recordings in place of generated clips", "family": family, "data": packed.meta.made_by}
    if out is not None:
        with new_file(out) as f:
            f.write((json.dumps(report, indent=1) + "\n").encode())
    click.echo(render_markdown(report), nl=False)


if __name__ == "__main__":
    main()
