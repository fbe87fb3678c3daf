"""Leases: which shards somebody seems to be working on. They save double work; nothing goes wrong without them.

A lease is an empty file whose time its holder renews. One that was not renewed for a while, or whose clock disagrees, costs at most
that two workers make the same block, which commit equally.
"""

from __future__ import annotations

import time
from contextlib import suppress

from .filesystem import FileSystem
from .layout import Folder, shard_number

FRESH_SECONDS, RENEW_SECONDS = 60.0, 15.0


class Leases:
    """The leases that this process holds, and a look at those of others."""

    def __init__(self, fs: FileSystem, folder: Folder) -> None:
        self._fs, self._folder = fs, folder
        self._held: set[int] = set()
        self._renewed = time.monotonic()

    def taken(self, shard: int) -> bool:
        """Somebody else seems to be at work there."""
        if shard in self._held:
            return False
        entry = self._fs.entry(self._folder.lease(shard))
        return entry is not None and abs(time.time() - entry.modified) < FRESH_SECONDS

    def take(self, shard: int) -> None:
        """Say that we are at work there."""
        self._held.add(shard)
        with suppress(OSError):
            self._fs.touch(self._folder.lease(shard))

    def renew(self) -> None:
        """To be called now and then; does something every 15 seconds."""
        if time.monotonic() - self._renewed < RENEW_SECONDS:
            return
        self._renewed = time.monotonic()
        for shard in self._held:
            with suppress(OSError):
                self._fs.touch(self._folder.lease(shard))

    def give_back(self, shard: int) -> None:
        if shard in self._held:
            self._held.remove(shard)
            with suppress(OSError):
                self._fs.unlink(self._folder.lease(shard))

    def give_all_back(self) -> None:
        for shard in list(self._held):
            self.give_back(shard)

    def clean(self, done: set[int]) -> None:
        """Remove the leases of shards that are done, and the folder if it is empty."""
        with suppress(OSError):
            for name in self._fs.names(self._folder.leases):
                if shard_number(name) in done:
                    self._fs.unlink(self._folder.leases / name)
            self._fs.rmdir(self._folder.leases)
