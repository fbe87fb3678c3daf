"""WebDataset: tar files of samples, and an index that says how many there must be.

Two members per clip, ``KEY.bits.npy`` (uint8 [bytes], numpy.packbits order) and ``KEY.json`` (labels, shape, clip index). A key is
made of plan and clip index alone, so no label of a stranger becomes a path. Times and owners are zero: the same clips give the same
bytes. A tar that was cut between two members reads as a shorter one; ``index.json`` has counts and hashes (:func:`check_tars`),
and is the index of webdataset's own ``wids`` too.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..bulk.commit import hash_file
from ..bulk.errors import DamagedError
from ..bulk.filesystem import LocalFileSystem
from ..bulk.format import BIT_ORDER
from ..bulk.quality import names as flag_names
from ..bulk.verify import Problem, Report
from ..config import AXES
from ..errors import DataFormatError, InvalidRequestError
from ..files import PathLike, new_folder
from .select import Selection
from .source import Progress, Rows, Source

FORMAT, FORMAT_VERSION = "gaitcrafter-webdataset", 1
INDEX = "index.json"
SHARD_CLIPS = 10_000
_INDEX_BYTES = 1 << 26


def export_webdataset(
    source: Source, out: PathLike, selection: Selection | None = None, progress: Progress | None = None, *,
    shard_clips: int = SHARD_CLIPS,
) -> dict[str, Any]:  # fmt: skip
    """Write the tars and their index into the folder ``out``. Returns what :data:`INDEX` says of them.

    Raises OutputError if ``out`` is occupied, InvalidRequestError if nothing is selected.
    """
    if not 1 <= shard_clips <= 1_000_000:
        raise InvalidRequestError(f"shard_clips must lie in 1..1000000, got {shard_clips}")
    with new_folder(out) as folder:
        writer = _Tars(folder, shard_clips)
        try:
            for rows in source.rows(selection, progress):
                for k in range(len(rows)):
                    writer.add(rows, k)
        finally:
            writer.close()
        index = writer.index(source)
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n")
    return index


class _Tars:
    def __init__(self, folder: Path, shard_clips: int) -> None:
        self._folder, self._limit = folder, shard_clips
        self._shards: list[dict[str, Any]] = []
        self._plans: dict[str, dict[str, Any]] = {}
        self._tar: tarfile.TarFile | None = None
        self._file: BinaryIO | None = None

    def add(self, rows: Rows, k: int) -> None:
        if self._tar is not None and self._shards[-1]["clips"] == self._limit:
            self.close()
        if self._tar is None:
            name = f"clips-{len(self._shards):06d}.tar"
            self._file = (self._folder / name).open("wb")
            self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)
            self._shards.append({"file": name, "clips": 0})
        self._plans.setdefault(rows.origin.plan_id, rows.origin.plan)
        index = int(rows.clip_index[k])
        key = f"{rows.origin.plan_id[:16]}-{index:020d}"
        bits = io.BytesIO()
        np.lib.format.write_array(bits, np.ascontiguousarray(rows.packed[k]), version=(1, 0), allow_pickle=False)
        about = {
            "clip_index": index, "seed": rows.seed, "plan_id": rows.origin.plan_id, "shape": list(rows.shape),
            **{axis: rows.names[axis][k] for axis in AXES}, "conditions": rows.conditions[k],
            "quality": flag_names(int(rows.quality[k])), "synthetic": True,
        }  # fmt: skip
        self._member(f"{key}.bits.npy", bits.getvalue())
        self._member(f"{key}.json", json.dumps(about, sort_keys=True).encode())
        self._shards[-1]["clips"] += 1

    def _member(self, name: str, data: bytes) -> None:
        assert self._tar is not None
        member = tarfile.TarInfo(name)  # time, user and group are 0, mode is 0o644
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))

    def close(self) -> None:
        if self._tar is not None and self._file is not None:
            self._tar.close()
            self._file.close()
            self._tar = None

    def index(self, source: Source) -> dict[str, Any]:
        """The document; every tar is read once more for its hash."""
        fs = LocalFileSystem()
        for shard in self._shards:
            digest = hash_file(fs, self._folder / shard["file"])
            shard.update(bytes=digest.size, sha256=digest.sha256)
        return {
            "format": FORMAT, "format_version": FORMAT_VERSION, "synthetic": True, "shape": list(source.shape),
            "bit_order": BIT_ORDER, "clips": sum(s["clips"] for s in self._shards), "shards": self._shards, "plans": self._plans,
            "__kind__": "wids-shard-index-v1", "wids_version": 1, "name": "gaitcrafter",
            "shardlist": [{"url": s["file"], "nsamples": s["clips"], "filesize": s["bytes"]} for s in self._shards],
        }  # fmt: skip


def check_tars(root: Path, progress: Progress | None = None) -> Report:
    """Compare an exported folder with its index: every byte, and the members of every tar."""
    report = Report(root, deep=True)
    try:
        shards = _read_index(root / INDEX)
    except DataFormatError as e:
        report.problems.append(Problem(str(root / INDEX), str(e)))
        return report
    report.shards = len(shards)
    known = {INDEX, *(s["file"] for s in shards)}
    report.problems += [Problem(str(p), f"{p}: no part of this export") for p in sorted(root.iterdir()) if p.name not in known]
    for number, shard in enumerate(shards):
        path = root / shard["file"]
        try:
            _check_tar(path, shard)
            report.checked += 1
            report.clips += shard["clips"]
        except DataFormatError as e:
            report.problems.append(Problem(str(path), str(e), number))
        if progress:
            progress(number + 1, len(shards))
    return report


def _read_index(path: Path) -> list[dict[str, Any]]:
    try:
        index = json.loads(LocalFileSystem().read(path, _INDEX_BYTES))
        if index["format"] != FORMAT or index["format_version"] != FORMAT_VERSION:
            raise DamagedError(f"{path}: not an index of tars of this package and release")
        shards = list(index["shards"])
        for k, shard in enumerate(shards):
            sound = shard["file"] == f"clips-{k:06d}.tar" and type(shard["clips"]) is int and type(shard["bytes"]) is int
            if not sound or not isinstance(shard["sha256"], str):
                raise DamagedError(f"{path}: entry {k} is not one of a tar")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        if isinstance(e, DataFormatError):
            raise
        raise DamagedError(f"{path}: not an index of tars: {e}") from e
    return shards


def _check_tar(path: Path, shard: dict[str, Any]) -> None:
    digest = hash_file(LocalFileSystem(), path)
    if digest.size != shard["bytes"]:
        raise DamagedError(f"{path}: {digest.size} bytes, {INDEX} says {shard['bytes']}: the tar was cut or changed")
    if digest.sha256 != shard["sha256"]:
        raise DamagedError(f"{path}: its sha256 is not that of {INDEX}: the tar was changed")
    try:
        with tarfile.open(path, "r:") as tar:
            members = sum(1 for _ in tar)
    except (tarfile.TarError, OSError, ValueError) as e:
        raise DamagedError(f"{path}: not a readable tar: {e}") from e
    if members != 2 * shard["clips"]:
        raise DamagedError(f"{path}: {members} members for {shard['clips']} clips")
