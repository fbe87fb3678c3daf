"""The formats of ``generate``: each takes batches as they come and leaves one file or folder in OUT."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from ..clips import ClipBatch

# What is drawn at most; a picture of thousands of clips shows nothing.
PICTURE_CLIPS = {"gif": 16, "webp": 16, "mp4": 16, "sheet": 40}
FORMATS = ("opengait", "npz", "gif", "webp", "mp4", "sheet")


class Sink(Protocol):
    """Takes batches, then finishes."""

    def add(self, batch: ClipBatch) -> None: ...

    def finish(self) -> dict[str, Any]: ...


class _Tree:
    def __init__(self, folder: Path, edges: str) -> None:
        from ..output import OpenGaitWriter

        self._writer = OpenGaitWriter(folder / "opengait", edges=edges)

    def add(self, batch: ClipBatch) -> None:
        self._writer.add(batch)

    def finish(self) -> dict[str, Any]:
        report = self._writer.finish()
        return {"path": "opengait", "report": report}


class _Npz:
    def __init__(self, folder: Path) -> None:
        self._path = folder / "clips.npz"
        self._batches: list[ClipBatch] = []

    def add(self, batch: ClipBatch) -> None:
        self._batches.append(batch)

    def finish(self) -> dict[str, Any]:
        ClipBatch.concatenate(self._batches).save_npz(self._path)
        return {"path": self._path.name}


class _Picture:
    """Keeps the first clips and draws them at the end."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder, self._kind, self._limit = folder, kind, PICTURE_CLIPS[kind]
        self._batches: list[ClipBatch] = []
        self._kept = self._seen = 0
        if kind == "mp4":
            _require_video()

    def add(self, batch: ClipBatch) -> None:
        self._seen += len(batch)
        if self._kept < self._limit:
            self._batches.append(batch[: self._limit - self._kept])
            self._kept += len(self._batches[-1])

    def finish(self) -> dict[str, Any]:
        clips = ClipBatch.concatenate(self._batches)
        name = "sheet.png" if self._kind == "sheet" else f"clips.{self._kind}"
        getattr(clips, f"save_{self._kind}")(self._folder / name)
        done: dict[str, Any] = {"path": name}
        if self._seen > self._kept:
            done["note"] = f"{name} shows the first {self._kept} of {self._seen} clips"
        return done


def open_sinks(formats: list[str], folder: Path, edges: str) -> dict[str, Sink]:
    """One sink per format. Raises MissingExtraError before anything is generated if a format needs an extra."""
    sinks: dict[str, Sink] = {}
    for name in formats:
        sinks[name] = _Tree(folder, edges) if name == "opengait" else _Npz(folder) if name == "npz" else _Picture(folder, name)
    return sinks


def _require_video() -> None:
    from ..errors import MissingExtraError

    try:
        import imageio_ffmpeg  # noqa: F401
    except ImportError as e:
        raise MissingExtraError.for_extra("video", "writing MP4", e.name) from e
