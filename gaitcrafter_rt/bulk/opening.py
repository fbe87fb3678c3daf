"""Opening a job that is there: plan, extents, conditions, shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import DataFormatError
from .commit import hash_file
from .conditions import Conditions, Grid
from .errors import DamagedError
from .filesystem import FileSystem
from .layout import Folder, ShardTable
from .plan import Extent, Plan, read_extents, read_plan, shard_table
from .table import Table


@dataclass(frozen=True)
class OpenJob:
    """A job as its folder tells it."""

    folder: Folder
    plan: Plan
    extents: list[Extent]
    table: ShardTable
    conditions: Conditions

    @property
    def clips(self) -> int:
        """How many clips the job has, made or not."""
        return self.extents[-1].clips if self.extents else self.plan.clips


def open_job(root: str | Path, fs: FileSystem) -> OpenJob:
    """Raises DataFormatError if ``root`` is no job's folder, or what describes the job is damaged."""
    folder = Folder(Path(root))
    plan = read_plan(fs, folder)
    if plan is None:
        raise DataFormatError(f"{root}: no plan.json there; a job's folder is made by gaitcrafter-rt generate")
    return open_plan(fs, folder, plan)


def open_plan(fs: FileSystem, folder: Folder, plan: Plan) -> OpenJob:
    """The rest of a job whose plan is known."""
    extents = read_extents(fs, folder, plan)
    return OpenJob(folder, plan, extents, shard_table(plan, extents), _conditions(fs, folder, plan, extents))


def _conditions(fs: FileSystem, folder: Folder, plan: Plan, extents: list[Extent]) -> Conditions:
    wanted = plan.spec.conditions
    if isinstance(wanted, Grid):
        return wanted
    parts, first = [], 0
    for number, (sha256, end) in enumerate([(wanted.sha256, plan.clips), *((e.table_sha256, e.clips) for e in extents)], 1):
        path = folder.table(number)
        if hash_file(fs, path).sha256 != sha256:
            raise DamagedError(f"{path}: is not the table of conditions that the plan names (its sha256 differs)")
        with fs.open(path) as f:
            table = Table.read(f, path)
        if len(table) < end - first:
            raise DamagedError(f"{path}: {len(table)} rows for {end - first} clips")
        parts.append(table.slice(0, end - first))
        first = end
    return Table.join(parts)
