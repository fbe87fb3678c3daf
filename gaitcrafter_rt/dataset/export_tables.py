"""Tables for other tools: the Hugging Face layout (Parquet and a card), and Lance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..bulk.arrow import arrow
from ..bulk.conditions import weights_type
from ..bulk.format import BIT_ORDER
from ..config import AXES
from ..errors import GaitcrafterError, InvalidRequestError, MissingExtraError
from ..files import PathLike, new_folder
from .select import Selection
from .source import Origin, Progress, Rows, Source

FILE_CLIPS, GROUP_CLIPS = 65_536, 1024


def _schema(clip_bytes: int, *, fixed: bool) -> Any:
    pa = arrow()
    return pa.schema([
        ("clip_index", pa.uint64()), ("seed", pa.uint64()), ("plan_id", pa.string()),
        *((axis, pa.string()) for axis in AXES), ("identity_weights", weights_type()),
        # `datasets` knows no binary values of one fixed length.
        ("silhouette", pa.binary(clip_bytes) if fixed else pa.binary()), ("quality", pa.uint16()),
    ])  # fmt: skip


def _record_batch(rows: Rows, schema: Any) -> Any:
    pa = arrow()
    weights = [[{"label": k, "weight": w} for k, w in sorted(c.get("identity", {}).items())] or None for c in rows.conditions]
    columns = {
        "clip_index": rows.clip_index, "seed": np.full(len(rows), rows.seed, np.uint64),
        "plan_id": [rows.origin.plan_id] * len(rows), **rows.names, "identity_weights": weights,
        "silhouette": [bytes(p) for p in rows.packed], "quality": rows.quality,
    }  # fmt: skip
    return pa.record_batch([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def export_huggingface(
    source: Source, out: PathLike, selection: Selection | None = None, progress: Progress | None = None, *,
    shard_clips: int = FILE_CLIPS,
) -> dict[str, Any]:  # fmt: skip
    """A folder that ``datasets.load_dataset`` reads, and the Hub shows: ``data/train-*.parquet`` and ``README.md``.

    The same clips give the same bytes (with one release of pyarrow). Raises OutputError if ``out`` is occupied.
    """
    if not 1 <= shard_clips <= 1_000_000:
        raise InvalidRequestError(f"shard_clips must lie in 1..1000000, got {shard_clips}")
    with new_folder(out) as folder:
        data = folder / "data"
        data.mkdir()
        writer = _ParquetFiles(data, shard_clips)
        for rows in source.rows(selection, progress):
            writer.add(rows)
        files = writer.finish()
        (folder / "README.md").write_text(_card(source, writer.clips, list(writer.origins.values())))
    return {"clips": writer.clips, "files": files}


class _ParquetFiles:
    """Rows into files of a fixed number of clips; their names tell how many files there are, so they are renamed at the end."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self.clips, self.origins = 0, dict[str, Origin]()
        self._files: list[Path] = []
        self._writer: Any = None
        self._waiting: list[Any] = []
        self._waiting_clips = self._in_file = 0

    def add(self, rows: Rows) -> None:
        self.origins.setdefault(rows.origin.plan_id, rows.origin)
        batch = _record_batch(rows, _schema(0, fixed=False))
        self.clips += len(rows)
        while batch.num_rows:
            part = batch.slice(0, min(GROUP_CLIPS - self._waiting_clips, self._limit - self._in_file - self._waiting_clips))
            self._waiting.append(part)
            self._waiting_clips += part.num_rows
            batch = batch.slice(part.num_rows)
            if self._waiting_clips == GROUP_CLIPS or self._in_file + self._waiting_clips == self._limit:
                self._flush()

    def _flush(self) -> None:
        pa = arrow()
        if self._writer is None:
            self._files.append(self._folder / f"part-{len(self._files):05d}")
            schema = _schema(0, fixed=False).with_metadata({"synthetic": "true", "bit_order": BIT_ORDER})
            self._writer = pa.parquet.ParquetWriter(
                self._files[-1], schema, compression="zstd", compression_level=1, write_page_checksum=True, write_page_index=True,
                write_statistics=["clip_index", *AXES], use_dictionary=["seed", "plan_id", *AXES],
            )  # fmt: skip
        self._writer.write_table(pa.Table.from_batches(self._waiting).combine_chunks(), row_group_size=GROUP_CLIPS)
        self._in_file += self._waiting_clips
        self._waiting, self._waiting_clips = [], 0
        if self._in_file == self._limit:
            self._writer.close()
            self._writer, self._in_file = None, 0

    def finish(self) -> list[str]:
        if self._waiting:
            self._flush()
        if self._writer is not None:
            self._writer.close()
        names = [f"train-{k:05d}-of-{len(self._files):05d}.parquet" for k in range(len(self._files))]
        for file, name in zip(self._files, names, strict=True):
            file.rename(self._folder / name)
        return names


