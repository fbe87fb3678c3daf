"""Plans: what resumes, what grows, what is refused, and that a refusal shows every difference."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulty_fs import MemoryFileSystem
from jobs import GRID, ROOT, open_small, run, shards
from stub import StubEngine

from gaitcrafter_rt.bulk import ClipDataset, DamagedError, Grid, PlanMismatchError, Table, read_table
from gaitcrafter_rt.bulk.layout import Folder
from gaitcrafter_rt.bulk.plan import read_plan
from gaitcrafter_rt.bulk.verify import verify
from gaitcrafter_rt.errors import DataFormatError, InvalidRequestError, OutputError, UnsupportedVersionError


def test_running_again_does_nothing(fast: Path) -> None:
    run(fast)
    before = {p: p.stat().st_mtime_ns for p in sorted(fast.rglob("*"))}
    engine = StubEngine()
    again = run(fast, engine)
    assert (again.made, again.complete, again.exit_code, engine.calls) == (0, True, 0, [])
    assert {p: p.stat().st_mtime_ns for p in sorted(fast.rglob("*"))} == before


@pytest.mark.parametrize(
    "changes, engine, shown",
    [
        ({"seed": 4}, {}, ["seed: the plan has 3, this command 4"]),
        ({"threshold": 0.4}, {}, ["threshold: the plan has 0.5, this command 0.4"]),
        ({"first_clip": 0}, {}, ["first_clip: the plan has 100, this command 0"]),
        ({"sampler": {"steps": 20}}, {}, ["sampler.steps: the plan has 12, this command 20"]),
        ({"shard_clips": 6}, {}, ["shard_clips: the plan has 8, this command 6"]),
        ({"conditions": Grid(view=["000", "090"])}, {}, ["conditions.identity"]),
        ({"conditions": GRID.model_copy(update={"view": ["090", "000"]})}, {}, ["conditions.view"]),
        ({"clips": 13}, {}, ["12 clips", "asks for 13", "--extend grows it"]),
        ({"clips": 11}, {}, ["never shrinks"]),
        ({"clips": 11, "extend": True}, {}, ["never shrinks"]),
        ({"clips": 20, "seed": 4, "extend": True}, {}, ["seed: the plan has 3, this command 4"]),
        ({}, {"build": "other"}, ["engine.build: the plan has 'stub', this command 'other'"]),
        ({}, {"isa": "avx512"}, ["engine.isa: the plan has 'avx2', this command 'avx512'"]),
        ({}, {"name": "other"}, ["model.name", "model.sha256"]),
        ({}, {"shape": (4, 16, 8)}, ["clip.width: the plan has 16, this command 8"]),
        ({"seed": 4, "sampler": {"steps": 1}}, {}, ["seed", "sampler.steps"]),
    ],
    ids=str,
)
def test_another_job_is_refused_with_every_difference(changes: dict, engine: dict, shown: list[str]) -> None:
    fs = MemoryFileSystem()
    run(ROOT, fs=fs)
    before = fs.tree(ROOT)
    with pytest.raises(PlanMismatchError) as caught:
        run(ROOT, StubEngine(**engine), fs=fs, **changes)
    assert all(text in str(caught.value) for text in shown), caught.value
    assert caught.value.exit_code == 2
    assert fs.tree(ROOT) == before


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"clips": 0}, "clips must lie in"),
        ({"seed": -1}, "2\\*\\*64"),
        ({"seed": 2**64}, "2\\*\\*64"),
        ({"first_clip": 2**64 - 5}, "largest clip index"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"shard_clips": 70000}, "shard-clips"),
        ({"block_clips": 9}, "block-clips"),
        ({"clips": 1 << 37}, "clips must lie in"),
        ({"clips": 1 << 30, "block_clips": 1, "shard_clips": 1}, "larger --shard-clips"),
        ({"conditions": Grid(view=["045"])}, "no view '045'; it knows 000, 090"),
        ({"conditions": Grid(dataset=["x"])}, "takes no dataset"),
        ({"conditions": Grid(identity=[{"001": 1.0, "nobody": 1.0}])}, "no identity 'nobody'"),
    ],
    ids=str,
)
def test_bad_requests_write_nothing(changes: dict, message: str) -> None:
    fs = MemoryFileSystem()
    with pytest.raises(InvalidRequestError, match=message):
        run(ROOT, fs=fs, **changes)
    assert fs.names(Path("/")) == []


def test_a_place_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(OutputError, match=r"'mine' and no plan\.json"):
        run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_extending_changes_nothing_that_is_there() -> None:
    fs = MemoryFileSystem()
    run(ROOT, fs=fs)
    first = shards(fs, ROOT)
    result = run(ROOT, fs=fs, clips=30, extend=True, shard_clips=16)
    assert (result.clips, result.made, result.shards_total) == (30, 18, 4)
    assert {k: v for k, v in shards(fs, ROOT).items() if k in first} == first
    assert verify(ROOT, deep=True, fs=fs).ok
    # The command as it was given last resumes; the shorter one is refused.
    assert run(ROOT, fs=fs, clips=30).made == 0
    assert run(ROOT, fs=fs, clips=30, extend=True).made == 0
    with pytest.raises(PlanMismatchError, match=r"30 clips \(grown from 12\)"):
        run(ROOT, fs=fs)
    assert run(ROOT, fs=fs, clips=31, extend=True).made == 1
    whole = MemoryFileSystem()
    run(ROOT, fs=whole, clips=31)
    with ClipDataset.open(ROOT, fs) as grown, ClipDataset.open(ROOT, whole) as at_once:
        assert (grown.read(range(31)).packed == at_once.read(range(31)).packed).all()


def test_extents_are_checked() -> None:
    fs = MemoryFileSystem()
    run(ROOT, fs=fs)
    for n in (20, 30):
        run(ROOT, fs=fs, clips=n, extend=True)
    fs.unlink(Folder(ROOT).extent(2))
    with pytest.raises(DamagedError, match="numbered without gaps"):
        open_small(fs, ROOT, clips=30)
    assert "numbered without gaps" in verify(ROOT, fs=fs).problems[0].text


def test_a_damaged_or_newer_plan_stops_everything() -> None:
    for change, error in (
        (lambda d: d[:-2], DamagedError),
        (lambda d: d.replace(b'"seed": 3', b'"seed": 4'), DamagedError),
        (lambda d: d.replace(b"\n ", b"\n", 1), DamagedError),
        (lambda d: b"{}", DamagedError),
        (lambda d: b"[" * 100000, DamagedError),
    ):
        fs = MemoryFileSystem()
        run(ROOT, fs=fs)
        data = fs.read(ROOT / "plan.json", 1 << 20)
        fs.unlink(ROOT / "plan.json")
        with fs.create(ROOT / "plan.json") as f:
            f.write(change(data))
        with pytest.raises(error):
            run(ROOT, fs=fs)
        assert fs.read(ROOT / "plan.json", 1 << 20) == change(data)
    from gaitcrafter_rt.bulk.documents import seal, unseal

    fs.unlink(ROOT / "plan.json")
    with fs.create(ROOT / "plan.json") as f:
        f.write(seal({**unseal(data, "x"), "format_version": 2}))
    with pytest.raises(UnsupportedVersionError):
        read_plan(fs, Folder(ROOT))


def table_of(rows: int):  # type: ignore[no-untyped-def]
    import pyarrow as pa

    return pa.table(
        {
            "view": ["000" if k % 3 else None for k in range(rows)],
            "identity": [("001", "002", "003")[k % 3] for k in range(rows)],
            "something else": list(range(rows)),
        }
    )


def write(path: Path, table) -> Table:  # type: ignore[no-untyped-def]
    import pyarrow.parquet as pq

    pq.write_table(table, path)
    return read_table(path)


def test_conditions_from_a_table(tmp_path: Path) -> None:
    table = write(tmp_path / "t.parquet", table_of(12))
    fs = MemoryFileSystem()
    run(ROOT, fs=fs, conditions=table, clips=None)
    with ClipDataset.open(ROOT, fs) as data:
        clips = data.read(range(12))
    assert clips.conditions[0] == {"identity": {"001": 1.0}}
    assert clips.conditions[1] == {"identity": {"002": 1.0}, "view": {"000": 1.0}}
    assert verify(ROOT, deep=True, fs=fs).ok
    assert run(ROOT, fs=fs, conditions=table, clips=None).made == 0
    other = write(tmp_path / "o.parquet", table_of(12).set_column(0, "view", [["090"] * 12]))
    with pytest.raises(PlanMismatchError, match=r"conditions\.sha256"):
        run(ROOT, fs=fs, conditions=other, clips=None)
    longer = write(tmp_path / "l.parquet", table_of(20))
    with pytest.raises(PlanMismatchError, match="--extend"):
        run(ROOT, fs=fs, conditions=longer, clips=None)
    assert run(ROOT, fs=fs, conditions=longer, clips=None, extend=True).made == 8
    with ClipDataset.open(ROOT, fs) as data:
        assert data.read([19]).conditions == [{"identity": {"002": 1.0}, "view": {"000": 1.0}}]
    assert verify(ROOT, deep=True, fs=fs).ok
    path = Folder(ROOT).table(1)
    data = fs.read(path, 1 << 20)
    fs.unlink(path)
    with fs.create(path) as f:
        f.write(data[:-1] + b"x")
    assert "sha256 differs" in verify(ROOT, fs=fs).problems[0].text


def test_a_shard_is_a_table_of_conditions(fast: Path) -> None:
    """Blends come back as they went in."""
    run(fast / "a")
    table = read_table(fast / "a" / "shards" / "shard-00000000.parquet")
    assert table.batch(0, 8) == GRID.batch(0, 8)
    run(fast / "b", conditions=table, clips=None)
    with ClipDataset.open(fast / "a") as a, ClipDataset.open(fast / "b") as b:
        assert (a.read(range(8)).packed == b.read(range(8)).packed).all()


def test_tables_of_strangers(tmp_path: Path) -> None:
    import pyarrow as pa

    with pytest.raises(InvalidRequestError, match="no such file"):
        read_table(tmp_path / "absent")
    (tmp_path / "t").write_bytes(b"no table")
    with pytest.raises(DataFormatError):
        read_table(tmp_path / "t")
    weights = pa.list_(pa.struct([("label", pa.string()), ("weight", pa.float64())]))
    for rows, message in (
        ([[{"label": "001", "weight": float("nan")}]], "finite"),
        ([[{"label": "001", "weight": 1e9}]], "exceeds"),
        ([[{"label": "001", "weight": 1.0}, {"label": "001", "weight": 2.0}]], "twice"),
        ([[{"label": None, "weight": 1.0}]], "label"),
    ):
        with pytest.raises(DataFormatError, match=message):
            write(tmp_path / "w", pa.table({"identity_weights": pa.array(rows, weights)}))
        (tmp_path / "w").unlink()
    with pytest.raises(DataFormatError, match="none of the columns"):
        write(tmp_path / "n", pa.table({"a": [1]}))
    with pytest.raises(InvalidRequestError, match="no view 'x'"):
        run(ROOT, fs=MemoryFileSystem(), conditions=write(tmp_path / "v", pa.table({"view": ["x"]})), clips=None)
    with pytest.raises(InvalidRequestError, match="13 clips from a table of 12 rows"):
        run(ROOT, fs=MemoryFileSystem(), conditions=write(tmp_path / "s", table_of(12)), clips=13)
