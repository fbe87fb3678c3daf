"""Writers: every way a batch of clips leaves the engine. All of them are atomic and refuse to overwrite."""

from __future__ import annotations

from .animation import animation_bytes, save_animation, save_mp4
from .npz import load_npz, save_npz
from .opengait import OpenGaitReport, OpenGaitWriter, save_opengait
from .sheet import save_sheet, sheet_png

__all__ = [
    "OpenGaitReport",
    "OpenGaitWriter",
    "animation_bytes",
    "load_npz",
    "save_animation",
    "save_mp4",
    "save_npz",
    "save_opengait",
    "save_sheet",
    "sheet_png",
]
