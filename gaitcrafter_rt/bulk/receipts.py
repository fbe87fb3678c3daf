"""Receipts: shard k is whole, durable, and has these hashes. A job's state is the list of its receipts."""

from __future__ import annotations

import hashlib
import platform
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from .arrow import arrow
from .commit import DAMAGED, Digest, Published, publish, set_aside
from .documents import MAX_BYTES, Document
from .errors import DamagedError
from .filesystem import FileSystem
from .layout import Folder, Shard, ShardTable, shard_number
from .plan import Hash, Plan, _Part


class Failure(_Part):
    """A quarantined clip: its row has no silhouette."""

    clip: int
    clip_index: int
    error: str


class Maker(_Part):
    """Who sealed the shard. For people; nothing is decided by it."""

    host: str
    python: str
    pyarrow: str
    gaitcrafter_rt: str
    seconds: float
    retries: int


class Receipt(Document):
    """``receipts/shard-NNNNNNNN.json``.

    ``sha256`` and ``bytes`` are those of the Parquet file; ``row_groups`` hash the clips and flags of each row group and
    ``content_sha256`` hashes those, which no release of a library can change. ``quality`` counts clips per flag.
    """

    format: Literal["gaitcrafter-receipt"] = "gaitcrafter-receipt"
    plan_id: Hash
    shard: int = Field(ge=0)
    first: int = Field(ge=0)
    clips: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: Hash
    content_sha256: Hash
    row_groups: list[Hash]
    quality: dict[str, int] = Field(default={})
    quarantined: list[Failure] = Field(default=[])
    made_by: Maker


def content_of(row_groups: list[str]) -> str:
    """One hash over those of the row groups."""
    return hashlib.sha256("".join(row_groups).encode()).hexdigest()


def maker(seconds: float = 0.0, retries: int = 0) -> Maker:
    """This process."""
    from ..install import version

    return Maker(
        host=socket.gethostname(), python=platform.python_version(), pyarrow=arrow().__version__, gaitcrafter_rt=version(),
        seconds=round(seconds, 3), retries=retries,
    )  # fmt: skip


def read_receipt(fs: FileSystem, folder: Folder, plan: Plan, shard: Shard) -> Receipt:
    """The receipt of a shard. Raises DamagedError if it is none, or belongs to other clips; FileNotFoundError."""
    path = folder.receipt(shard.number)
    receipt = Receipt.from_bytes(fs.read(path, MAX_BYTES), path)
    who = (receipt.plan_id, receipt.shard, receipt.first, receipt.clips)
    if who != (plan.plan_id, shard.number, shard.first, shard.clips):
        raise DamagedError(
            f"{path}: speaks of shard {receipt.shard}, clips {receipt.first} to {receipt.first + receipt.clips - 1} of plan "
            f"{receipt.plan_id[:12]}; expected shard {shard.number}, clips {shard.first} to {shard.first + shard.clips - 1} of "
            f"{plan.plan_id[:12]}"
        )
    return receipt


def commit_receipt(fs: FileSystem, folder: Folder, plan: Plan, shard: Shard, receipt: Receipt) -> Published:
    """Write a receipt. One that is there counts if it vouches for the same file; another one is set aside as damaged."""

    def agree(mine: Digest) -> Digest:
        there = read_receipt(fs, folder, plan, shard)
        if there.sha256 != receipt.sha256:
            raise DamagedError(f"{folder.receipt(shard.number)}: vouches for another file")
        return mine

    return publish(fs, folder.receipt(shard.number), receipt.write, agree, folder.root)


@dataclass(frozen=True)
class Done:
    """What a job's summary needs of a receipt."""

    clips: int
    bytes: int
    seconds: float
    quality: dict[str, int]
    quarantined: list[Failure]


@dataclass
class Scan:
    """What stands in a folder. ``repairs`` tells what was set aside, for people."""

    done: dict[int, Done] = field(default_factory=dict)
    repairs: list[str] = field(default_factory=list)


def summary(receipt: Receipt) -> Done:
    return Done(receipt.clips, receipt.bytes, receipt.made_by.seconds, receipt.quality, receipt.quarantined)


def scan(fs: FileSystem, folder: Folder, plan: Plan, table: ShardTable, progress: Callable[[int], None] | None = None) -> Scan:
    """Read every receipt and look whether its shard is there in the right size.

    A receipt that is damaged, or vouches for a file that is not there or has another size, is set aside in ``damaged/``, so that
    its shard is looked at again, and its clips are made again if need be. ``verify`` compares hashes: it reads every byte.
    """
    found = Scan()
    for name in fs.names(folder.receipts):
        number = shard_number(name)
        if number is None or not name.endswith(".json") or number >= len(table):
            continue
        try:
            receipt = read_receipt(fs, folder, plan, table[number])
            entry = fs.entry(folder.shard(number))
            if entry is None:
                raise DamagedError(f"{folder.receipt(number)}: vouches for {folder.shard(number).name}, which is not there")
            if entry.size != receipt.bytes:
                raise DamagedError(f"{folder.shard(number)}: has {entry.size} bytes, its receipt says {receipt.bytes}")
        except FileNotFoundError:
            continue
        except DamagedError as e:
            set_aside(fs, folder.receipt(number), folder.root / DAMAGED)
            found.repairs.append(f"{e}; its receipt is set aside, its clips are made again if they are not sound")
            continue
        found.done[number] = summary(receipt)
        if progress:
            progress(len(found.done))
    return found


def scan_only(fs: FileSystem, folder: Folder, plan: Plan, table: ShardTable) -> dict[int, Receipt]:
    """Every receipt, nothing changed. Raises DamagedError for the first that is not sound."""
    numbers = [n for name in fs.names(folder.receipts) if (n := shard_number(name)) is not None and n < len(table)]
    return {n: read_receipt(fs, folder, plan, table[n]) for n in numbers}
