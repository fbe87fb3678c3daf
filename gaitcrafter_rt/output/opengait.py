"""Clips as a tree that OpenGait (ShiqiYu/OpenGait) loads unchanged.

::

    ROOT/syn-IDENTITY/syn-COVARIATE-NN/VIEW/VIEW.pkl     pickled uint8 [T, H, W], 0..255
    ROOT/partition.json                                  {"TRAIN_SET": [identities], "TEST_SET": []}
    ROOT/manifest.json                                   what every file is and how it was made

Identities and types are prefixed ``syn-``: they collide with no real label, and no evaluation protocol knows them, so a synthetic
clip can be trained on and never slips into a gallery or a probe set. Metadata stands in ROOT only, because the loader takes every
file further down for a sequence. NN counts the clips of one identity, covariate and view.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..clips import ClipBatch, condition_text
from ..errors import InvalidRequestError, OutputError
from ..files import PathLike, publish_folder, refuse_occupied_folder, temporary_folder_beside
from .names import ANY, blend_name
from .soften import soft_edges

PREFIX = "syn-"
FORMAT_VERSION = 1


def pickle_array(array: np.ndarray) -> bytes:
    """A C-ordered uint8 array as a protocol-3 pickle that every numpy 1 and 2 reads.

    numpy 2 itself would name ``numpy._core.multiarray``, which OpenGait's usual numpy 1 does not have; both read the old path.
    Written opcode by opcode, so that the bytes depend on nothing but the array.
    """
    if array.dtype != np.uint8 or array.nbytes >= 1 << 32:
        raise InvalidRequestError(f"only uint8 arrays below 4 GiB are written, got {array.dtype} of {array.nbytes} bytes")
    shape = b"".join(b"J" + struct.pack("<i", n) for n in array.shape)
    dtype = (
        b"cnumpy\ndtype\n" + b"X\x02\x00\x00\x00u1" + b"\x89\x88\x87R"  # dtype('u1', False, True)
        b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )  # its state: (3, '|', None, None, None, -1, -1, 0)
    data = array.tobytes()
    return (
        b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        b"(K\x01(" + shape + b"t" + dtype + b"\x89B" + struct.pack("<I", len(data)) + data + b"tb."
    )


@dataclass
class OpenGaitReport:
    """What a recogniser must be told about a written tree. ``settings`` maps a model to OpenGait config keys and values."""

    root: Path
    class_num: int
    sequences: int
    frames: int
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self.__dict__, "root": str(self.root)}

    def text(self) -> str:
        """For people: the settings line by line, then the notes."""
        lines = [f"{self.sequences} sequences of {self.class_num} identities in {self.root}"]
        for model, values in self.settings.items():
            lines.append(f"{model}:")
            lines += [f"  {key}: {json.dumps(value)}" for key, value in values.items()]
        return "\n".join(lines + [f"note: {n}" for n in self.notes])


def recogniser_settings(class_num: int, frames: int) -> dict[str, dict[str, Any]]:
    """The keys of OpenGait's own configs (configs/gaitbase, gaitgl, deepgaitv2) that a tree of such clips changes."""
    fixed = min(30, frames)
    ordered = {"trainer_cfg.sampler.sample_type": "fixed_ordered", "trainer_cfg.sampler.frames_num_fixed": fixed,
               "trainer_cfg.sampler.frames_skip_num": 0}  # fmt: skip
    return {
        "GaitBase": {
            "model_cfg.SeparateBNNecks.class_num": class_num,
            "trainer_cfg.sampler.sample_type": "fixed_unordered",
            "trainer_cfg.sampler.frames_num_fixed": fixed,
        },
        "GaitGL": {"model_cfg.class_num": class_num, **ordered},
        "DeepGaitV2": {"model_cfg.SeparateBNNecks.class_num": class_num, **ordered},
    }


