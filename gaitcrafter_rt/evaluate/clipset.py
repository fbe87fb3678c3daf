"""Clips with labels in one vocabulary, whether they were generated or come from a packed set, and what is measured on each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..clips import ClipBatch, Condition
from ..config import Labels
from ..data.packed import PackedClips, unpack
from ..errors import InvalidRequestError
from . import silhouettes
from .classifier_input import clip_planes
from .period import can_measure, gait_period, lower_body_width

_CHUNK = 128


@dataclass(frozen=True)
class ClipSet:
    """``bits`` uint8 [N, bytes] and per clip the index of its identity, view and covariate, -1 where it has none or several."""

    bits: np.ndarray
    shape: tuple[int, int, int]
    identity: np.ndarray
    view: np.ndarray
    covariate: np.ndarray
    sequence: np.ndarray

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, rows: np.ndarray) -> ClipSet:
        return ClipSet(self.bits[rows], self.shape, self.identity[rows], self.view[rows], self.covariate[rows], self.sequence[rows])

    def chunks(self) -> Iterator[np.ndarray]:
        """uint8 [up to 128, F, H, W] of 0 and 1, in order."""
        for start in range(0, len(self), _CHUNK):
            yield unpack(self.bits[start : start + _CHUNK], *self.shape)

    @classmethod
    def from_packed(cls, data: PackedClips, split: int) -> ClipSet:
        """The clips of one split; an identity that is unknown stays -1."""
        rows = np.flatnonzero(data.split == split)
        columns = (np.asarray(getattr(data, name)[rows], np.int64) for name in ("identity", "view", "covariate", "sequence"))
        return cls(data.bits[rows], data.meta.shape, *columns)

    @classmethod
    def from_batch(cls, batch: ClipBatch, labels: Labels) -> ClipSet:
        """Generated clips; sequence counts the clips of one cell. Raises InvalidRequestError for a label that ``labels`` lacks."""
        columns = []
        for axis in ("identity", "view", "covariate"):
            place = {name: i for i, name in enumerate(getattr(labels, axis))}
            columns.append(np.array([_single(c, axis, place) for c in batch.conditions], np.int64))
        seen: dict[tuple[int, ...], int] = {}
        sequence = []
        for cell in zip(*(c.tolist() for c in columns), strict=True):
            sequence.append(seen.get(cell, 0))
            seen[cell] = sequence[-1] + 1
        return cls(batch.packed, batch.shape, columns[0], columns[1], columns[2], np.asarray(sequence, np.int64))


def _single(condition: Condition, axis: str, place: dict[str, int]) -> int:
    weights = condition.get(axis, {})
    if len(weights) != 1:
        return -1
    (name,) = weights
    if name not in place:
        raise InvalidRequestError(
            f"a clip has {axis} {name!r}, which the data does not hold; evaluate against the data that the model was trained on"
        )
    return place[name]


@dataclass(frozen=True)
class Measured:
    """What one pass over a ClipSet of N clips finds.

    ``whole`` [N] share of frames that are one figure; ``energy`` float32 [N, H * W]; ``period`` [N] frames per gait cycle (NaN:
    not measurable); ``foreground``, ``flicker`` [N] shares of pixels; ``planes`` uint8 [N, C, H / 2, W / 2] for the classifier.
    """

    clips: ClipSet
    whole: np.ndarray
    energy: np.ndarray
    period: np.ndarray
    foreground: np.ndarray
    flicker: np.ndarray
    planes: np.ndarray


def measure(clips: ClipSet) -> Measured:
    """One pass over all clips. Raises MissingExtraError without scipy."""
    whole, energy, widths, foreground, flicker, planes = [], [], [], [], [], []
    for chunk in clips.chunks():
        whole.append((silhouettes.largest_component_share(chunk) >= silhouettes.WHOLE).mean(axis=1))
        energy.append(silhouettes.energy_image(chunk))
        widths.append(lower_body_width(chunk))
        foreground.append(silhouettes.foreground_share(chunk))
        flicker.append(silhouettes.flicker(chunk))
        planes.append(clip_planes(chunk))
    return Measured(
        clips, np.concatenate(whole), np.concatenate(energy), _periods(np.concatenate(widths)),
        np.concatenate(foreground), np.concatenate(flicker), np.concatenate(planes),
    )  # fmt: skip


@dataclass(frozen=True)
class Training:
    """What is needed of the N training clips: ``period`` [N] and ``energy`` float32 [N, H * W], as in :class:`Measured`."""

    clips: ClipSet
    period: np.ndarray
    energy: np.ndarray


def measure_training(clips: ClipSet) -> Training:
    """A pass that leaves out what only generated and held-out clips are asked."""
    widths, energy = [], []
    for chunk in clips.chunks():
        widths.append(lower_body_width(chunk))
        energy.append(silhouettes.energy_image(chunk))
    return Training(clips, _periods(np.concatenate(widths)), np.concatenate(energy))


def _periods(widths: np.ndarray) -> np.ndarray:
    return gait_period(widths) if can_measure(widths.shape[1]) else np.full(len(widths), np.nan)
