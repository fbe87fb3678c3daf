"""The bulk job: many clips in shards with receipts, resumable, safe under crashes and several writers (docs/bulk.md)."""

from __future__ import annotations

from .conditions import Grid
from .dataset import ClipDataset
from .errors import (
    DamagedError,
    DiskFullError,
    NonDeterminismError,
    PlanMismatchError,
    TooManyFailedError,
)
from .job import JobResult, run_job
from .planning import Request, open_or_create
from .quality import Quality
from .reader import ShardFile
from .table import Table, read_table

__all__ = [
    "ClipDataset",
    "DamagedError",
    "DiskFullError",
    "Grid",
    "JobResult",
    "NonDeterminismError",
    "PlanMismatchError",
    "Quality",
    "Request",
    "ShardFile",
    "Table",
    "TooManyFailedError",
    "open_or_create",
    "read_table",
    "run_job",
]
