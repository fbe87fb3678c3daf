"""pyarrow, which the extra ``bulk`` brings, or one sentence that says so."""

from __future__ import annotations

from functools import cache
from typing import Any

from ..errors import MissingExtraError


@cache
def arrow(what: str = "writing and reading Parquet shards") -> Any:
    """The module ``pyarrow``. Raises MissingExtraError."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as e:
        raise MissingExtraError.for_extra("bulk", what, e.name) from e
    return pyarrow


def errors() -> tuple[type[BaseException], ...]:
    """What pyarrow raises for a file that is not what it says."""
    pa = arrow()
    # ArrowInvalid is a ValueError, ArrowIOError an OSError; broken Thrift and UTF-8 surface as these too.
    return (pa.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError)
