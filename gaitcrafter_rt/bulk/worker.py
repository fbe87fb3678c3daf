"""The one worker: makes blocks and seals shards of a job, on any machine, under any scheduler.

Everything it does may be done twice, at the same time, by several workers: what it commits depends on the plan alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..clips import ClipBatch
from ..engine import Progress
from ..errors import OutputError
from .blocks import Block, read_block, write_block
from .commit import clean_temporaries
from .durability import make_folders, settle, settle_receipts
from .errors import DamagedError, output_error
from .faults import Maker, Range
from .filesystem import FileSystem
from .format import clip_bytes
from .injection import reached
from .opening import OpenJob
from .quality import Quality, assess
from .receipts import Done, Receipt, read_receipt, summary
from .writer import adopt, seal

Announce = Callable[[int, int], None]


class ClipEngine(Protocol):
    """What a job needs of an engine. :class:`gaitcrafter_rt.Engine` is one; tests put a stub here (docs/bulk.md).

    ``info`` holds name, model_sha256, device, precision, isa, frames, height, width, packed_bytes and provenance; ``build``
    names the binary. An engine must be fit for a process that was forked after it was opened.
    """

    info: dict[str, Any]
    vocabulary: Any

    @property
    def build(self) -> str: ...

    def resolve_sampler(self, **given: Any) -> dict[str, Any]: ...

    def generate(self, conditions: Any, seed: int = 0, **settings: Any) -> ClipBatch: ...


class Stop:
    """A request to stop, which a running call obeys: it goes on if it will end before the deadline, else it is dropped."""

    def __init__(self) -> None:
        self.deadline: float | None = None

    def poll(self) -> None:
        """Look for a request. Overridden by those that hear it from elsewhere."""

    def request(self, seconds: float) -> None:
        """Stop within that time; a later request may only shorten it."""
        wanted = time.monotonic() + seconds
        self.deadline = wanted if self.deadline is None else min(self.deadline, wanted)

    def watch(self) -> Callable[[Progress], bool]:
        """A progress callback for one call."""
        began = time.monotonic()

        def go_on(p: Progress) -> bool:
            self.poll()
            if self.deadline is None:
                return True
            now = time.monotonic()
            left = (now - began) / p.steps_done * (p.steps_total - p.steps_done) if p.steps_done else float("inf")
            return now + left <= self.deadline

        return go_on


@dataclass(frozen=True)
class Result:
    """What a finished task did: ``clips`` were made here, ``failures`` of them quarantined; ``done`` is a sealed shard."""

    clips: int = 0
    failures: int = 0
    seconds: float = 0.0
    done: Done | None = None
    notes: list[str] = field(default_factory=list)


class Worker:
    """Makes blocks and seals shards of one job with one engine.

    Args:
        announce: called with (first clip, count) before each call of the engine, so that somebody knows what it died of.
        stop: asked about 20 times a second while the engine runs.
    """

    def __init__(
        self, fs: FileSystem, job: OpenJob, engine: ClipEngine, *, announce: Announce | None = None, stop: Stop | None = None
    ) -> None:
        self._fs, self._job, self._engine = fs, job, engine
        self._folder, self._plan = job.folder, job.plan
        self._announce, self._stop = announce or (lambda first, count: None), stop or Stop()
        self._bytes = clip_bytes(job.plan)
        spec = job.plan.spec
        self._shape = (spec.clip.frames, spec.clip.height, spec.clip.width)
        self._settings = {("sampler" if k == "kind" else k): v for k, v in spec.sampler.items()}
        self._maker = Maker(self.generate, self._bytes)
        self._prepared = False

    def generate(self, first: int, count: int) -> np.ndarray:
        """Packed clips by number, straight from the engine: uint8 [count, bytes]."""
        self._announce(first, count)
        spec = self._plan.spec
        clips = self._engine.generate(
            self._job.conditions.batch(first, count), spec.seed, threshold=spec.threshold,
            clip_indices=np.arange(count, dtype=np.uint64) + np.uint64(spec.first_clip + first),
            progress=self._stop.watch(), **self._settings,
        )  # fmt: skip
        return clips.packed

    def make_block(self, shard: int, block: int, deadly: Mapping[Range, int] | None = None) -> Result:
        """Make and commit a block; nothing happens if it, or its shard's receipt, is there.

        Raises CancelledError if it was dropped, OutOfMemoryError, OutputError, NonDeterminismError.
        """
        path = self._folder.block(shard, block)
        if self._fs.entry(path) is not None or self._sealed(shard):
            return Result()
        made = self._make(shard, block, deadly)
        write_block(self._fs, path, self._plan.plan_id, made, self._folder.root)
        if self._sealed(shard):
            # Somebody sealed the shard meanwhile and removed its blocks; ours would stay behind.
            self.remove_blocks(shard)
        return Result(len(made), len(made.errors), made.seconds)

    def _make(self, shard: int, block: int, deadly: Mapping[Range, int] | None = None) -> Block:
        first, count = self._job.table[shard].block(block)
        began = time.perf_counter()
        made = self._maker.make(first, count, deadly)
        flags = assess(made.packed, self._shape)
        for clip in made.errors:
            flags[clip - first] = Quality.FAILED | (Quality.NON_FINITE if clip in made.non_finite else 0)
        return Block(first, made.packed, flags, made.errors, round(time.perf_counter() - began, 3), made.retries)

    def seal(self, shard: int) -> Result:
        """Write a shard from its blocks, its receipt, and remove the blocks; blocks that are missing or damaged are made."""
        notes: list[str] = []
        here = self._job.table[shard]
        made: dict[int, Block] = {}

        def block(number: int) -> Block:
            if number in made:
                return made[number]
            path = self._folder.block(shard, number)
            try:
                return read_block(self._fs, path, self._plan.plan_id, *here.block(number), self._bytes)
            except FileNotFoundError:
                pass
            except DamagedError as e:
                notes.append(f"{e}; made again")
                self._fs.unlink(path)
            # Kept, since publishing may ask for it twice.
            made[number] = self._make(shard, number)
            return made[number]

        receipt = self._receipt(shard)
        if receipt is not None:
            settle_receipts(self._fs, self._folder)  # its writer may have died before it did
        else:
            receipt = seal(self._fs, self._folder, self._plan, self._job.conditions, here, block)
        self.remove_blocks(shard)
        clips, failures = sum(map(len, made.values())), sum(len(b.errors) for b in made.values())
        return Result(clips, failures, sum(b.seconds for b in made.values()), summary(receipt), notes)

    def adopt(self, shard: int) -> Result:
        """A receipt for a shard that is there without one; nothing is done if it is damaged: sealing will replace it."""
        here = self._job.table[shard]
        present = self._fs.names(self._folder.blocks(shard))
        if all(self._folder.block(shard, k).name in present for k in range(here.blocks)):
            return self.seal(shard)
        try:
            receipt = adopt(self._fs, self._folder, self._plan, self._job.conditions, here)
        except DamagedError as e:
            return Result(notes=[f"{e}; its clips are made again, and it is set aside"])
        self.remove_blocks(shard)
        return Result(done=summary(receipt))

    def run_shard(self, shard: int) -> Result:
        """All of a shard: the unit of work for schedulers that hand out shards. When it returns, the shard survives a power cut.

        Raises what :meth:`make_block` does; OutputError for every system call that fails.
        """
        try:
            return self._run_shard(shard)
        except OutputError:
            raise
        except OSError as e:
            raise output_error(self._folder.root, e) from e

    def _run_shard(self, shard: int) -> Result:
        if not self._prepared:
            settle(self._fs, self._folder)
            make_folders(self._fs, self._folder)
            self._prepared = True
        if not self._sealed(shard) and self._fs.entry(self._folder.shard(shard)) is not None:
            adopted = self.adopt(shard)
            if adopted.done is not None:
                return adopted
        clips = failures = 0
        seconds = 0.0
        for block in range(self._job.table[shard].blocks):
            part = self.make_block(shard, block)
            clips, failures, seconds = clips + part.clips, failures + part.failures, seconds + part.seconds
        last = self.seal(shard)
        return Result(clips + last.clips, failures + last.failures, seconds + last.seconds, last.done, last.notes)

    def remove_blocks(self, shard: int) -> None:
        """Remove a sealed shard's blocks. What cannot be removed stays for the next run."""
        folder = self._folder.blocks(shard)
        with suppress(OSError):
            clean_temporaries(self._fs, folder)
            for name in self._fs.names(folder):
                if name.startswith("block-"):
                    self._fs.unlink(folder / name)
            self._fs.rmdir(folder)
        reached("blocks.removed")

    def _sealed(self, shard: int) -> bool:
        return self._fs.entry(self._folder.receipt(shard)) is not None

    def _receipt(self, shard: int) -> Receipt | None:
        try:
            return read_receipt(self._fs, self._folder, self._plan, self._job.table[shard])
        except (FileNotFoundError, DamagedError):
            return None