class OpenGaitWriter:
    """Add batches, then :meth:`finish`; the tree appears whole or not at all. Leaving a ``with`` block finishes it.

    ``mixed`` allows batches of several seeds and models; ``manifest.json`` then lists them as ``sources``, and says for every
    sequence which one it is of. Raises InvalidRequestError for labels that cannot be folder names, OutputError if ``root`` exists
    and is not an empty folder.
    """

    def __init__(self, root: PathLike, *, edges: str = "hard", mixed: bool = False) -> None:
        if edges not in ("hard", "soft"):
            raise InvalidRequestError(f"edges must be 'hard' (0 and 255) or 'soft' (grey borders), got {edges!r}")
        self._edges = edges
        self._root = refuse_occupied_folder(root)
        self._tmp: Path | None = temporary_folder_beside(self._root)
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._folded: dict[str, str] = {}
        self._identities: dict[str, Any] = {}
        self._sequences: list[dict[str, Any]] = []
        self._mixed, self._sources = mixed, list[dict[str, Any]]()
        self._shape: tuple[int, int, int] | None = None
        self._empty_frames = self._cut = self._foreground = 0

    def __enter__(self) -> OpenGaitWriter:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if kind is not None:
            self.discard()
        elif self._tmp is not None:
            self.finish()

    def add(self, batch: ClipBatch) -> None:
        """Write the clips of one batch. All batches must share their shape, and seed and provenance unless the tree is mixed."""
        if self._tmp is None:
            raise InvalidRequestError("this tree is finished; make a new writer")
        about = {"seed": int(batch.seed), "provenance": batch.provenance}
        known = about in self._sources
        if self._shape is not None and (self._shape != batch.shape or not (known or self._mixed)):
            raise InvalidRequestError("all clips of one tree must share shape, seed and provenance")
        self._shape = batch.shape
        if not known:
            self._sources.append(about)
        source = self._sources.index(about)
        for index in range(len(batch)):
            self._add_clip(batch, index, source)

    def _add_clip(self, batch: ClipBatch, index: int, source: int) -> None:
        assert self._tmp is not None
        folder = self._folder(batch.conditions[index])
        view = folder.rpartition("/")[2]
        clip = batch[index]
        self._measure(clip)
        data = pickle_array(soft_edges(clip) if self._edges == "soft" else clip)
        path = f"{folder}/{view}.pkl"
        try:
            (self._tmp / folder).mkdir(parents=True)
            (self._tmp / path).write_bytes(data)
        except OSError as e:
            self.discard()
            raise OutputError(f"{self._root} could not be written: {e.strerror}; nothing is left of it") from e
        entry = {"path": path, "clip_index": int(batch.clip_indices[index]), "conditions": batch.conditions[index]}
        self._sequences.append({**entry, "source": source} if self._mixed else entry)

    def _folder(self, condition: Mapping[str, Any]) -> str:
        if "cond" in condition:
            raise InvalidRequestError("clips made from a raw cond vector carry no identity; OpenGait needs one: save them as npz")
        identity = PREFIX + _part(condition, "identity")
        kind = "-".join(_part(condition, axis) for axis in ("dataset", "covariate") if axis == "covariate" or axis in condition)
        view = _part(condition, "view")
        number = self._counts[identity, kind, view]
        self._counts[identity, kind, view] += 1
        parts = (identity, f"{PREFIX}{kind}-{number:02d}", view)
        for depth in range(1, 4):
            path = "/".join(parts[:depth])
            # Two labels that differ in case only would share a folder on the file systems of Windows and macOS.
            if self._folded.setdefault(path.casefold(), path) != path:
                raise InvalidRequestError(
                    f"labels {path!r} and {self._folded[path.casefold()]!r} differ in upper and lower case only"
                )
        self._identities[identity] = condition.get("identity", {})
        return "/".join(parts)

    def _measure(self, clip: np.ndarray) -> None:
        self._empty_frames += int((~clip.any(axis=(1, 2))).sum())
        cut = clip.shape[2] // 64 * 10
        if cut:
            self._cut += int(np.count_nonzero(clip[:, :, :cut])) + int(np.count_nonzero(clip[:, :, -cut:]))
        self._foreground += int(np.count_nonzero(clip))

    def finish(self) -> OpenGaitReport:
        """Write partition and manifest and rename into place. Raises InvalidRequestError if nothing was added, OutputError."""
        if self._tmp is None:
            raise InvalidRequestError("this tree is finished already")
        if self._shape is None or not self._sequences:
            self.discard()
            raise InvalidRequestError("an OpenGait tree needs at least one clip; none was added")
        names = sorted(self._identities)
        report = OpenGaitReport(
            self._root,
            len(names),
            len(self._sequences),
            self._shape[0],
            recogniser_settings(len(names), self._shape[0]),
            self._notes(),
        )
        about: dict[str, Any] = {"sources": self._sources} if self._mixed else self._sources[0]
        manifest = {
            "format": "gaitcrafter-opengait-tree", "format_version": FORMAT_VERSION, "synthetic": True, "edges": self._edges,
            "shape": list(self._shape), **about, "class_num": report.class_num, "settings": report.settings,
            "notes": report.notes, "identities": self._identities, "sequences": self._sequences,
        }  # fmt: skip
        try:
            (self._tmp / "partition.json").write_text(json.dumps({"TRAIN_SET": names, "TEST_SET": []}, indent=1) + "\n")
            (self._tmp / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
            publish_folder(self._tmp, self._root)
        except OSError as e:
            self.discard()
            if isinstance(e, OutputError):
                raise
            raise OutputError(f"{self._root} could not be written: {e.strerror}; nothing is left of it") from e
        self._tmp = None
        return report

    def discard(self) -> None:
        """Give up; the temporary folder is removed and the target is untouched."""
        if self._tmp is not None:
            shutil.rmtree(self._tmp, ignore_errors=True)
            self._tmp = None

    def _notes(self) -> list[str]:
        assert self._shape is not None
        frames, height, width = self._shape
        notes = [
            "add the identities of partition.json to the TRAIN_SET of your partition; OpenGait ignores ids that are not listed",
            "class_num counts the identities of this tree; add those of the real training set that you train with",
            f"frames_skip_num must be 0: DeepGaitV2's default of 4 asks for 34 frames, and a clip of {frames} would wrap around",
        ]
        if (height, width) not in ((64, 64), (64, 44), (128, 128), (128, 88)):
            notes.append(f"clips are {height}x{width}; the models of OpenGait expect 64x64")
        if frames < 30:
            notes.append(f"clips have {frames} frames, fewer than the usual 30")
        if self._empty_frames:
            notes.append(f"{self._empty_frames} frames hold no foreground at all; inspect the clips before training on them")
        if self._foreground and self._cut / self._foreground > 0.01:
            notes.append(
                f"{self._cut / self._foreground:.1%} of the foreground lies in the columns that BaseSilCuttingTransform cuts off"
            )
        return notes


def save_opengait(batch: ClipBatch, root: PathLike, *, edges: str = "hard") -> OpenGaitReport:
    """One batch as a tree; see :class:`OpenGaitWriter`."""
    with OpenGaitWriter(root, edges=edges) as writer:
        writer.add(batch)
        return writer.finish()


def _part(condition: Mapping[str, Any], axis: str) -> str:
    weights = condition.get(axis)
    if not weights:
        return ANY
    try:
        return blend_name(weights)
    except InvalidRequestError as e:
        raise InvalidRequestError(f"{axis} of {condition_text(condition)!r:.60}: {e}") from e
