"""A job's clips as one sequence, read from its folder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..clips import ClipBatch
from ..errors import DataFormatError, InvalidRequestError
from .errors import DamagedError
from .filesystem import FileSystem, LocalFileSystem
from .format import ROW_GROUP
from .layout import shard_number
from .opening import OpenJob, open_job
from .reader import ShardFile
from .receipts import read_receipt

_OPEN_FILES = 16


class ClipDataset:
    """The clips of a job, finished or not: those of every shard that has a receipt.

    Attributes:
        plan: what every clip is (``plan.spec``).
        shards: the numbers of the shards that are there.
        shape: (frames, height, width).
    """

    def __init__(self, job: OpenJob, fs: FileSystem) -> None:
        self._job, self._fs = job, fs
        self.plan, self.folder = job.plan, job.folder
        numbers = (shard_number(name) for name in fs.names(job.folder.receipts) if name.endswith(".json"))
        self.shards = sorted(k for k in numbers if k is not None and k < len(job.table))
        clip = job.plan.spec.clip
        self.shape = (clip.frames, clip.height, clip.width)
        self._clips = sum(job.table[k].clips for k in self.shards)
        self._files: OrderedDict[int, ShardFile] = OrderedDict()

    @classmethod
    def open(cls, folder: str | Path, fs: FileSystem | None = None) -> ClipDataset:
        """Open a job's folder. Raises DataFormatError if it is none, MissingExtraError without the extra ``bulk``."""
        fs = fs or LocalFileSystem()
        return cls(open_job(folder, fs), fs)

    def __len__(self) -> int:
        return self._clips

    def __repr__(self) -> str:
        return f"ClipDataset({str(self.folder.root)!r}, {len(self)} of {self._job.clips} clips of {self.shape})"

    def __enter__(self) -> ClipDataset:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files that are open."""
        while self._files:
            self._files.popitem()[1].close()

    def batches(self) -> Iterator[ClipBatch]:
        """All clips in order, at most 64 at a time; quarantined ones, which have no silhouette, are left out."""
        for number in self.shards:
            file = self._open(number)
            for group in range(file.row_groups):
                batch, _ = file.clip_batch(group)
                if len(batch):
                    yield batch

    def read(self, numbers: Sequence[int]) -> ClipBatch:
        """Clips by their numbers, in that order.

        Raises InvalidRequestError for a number outside the job, DataFormatError for a clip that is not made yet, was
        quarantined, or whose file is damaged.
        """
        if not len(numbers):
            raise InvalidRequestError("read needs at least one clip number")
        parts: list[ClipBatch] = []
        places = np.empty(len(numbers), np.int64)
        wanted: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for place, clip in enumerate(numbers):
            if not 0 <= clip < self._job.clips:
                raise InvalidRequestError(f"clip {clip} is outside 0..{self._job.clips - 1}")
            shard = self._job.table.of_clip(int(clip))
            row = int(clip) - shard.first
            wanted.setdefault((shard.number, row // ROW_GROUP), []).append((place, row % ROW_GROUP))
        done = 0
        for (number, group), rows in wanted.items():
            batch, _ = self._open(number).clip_batch(group, np.array([r for _, r in rows]))
            if len(batch) != len(rows):
                raise DataFormatError(f"{self.folder.shard(number)}: a clip asked for was quarantined; the receipt says why")
            parts.append(batch)
            for place, _ in rows:
                places[place] = done
                done += 1
        return ClipBatch.concatenate(parts)[places]

    def _open(self, number: int) -> ShardFile:
        file = self._files.pop(number, None)
        if file is None:
            if number not in self.shards:
                raise DataFormatError(f"{self.folder.root}: shard {number} is not made yet; run the job's command again")
            shard = self._job.table[number]
            read_receipt(self._fs, self.folder, self.plan, shard)
            file = ShardFile(self.folder.shard(number), self._fs)
            who = (file.about["plan_id"], file.about["shard"], file.first, file.clips)
            if who != (self.plan.plan_id, number, shard.first, shard.clips):
                file.close()
                raise DamagedError(f"{file.path}: belongs to another place or another job")
            while len(self._files) >= _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files[number] = file
        return file
