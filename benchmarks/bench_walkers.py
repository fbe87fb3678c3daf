"""Rendered walkers: speed of one thread, and how hard identities are to tell apart.

Correctness first: the clips that are timed are also the ones that are checked for filling the frame.
Recognition is the nearest gait energy image (mean frame); gallery = sequences 0 and 1 of `nm` (or of the
same covariate), probe = sequence 2. Not timed: writing anything to disk.

    python benchmarks/bench_walkers.py --identities 32 --sheet sheet.png
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np
from PIL import Image

from gaitcrafter_rt.walkers import COVARIATES, RENDERER_VERSION, VIEWS, render_dataset

SHEET_FRAMES = (0, 4, 8)


def collect(identities: int, seed: int) -> tuple[dict, dict, float]:
    """Gait energy images and a few frames by (identity, view, covariate, sequence), and CPU seconds per clip."""
    energy, frames, spent = {}, {}, 0.0
    clips = iter(render_dataset(range(identities), VIEWS, COVARIATES, range(3), seed=seed))
    while True:
        start = time.process_time()
        row = next(clips, None)
        spent += time.process_time() - start
        if row is None:
            return energy, frames, spent / len(energy)
        *key, bits = row
        clip = np.unpackbits(bits).reshape(30, 64, 64)
        if not (clip[:, 0].any(axis=1).all() and clip[:, -1].any(axis=1).all()):
            raise click.ClickException(f"clip {key} does not fill the height")
        energy[tuple(key)] = clip.mean(axis=0, dtype=np.float32).ravel()
        if key[3] == 0 and key[0] < 4:
            frames[tuple(key)] = clip[list(SHEET_FRAMES)] * np.uint8(255)


def rank1(energy: dict, identities: int, probe: tuple[str, int], gallery: tuple[str, int]) -> float:
    """Share of identities whose probe (covariate, view) is nearest to their own gallery entry."""
    owners = [(i, s) for i in range(identities) for s in (0, 1)]
    known = np.stack([energy[i, gallery[1], gallery[0], s] for i, s in owners])
    asked = np.stack([energy[i, probe[1], probe[0], 2] for i in range(identities)])
    distance = (asked**2).sum(1)[:, None] + (known**2).sum(1) - 2.0 * asked @ known.T
    return float(np.mean([owners[best][0] == i for i, best in enumerate(distance.argmin(1))]))


def save_sheet(frames: dict, path: Path) -> None:
    """One row per (identity, covariate), every view with three frames."""
    keys = sorted({(key[0], key[2]) for key in frames}, key=lambda key: (key[0], COVARIATES.index(key[1])))
    rows = [np.concatenate([f for v in VIEWS for f in frames[i, v, c, 0]], axis=1) for i, c in keys]
    Image.fromarray(np.concatenate(rows)).save(path)


@click.command()
@click.option("--identities", default=16, show_default=True, type=click.IntRange(2, 1000))
@click.option("--seed", default=0, show_default=True)
@click.option("--sheet", type=click.Path(path_type=Path, dir_okay=False), help="Also write a contact sheet (PNG).")
def main(identities: int, seed: int, sheet: Path | None) -> None:
    if sheet is not None and sheet.exists():
        raise click.ClickException(f"{sheet} exists; choose another name")
    energy, frames, seconds = collect(identities, seed)
    click.echo(f"renderer version {RENDERER_VERSION}, {identities} identities, seed {seed}, {len(energy)} clips")
    click.echo(f"{1.0 / seconds:.1f} clips (30 frames of 64x64) per CPU second of one process")
    for covariate in COVARIATES:
        own = np.mean([rank1(energy, identities, (covariate, v), (covariate, v)) for v in VIEWS])
        same = np.mean([rank1(energy, identities, (covariate, v), ("nm", v)) for v in VIEWS])
        cross = np.mean([rank1(energy, identities, (covariate, a), ("nm", b)) for a in VIEWS for b in VIEWS if a != b])
        click.echo(
            f"{covariate}: rank-1 same view against {covariate} {own:.1%}, against nm {same:.1%}, "
            f"cross view against nm {cross:.1%} (chance {1 / identities:.1%})"
        )
    if sheet is not None:
        save_sheet(frames, sheet)


if __name__ == "__main__":
    main()
