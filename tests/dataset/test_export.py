"""Exports read back by what reads them: tarfile, pyarrow, numpy, Pillow; whole or absent; whatever the labels are."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import stub
from jobs import run
from PIL import Image
from stub import StubEngine

from gaitcrafter_rt import ClipBatch
from gaitcrafter_rt.bulk import ClipDataset, Grid
from gaitcrafter_rt.cli.main import main
from gaitcrafter_rt.data import read_pickle
from gaitcrafter_rt.dataset import Selection, build_cache, export, merge
from gaitcrafter_rt.dataset.check import verify_set
from gaitcrafter_rt.dataset.exporting import FILES, FOLDERS, FORMATS
from gaitcrafter_rt.errors import DataFormatError, GaitcrafterError, InvalidRequestError, OutputError

WITHOUT_EXTRAS = tuple(f for f in FORMATS if f not in ("lance", "mp4"))


@pytest.fixture(scope="module")
def truth(job: Path) -> ClipBatch:
    with ClipDataset.open(job) as data:
        return ClipBatch.concatenate(list(data.batches()))


def samples(folder: Path) -> list[tuple[dict, np.ndarray]]:
    """What webdataset's own reader makes of the tars: members grouped by the key before the first dot."""
    out = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found: dict[str, dict[str, bytes]] = {}
            for member in tar:
                key, _, extension = member.name.partition(".")
                assert "/" not in key
                assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
                data = tar.extractfile(member)
                assert data is not None
                found.setdefault(key, {})[extension] = data.read()
        for parts in found.values():
            assert sorted(parts) == ["bits.npy", "json"]
            out.append((json.loads(parts["json"]), np.load(io.BytesIO(parts["bits.npy"]), allow_pickle=False)))
    return out


def test_webdataset(job: Path, truth: ClipBatch, tmp_path: Path) -> None:
    done = export("webdataset", job, tmp_path / "tars", shard_clips=80)
    assert done["clips"] == 199
    assert sorted(p.name for p in (tmp_path / "tars").iterdir()) == [
        "clips-000000.tar", "clips-000001.tar", "clips-000002.tar", "index.json",
    ]  # fmt: skip
    got = samples(tmp_path / "tars")
    np.testing.assert_array_equal(np.stack([bits for _, bits in got]), truth.packed)
    assert [about["clip_index"] for about, _ in got] == truth.clip_indices.tolist()
    assert [about["conditions"] for about, _ in got] == truth.conditions
    assert got[0][0]["view"] == "000"
    assert got[0][0]["shape"] == [4, 16, 16]
    index = json.loads((tmp_path / "tars" / "index.json").read_text())
    assert [s["clips"] for s in index["shards"]] == [80, 80, 39]
    assert [s["nsamples"] for s in index["shardlist"]] == [80, 80, 39]
    report = verify_set(tmp_path / "tars")
    assert report is not None
    assert report.ok
    assert report.clips == 199
    export("webdataset", job, tmp_path / "again", shard_clips=80)
    for file in (tmp_path / "tars").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), "the same clips give the same bytes"


