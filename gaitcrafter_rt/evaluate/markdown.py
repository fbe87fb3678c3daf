"""A report as a Markdown table, and its place in a model card."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import ModelFormatError, OutputError
from ..files import PathLike
from ..package import CARD

BEGIN, END = "<!-- evaluation: begin -->", "<!-- evaluation: end -->"
_CARD_LIMIT = 4 << 20


def render_markdown(report: dict[str, Any]) -> str:
    """The section of a model card: what was measured on what, one table row per figure, and how to read it."""
    data, generated, interval = report["data"], report["generated"], report["interval"]
    made = generated["provenance"]
    vocabulary = " x ".join(str(data["labels"][axis]) for axis in ("identity", "view", "covariate"))
    lines = [
        "## Evaluation", "",
        f"{generated['clips']:,} generated clips{_seed(generated)} beside {data['held_out_clips']:,} held-out {data['source']} "
        f"clips of the same identities, views and covariates ({vocabulary}). {report['note']}", "",
        *([f"Sampler: {_sampler(made['sampler'])}.", ""] if isinstance(made.get("sampler"), dict) else []),
        *_table(report["figures"], data["source"], goals=True),
    ]  # fmt: skip
    if report["blends"]:
        lines += ["", "Blended identities:", "", *_table(report["blends"], data["source"], goals=False)]
    lines += [
        "",
        f"Brackets: {interval['level']:.0%} intervals, {interval['method']}, {interval['replicates']} draws; n counts what was "
        "measured. A goal is *reached* if the whole interval lies at or above it, *not reached* if it lies below the goal and "
        "below the held-out figure, else *inconclusive*. docs/evaluation.md defines every figure.", "",
        f"Data: {data['made_by'] or data['name']}, clips sha256 `{data['clips_sha256'][:16]}`; "
        + (f"weights sha256 `{made['model_sha256'][:16]}`; " if "model_sha256" in made else "")
        + f"gaitcrafter_rt {report['gaitcrafter_rt']}.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def write_card(model_folder: PathLike, report: dict[str, Any]) -> Path:
    """Put the table into the model's README.md between two marks; all else in it stays as it is, byte for byte.

    The section is appended if the card has no marks yet. checksums.json does not cover README.md.

    Raises:
        ModelFormatError: no card there, or one whose marks do not pair.
        OutputError: it cannot be written; the old card is then untouched.
    """
    path, before, after = _split_card(model_folder)
    _replace(path, before + BEGIN.encode() + b"\n" + render_markdown(report).encode() + END.encode() + after)
    return path


def check_card(model_folder: PathLike) -> None:
    """Raise what :func:`write_card` would raise for the card as it stands, before anything is computed."""
    _split_card(model_folder)


def _split_card(model_folder: PathLike) -> tuple[Path, bytes, bytes]:
    """The card's path and what stands before and after the section."""
    path = Path(model_folder) / CARD
    if not path.is_file() or path.stat().st_size > _CARD_LIMIT:
        raise ModelFormatError(f"{path}: no model card there, or one over {_CARD_LIMIT} bytes")
    text, begin, end = path.read_bytes(), BEGIN.encode(), END.encode()
    if text.count(begin) == text.count(end) == 0:
        return path, text.rstrip(b"\n") + b"\n\n", b"\n"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ModelFormatError(f"{path}: {BEGIN} and {END} must stand there once each, in this order, or not at all")
    return path, text[: text.index(begin)], text[text.index(end) + len(end) :]


def _replace(path: Path, content: bytes) -> None:
    try:
        fd, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(fd, "wb") as f:
                f.write(content)
                f.flush()
                os.fsync(f.fileno())
            os.chmod(name, path.stat().st_mode & 0o777)
            os.replace(name, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)
    except OSError as e:
        raise OutputError(f"{path} could not be written: {e.strerror or e}; the old card is untouched") from e


def _table(figures: list[dict[str, Any]], source: str, *, goals: bool) -> list[str]:
    head = ["figure", "generated", "n", f"held-out {source}", "n"] + (["trivial answer", "goal", "verdict"] if goals else [])
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for f in figures:
        row = [f["title"] + (f" ({f['note']})" if f["note"] else "")]
        for estimate in (f["generated"], f["reference"]):
            row += [_estimate(estimate, f["kind"]), _count(estimate)]
        if goals:
            verdict = f"**{f['verdict']}**" if f["verdict"] == "reached" else f["verdict"] or ""
            if f["verdict"] == "inconclusive":
                verdict += f": {f['reason']}"
            row += ["" if f["baseline"] is None else _number(f["baseline"], f["kind"]), _goal(f), verdict]
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |")
    return rows


def _estimate(estimate: dict[str, Any] | None, kind: str) -> str:
    if estimate is None:
        return "-"
    value, low, high = (_number(estimate[k], kind) for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _number(value: float, kind: str) -> str:
    if kind == "share":
        return f"{100 * value:.1f} %"
    return f"{value:.3f}" if kind == "ratio" else f"{value:.2f}"


def _count(estimate: dict[str, Any] | None) -> str:
    return "" if estimate is None else f"{estimate['n']:,} {estimate['unit']}"


def _goal(figure: dict[str, Any]) -> str:
    if figure["goal"] is None:
        return ""
    return f"{figure['goal']:.1f}" if figure["kind"] == "ratio" else f"{100 * figure['goal']:.0f} %"


def _seed(generated: dict[str, Any]) -> str:
    return "" if generated["seed"] is None else f" (seed {generated['seed']})"


def _sampler(settings: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in settings.items())
