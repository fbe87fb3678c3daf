"""The OpenGait tree, checked against the loader's contract as described in OpenGait's datasets/README and data/dataset.py."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gaitcrafter_rt.clips import ClipBatch
from gaitcrafter_rt.data import PackedClips, build_packed, scan
from gaitcrafter_rt.errors import InvalidRequestError, OutputError
from gaitcrafter_rt.output.opengait import OpenGaitWriter, pickle_array

# Reads a tree the way OpenGait's DataSet and CollateFn do (own words): every file under id/type/view is a pickle of one
# sequence; ids outside the partition are ignored; BaseSilCuttingTransform drops W//64*10 columns a side and divides by 255.
LOADER = """
import json, os, pickle, sys
import numpy as np
root = sys.argv[1]
part = json.load(open(os.path.join(root, "partition.json")))
rows = []
for label in sorted(part["TRAIN_SET"]):
    for kind in sorted(os.listdir(os.path.join(root, label))):
        for view in sorted(os.listdir(os.path.join(root, label, kind))):
            folder = os.path.join(root, label, kind, view)
            for name in sorted(os.listdir(folder)):
                assert name.endswith(".pkl"), name
                with open(os.path.join(folder, name), "rb") as f:
                    a = pickle.load(f)
                assert isinstance(a, np.ndarray) and a.dtype == np.uint8 and a.ndim == 3, (a.dtype, a.shape)
                cut = a.shape[2] // 64 * 10
                x = a[..., cut:-cut] / 255.0
                rows.append([label, kind, view, list(x.shape), float(x.min()), float(x.max()), int(a.astype(np.int64).sum())])
