"""The newest clips of a job, finished or running, for people to look at."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..clips import condition_text
from ..output.canvas import enlarge
from . import quality
from .blocks import read_block
from .conditions import Conditions
from .errors import UNREADABLE
from .filesystem import FileSystem, LocalFileSystem
from .format import ROW_GROUP, clip_bytes
from .layout import Folder
from .opening import open_job
from .quality import Quality
from .reader import ShardFile
from .watch import Commit, JobView

_GIF_MILLISECONDS = 40
# Of one shard or block, so that a gallery shows more than one moment.
_OF_EACH = 4


@dataclass(frozen=True)
class Sample:
    """One clip: uint8 [F, H, W] of 0 and 255, its labels as one line, its flags by name."""

    clip_index: int
    label: str
    flags: list[str]
    frames: np.ndarray

    def gif(self, scale: int) -> bytes:
        """As an endless animation, 25 frames per second."""
        pictures = [Image.fromarray(frame).convert("1") for frame in enlarge(self.frames, scale)]
        out = io.BytesIO()
        pictures[0].save(out, "GIF", save_all=True, append_images=pictures[1:], duration=_GIF_MILLISECONDS, loop=0)
        return out.getvalue()


def recent(view: JobView, count: int, fs: FileSystem | None = None) -> list[Sample]:
    """Up to ``count`` clips of the newest shards and blocks, the newest first; what cannot be read is told in ``view.problems``.

    Every page and block is checked before it is shown. Raises DataFormatError if the job's table of conditions is damaged.
    """
    fs = fs or LocalFileSystem()
    job = open_job(view.root, fs)
    samples: list[Sample] = []
    for commit in reversed(view.commits):
        if len(samples) >= count:
            break
        wanted = min(_OF_EACH, count - len(samples)) if len(view.commits) * _OF_EACH > count else count - len(samples)
        try:
            samples += _of_shard(view, fs, commit, wanted) if commit.block is None else _of_block(
                view, fs, commit, wanted, job.table[commit.shard].block(commit.block), job.conditions
            )  # fmt: skip
        except FileNotFoundError:
            continue  # a block whose shard was sealed meanwhile
        except (*UNREADABLE, OSError) as e:
            view.problems.append(str(e))
    return samples


def _spread(rows: int, wanted: int) -> np.ndarray:
    """``wanted`` of ``rows`` numbers, spread evenly."""
    return np.unique(np.linspace(0, rows - 1, min(wanted, rows)).astype(int))


def _of_shard(view: JobView, fs: FileSystem, commit: Commit, wanted: int) -> list[Sample]:
    samples: list[Sample] = []
    with ShardFile(Folder(view.root).shard(commit.shard), fs) as file:
        chosen = _spread(file.clips, wanted)
        for group in np.unique(chosen // ROW_GROUP):
            rows = chosen[chosen // ROW_GROUP == group] % ROW_GROUP
            batch, flags = file.clip_batch(int(group), rows)
            samples += [
                Sample(int(batch.clip_indices[k]), batch.label(k), quality.names(int(flags[k])), batch[k])
                for k in range(len(batch))
            ]
    return samples


def _of_block(
    view: JobView, fs: FileSystem, commit: Commit, wanted: int, clips: tuple[int, int], conditions: Conditions
) -> list[Sample]:
    assert commit.block is not None
    plan, (first, count) = view.plan, clips
    path = Folder(view.root).block(commit.shard, commit.block)
    block = read_block(fs, path, plan.plan_id, first, count, clip_bytes(plan))
    shape = (plan.spec.clip.frames, plan.spec.clip.height, plan.spec.clip.width)
    samples = []
    for row in _spread(count, wanted):
        if block.quality[row] & Quality.FAILED:
            continue
        pixels = np.unpackbits(block.packed[row], count=shape[0] * shape[1] * shape[2]).reshape(shape) * np.uint8(255)
        label = condition_text(dict(conditions.plain(first + int(row))))
        samples.append(Sample(plan.spec.first_clip + first + int(row), label, quality.names(int(block.quality[row])), pixels))
    return samples
