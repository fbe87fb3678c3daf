"""Flipped bits and cut files: verification must find every one of them."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from faulty_fs import MemoryFileSystem
from jobs import ROOT, run
from stub import StubEngine

from gaitcrafter_rt.bulk.documents import unseal
from gaitcrafter_rt.bulk.errors import DamagedError
from gaitcrafter_rt.bulk.layout import Folder
from gaitcrafter_rt.bulk.reader import ShardFile
from gaitcrafter_rt.bulk.verify import verify

FOLDER = Folder(ROOT)
SEED = 5
FLIPS, CUTS = "flips in a shard of 8 clips", "cuts of a shard of 8 clips"
FULL_FLIPS, FULL_CUTS = "flips in a shard of 4,096 clips", "cuts of a shard of 4,096 clips"
DOCUMENTS, LONE = "flips in its receipt and its plan", "flips in it without receipt or plan"
ABOUT = {
    FLIPS: "every bit; all found", CUTS: "every length; all found", DOCUMENTS: "every bit; all found",
    LONE: "every bit; found, or no clip and no label is another",
    FULL_FLIPS: f"seed {SEED}; all found", FULL_CUTS: f"seed {SEED}; all found",
}  # fmt: skip


def flip(data: bytes, bit: int) -> bytes:
    """With one bit changed."""
    out = bytearray(data)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def _must_find(fs: MemoryFileSystem, data: bytes, what: str) -> None:
    node = fs._node(FOLDER.shard(0))
    node.data = bytearray(data)
    problems = verify(ROOT, fs=fs).problems
    assert [p.shard for p in problems] == [0], f"{what}: verify finds {problems}"


def small(step: int = 1) -> dict[str, int]:
    """Every bit (every ``step``-th) and every length of a shard of 8 clips, and every bit of the documents beside it."""
    fs = MemoryFileSystem()
    run(ROOT, fs=fs, clips=8)
    data = fs.read(FOLDER.shard(0), 1 << 30)
    bits = range(0, 8 * len(data), step)
    for bit in bits:
        _must_find(fs, flip(data, bit), f"bit {bit}")
    cuts = range(0, len(data), step)
    for length in cuts:
        _must_find(fs, data[:length], f"the first {length} bytes")
    documents = 0
    for path in (FOLDER.receipt(0), FOLDER.plan):
        text = fs.read(path, 1 << 20)
        for bit in range(0, 8 * len(text), step):
            try:
                unseal(flip(text, bit), path)
            except DamagedError:
                documents += 1
            else:
                raise AssertionError(f"{path}: bit {bit} may flip")
    return {FLIPS: len(bits), CUTS: len(cuts), DOCUMENTS: documents, LONE: _lone(data, step)}


def _lone(data: bytes, step: int) -> int:
    """A shard that nothing vouches for: what its own checksums do not find must not matter."""

    def content(path: Path) -> list[object]:
        with ShardFile(path) as file:
            return [file.table(k).to_pydict() for k in range(file.row_groups)]

    bits = range(0, 8 * len(data), step)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.parquet"
        path.write_bytes(data)
        whole = content(path)
        for bit in bits:
            path.write_bytes(flip(data, bit))
            assert not verify(path).ok or content(path) == whole, f"bit {bit} changes a clip that is read"
    return len(bits)


def full(flips: int = 9000, cuts: int = 1000, clips: int = 4096) -> dict[str, int]:
    """Random bits and lengths of a shard as it is in a large job."""
    fs, rng = MemoryFileSystem(), random.Random(SEED)
    run(ROOT, StubEngine((30, 64, 64)), fs=fs, clips=clips, shard_clips=4096, block_clips=64)
    data = fs.read(FOLDER.shard(0), 1 << 30)
    for _ in range(flips):
        _must_find(fs, flip(data, rng.randrange(8 * len(data))), "a flip")
    for _ in range(cuts):
        _must_find(fs, data[: rng.randrange(len(data))], "a cut")
    return {FULL_FLIPS: flips, FULL_CUTS: cuts}
