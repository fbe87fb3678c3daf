"""Exports read by other people's libraries, each in an environment of its own that pip makes (slow: it needs the network)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gaitcrafter_rt.bulk import ClipDataset
from gaitcrafter_rt.dataset import Selection, export

pytestmark = pytest.mark.slow


def environment(home: Path, *packages: str) -> str:
    """A Python that has ``packages`` and nothing of ours. Skips where pip cannot fetch them."""
    python = home / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, capture_output=True)
        command = [str(python), "-m", "pip", "install", "-q", "--only-binary", ":all:", *packages]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"pip could not fetch {packages}: {made.stderr.strip().splitlines()[-1:]}")
    return str(python)


def ask(python: str, code: str, *arguments: object, beside: Path | None = None) -> dict:
    more = {"PYTHONPATH": str(beside)} if beside else {}
    command = [python, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env={**os.environ, **more})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


# The documented contract of OpenGait's DataSet and CollateFn, in own words: labels of the partition that are on disk; below
# them type, view and files, all sorted, each file ending in .pkl; a sequence is uint8 [T, 64, 64]; BaseSilCuttingTransform drops
# W // 64 * 10 columns a side and divides by 255; fixed_ordered takes 30 frames in order.
OPENGAIT = """
import json, os, pickle, sys
import numpy as np
root = sys.argv[1]
with open(os.path.join(root, "partition.json")) as f:
    part = json.load(f)
assert set(part) == {"TRAIN_SET", "TEST_SET"}
labels = os.listdir(root)
train = [label for label in part["TRAIN_SET"] if label in labels]
assert train == part["TRAIN_SET"] == sorted(train) and not part["TEST_SET"]
seen, sums = [], 0
for label in train:
    for kind in sorted(os.listdir(os.path.join(root, label))):
        for view in sorted(os.listdir(os.path.join(root, label, kind))):
            names = sorted(os.listdir(os.path.join(root, label, kind, view)))
            assert names == [view + ".pkl"], names
            with open(os.path.join(root, label, kind, view, names[0]), "rb") as f:
                clip = pickle.load(f)
            assert type(clip) is np.ndarray and clip.dtype == np.uint8 and clip.shape == (30, 64, 64) and clip.flags.c_contiguous
            values = set(np.unique(clip).tolist())
            assert values <= {0, 255} or sys.argv[2] == "soft", values
            cut = clip.shape[2] // 64 * 10
            x = clip[..., cut:-cut] / 255.0
            assert x.shape == (30, 64, 44) and x.min() >= 0.0 and 0.9 < x.max() <= 1.0
            seen.append([label, kind, view])
            sums += int(clip.astype(np.int64).sum())
assert seen == sorted(seen)
print(json.dumps({"numpy": np.__version__, "sequences": seen, "sum": sums}))
"""


@pytest.mark.parametrize("edges", ["hard", "soft"])
def test_numpy_1_24_reads_an_opengait_tree(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, edges: str) -> None:
    from jobs import run
    from stub import StubEngine

    python = environment(tmp_path_factory.getbasetemp().parent / "gaitcrafter-numpy-1.24", "numpy==1.24.4")
    run(tmp_path / "job", StubEngine((30, 64, 64)), clips=24)
    export("opengait", tmp_path / "job", tmp_path / "tree", edges=edges)
    told = ask(python, OPENGAIT, tmp_path / "tree", edges)
    assert told["numpy"] == "1.24.4"
    assert len(told["sequences"]) == 24
    assert sorted({s[0] for s in told["sequences"]}) == ["syn-001", "syn-001=0.3+002=0.7"]
    assert sorted({s[1] for s in told["sequences"]}) == [f"syn-any-{k:02d}" for k in range(6)]
    if edges == "hard":
        with ClipDataset.open(tmp_path / "job") as data:
            assert told["sum"] == sum(int(batch.frames.sum(dtype=np.int64)) for batch in data.batches())


# load_dataset with nothing but the folder's name, then the code of the card; the same tars by webdataset and by wids.
DATASETS = """
import json, sys
import datasets, numpy as np
datasets.disable_progress_bars()
clips = datasets.load_dataset(sys.argv[1], split="train", cache_dir=sys.argv[2])
bits = np.frombuffer(clips[0]["silhouette"], np.uint8)
frames = np.unpackbits(bits, count=1024).reshape(4, 16, 16)
rows = [[r["clip_index"], r["view"], r["identity"], int(np.frombuffer(r["silhouette"], np.uint8).sum())] for r in clips]
print(json.dumps({"rows": rows, "columns": clips.column_names, "first": int(frames.sum())}))
"""
WEBDATASET = """
import glob, json, sys
import numpy as np, webdataset as wds
tars = sorted(glob.glob(sys.argv[1] + "/*.tar"))
read = wds.WebDataset(tars, shardshuffle=False).decode()
rows = [[s["json"]["clip_index"], s["json"]["view"], s["json"]["identity"], int(s["bits.npy"].sum(dtype=np.int64))] for s in read]
import wids
table = wids.ShardListDataset(sys.argv[1] + "/index.json", cache_dir=sys.argv[2], keep=True)
picked = [table[k][".json"]["clip_index"] for k in (150, 3)]
print(json.dumps({"rows": rows, "count": len(table), "picked": picked}))
"""


@pytest.fixture(scope="module")
def want(job: Path) -> list[list]:
    with ClipDataset.open(job) as data:
        out = []
        for batch in data.batches():
            names = ["001" if len(c["identity"]) == 1 else "001=0.3+002=0.7" for c in batch.conditions]
            views = [next(iter(c["view"])) for c in batch.conditions]
            sums = batch.packed.sum(1, dtype=np.int64).tolist()
            out += [[i, v, n, s] for i, v, n, s in zip(batch.clip_indices.tolist(), views, names, sums, strict=True)]
        return out


def test_datasets_loads_the_hub_folder(
    job: Path, want: list[list], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    python = environment(tmp_path_factory.getbasetemp().parent / "gaitcrafter-datasets", "datasets")
    export("huggingface", job, tmp_path / "hub", shard_clips=90)
    told = ask(python, DATASETS, tmp_path / "hub", tmp_path / "cache")
    assert told["rows"] == want
    assert told["columns"][-2:] == ["silhouette", "quality"]
    assert told["first"] > 0


def test_webdataset_and_wids_read_the_tars(
    job: Path, want: list[list], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Beside our own packages, because wids needs torch.
    beside = tmp_path_factory.getbasetemp().parent / "gaitcrafter-webdataset"
    if not beside.exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(beside)]
        made = subprocess.run([*command, "webdataset", "wids", "braceexpand"], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"pip could not fetch webdataset: {made.stderr.strip().splitlines()[-1:]}")
    export("webdataset", job, tmp_path / "tars", Selection(), shard_clips=70)
    told = ask(sys.executable, WEBDATASET, tmp_path / "tars", tmp_path / "cache", beside=beside)
    assert told["rows"] == want
    assert told["count"] == 199
    assert told["picked"] == [want[150][0], want[3][0]]