def test_a_cut_tar_is_noticed(job: Path, tmp_path: Path) -> None:
    """Cut between two members a tar reads as a shorter one; only the index knows better."""
    root = tmp_path / "tars"
    export("webdataset", job, root, shard_clips=80)
    path = root / "clips-000001.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        places = [m.offset for m in tar][2::40]
    for at in places:
        path.write_bytes(whole[:at] + bytes(1024))
        with tarfile.open(path) as tar:
            assert len(tar.getmembers()) < 160
        report = verify_set(root)
        assert report is not None
        assert not report.ok
        assert "cut or changed" in report.problems[0].text
    for at in range(0, len(whole), len(whole) // 30):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        report = verify_set(root)
        assert report is not None
        assert not report.ok
    path.write_bytes(whole)
    (root / "clips-000009.tar").touch()
    report = verify_set(root)
    assert report is not None
    assert "no part of this export" in report.problems[0].text
    for bad in ("{}", "[", json.dumps({"format": "gaitcrafter-webdataset", "format_version": 1, "shards": [{"file": "../x"}]})):
        (root / "index.json").write_text(bad)
        report = verify_set(root)
        assert report is not None
        assert not report.ok


def test_huggingface(job: Path, truth: ClipBatch, tmp_path: Path) -> None:
    done = export("huggingface", job, tmp_path / "hub", shard_clips=150)
    assert done == {"clips": 199, "files": ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]}
    tables = [pq.read_table(tmp_path / "hub" / "data" / f, page_checksum_verification=True) for f in done["files"]]
    assert [t.num_rows for t in tables] == [150, 49]
    silhouettes = [s for t in tables for s in t["silhouette"].to_pylist()]
    np.testing.assert_array_equal(np.stack([np.frombuffer(s, np.uint8) for s in silhouettes]), truth.packed)
    assert [i for t in tables for i in t["clip_index"].to_pylist()] == truth.clip_indices.tolist()
    assert tables[0]["identity"].to_pylist()[:4] == ["001", "001", "001=0.3+002=0.7", "001=0.3+002=0.7"]
    assert tables[0]["identity_weights"].to_pylist()[2] == [{"label": "001", "weight": 0.3}, {"label": "002", "weight": 0.7}]
    assert tables[0].schema.metadata[b"synthetic"] == b"true"
    card = (tmp_path / "hub" / "README.md").read_text()
    assert card.startswith("---\n")
    assert "size_categories: [1<n<1K]" in card
    assert "`stub`" in card
    assert "reshape(4, 16, 16)" in card
    export("huggingface", job, tmp_path / "again", shard_clips=150)
    for name in done["files"]:
        assert (tmp_path / "again" / "data" / name).read_bytes() == (tmp_path / "hub" / "data" / name).read_bytes()


def test_lance(job: Path, truth: ClipBatch, tmp_path: Path) -> None:
    lance = pytest.importorskip("lance", reason="the extra 'lance' is not installed")
    assert export("lance", job, tmp_path / "table")["clips"] == 199
    table = lance.dataset(str(tmp_path / "table")).to_table()
    np.testing.assert_array_equal(np.stack([np.frombuffer(s, np.uint8) for s in table["silhouette"].to_pylist()]), truth.packed)
    assert table["view"].to_pylist()[:2] == ["000", "090"]
    assert table.schema.metadata[b"synthetic"] == b"true"
    assert lance.dataset(str(tmp_path / "table")).take([198])["clip_index"].to_pylist() == [299]


