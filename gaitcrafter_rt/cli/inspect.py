"""``gaitcrafter-rt inspect``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import CapabilityError, ModelFormatError
from .common import FOLDER, console, human_bytes, json_option, print_json, printable, progress

if TYPE_CHECKING:
    from ..data import PackedClips, ScanReport

_HEADER_LIMIT = 100 << 20


@click.group()
def inspect() -> None:
    """Show what a model or a data tree holds and what is wrong with it."""


@inspect.command()
@click.argument("path")
@json_option
def model(path: str, as_json: bool) -> None:
    """Show the model package at PATH, or the shipped model of that name: network, labels, sampler, origin, checksums.

    \b
    gaitcrafter-rt inspect model walker
    """
    from ..models import resolve_model

    facts = model_facts(resolve_model(path))
    if as_json:
        print_json(facts)
        return
    config = facts["config"]
    clip, unet, diffusion = config["clip"], config["unet"], config["diffusion"]
    rows = [
        ("model", config["name"]),
        ("folder", facts["path"]),
        ("clip", f"{clip['frames']} frames of {clip['height']}x{clip['width']}"),
        (
            "network",
            f"dim {unet['dim']}, multipliers {unet['dim_mults']}, patch {unet['patch']}, {facts['parameters']:,} parameters",
        ),
        ("diffusion", f"predicts {diffusion['prediction']}, {diffusion['schedule']} schedule, {diffusion['timesteps']} timesteps"),
        ("sampler", _sampler_text(config["sampler"])),
        ("guidance", "trained" if config["conditioning"]["guidance_trained"] else "not trained: only guidance 1"),
    ]
    for axis, names in config["labels"].items():
        if names:
            rows.append((axis, f"{_shorten(names)}, wired as {_wiring(config['conditioning'], axis)}"))
    if quantisation := config.get("quantisation"):
        measured = f"{quantisation['clips']} clips, {quantisation['method'] or 'by a method that it does not say'}"
        rows.append(("int8", f"{len(quantisation['layers'])} convolutions have ranges, from {measured}"))
    origin = config["provenance"]
    digest = facts["sha256"]["model.safetensors"][:16]
    rows += [
        ("trained on", origin["training_data"]),
        ("terms", origin["training_data_terms"]),
        ("identities", origin["identities"]),
        ("made by", origin["command"] or "unknown"),
        ("weights", f"{human_bytes(facts['weights_bytes'])}, {', '.join(facts['dtypes'])}, sha256 {digest}..."),
        ("checksums", "match"),
        ("packed", _packed_text(facts["packed_cache"])),
    ]
    if origin["notes"]:
        rows.append(("notes", origin["notes"]))
    print_rows(rows)


def model_facts(folder: Path) -> dict[str, Any]:
    """Everything ``inspect model`` shows. Raises ModelFormatError if config, weights or checksums are wrong."""
    from ..package import WEIGHTS, check_sums, read_config

    config = read_config(folder)
    sums = check_sums(folder)
    tensors = weight_header(folder / WEIGHTS)
    packed = _packed_cache(sums[WEIGHTS])
    if packed is not None:
        _open(folder)
    return {
        "path": str(folder), "config": json.loads(config.to_json()), "sha256": sums,
        "weights_bytes": (folder / WEIGHTS).stat().st_size, "tensors": len(tensors),
        "parameters": sum(_count(t["shape"]) for t in tensors.values()), "dtypes": sorted({t["dtype"] for t in tensors.values()}),
        "packed_cache": packed,
    }  # fmt: skip


def _open(folder: Path) -> None:
    """Have the native engine read every tensor. Raises ModelFormatError for what it would not run."""
    from ..engine import Engine

    before = os.environ.get("GAITCRAFTER_CACHE")
    os.environ["GAITCRAFTER_CACHE"] = "off"  # looking at a model leaves nothing behind
    try:
        Engine(folder, threads=1, precision="fp32").close()
    finally:
        os.environ.pop("GAITCRAFTER_CACHE")
        if before is not None:
            os.environ["GAITCRAFTER_CACHE"] = before


def _packed_cache(model_sha256: str) -> dict[str, Any] | None:
    """What the cache of packed weights holds of a model for this build; None if the native engine is not built here."""
    from ..install import native

    try:
        return dict(native().cache(model_sha256))
    except CapabilityError:
        return None


def _packed_text(cache: dict[str, Any] | None) -> str:
    if cache is None:
        return "the native engine is not built here"
    if cache["problem"]:
        return f"not kept: {cache['problem']}"
    return f"{cache['entries']} in the cache, {human_bytes(cache['bytes'])}" if cache["entries"] else "not in the cache yet"


def weight_header(path: Path) -> dict[str, dict[str, Any]]:
    """Names, dtypes and shapes of a safetensors file, from its header alone. Raises ModelFormatError."""
    try:
        with path.open("rb") as f:
            length = int.from_bytes(f.read(8), "little")
            if not 2 <= length <= min(_HEADER_LIMIT, path.stat().st_size - 8):
                raise ValueError(f"a header of {length} bytes")
            raw = json.loads(f.read(length))
        tensors = {
            name: {"dtype": str(t["dtype"]), "shape": [int(n) for n in t["shape"]]}
            for name, t in raw.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
        raise ModelFormatError(f"{path}: not a safetensors file: {e}") from e
    return tensors


@inspect.command()
@click.argument("tree", type=FOLDER)
@click.option("--mapping", type=FOLDER, help="JSON that says which part of a path is the identity, the view, ... (docs/data.md).")
@click.option("--window", default=30, show_default=True, help="Frames that a clip needs.")
@click.option("--deep", is_flag=True, help="Decode every frame of PNG trees; compare the checksum of packed sets.")
@json_option
def data(tree: Path, mapping: Path | None, window: int, deep: bool, as_json: bool) -> None:
    """Show what TREE holds, a tree of real silhouettes or a packed training set.

    Counts per axis, gaps, and short, empty and damaged recordings, before anyone trains on them. Leaves with
    code 0 whatever is found; with --json look at "problems".

    \b
    gaitcrafter-rt inspect data CASIA-B-pkl
    gaitcrafter-rt inspect data GREW-pkl --mapping grew.json
    """
    if (tree / "meta.json").is_file():
        from ..data import PackedClips

        packed = PackedClips.open(tree)
        if deep:
            packed.verify()
        if as_json:
            print_json(packed_facts(packed))
        else:
            _show_packed(packed, deep)
        return
    from ..data import scan

    with progress("reading", "recordings", show=not as_json) as update:
        report = scan(tree, mapping, window=window, deep=deep, progress=update)
    if as_json:
        print_json(report.to_dict())
    else:
        _show_scan(report)


def packed_facts(packed: PackedClips) -> dict[str, Any]:
    """Counts of a packed training set."""
    counts = {}
    for axis in ("dataset", "identity", "view", "covariate"):
        values = getattr(packed, axis)
        counts[axis] = {name: int((values == i).sum()) for i, name in enumerate(getattr(packed.labels, axis))}
    test = int((packed.split == 1).sum())
    meta = packed.meta
    return {"packed": str(packed.folder), "clips": len(packed), "train": len(packed) - test, "test": test,
            "shape": list(meta.shape), "source": meta.source, "terms": meta.terms, "made_by": meta.made_by,
            "axes": counts}  # fmt: skip


def _show_packed(packed: PackedClips, deep: bool) -> None:
    facts = packed_facts(packed)
    frames, height, width = packed.meta.shape
    parts = f"{facts['train']} train, {facts['test']} test"
    rows = [
        ("packed set", facts["packed"]),
        ("clips", f"{facts['clips']} of {frames} frames, {height}x{width}; {parts}"),
        ("source", facts["source"]),
        ("terms", facts["terms"]),
        ("made by", facts["made_by"] or "unknown"),
    ]
    rows += [(axis, _axis_text(counts, "clips")) for axis, counts in facts["axes"].items() if counts]
    print_rows([*rows, ("checksum", "matches" if deep else "not compared (--deep)")])


def _show_scan(report: ScanReport) -> None:
    frames = report.frames
    rows = [
        ("tree", report.tree),
        ("files", f"{report.files} files, {report.recordings} recordings"),
        *((axis, _axis_text(counts, "recordings")) for axis, counts in report.axes.items() if counts),
        ("frames", f"{frames['total']} in all; {frames['min']} to {frames['max']} a recording, median {frames['median']:g}"),
    ]
    if report.sizes:
        rows.append(("sizes", ", ".join(f"{size} ({n})" for size, n in report.sizes.items())))
    print_rows(rows)
    click.echo("")
    if not report.problems:
        click.secho("no problems found", fg="green")
        return
    click.secho("findings", bold=True)
    examples = {
        "damaged": report.damaged_examples, "no frame": report.empty_examples, "shorter": report.short_examples,
        "several files": report.duplicates, "missing": report.missing_examples, "fit no rule": report.unmatched_examples,
    }  # fmt: skip
    for line in report.problems:
        click.echo(f"  {line}")
        for key, names in examples.items():
            if key in line:
                for name in names[:5]:
                    click.echo(f"      {printable(name)}")
                if len(names) > 5:
                    click.echo("      ...")


def print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Two columns, the second wrapped."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(Text(name), Text(printable(str(text))))
    console().print(table)


def _axis_text(counts: dict[str, int], unit: str) -> str:
    low, high = min(counts.values()), max(counts.values())
    each = f"{low} {unit} each" if low == high else f"{low} to {high} {unit} each"
    return f"{_shorten(list(counts))}; {each}"


def _shorten(names: Sequence[str], first: int = 11) -> str:
    shown = ", ".join(names[:first])
    return f"{len(names)}: {shown}" + (f", ... {names[-1]}" if len(names) > first else "")


def _sampler_text(sampler: dict[str, Any]) -> str:
    eta = f", eta {sampler['eta']:g}" if sampler["kind"] == "ddim" else ""
    return f"{sampler['kind']}, {sampler['steps']} steps{eta}, {sampler['spacing']} spacing, guidance {sampler['guidance']:g}"


def _wiring(conditioning: dict[str, Any], axis: str) -> str:
    if conditioning["cond_dim"]:
        return "columns of the cond vector" if axis in (conditioning["cond_columns"] or {}) else "nothing"
    return str(conditioning[axis])


def _count(shape: Sequence[int]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count
