"""Contact sheets: one clip per row with its labels, time across."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ..clips import ClipBatch
from ..errors import InvalidRequestError
from ..files import PathLike, new_file, refuse_existing_file
from .canvas import FAINT, INK, MARGIN, blank, checked, enlarge, fit, text_width, write
from .labels import label_lines

_GAP = 2
_MAX_LABEL = 260


def draw_sheet(batch: ClipBatch, *, frames: int = 10, scale: int = 2) -> Image.Image:
    """The sheet as a greyscale picture. ``frames`` is 1..F frames shown per clip, ``scale`` 1..8.

    Raises InvalidRequestError for no clips, bad values or a picture beyond 64 million pixels.
    """
    if not len(batch):
        raise InvalidRequestError("a contact sheet needs at least one clip")
    total, height, width = batch.shape
    shown = np.linspace(0, total, min(checked("frames", frames, 1, 512), total), endpoint=False).astype(int)
    scale = checked("scale", scale, 1, 8)
    size = 12 if scale == 1 else 13
    lines = [label_lines(batch, i) for i in range(len(batch))]
    label = min(_MAX_LABEL, max(text_width(text, size) for pair in lines for text in pair)) + 2 * MARGIN
    cell_w, cell_h = width * scale + _GAP, height * scale + _GAP
    top, bottom = MARGIN + size + 6, size + 2 * MARGIN
    sheet = blank(label + len(shown) * cell_w + MARGIN, top + len(batch) * cell_h + bottom)
    for column, frame in enumerate(shown):
        write(sheet, label + column * cell_w + width * scale // 2, MARGIN, f"{frame}", size, ink=FAINT, anchor="ma")
    write(sheet, label - MARGIN, MARGIN, "frame", size, ink=FAINT, anchor="ra")
    for row in range(len(batch)):
        y = top + row * cell_h
        middle = y + height * scale // 2
        first, second = lines[row]
        write(sheet, label - MARGIN, middle - 1, fit(first, size, label - 2 * MARGIN), size, ink=INK, anchor="rs")
        write(sheet, label - MARGIN, middle + size, fit(second, size, label - 2 * MARGIN), size, ink=FAINT, anchor="rs")
        strip = enlarge(batch[row][shown], scale)
        for column, picture in enumerate(strip):
            sheet.paste(Image.fromarray(picture), (label + column * cell_w, y))
    write(sheet, sheet.width - MARGIN, sheet.height - MARGIN, _footer(batch, sheet.width, size), size, ink=FAINT, anchor="rs")
    return sheet


def sheet_png(batch: ClipBatch, *, frames: int = 10, scale: int = 2) -> bytes:
    """The sheet as PNG bytes."""
    out = io.BytesIO()
    draw_sheet(batch, frames=frames, scale=scale).save(out, "PNG", optimize=True)
    return out.getvalue()


def save_sheet(batch: ClipBatch, path: PathLike, *, frames: int = 10, scale: int = 2) -> Path:
    """Write the sheet as PNG. Raises OutputError if ``path`` exists or cannot be written."""
    refuse_existing_file(path)
    data = sheet_png(batch, frames=frames, scale=scale)
    with new_file(path) as f:
        f.write(data)
    return Path(path)


def _footer(batch: ClipBatch, width: int, size: int) -> str:
    model = batch.provenance.get("model")
    return fit(f"synthetic, seed {batch.seed}" + (f", {model}" if model else ""), size, width - 2 * MARGIN)