def _card(source: Source, clips: int, origins: list[Origin]) -> str:
    """README.md: YAML for the Hub, then text for people. Names of strangers stand in code spans, on one line."""
    frames, height, width = source.shape
    size = next((f"{low}<n<{high}" for low, high, top in _SIZES if clips < top), "n>1T")
    lines = [
        "---", "pretty_name: Synthetic gait silhouettes", "license: other", "tags: [gait, silhouette, synthetic]",
        f"size_categories: [{size}]", "configs:", "- config_name: default", "  data_files:", "  - split: train",
        "    path: data/train-*.parquet", "---", "", "# Synthetic gait silhouettes", "",
        f"{clips} clips of {frames} frames, {height}x{width}, one bit per pixel, generated by gaitcrafter-rt. "
        "Nobody was filmed for them; what the models were trained on is below, and its terms hold.", "",
        "| plan | model | seed | training data | terms | identities |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for origin in origins:
        model = origin.plan["model"]
        cells = (model["name"], origin.plan["seed"], model.get("training_data"), model.get("training_data_terms"),
                 model.get("identities"))  # fmt: skip
        lines.append(f"| {_code(origin.plan_id[:12])} | " + " | ".join(_code(c) for c in cells) + " |")
    lines += [
        "", "| column | |", "|---|---|", "| `silhouette` | packed bits: " + BIT_ORDER + " |",
        "| `identity`, `view`, `covariate`, `dataset` | labels, null where the model chose |",
        "| `identity_weights` | the labels that an identity is blended from |",
        "| `clip_index`, `seed`, `plan_id` | what determines the clip |", "| `quality` | flags, 0 without findings |", "",
        "```python", "import datasets, numpy as np", 'clips = datasets.load_dataset("PATH", split="train")',
        'bits = np.frombuffer(clips[0]["silhouette"], np.uint8)',
        f"frames = np.unpackbits(bits, count={frames * height * width}).reshape({frames}, {height}, {width})", "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


_SIZES = [
    ("1", "1K", 1000), ("1K", "10K", 10_000), ("10K", "100K", 100_000), ("100K", "1M", 10**6), ("1M", "10M", 10**7),
    ("10M", "100M", 10**8), ("100M", "1B", 10**9), ("1B", "10B", 10**10), ("10B", "100B", 10**11),
]  # fmt: skip


def _code(value: object) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in str(value or "unknown")).split())[:300]
    return "`" + text.replace("`", "'").replace("|", "/") + "`"


def export_lance(
    source: Source, out: PathLike, selection: Selection | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """One Lance table in the folder ``out``. Raises MissingExtraError without the extra ``lance``, OutputError."""
    try:
        import lance

        write = lance.write_dataset
    except (ImportError, AttributeError) as e:
        # PyPI's `lance` is another package; this one is called pylance there.
        raise MissingExtraError.for_extra("lance", "exporting a Lance table", "lance") from e
    pa = arrow()
    frames, height, width = source.shape
    about = {"synthetic": "true", "shape": json.dumps([frames, height, width]), "bit_order": BIT_ORDER}
    schema = _schema((frames * height * width + 7) // 8, fixed=True).with_metadata(about)
    clips = 0
    failure: GaitcrafterError | None = None

    def batches() -> Iterator[Any]:
        nonlocal clips, failure
        try:
            for rows in source.rows(selection, progress):
                clips += len(rows)
                yield _record_batch(rows, schema)
        except GaitcrafterError as e:
            failure = e
            raise

    with new_folder(out) as folder:
        try:
            write(pa.RecordBatchReader.from_batches(schema, batches()), str(folder / "table"), schema=schema)
        except Exception:
            # What is wrong with the source is not to be told as an error of Lance.
            if failure is not None:
                raise failure from None
            raise
        for entry in (folder / "table").iterdir():
            entry.rename(folder / entry.name)
        (folder / "table").rmdir()
    return {"clips": clips}
