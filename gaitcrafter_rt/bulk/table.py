"""Conditions from a Parquet table: row i is clip i.

Columns, all optional, others ignored: ``dataset``, ``covariate``, ``view`` (strings), ``identity`` (string), and in place of it
``identity_weights`` (list of {label, weight}) for blends. Null is the axis left to the model. Shards of a job are such tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..errors import DataFormatError, InvalidRequestError
from .arrow import arrow, errors
from .conditions import ORDER, Weights, identity_name, weights_array, weights_type

_PLAIN = tuple(axis for axis in ORDER if axis != "identity")
_COLUMNS = (*ORDER, "identity_weights")
MAX_WEIGHT = 1e6


class TableReference(BaseModel):
    """What a plan holds of a table: the hash of its file and how many clips it describes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    kind: Literal["table"] = "table"
    rows: int = Field(ge=1)
    sha256: str


class Table:
    """A table in memory, its labels as dictionary indices (4 bytes a clip and axis)."""

    def __init__(self, columns: Any) -> None:
        self._table = columns

    def __len__(self) -> int:
        return self._table.num_rows

    @classmethod
    def read(cls, source: Any, name: object) -> Table:
        """From a path or an open file. Raises DataFormatError for a file that is not such a table."""
        pa = arrow()
        try:
            with pa.parquet.ParquetFile(source, page_checksum_verification=True, pre_buffer=False) as file:
                present = [c for c in _COLUMNS if c in file.schema_arrow.names]
                table = file.read(columns=present, use_threads=False)
        except errors() as e:
            raise DataFormatError(f"{name}: not a readable Parquet table: {e}") from e
        if not present or not table.num_rows:
            raise DataFormatError(f"{name}: no rows, or none of the columns {', '.join(_COLUMNS)}")
        try:
            return cls(_normalised(pa, table))
        except errors() as e:
            if isinstance(e, InvalidRequestError | DataFormatError):
                raise
            raise DataFormatError(f"{name}: {e}") from e

    @classmethod
    def join(cls, parts: Sequence[Table]) -> Table:
        """Rows of one after the other."""
        return cls(arrow().concat_tables([p._table for p in parts]).unify_dictionaries())

    def slice(self, first: int, count: int | None = None) -> Table:
        """``count`` rows from ``first`` on; all if None."""
        return Table(self._table.slice(first, count))

    def equals(self, other: Table) -> bool:
        """The same conditions in the same order."""
        return all(self._plain_column(c).equals(other._plain_column(c)) for c in (*_PLAIN, "identity_weights"))

    def _plain_column(self, name: str) -> Any:
        pa = arrow()
        column = self._table[name]
        plain = column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
        return plain.combine_chunks()

    def write(self, sink: Any) -> None:
        """As Parquet; the same rows always give the same bytes with one release of pyarrow."""
        arrow().parquet.write_table(
            self._table, sink, compression="zstd", write_page_checksum=True, row_group_size=1 << 16, store_schema=False
        )

    def labels(self) -> dict[str, set[str]]:
        found = {axis: set(self._plain_column(axis).unique().drop_null().to_pylist()) for axis in _PLAIN}
        blends = self._table["identity_weights"].combine_chunks()
        found["identity"] = set(blends.flatten().field("label").unique().to_pylist())
        return found

    def plain(self, number: int) -> dict[str, Weights]:
        return self.batch(number, 1)[0]

    def batch(self, first: int, count: int) -> list[dict[str, Weights]]:
        rows = self._table.slice(first, count)
        columns = {axis: rows[axis].to_pylist() for axis in _PLAIN}
        blends = rows["identity_weights"].to_pylist()
        batch = []
        for k in range(rows.num_rows):
            one: dict[str, Weights] = {}
            for axis in ORDER:
                if axis == "identity":
                    if blends[k]:
                        one[axis] = {e["label"]: e["weight"] for e in blends[k]}
                elif columns[axis][k] is not None:
                    one[axis] = {columns[axis][k]: 1.0}
            batch.append(one)
        return batch

    def columns(self, first: int, count: int) -> dict[str, Any]:
        pa = arrow()
        rows = Table(self._table.slice(first, count))
        columns = {axis: rows._plain_column(axis) for axis in _PLAIN}
        blends = rows._table["identity_weights"].combine_chunks()
        names = [None if b is None else identity_name({e["label"]: e["weight"] for e in b}) for b in blends.to_pylist()]
        return {**columns, "identity": pa.array(names, pa.string()), "identity_weights": blends}


def _normalised(pa: Any, table: Any) -> Any:
    """The columns that we keep, in our types."""
    kept = {}
    for axis in _PLAIN:
        column = table[axis].cast(pa.string()) if axis in table.column_names else pa.nulls(table.num_rows, pa.string())
        kept[axis] = pa.chunked_array([column]) if isinstance(column, pa.Array) else column
        if not kept[axis].type.equals(pa.dictionary(pa.int32(), pa.string())):
            kept[axis] = kept[axis].dictionary_encode()
    if "identity_weights" in table.column_names:
        blends = table["identity_weights"].to_pylist()
        kept["identity_weights"] = weights_array([_checked(k, b) for k, b in enumerate(blends)])
    elif "identity" in table.column_names:
        names = table["identity"].cast(pa.string()).combine_chunks()
        kept["identity_weights"] = _single(pa, names)
    else:
        kept["identity_weights"] = pa.nulls(table.num_rows, weights_type())
    return pa.table(kept)


def _single(pa: Any, names: Any) -> Any:
    """Each label as a blend of itself with weight 1, without a loop over the rows."""
    encoded = names.dictionary_encode()
    return weights_array([{label: 1.0} for label in encoded.dictionary.to_pylist()]).take(encoded.indices)


def _checked(row: int, blend: Any) -> Weights | None:
    if not blend:
        return None
    weights: Weights = {}
    for entry in blend:
        if not isinstance(entry, dict) or set(entry) != {"label", "weight"}:
            raise DataFormatError(f"row {row}: identity_weights must be a list of {{label, weight}}")
        label, weight = entry["label"], entry["weight"]
        if not isinstance(label, str) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise DataFormatError(f"row {row}: identity_weights holds {entry!r:.80}; a label and a finite weight are needed")
        if abs(weight) > MAX_WEIGHT:
            raise DataFormatError(f"row {row}: weight {weight:g} of {label!r:.80} exceeds {MAX_WEIGHT:g}")
        if label in weights:
            raise DataFormatError(f"row {row}: identity_weights names {label!r:.80} twice")
        weights[label] = float(weight)
    return weights


def read_table(path: Path) -> Table:
    """A user's table. Raises InvalidRequestError if there is no such file, DataFormatError if it is something else."""
    if not path.is_file():
        raise InvalidRequestError(f"{path}: no such file; --conditions takes a Parquet table")
    return Table.read(path, path)
