"""What to do next. Pure bookkeeping over a folder: no process, no clock.

A rank begins with its own shards (number mod world size), takes over those that nobody works on, and in the end helps with those
that somebody does work on, block by block in random order. So a dead rank leaves no hole, nobody waits for a slow one, and when a
rank is finished the whole job is.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from .filesystem import FileSystem
from .layout import Folder, ShardTable
from .leases import Leases


class Task(NamedTuple):
    """A block to make, a shard to seal, or a shard without receipt to adopt."""

    kind: Literal["block", "seal", "adopt"]
    shard: int
    block: int = 0


@dataclass
class _Open:
    missing: deque[int] = field(default_factory=deque)
    running: set[int] = field(default_factory=set)
    final: bool = False


class Schedule:
    """Hands out tasks until every shard has a receipt.

    Args:
        done: shards that have one; grows.
    """

    def __init__(
        self, fs: FileSystem, folder: Folder, table: ShardTable, done: set[int], leases: Leases, rank: int = 0, world_size: int = 1
    ) -> None:
        self._fs, self._folder, self._table, self._leases, self.done = fs, folder, table, leases, done
        own = [k for k in range(rank, len(table), world_size) if k not in done]
        # Ranks that are done early start helping at different places.
        start = len(table) * rank // world_size
        others = [k % len(table) for k in range(start, start + len(table))]
        self._waiting = deque([*own, *(k for k in others if k % world_size != rank and k not in done)])
        self._taken: list[int] = []
        self._open: dict[int, _Open] = {}
        self._random = random.Random(rank)

    @property
    def finished(self) -> bool:
        """Nothing is left to hand out or to wait for."""
        return not (self._open or self._waiting or self._taken)

    def next(self) -> Task | None:
        """The next task; None if all that is left is being worked on, or nothing is."""
        for shard, state in self._open.items():
            if state.missing:
                block = state.missing.popleft()
                state.running.add(block)
                return Task("block", shard, block)
            if not state.running and not state.final:
                state.final = True
                return Task("seal", shard)
        while (picked := self._pick()) is not None:
            task = self._begin(picked)
            if task is not None:
                return task
        return None

    def completed(self, task: Task, sealed: bool = False) -> None:
        """A task is done; ``sealed`` if its shard has a receipt now."""
        state = self._open[task.shard]
        state.running.discard(task.block)
        if sealed:
            del self._open[task.shard]
            self.done.add(task.shard)
            self._leases.give_back(task.shard)
        elif task.kind != "block":
            # A shard that could not be adopted is made from its blocks; sealing never ends like that.
            self._list_blocks(task.shard, state)
            state.final = False

    def returned(self, task: Task) -> None:
        """A task was not done; it is handed out again, first of all."""
        state = self._open[task.shard]
        if task.kind == "block":
            state.running.discard(task.block)
            state.missing.appendleft(task.block)
        else:
            state.final = False
            state.running.discard(task.block)

    def _pick(self) -> int | None:
        while self._waiting:
            shard = self._waiting.popleft()
            if self._has_receipt(shard):
                continue
            if not self._leases.taken(shard):
                return shard
            self._taken.append(shard)
        while self._taken:
            # Any of them: ranks that go through them in order would all come to the same ones.
            shard = self._taken.pop(self._random.randrange(len(self._taken)))
            if not self._has_receipt(shard):
                return shard
        return None

    def _begin(self, shard: int) -> Task | None:
        helping = self._leases.taken(shard)
        if not helping:
            self._leases.take(shard)
        state = self._open[shard] = _Open()
        if self._fs.entry(self._folder.shard(shard)) is not None:
            state.final = True
            return Task("adopt", shard)
        self._list_blocks(shard, state)
        if helping:
            self._random.shuffle(state.missing)
        return self.next()

    def _list_blocks(self, shard: int, state: _Open) -> None:
        present = set(self._fs.names(self._folder.blocks(shard)))
        blocks = range(self._table[shard].blocks)
        state.missing = deque(k for k in blocks if self._folder.block(shard, k).name not in present)

    def _has_receipt(self, shard: int) -> bool:
        if self._fs.entry(self._folder.receipt(shard)) is None:
            return False
        self.done.add(shard)
        return True