def test_lance_without_its_extra(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lance", None)
    with pytest.raises(GaitcrafterError, match=r"needs the extra 'lance'.*pip install 'gaitcrafter-rt\[lance\]'"):
        export("lance", job, tmp_path / "table")
    assert list(tmp_path.iterdir()) == []


def test_opengait_of_two_plans(job: Path, tmp_path: Path) -> None:
    run(tmp_path / "other", clips=20, seed=9)
    merge([job, tmp_path / "other"], tmp_path / "both")
    done = export("opengait", tmp_path / "both", tmp_path / "tree", Selection.of({"view": ["090"]}))
    manifest = json.loads((tmp_path / "tree" / "manifest.json").read_text())
    assert done["clips"] == len(manifest["sequences"]) == 99 + 10
    assert sorted(s["seed"] for s in manifest["sources"]) == [3, 9]
    truths = {}
    for name, seed in ((job, 3), (tmp_path / "other", 9)):
        with ClipDataset.open(name) as data:
            for batch in data.batches():
                truths.update({(seed, int(i)): batch[k] for k, i in enumerate(batch.clip_indices)})
    for sequence in manifest["sequences"]:
        clip = read_pickle(tmp_path / "tree" / sequence["path"])
        seed = manifest["sources"][sequence["source"]]["seed"]
        np.testing.assert_array_equal(clip, truths[seed, sequence["clip_index"]])
    # Numbers go on from one plan to the next: no sequence lies over another.
    assert len({s["path"] for s in manifest["sequences"]}) == 109
    partition = json.loads((tmp_path / "tree" / "partition.json").read_text())
    assert partition == {"TRAIN_SET": ["syn-001", "syn-001=0.3+002=0.7"], "TEST_SET": []}
    with pytest.raises(InvalidRequestError, match="choose one with --plan"):
        export("npz", tmp_path / "both", tmp_path / "clips.npz")
    plan = manifest["sources"][0]
    assert plan["provenance"]["synthetic"] is True
    export("npz", tmp_path / "both", tmp_path / "clips.npz", Selection.of(plan=_plan_of(tmp_path / "other")))
    assert ClipBatch.load_npz(tmp_path / "clips.npz").seed == 9


def _plan_of(job: Path) -> str:
    return str(json.loads((job / "plan.json").read_text())["plan_id"])


def test_files(job: Path, truth: ClipBatch, tmp_path: Path) -> None:
    export("npz", job, tmp_path / "clips.npz")
    back = ClipBatch.load_npz(tmp_path / "clips.npz")
    np.testing.assert_array_equal(back.packed, truth.packed)
    assert back.provenance == truth.provenance
    for kind, frames in (("gif", 4), ("webp", 4), ("sheet", 1)):
        done = export(kind, job, tmp_path / f"picture.{kind}")
        assert done["clips"] == (40 if kind == "sheet" else 16)
        assert "the first" in done["note"]
        with Image.open(tmp_path / f"picture.{kind}") as picture:
            assert getattr(picture, "n_frames", 1) == frames
    assert export("sheet", job, tmp_path / "few.png", Selection.of(limit=3)) == {"clips": 3}


def test_mp4(job: Path, tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="the extra 'video' is not installed")
    export("mp4", job, tmp_path / "clips.mp4")
    assert (tmp_path / "clips.mp4").read_bytes()[4:8] == b"ftyp"


@pytest.mark.parametrize("kind", WITHOUT_EXTRAS)
def test_a_cache_exports_what_its_job_does(job: Path, tmp_path: Path, kind: str) -> None:
    build_cache(job, tmp_path / "cache")
    chosen = Selection.of({"view": ["090"], "identity": ["001"]}, limit=10)
    export(kind, job, tmp_path / "a", chosen)
    export(kind, tmp_path / "cache", tmp_path / "b", chosen)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def contents(path: Path) -> dict[str, str]:
    """Hash of every file below; the arrays of an npz file, whose zip has times."""
    if path.is_file():
        try:
            with np.load(path) as z:
                return {k: hashlib.sha256(z[k].tobytes()).hexdigest() for k in z.files}
        except ValueError:
            return {"": hashlib.sha256(path.read_bytes()).hexdigest()}
    return {str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in path.rglob("*") if p.is_file()}


def need(kind: str) -> None:
    """Skip without the extra that a format needs."""
    for name, module in (("lance", "lance"), ("mp4", "imageio_ffmpeg")):
        if kind == name:
            pytest.importorskip(module, reason=f"the extra of {kind} is not installed")


@pytest.mark.parametrize("kind", FORMATS)
def test_whole_or_absent(job: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over something that exists, on a full disk, from a damaged shard: refused, and nothing is left."""
    need(kind)
    for name in ("file", "folder"):
        place = tmp_path / name
        place.mkdir() if name == "folder" else place.write_text("mine")
        if name == "folder":
            (place / "mine").touch()
        with pytest.raises(OutputError, match="exists"):
            export(kind, job, place)
    with monkeypatch.context() as patch:

        def full(fd: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            export(kind, job, tmp_path / "out")
    damaged = tmp_path / "damaged.parquet"
    data = bytearray((job / "shards" / "shard-00000000.parquet").read_bytes())
    data[len(data) // 2] ^= 8
    damaged.write_bytes(data)
    with pytest.raises(DataFormatError):
        export(kind, damaged, tmp_path / "out", Selection.of(limit=64))
    with pytest.raises(InvalidRequestError, match="no clip there"):
        export(kind, job, tmp_path / "out", Selection.of({"view": ["045"]}))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged.parquet", "file", "folder"]


HOSTILE = [
    "../../etc/passwd", "/etc/passwd", "..", ".", "~", "a\\b", "con", "x" * 120, "نص عربي", "𝕬🚶‍♀️", "%2E%2E%2F", "-rf", "$(reboot)",
    "<script>alert(1)</script>", "a|b`c", "\u202eevil", "A", "b'; DROP TABLE clips;--",
]  # fmt: skip
NOT_ON_DISK = ["new\nline", "tab\tbed", "nul\x00byte", "\x1b[31mred", "y" * 300]


def hostile_job(root: Path, labels: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(stub, "LABELS", {**stub.LABELS, "view": labels, "identity": labels})
    grid = Grid(identity=[{label: 1.0} for label in labels], view=labels[:2])
    run(root, conditions=grid, clips=2 * len(labels))
    return labels


@pytest.mark.parametrize("kind", FORMATS)
def test_hostile_labels_stay_inside(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need(kind)
    labels = hostile_job(tmp_path / "job", HOSTILE, monkeypatch)
    box = tmp_path / "box"
    box.mkdir()
    out = box / "out"
    export(kind, tmp_path / "job", out, Selection.of(limit=36))
    assert [p.name for p in box.iterdir()] == ["out"], "nothing beside it"
    paths = [p.relative_to(out) for p in out.rglob("*")] if out.is_dir() else []
    assert all(set(part) <= set(_SAFE) and part not in (".", "..") for path in paths for part in path.parts)
    if kind == "webdataset":
        found = {about["view"] for about, _ in samples(out)}
        assert found == set(labels[:2])
        weights = {next(iter(about["conditions"]["identity"])) for about, _ in samples(out)}
        assert weights == set(labels)
    if kind == "huggingface":
        table = pq.read_table(out / "data" / "train-00000-of-00001.parquet")
        assert {w[0]["label"] for w in table["identity_weights"].to_pylist()} == set(labels)
    if kind == "lance":
        table = importlib.import_module("lance").dataset(str(out)).to_table()
        assert {w[0]["label"] for w in table["identity_weights"].to_pylist()} == set(labels)
    if kind == "opengait":
        manifest = json.loads((out / "manifest.json").read_text())
        assert {next(iter(s["conditions"]["identity"])) for s in manifest["sequences"]} == set(labels)


_SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.%+="


@pytest.mark.parametrize("kind", ["opengait", "webdataset", "huggingface", "lance", "npz", "gif", "sheet"])
@pytest.mark.parametrize("label", NOT_ON_DISK, ids=["newline", "tab", "nul", "escape", "long"])
def test_labels_that_name_no_folder(tmp_path: Path, kind: str, label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is not named so; where labels are data they come back as they are."""
    need(kind)
    hostile_job(tmp_path / "job", ["001", label], monkeypatch)
    if kind == "opengait":
        with pytest.raises(InvalidRequestError, match=r"control characters|file systems allow"):
            export(kind, tmp_path / "job", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return
    export(kind, tmp_path / "job", tmp_path / "out")
    if kind == "webdataset":
        assert {about["view"] for about, _ in samples(tmp_path / "out")} == {"001", label}
    elif kind == "huggingface":
        assert set(pq.read_table(tmp_path / "out" / "data")["view"].to_pylist()) == {"001", label}
    elif kind == "lance":
        table = importlib.import_module("lance").dataset(str(tmp_path / "out")).to_table()
        assert set(table["view"].to_pylist()) == {"001", label}
    elif kind in ("gif", "sheet"):
        with Image.open(tmp_path / "out") as picture:
            picture.verify()
    else:
        assert {next(iter(c["view"])) for c in ClipBatch.load_npz(tmp_path / "out").conditions} == {"001", label}


def test_hostile_labels_in_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = hostile_job(tmp_path / "job", HOSTILE + NOT_ON_DISK, monkeypatch)
    cache = build_cache(tmp_path / "job", tmp_path / "cache")
    assert {next(iter(c["identity"])) for c in cache.batch(range(len(cache))).conditions} == set(labels)
    assert sorted(p.name for p in cache.folder.iterdir()) == ["cache.json", "checksums.json", "index.bin", "silhouettes.bin"]


def test_hostile_cards(job: Path, tmp_path: Path) -> None:
    """A model's name cannot break out of its cell."""
    run(tmp_path / "job", StubEngine(name="evil`|\n---\n# Owned\n<img>"), clips=4)
    export("huggingface", tmp_path / "job", tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "\n# Owned" not in card
    assert "`evil'/ --- # Owned <img>`" in card


def test_command_line(job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = ["dataset", "export", "opengait", str(job), str(tmp_path / "tree")]
    assert main([*tree, "--edges", "soft", "--limit", "8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["opengait"]["class_num"] == 2
    assert main(tree) == 5
    assert main(["dataset", "export", "gif", str(job), str(tmp_path / "x.gif"), "--edges", "soft"]) == 2
    assert main(["dataset", "export", "tiff", str(job), str(tmp_path / "x")]) == 2
    assert "the formats are opengait, webdataset" in capsys.readouterr().err
    assert main(["dataset", "export", "webdataset", str(job), str(tmp_path / "tars"), "--shard-clips", "0"]) == 2
    assert main(["dataset", "export", "webdataset", str(job), str(tmp_path / "tars")]) == 0
    assert main(["dataset", "verify", str(tmp_path / "tars")]) == 0
    assert set(FOLDERS) | set(FILES) == set(FORMATS)
