"""How much the meters of `gaitcrafter-rt eval model` mind blemishes that leave identity, view, covariate and gait as they are.

Held-out clips are spoilt in several ways and measured like generated ones; a meter that collapses on a slight blemish would
blame a model for it. One in `--every` held-out clips is taken. Not timed; the classifier comes from the cache or is trained.

    python benchmarks/bench_meters.py --data walkers48
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from scipy import ndimage

from gaitcrafter_rt.data.packed import SPLIT_TEST, SPLIT_TRAIN, PackedClips, pack
from gaitcrafter_rt.evaluate.classifier import default_cache, obtain
from gaitcrafter_rt.evaluate.clipset import ClipSet, measure
from gaitcrafter_rt.evaluate.figures import side_views
from gaitcrafter_rt.evaluate.period import within_tolerance

_CROSS = ndimage.generate_binary_structure(2, 1)[None, None]


def patches(clips: np.ndarray) -> np.ndarray:
    """Six blocks of 5 frames, rows and columns per clip, each filled or cleared."""
    rng, out = np.random.default_rng(0), clips.copy()
    frames, height, width = clips.shape[1:]
    for clip in out:
        for _ in range(6):
            f, y, x = (int(rng.integers(0, n - 5)) for n in (frames, height, width))
            clip[f : f + 5, y : y + 5, x : x + 5] = rng.integers(0, 2)
    return out


BLEMISHES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda clips: clips,
    "majority of 3x3 pixels in 3 frames": lambda clips: ndimage.uniform_filter(clips.astype(np.float32), (0, 3, 3, 3)) > 0.5,
    "a pixel thinner all around": lambda clips: ndimage.binary_erosion(clips, _CROSS),
    "a pixel thicker all around": lambda clips: ndimage.binary_dilation(clips, _CROSS),
    "2 columns to the side": lambda clips: np.roll(clips, 2, 3),
    "6 blocks of 5x5x5 filled or cleared": patches,
    "1 pixel in 200 flipped": lambda clips: clips ^ (np.random.default_rng(0).random(clips.shape) < 0.005),
}


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Packed set with held-out clips.")
@click.option("--every", default=6, show_default=True, type=click.IntRange(1), help="One held-out clip in so many.")
@click.option("--cache", type=click.Path(path_type=Path), help="Where classifiers are kept.")
def main(data: Path, every: int, cache: Path | None) -> None:
    packed = PackedClips.open(data)
    held_out = ClipSet.from_packed(packed, SPLIT_TEST)
    clips = held_out[np.arange(0, len(held_out), every)]
    reader = obtain(packed, ClipSet.from_packed(packed, SPLIT_TRAIN), cache or default_cache())
    side = np.isin(clips.view, side_views(packed.labels))
    clean = measure(clips).period[side]
    click.echo(f"{len(clips)} held-out {packed.meta.source} clips, {side.sum()} in side view")
    click.echo("| blemish | view | covariate | period within 10 % of the clean clip's | one figure |\n|---|---|---|---|---|")
    for name, spoil in BLEMISHES.items():
        bits = np.concatenate([pack(spoil(chunk).astype(np.uint8)) for chunk in clips.chunks()])
        found = measure(replace(clips, bits=bits))
        view, covariate = reader.predict(found.planes)
        shares = (
            (view == clips.view).mean(), (covariate == clips.covariate).mean(),
            within_tolerance(found.period[side], clean).mean(), found.whole.mean(),
        )  # fmt: skip
        click.echo(f"| {name} | " + " | ".join(f"{100 * s:.1f} %" for s in shares) + " |")


if __name__ == "__main__":
    main()
