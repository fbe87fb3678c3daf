"""What pictures say of a clip."""

from __future__ import annotations

from ..clips import ClipBatch, blend_text, condition_text


def label_lines(batch: ClipBatch, index: int) -> tuple[str, str]:
    """A clip's identity, and the rest of its labels (its clip index where there are none)."""
    condition = batch.conditions[index]
    who = blend_text(condition["identity"]) if "identity" in condition else "any identity"
    rest = {axis: value for axis, value in condition.items() if axis != "identity"}
    return who, condition_text(rest) if rest else f"clip {batch.clip_indices[index]}"
