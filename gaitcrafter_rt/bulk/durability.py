"""Making durable what others left in the cache.

A process may die between a step that everybody sees (a link, a new folder, a file moved away) and the fsync that makes it last. The
next process sees the step as done and never repeats it, so it must do the fsync in its place before it relies on the step. Files
need nothing: their bytes are synced before they get a name that anybody reads.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

from .commit import CONFLICTS, DAMAGED, REPLACED
from .filesystem import FileSystem
from .injection import reached
from .layout import Folder

# A folder that we may not open, or on a file system that takes no writes, was not made by a run that died here.
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)


def settle(fs: FileSystem, folder: Folder) -> None:
    """After this the extents that can be seen now survive a power cut, and so does the way to the job; no receipt that is gone
    comes back.

    What was set aside is synced before the receipts, so that it is not lost in both places. To be called after the plan was read,
    and before anything is made or set aside. Raises OSError.
    """
    for path in reversed(folder.root.absolute().parents):
        try:
            fs.sync_folder(path)
        except OSError as e:
            if e.errno not in _NOT_OURS:
                raise
    aside = [folder.root / name for name in (DAMAGED, CONFLICTS, REPLACED)]
    for path in (folder.extents, *aside, folder.receipts):
        _sync_if_there(fs, path)
    reached("job.settled")


def settle_receipts(fs: FileSystem, folder: Folder) -> None:
    """After this every receipt that can be seen now survives a power cut, and with it its shard, which was durable before it."""
    _sync_if_there(fs, folder.receipts)


def _sync_if_there(fs: FileSystem, path: Path) -> None:
    if fs.entry(path) is not None:
        with suppress(FileNotFoundError):  # another run removed it meanwhile, as it was empty
            fs.sync_folder(path)


def make_folders(fs: FileSystem, folder: Folder) -> None:
    """Folders for shards, receipts and blocks, durable before anything is in them, whoever made them; and with them the plan."""
    for path in (folder.shards, folder.receipts, folder.wip):
        fs.mkdir(path)
    fs.sync_folder(folder.root)