print(json.dumps({"numpy": np.__version__, "rows": rows}))
"""


def load(root: Path, python: str = sys.executable) -> dict:
    out = subprocess.run([python, "-c", LOADER, str(root)], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]
    return json.loads(out.stdout)


def test_a_tree_as_opengait_reads_it(batch: ClipBatch, tmp_path: Path) -> None:
    report = batch.save_opengait(tmp_path / "tree")
    rows = load(tmp_path / "tree")["rows"]
    assert [(r[0], r[1], r[2]) for r in rows] == [
        ("syn-001", "syn-nm-00", "090"),
        ("syn-001", "syn-nm-01", "090"),
        ("syn-001+002", "syn-any-00", "000+018=0.5"),
        ("syn-001=0.5+002=0.5", "syn-bg-00", "090"),
        ("syn-any", "syn-any-00", "000"),
        ("syn-any", "syn-any-00", "any"),
    ]
    assert all(r[3] == [30, 64, 44] and r[4] == 0.0 and r[5] == 1.0 for r in rows)
    assert (report.class_num, report.sequences, report.frames) == (4, 6, 30)
    at_root = sorted(p.name for p in (tmp_path / "tree").iterdir() if p.is_file())
    deeper = [p for p in (tmp_path / "tree").rglob("*") if p.is_file() and p.parent != tmp_path / "tree"]
    assert at_root == ["manifest.json", "partition.json"]
    assert all(len(p.relative_to(tmp_path / "tree").parts) == 4 for p in deeper)
    with open(tmp_path / "tree/syn-001/syn-nm-01/090/090.pkl", "rb") as f:
        np.testing.assert_array_equal(pickle.load(f), batch[5])


def test_settings_for_the_recognisers(batch: ClipBatch, tmp_path: Path) -> None:
    report = batch.save_opengait(tmp_path / "tree")
    settings = report.settings
    assert settings["GaitBase"]["model_cfg.SeparateBNNecks.class_num"] == 4
    assert settings["GaitGL"]["model_cfg.class_num"] == 4
    assert settings["DeepGaitV2"]["model_cfg.SeparateBNNecks.class_num"] == 4
    assert settings["DeepGaitV2"]["trainer_cfg.sampler.frames_skip_num"] == 0
    assert "frames_skip_num must be 0" in report.text()
    assert "class_num: 4" in report.text()
    assert report.notes[0].startswith("add the identities of partition.json")


def test_manifest(batch: ClipBatch, tmp_path: Path) -> None:
    batch.save_opengait(tmp_path / "tree", edges="soft")
    manifest = json.loads((tmp_path / "tree/manifest.json").read_text())
    partition = json.loads((tmp_path / "tree/partition.json").read_text())
    assert manifest["synthetic"] is True
    assert manifest["edges"] == "soft"
    assert manifest["seed"] == 2**64 - 1
    assert manifest["provenance"]["model"] == "toy"
    assert sorted(manifest["identities"]) == partition["TRAIN_SET"]
    assert partition["TEST_SET"] == []
    first = manifest["sequences"][0]
    assert first == {"path": "syn-001/syn-nm-00/090/090.pkl", "clip_index": 2**40, "conditions": batch.conditions[0]}
    assert {s["path"] for s in manifest["sequences"]} == {
        os.path.relpath(p, tmp_path / "tree") for p in (tmp_path / "tree").rglob("*.pkl")
    }


def test_soft_edges_keep_the_bits(batch: ClipBatch, tmp_path: Path) -> None:
    batch.save_opengait(tmp_path / "tree", edges="soft")
    with open(tmp_path / "tree/syn-001/syn-nm-00/090/090.pkl", "rb") as f:
        clip = pickle.load(f)
    assert 0.005 < ((clip > 0) & (clip < 255)).mean() < 0.1
    np.testing.assert_array_equal((clip >= 128) * np.uint8(255), batch[0])


def test_our_own_readers_take_the_tree_back(batch: ClipBatch, tmp_path: Path) -> None:
    batch.save_opengait(tmp_path / "tree", edges="soft")
    report = scan(tmp_path / "tree")
    assert report.recordings == 6
    assert report.synthetic == 6
    assert not report.damaged
    build_packed(tmp_path / "tree", tmp_path / "packed")
    packed = PackedClips.open(tmp_path / "packed")
    assert {packed.bits[i].tobytes() for i in range(len(packed))} == {b.tobytes() for b in batch.packed}


def test_batches_stream_into_one_tree(make: Callable[..., ClipBatch], tmp_path: Path) -> None:
    whole = make()
    with OpenGaitWriter(tmp_path / "parts") as writer:
        writer.add(whole[:2])
        writer.add(whole[2:])
    whole.save_opengait(tmp_path / "whole")
    for path in (tmp_path / "whole").rglob("*.pkl"):
        assert path.read_bytes() == (tmp_path / "parts" / path.relative_to(tmp_path / "whole")).read_bytes()
    assert (tmp_path / "whole/manifest.json").read_text() == (tmp_path / "parts/manifest.json").read_text()


def test_hundreds_of_clips_of_one_kind_are_numbered(make: Callable[..., ClipBatch], tmp_path: Path) -> None:
    make([{"identity": "1", "view": "0", "covariate": "nm"}] * 102, (2, 16, 16)).save_opengait(tmp_path / "t")
    kinds = {p.name for p in (tmp_path / "t/syn-1").iterdir()}
    assert len(kinds) == 102
    assert {"syn-nm-00", "syn-nm-99", "syn-nm-101"} <= kinds


def test_dataset_names_are_part_of_the_type(make: Callable[..., ClipBatch], tmp_path: Path) -> None:
    clips = make([{"dataset": "GREW", "identity": "1", "view": "0"}, {"identity": "1", "view": "0"}], (2, 16, 16))
    report = clips.save_opengait(tmp_path / "t")
    assert {p.name for p in (tmp_path / "t/syn-1").iterdir()} == {"syn-GREW-any-00", "syn-any-00"}
    assert any("16x16" in n for n in report.notes)
    assert any("2 frames" in n for n in report.notes)


def test_empty_frames_and_cut_columns_are_noted(make: Callable[..., ClipBatch], tmp_path: Path) -> None:
    clips = make([{"identity": "1"}])
    pixels = np.roll(clips.frames, 30, axis=3) > 0
    pixels[0, 3] = False
    clips.packed = np.packbits(pixels.reshape(1, -1), axis=1)
    notes = " ".join(clips.save_opengait(tmp_path / "t").notes)
    assert "1 frames hold no foreground" in notes
    assert "BaseSilCuttingTransform" in notes


@pytest.mark.parametrize(
    "conditions, message",
    [
        ([{"identity": "a\0b"}], "control characters"),
        ([{"identity": "x" * 300}], "shorter labels"),
        ([{"identity": "Ab"}, {"identity": "aB"}], "upper and lower case"),
        ([{"cond": [0.0, 1.0]}], "cond vector"),
    ],
)
def test_labels_that_cannot_be_folders(make: Callable[..., ClipBatch], tmp_path: Path, conditions: list, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        make(conditions, (2, 16, 16)).save_opengait(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


def test_hostile_labels_stay_inside_the_root(make: Callable[..., ClipBatch], tmp_path: Path) -> None:
    evil = ["../../up", "/abs", "..", ".", "a/b", "C:\\x", "-rf", "~", "$(id)", "nm;rm"]
    make([{"identity": e, "view": e, "covariate": e} for e in evil], (2, 16, 16)).save_opengait(tmp_path / "in" / "tree")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    assert [p.name for p in (tmp_path / "in").iterdir()] == ["tree"]
    assert len(list((tmp_path / "in/tree").rglob("*.pkl"))) == len(evil)
    assert len(load_names(tmp_path / "in/tree")) == len(evil)


def load_names(root: Path) -> list[str]:
    return json.loads((root / "partition.json").read_text())["TRAIN_SET"]


def test_refuses_occupied_places_and_bad_options(batch: ClipBatch, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/mine").write_text("x")
    with pytest.raises(OutputError, match="not an empty folder"):
        batch.save_opengait(tmp_path / "tree")
    with pytest.raises(InvalidRequestError, match="'hard'"):
        batch.save_opengait(tmp_path / "new", edges="medium")
    with pytest.raises(InvalidRequestError, match="at least one clip"):
        batch[:0].save_opengait(tmp_path / "new")
    other = ClipBatch(batch.packed, batch.shape, batch.conditions, 5, batch.clip_indices)
    writer = OpenGaitWriter(tmp_path / "new")
    writer.add(batch)
    with pytest.raises(InvalidRequestError, match="share shape, seed"):
        writer.add(other)
    writer.discard()
    assert [p.name for p in tmp_path.iterdir()] == ["tree"]


def test_pickle_bytes_are_protocol_3_and_name_the_old_module() -> None:
    data = pickle_array(np.zeros((30, 64, 64), np.uint8))
    assert data[:2] == b"\x80\x03"
    assert b"numpy.core.multiarray" in data
    assert b"_core" not in data
    with pytest.raises(InvalidRequestError):
        pickle_array(np.zeros((1, 2, 3), np.float32))


@pytest.fixture(scope="session")
def old_numpy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with numpy 1, as OpenGait's documentation asks for."""
    home = tmp_path_factory.getbasetemp().parent / "gaitcrafter-numpy1"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, capture_output=True)
        made = subprocess.run(
            [str(python), "-m", "pip", "install", "-q", "--only-binary", ":all:", "numpy==1.26.4"], capture_output=True, text=True
        )
        if made.returncode:
            pytest.skip(f"pip could not fetch numpy 1.26.4: {made.stderr.strip().splitlines()[-1:]}")
        (home / "ready").touch()
    return str(python)


@pytest.mark.slow
def test_numpy_1_reads_the_tree(batch: ClipBatch, tmp_path: Path, old_numpy: str) -> None:
    for edges in ("hard", "soft"):
        batch.save_opengait(tmp_path / edges, edges=edges)
        old, new = load(tmp_path / edges, old_numpy), load(tmp_path / edges)
        assert old["numpy"].startswith("1.26")
        assert not new["numpy"].startswith("1.")
        assert old["rows"] == new["rows"]
