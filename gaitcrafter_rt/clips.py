"""What an engine returns: packed silhouette clips with everything that is known of how they were made."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from .config import AXES
from .errors import InvalidRequestError
from .files import PathLike

if TYPE_CHECKING:
    from pathlib import Path

    from .output import OpenGaitReport

Condition = Mapping[str, Any]
_PREVIEW_CLIPS = 16


@dataclass(eq=False)
class ClipBatch:
    """Generated clips, one bit per pixel until somebody looks at them.

    Attributes:
        packed: uint8 [N, ceil(F*H*W / 8)], numpy.packbits order (frame, row, column; first pixel = top bit).
        shape: (F, H, W), frames, height and width of a clip.
        conditions: one mapping per clip, axis to label weights: ``{"identity": {"001": 0.5, "002": 0.5}, "view": {"090": 1}}``.
            An absent axis was null (unconditional). A plain label string is accepted and means weight 1. The key ``cond``
            holds the raw vector of a model that takes one.
        seed: the seed, 0 to 2**64 - 1.
        clip_indices: uint64 [N], the number of each clip under that seed; (seed, clip index) determines the noise.
        provenance: at least ``synthetic`` (always True), and what the engine adds: model name and sha256, sampler, versions.

    Raises:
        InvalidRequestError: the parts do not fit each other.
    """

    packed: np.ndarray
    shape: tuple[int, int, int]
    conditions: Sequence[Condition]
    seed: int
    clip_indices: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shape = tuple(int(n) for n in self.shape)  # type: ignore[assignment]
        self.packed = np.asarray(self.packed)
        self.clip_indices = np.asarray(self.clip_indices, np.uint64)
        self.conditions = [plain_condition(c) for c in self.conditions]
        self.provenance = {**self.provenance, "synthetic": True}
        frames, height, width = self.shape
        want = (len(self.conditions), (frames * height * width + 7) // 8)
        if self.packed.dtype != np.uint8 or self.packed.shape != want:
            raise InvalidRequestError(f"packed clips must be uint8 {want}, got {self.packed.dtype} {self.packed.shape}")
        if self.clip_indices.shape != (len(self.conditions),):
            raise InvalidRequestError(f"{len(self.clip_indices)} clip indices for {len(self.conditions)} clips")

    @classmethod
    def concatenate(cls, batches: Sequence[ClipBatch]) -> ClipBatch:
        """Batches of one model, seed and sampler as one. Raises InvalidRequestError if they differ."""
        if not batches:
            raise InvalidRequestError("concatenate needs at least one batch")
        first = batches[0]
        for other in batches[1:]:
            if (other.shape, other.seed, other.provenance) != (first.shape, first.seed, first.provenance):
                raise InvalidRequestError("concatenate needs batches of one shape, seed and provenance")
        return cls(
            np.concatenate([b.packed for b in batches]), first.shape, [c for b in batches for c in b.conditions],
            first.seed, np.concatenate([b.clip_indices for b in batches]), first.provenance,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.packed)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray):  # type: ignore[no-untyped-def]
        """``batch[3]`` is uint8 [F, H, W] of 0 and 255; ``batch[2:5]`` and ``batch[[4, 1]]`` are batches."""
        if isinstance(index, int | np.integer):
            if not -len(self) <= index < len(self):
                raise IndexError(f"clip {index} of {len(self)}")
            return self._unpack(self.packed[index])
        rows = np.arange(len(self))[index]
        return ClipBatch(
            self.packed[rows], self.shape, [self.conditions[i] for i in rows], self.seed, self.clip_indices[rows], self.provenance
        )

    def __repr__(self) -> str:
        f, h, w = self.shape
        return f"ClipBatch({len(self)} clips of {f}x{h}x{w}, seed {self.seed}, {self.provenance.get('model', 'unnamed model')})"

    @cached_property
    def frames(self) -> np.ndarray:
        """uint8 [N, F, H, W], 0 = background, 255 = foreground; unpacked at the first use and kept."""
        return self._unpack(self.packed)

    def _unpack(self, bits: np.ndarray) -> np.ndarray:
        f, h, w = self.shape
        pixels = np.unpackbits(bits, axis=-1, count=f * h * w).reshape(*bits.shape[:-1], f, h, w)
        pixels *= 255
        return pixels

    def label(self, index: int) -> str:
        """One line for people: ``001 + 002, view 090, nm``."""
        return condition_text(self.conditions[index])

    def save_npz(self, path: PathLike) -> Path:
        """Compressed npz without pickle: packed, shape, seed, clip_indices, and conditions and provenance as JSON text."""
        from .output import save_npz

        return save_npz(self, path)

    @classmethod
    def load_npz(cls, path: PathLike) -> ClipBatch:
        """Read what :meth:`save_npz` wrote. Raises DataFormatError for anything else; nothing is unpickled."""
        from .output import load_npz

        return load_npz(path)

    def save_gif(self, path: PathLike, *, scale: int = 3, fps: float = 25, columns: int | None = None) -> Path:
        """Animated GIF, all clips side by side and labelled. At most 64 clips: slice the batch for more."""
        from .output import save_animation

        return save_animation(self, path, "gif", scale=scale, fps=fps, columns=columns)

    def save_webp(self, path: PathLike, *, scale: int = 3, fps: float = 25, columns: int | None = None) -> Path:
        """Animated lossless WebP; otherwise as :meth:`save_gif`."""
        from .output import save_animation

        return save_animation(self, path, "webp", scale=scale, fps=fps, columns=columns)

    def save_mp4(self, path: PathLike, *, scale: int = 4, fps: float = 25, columns: int | None = None, loops: int = 4) -> Path:
        """H.264 video that plays the clips ``loops`` times (extra ``video``); otherwise as :meth:`save_gif`."""
        from .output import save_mp4

        return save_mp4(self, path, scale=scale, fps=fps, columns=columns, loops=loops)

    def save_sheet(self, path: PathLike, *, frames: int = 10, scale: int = 2) -> Path:
        """PNG contact sheet: one clip per row with its labels, ``frames`` evenly spaced frames across."""
        from .output import save_sheet

        return save_sheet(self, path, frames=frames, scale=scale)

    def save_opengait(self, root: PathLike, *, edges: str = "hard") -> OpenGaitReport:
        """A tree that OpenGait loads, one pickle per clip; returns class_num and the settings recognisers need.

        ``edges`` is "hard" (0 and 255) or "soft" (the grey borders that real, resized silhouettes have).
        """
        from .output import save_opengait

        return save_opengait(self, root, edges=edges)

    def _repr_png_(self) -> bytes | None:
        """Notebook picture: a contact sheet of the first clips."""
        from .output import sheet_png

        return sheet_png(self[:_PREVIEW_CLIPS], frames=10, scale=1) if len(self) else None

    def _repr_html_(self) -> str:
        """Notebook picture: the first clips, moving."""
        from .output import animation_bytes

        caption = escape(repr(self)) + (f", the first {_PREVIEW_CLIPS} shown" if len(self) > _PREVIEW_CLIPS else "")
        if not len(self):
            return f"<p>{caption}</p>"
        picture = base64.b64encode(animation_bytes(self[:_PREVIEW_CLIPS], "gif", scale=2)).decode()
        image = f'<img alt="{caption}" src="data:image/gif;base64,{picture}">'
        return f'<figure style="margin:0">{image}<figcaption>{caption}</figcaption></figure>'


def plain_condition(condition: Condition) -> dict[str, Any]:
    """The one form that is stored: axis to {label: weight}. Raises InvalidRequestError for an unknown axis."""
    plain: dict[str, Any] = {}
    for axis, value in condition.items():
        if axis == "cond":
            if value is not None:
                plain[axis] = [float(v) for v in value]
        elif axis not in AXES:
            raise InvalidRequestError(f"no condition axis {axis!r}; the axes are {', '.join(AXES)}")
        elif isinstance(value, str):
            plain[axis] = {value: 1.0}
        elif value:
            plain[axis] = {str(label): float(weight) for label, weight in dict(value).items()}
    return plain


def blend_text(weights: Mapping[str, float]) -> str:
    """Label weights for people: ``001``, ``001 + 002``, ``0.3*001 + 0.7*002``."""
    return " + ".join(label if weight == 1 else f"{weight:.3g}*{label}" for label, weight in weights.items())


def condition_text(condition: Condition) -> str:
    """One line for people, as ``001 + 002, view 090, nm``; an absent axis is left out."""
    plain = plain_condition(condition)
    parts = [
        prefix + blend_text(plain[axis])
        for axis, prefix in (("dataset", ""), ("identity", ""), ("view", "view "), ("covariate", ""))
        if axis in plain
    ]
    if "cond" in plain:
        parts.append(f"cond vector of {len(plain['cond'])}")
    return ", ".join(parts) or "unconditional"


def conditions_json(conditions: Sequence[Condition]) -> str:
    """JSON text of a list of conditions, the form that every output carries."""
    return json.dumps([plain_condition(c) for c in conditions], ensure_ascii=False, separators=(",", ":"))
