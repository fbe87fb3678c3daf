"""From a request to a job's folder: a new plan, the one that is there, or one that grows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import ClipShape
from ..errors import InvalidRequestError, OutputError
from .commit import Digest, clean_temporaries, hash_file, is_temporary, make_folder, publish
from .conditions import Conditions, Grid, check_labels
from .documents import hash_of
from .errors import PlanMismatchError, output_error
from .filesystem import FileSystem
from .layout import Folder, default_cut
from .opening import OpenJob, open_plan
from .plan import (
    Build,
    Extent,
    Model,
    Network,
    Plan,
    Spec,
    commit_extent,
    commit_plan,
    make_plan,
    read_plan,
    refuse_difference,
    shard_table,
)
from .table import Table, TableReference
from .worker import ClipEngine


@dataclass(frozen=True)
class Request:
    """What a job shall be.

    Attributes:
        conditions: a :class:`Grid`, or a :class:`Table` with one row per clip.
        clips: how many; None is once through the grid, or the whole table.
        seed, first_clip, threshold, sampler: as in ``Engine.generate``.
        shard_clips, block_clips: how the clips are cut; None is what the folder's plan says, else what suits their number.
        extend: an existing job may grow to ``clips``.
    """

    conditions: Grid | Table
    clips: int | None = None
    seed: int = 0
    first_clip: int = 0
    threshold: float = 0.5
    sampler: dict[str, Any] = field(default_factory=dict)
    shard_clips: int | None = None
    block_clips: int | None = None
    extend: bool = False

    @property
    def total(self) -> int:
        """How many clips that is."""
        rows = self.conditions.combinations if isinstance(self.conditions, Grid) else len(self.conditions)
        return rows if self.clips is None else self.clips


def draft(request: Request, engine: ClipEngine) -> Plan:
    """The plan of a request, written nowhere. Raises InvalidRequestError for what the model does not allow."""
    info, total = engine.info, request.total
    if info.get("channels", 1) != 1:
        raise InvalidRequestError(f"this model has {info['channels']} channels; silhouette clips have 1")
    if not 0 <= request.seed < 1 << 64 or not 0 <= request.first_clip < 1 << 64:
        raise InvalidRequestError(f"seed {request.seed} and start {request.first_clip} must lie in 0..2**64 - 1")
    if not 0 < request.threshold < 1:
        raise InvalidRequestError(f"threshold is {request.threshold}; it must be above 0 and below 1")
    if isinstance(request.conditions, Table) and total > len(request.conditions):
        raise InvalidRequestError(f"{total} clips from a table of {len(request.conditions)} rows; row i is clip i")
    check_labels(request.conditions.labels(), engine.vocabulary.labels, engine.vocabulary.usable)
    origin = info["provenance"]
    spec = Spec(
        model=Model(
            name=info["name"], sha256=info["model_sha256"],
            **{k: origin.get(k, "") for k in ("training_data", "training_data_terms", "identities")},
        ),
        engine=Build(
            version=_version(), build=engine.build, device=info["device"], precision=info["precision"], isa=info["isa"],
            network=Network.of(info),
        ),
        clip=ClipShape(frames=info["frames"], height=info["height"], width=info["width"]),
        sampler=engine.resolve_sampler(**request.sampler), threshold=float(request.threshold), seed=request.seed,
        first_clip=request.first_clip, conditions=_reference(request, total),
    )  # fmt: skip
    shard, block = default_cut(total) if total > 0 else (1, 1)
    if (batch := info.get("batch", 1)) > 1:
        block = max(block, 4 * batch)  # a device that makes so many at once would wait for blocks of fewer
    shard = request.shard_clips or shard
    return make_plan(spec, total, shard, request.block_clips or min(block, shard))


def _reference(request: Request, total: int) -> Grid | TableReference:
    if isinstance(request.conditions, Grid):
        return request.conditions
    table = request.conditions.slice(0, total)
    return TableReference(rows=total, sha256=hash_file_of(table).sha256)


def open_or_create(fs: FileSystem, root: str | Path, request: Request, engine: ClipEngine) -> OpenJob:
    """The job of a request, made, resumed or grown.

    Raises PlanMismatchError that shows every difference if another job stands there, OutputError if something else does,
    InvalidRequestError, DataFormatError (a damaged plan).
    """
    try:
        return _open_or_create(fs, Folder(Path(root)), request, draft(request, engine))
    except OutputError:
        raise
    except OSError as e:
        raise output_error(root, e) from e


def _open_or_create(fs: FileSystem, folder: Folder, request: Request, wanted: Plan) -> OpenJob:
    plan = read_plan(fs, folder)
    if plan is None:
        _create(fs, folder, request, wanted)
        plan = read_plan(fs, folder)
        assert plan is not None
    job = open_plan(fs, folder, plan)
    wanted = _in_terms_of(job, request, wanted)
    total = request.total
    if total > job.clips and request.extend and wanted.spec == plan.spec:
        return _grow(fs, job, request, total)
    if total != job.clips and wanted.spec == plan.spec:
        grown = f" (grown from {plan.clips})" if job.extents else ""
        way = "a job never shrinks" if total < job.clips else "--extend grows it"
        raise PlanMismatchError(
            f"{folder.root} holds the same job with {job.clips} clips{grown}, this command asks for {total}; {way}"
        )
    refuse_difference(folder, plan, wanted)
    return job


def _create(fs: FileSystem, folder: Folder, request: Request, wanted: Plan) -> None:
    _refuse_occupied(fs, folder)
    make_folder(fs, folder.root.absolute())
    clean_temporaries(fs, folder.root)
    if isinstance(request.conditions, Table):
        _commit_table(fs, folder, 1, request.conditions.slice(0, wanted.clips))
    commit_plan(fs, folder, wanted)


def _refuse_occupied(fs: FileSystem, folder: Folder) -> None:
    try:
        names = fs.names(folder.root)
    except NotADirectoryError as e:
        raise OutputError(f"{folder.root} is a file; choose another place") from e
    # What a writer leaves that died before the plan was in place.
    strange = [n for n in names if not is_temporary(n) and n not in (folder.conditions.name, folder.plan.name)]
    if strange:
        raise OutputError(f"{folder.root} holds {strange[0]!r:.80} and no plan.json; choose another place or an empty folder")


def _commit_table(fs: FileSystem, folder: Folder, number: int, table: Table) -> str:
    path = folder.table(number)

    def agree(mine: Digest) -> Digest:
        if hash_file(fs, path) != mine:
            raise PlanMismatchError(
                f"{path} is another table of conditions than this command's; give the same one, or another folder"
            )
        return mine

    return publish(fs, path, table.write, agree, folder.root).digest.sha256


def _in_terms_of(job: OpenJob, request: Request, wanted: Plan) -> Plan:
    """``wanted`` with what the request leaves open taken from the plan that is there."""
    there = job.plan
    spec = wanted.spec
    if isinstance(request.conditions, Table) and isinstance(there.spec.conditions, TableReference):
        # The table may have grown, and a release of pyarrow may write the same rows in other bytes: the rows are compared.
        common = min(job.clips, request.total)
        if isinstance(job.conditions, Table) and job.conditions.slice(0, common).equals(request.conditions.slice(0, common)):
            spec = spec.model_copy(update={"conditions": there.spec.conditions})
    cut = {"shard_clips": request.shard_clips or there.shard_clips, "block_clips": request.block_clips or there.block_clips}
    clips = there.clips if request.total == job.clips else request.total
    return wanted.model_copy(update={"spec": spec, "plan_id": hash_of(spec.model_dump(mode="json")), "clips": clips, **cut})


def _grow(fs: FileSystem, job: OpenJob, request: Request, total: int) -> OpenJob:
    shard, block = default_cut(total - job.clips)
    shard = request.shard_clips or shard
    number = len(job.extents) + 2
    table_hash = None
    if isinstance(request.conditions, Table):
        table_hash = _commit_table(fs, job.folder, number, request.conditions.slice(job.clips, total - job.clips))
    extent = Extent(
        plan_id=job.plan.plan_id, first=job.clips, clips=total, shard_clips=shard,
        block_clips=min(request.block_clips or block, shard), table_sha256=table_hash,
    )  # fmt: skip
    commit_extent(fs, job.folder, number, extent)
    return open_plan(fs, job.folder, job.plan)


def hash_file_of(table: Table) -> Digest:
    """Digest of the file that a table would be."""
    import io

    from .commit import HashingFile

    file = HashingFile(io.BytesIO())
    table.write(file)
    return file.digest()


def draft_job(folder: str | Path, request: Request, engine: ClipEngine) -> OpenJob:
    """The job of a request with nothing written: for estimates."""
    plan = draft(request, engine)
    conditions: Conditions = request.conditions
    return OpenJob(Folder(Path(folder)), plan, [], shard_table(plan, []), conditions)


def _version() -> str:
    from ..install import version

    return version()
