"""The contact sheet of docs/quality.md: the same conditions as recordings, by the thousand-step teacher, and by what is cheaper.

Columns that `eval panel` or `eval steps` made with the same --cache are taken from there.

    python benchmarks/quality_sheet.py --data walkers48 --made h100 --out docs/images/quality-sheet.png
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw

from gaitcrafter_rt.cli.panel import sampler_from
from gaitcrafter_rt.data.packed import SPLIT_TEST, PackedClips, unpack
from gaitcrafter_rt.evaluate.classifier import default_cache
from gaitcrafter_rt.panel.cells import spread_cells
from gaitcrafter_rt.panel.clips import obtain

COLUMNS = (
    ("walker, DDPM 1000 steps", "walker", "ddpm:1000"),
    ("walker, UniPC 8 steps", "walker", "unipc:8"),
    ("walker-fast, 3 calls", "walker-fast", "unipc:3"),
)
ROWS = (
    ("000", "nm"), ("000", "cl"), ("036", "bg"), ("054", "cl"), ("090", "nm"), ("090", "bg"), ("090", "cl"), ("126", "bg"),
    ("162", "nm"), ("180", "cl"),
)  # fmt: skip
FRAMES = (0, 6, 12, 18, 24)
CELL, LEFT, TOP, GAP = 48, 90, 18, 10


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Packed set with held-out recordings.")
@click.option("--made", type=click.Path(path_type=Path), help="Columns that were made elsewhere.")
@click.option("--cache", type=click.Path(path_type=Path), help="Where columns are kept.")
@click.option("--n", "count", default=256, show_default=True, help="Clips of every column among which the rows are looked up.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="PNG to write.")
def main(data: Path, made: Path | None, cache: Path | None, count: int, out: Path) -> None:
    packed = PackedClips.open(data)
    cells = spread_cells(packed.labels, count)
    chosen: list[int] = []
    for view, covariate in ROWS:
        chosen.append(next(i for i, c in enumerate(cells) if (c["view"], c["covariate"]) == (view, covariate) and i not in chosen))
    columns = [("rendered, held out", [packed.bits[packed.select(split=SPLIT_TEST, **cells[i])[0]] for i in chosen])]
    for title, model, sampler in COLUMNS:
        clips = obtain(
            model, packed.labels, count, (cache or default_cache()) / "panel", made=made, **sampler_from(sampler, "column")
        )
        columns.append((title, [clips.bits[i] for i in chosen]))
    width = len(FRAMES) * CELL + GAP
    sheet = Image.new("L", (LEFT + len(columns) * width, TOP + len(ROWS) * 64), 40)
    pen = ImageDraw.Draw(sheet)
    for number, (title, rows) in enumerate(columns):
        pen.text((LEFT + number * width, 3), title, fill=255)
        for row, bits in enumerate(rows):
            clip = unpack(np.asarray(bits), *packed.meta.shape)
            for place, frame in enumerate(FRAMES):
                figure = Image.fromarray(clip[frame][:, 8:56] * 255)
                sheet.paste(figure, (LEFT + number * width + place * CELL, TOP + row * 64))
    for row, i in enumerate(chosen):
        pen.text((4, TOP + row * 64 + 26), " ".join(cells[i].values()), fill=255)
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main()
