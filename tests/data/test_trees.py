"""Real-data trees in every layout: what is found, what is reported, what is packed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gaitcrafter_rt.data import Mapping, PackedClips, build_packed, scan
from gaitcrafter_rt.data.normalise import normalise_silhouettes
from gaitcrafter_rt.data.recordings import find_recordings, fit_size
from gaitcrafter_rt.errors import DataFormatError, InvalidRequestError, OutputError, UnsupportedVersionError

Put = Callable[..., Path]
Make = Callable[..., np.ndarray]


def casia(put: Put, raw: Make, frames: int = 32) -> Path:
    pictures = raw(frames)
    for identity in ("001", "002"):
        for kind in ("nm-01", "bg-01"):
            for t, picture in enumerate(pictures):
                tree = put(f"{identity}/{kind}/090/{identity}-{kind}-090-{t + 1:03d}.png", picture)
    return tree


def test_raw_casia_b_frames(put: Put, tmp_path: Path, raw: Make) -> None:
    tree = casia(put, raw)
    found = find_recordings(tree)
    assert [(r.dataset, r.identity, r.covariate, r.sequence, r.view) for r in found.recordings] == [
        ("CASIA-B", i, c, "01", "090") for i in ("001", "002") for c in ("bg", "nm")
    ]
    assert [os.path.basename(f) for f in found.recordings[0].files[:3]] == [f"001-bg-01-090-00{n}.png" for n in (1, 2, 3)]
    want = normalise_silhouettes(raw())
    np.testing.assert_array_equal(found.recordings[0].load(), want)
    report = build_packed(tree, tmp_path / "out", terms="made up")
    packed = PackedClips.open(tmp_path / "out")
    assert report.clips == len(packed) == 4
    np.testing.assert_array_equal(packed.clips[0], want[:30] >= 128)
    assert packed.names(3) == {"dataset": "CASIA-B", "identity": "002", "view": "090", "covariate": "nm"}
    assert packed.meta.source == "real"
    assert packed.meta.terms == "made up"


def test_frames_are_ordered_by_number_not_by_text(put: Put, raw: Make) -> None:
    pictures = raw(12)
    for t in range(12):
        tree = put(f"001/nm-01/090/001-nm-01-090-{t}.png", pictures[t])
    np.testing.assert_array_equal(find_recordings(tree).recordings[0].load(), normalise_silhouettes(pictures))


@pytest.mark.parametrize(
    "layout, name, mapping, labels",
    [
        ("OpenGait CASIA-B", "001/nm-01/090/090.pkl", None, (None, "001", "nm", "01", "090")),
        ("CASIA-B*", "001/cl-02/018/018-aligned-sils.pkl", None, (None, "001", "cl", "02", "018")),
        ("OUMVLP", "00001/00/015/015.pkl", None, (None, "00001", None, "00", "015")),
        ("SUSTech1K", "0000/00-nm/000/06-000-Camera-Sils_aligned.pkl", None, ("SUSTech1K", "0000", "nm", "00", "000")),
        (
            "OUMVLP raw, mapped", "Silhouette_015-00/00001/0001.png",
            {"pattern": "Silhouette_{view:d}-{sequence:d}/{identity:d}/{frame:d}.png",
             "constants": {"dataset": "OUMVLP", "covariate": "nm"}},
            ("OUMVLP", "00001", "nm", "00", "015"),
        ),
        (
            "GREW, mapped", "00001train/00/4XPn5Z28/4XPn5Z28.pkl",
            {"pattern": "{identity}/{*}/{sequence}/{sequence}.pkl", "constants": {"dataset": "GREW"},
             "rename": {"identity": {"00001train": "g1"}}},
            ("GREW", "g1", None, "4XPn5Z28", None),
        ),
        (
            "merged", "CASIA-B/001/nm-01/090/090.pkl",
            {"pattern": "{dataset}/{identity}/{covariate}-{sequence:d}/{view}/{view}.pkl"},
            ("CASIA-B", "001", "nm", "01", "090"),
        ),
    ],
    ids=lambda v: v if isinstance(v, str) and "/" not in v else "",
)  # fmt: skip
def test_layouts(put: Put, layout: str, name: str, mapping: dict | None, labels: tuple, raw: Make, figure: Make) -> None:
    tree = put(name, raw(1)[0] if name.endswith("png") else figure())
    rules = Mapping.parse({"rules": [mapping]}) if mapping else None
    (recording,) = find_recordings(tree, rules).recordings
    assert (recording.dataset, recording.identity, recording.covariate, recording.sequence, recording.view) == labels
    assert recording.load().shape[1:] == (64, 64)


def test_other_modalities_beside_the_silhouettes_are_left_alone(put: Put, figure: Make) -> None:
    put("001/nm-01/090/090-aligned-sils.pkl", figure()[:, :, 10:54])
    put("001/nm-01/090/090-ratios.pkl", np.ones(32))
    tree = put("001/nm-01/090/090-sils.pkl", figure(4, 128))
    found = find_recordings(tree)
    assert (len(found.recordings), found.files, found.unmatched) == (1, 3, 2)
    np.testing.assert_array_equal(found.recordings[0].load(), figure() * (abs(np.arange(64) - 31.5) < 22))


def test_sizes(put: Put, figure: Make) -> None:
    clip = figure(3)
    np.testing.assert_array_equal(fit_size(clip[:, :, 10:54], "x")[:, :, 10:54], clip[:, :, 10:54])
    big = np.repeat(np.repeat(clip, 2, 1), 2, 2)
    np.testing.assert_array_equal(fit_size(big, "x"), clip)
    np.testing.assert_array_equal(fit_size(big[:, :, 20:108], "x")[:, :, 10:54], clip[:, :, 10:54])
    for shape in ((3, 65, 64), (3, 64, 66), (3, 32, 32), (3, 64, 43), (3, 128, 86), (3, 256, 256)):
        with pytest.raises(DataFormatError, match="64 rows"):
            fit_size(np.zeros(shape, np.uint8), "x")


def test_scan_names_what_is_wrong(put: Put, figure: Make) -> None:
    for identity in ("001", "002"):
        for view in ("000", "090"):
            put(f"{identity}/nm-01/{view}/{view}.pkl", figure())
    put("002/bg-01/000/000.pkl", figure(20))
    put("002/bg-01/090/090.pkl", figure(3))
    put("001/bg-01/090/090.pkl", figure() // 255)
    put("003/nm-01/000/000.pkl", np.zeros((40, 64, 64), np.uint8))
    put("syn-001/syn-nm-00/090/090.pkl", figure())
    tree = put("notes/extra.pkl", [1, 2, 3])
    (tree / "003" / "nm-01" / "090").mkdir()
    (tree / "003" / "nm-01" / "090" / "090.pkl").write_bytes(b"cos\nsystem\n(S'touch /tmp/x'\ntR.")
    seen: list[tuple[int, int]] = []
    report = scan(tree, progress=lambda done, total: seen.append((done, total)))
    assert report.recordings == 10
    assert seen[-1] == (10, 10)
    assert report.axes["identity"] == {"001": 3, "002": 4, "003": 2, "syn-001": 1}
    assert report.axes["view"] == {"000": 4, "090": 6}
    assert (report.damaged, report.empty, report.short, report.few, report.zero_one, report.synthetic, report.unmatched) == (
        1,
        1,
        2,
        1,
        1,
        1,
        1,
    )
    assert "003/nm-01/090" in report.damaged_examples[0]
    assert "GLOBAL" not in report.damaged_examples[0][:20]
    assert report.empty_examples == ["003/nm-01/000/000.pkl"]
    assert sorted(report.short_examples) == ["002/bg-01/000/000.pkl (20 frames)", "002/bg-01/090/090.pkl (3 frames)"]
    # 4 identities x 3 kinds x 2 views, 10 of them there
    assert report.missing == 14
    assert "001/bg-01/000" in report.missing_examples
    assert report.problems[0] == "1 recordings are damaged or refused"
    assert len(report.problems) == 7
    assert json.loads(json.dumps(report.to_dict()))["frames"]["max"] == 32


def test_scan_deep_decodes_frames(put: Put, raw: Make) -> None:
    tree = casia(put, raw, 3)
    put("001/nm-01/090/001-nm-01-090-004.png", np.zeros((8, 8), np.uint8))
    (tree / "002/nm-01/090/002-nm-01-090-001.png").write_bytes(b"no picture")
    assert scan(tree, window=3).problems == []
    report = scan(tree, window=4, deep=True)
    assert (report.damaged, report.short) == (1, 3)


def test_a_clean_tree_has_no_problems(put: Put, figure: Make) -> None:
    tree = put("001/nm-01/090/090.pkl", figure())
    assert scan(tree).problems == []


def test_partition_and_merged_identities(put: Put, tmp_path: Path, figure: Make) -> None:
    for name in ("A/001", "B/001", "B/002"):
        tree = put(f"{name}/nm-01/090/090.pkl", figure(65))
    mapping = tmp_path / "mapping.json"
    mapping.write_text(
        json.dumps({"format_version": 1, "rules": [{"pattern": "{dataset}/{identity}/{covariate}-{sequence:d}/{view}/{view}.pkl"}]})
    )
    partition = tmp_path / "partition.json"
    partition.write_text(json.dumps({"TRAIN_SET": ["B-001"], "TEST_SET": ["A-001"]}))
    report = build_packed(tree, tmp_path / "out", mapping=mapping, partition=partition)
    packed = PackedClips.open(tmp_path / "out")
    assert (report.clips, report.recordings, report.not_listed) == (4, 2, 1)
    assert packed.labels.identity == ["A-001", "B-001"]
    assert packed.labels.dataset == ["A", "B"]
    assert packed.split.tolist() == [1, 1, 0, 0]
    assert packed.sequence.tolist() == [0, 0, 1, 1]


def test_short_and_damaged_recordings(put: Put, tmp_path: Path, figure: Make) -> None:
    put("001/nm-01/090/090.pkl", figure(31))
    put("001/nm-02/090/090.pkl", figure(29))
    tree = put("001/nm-03/090/090.pkl", figure().astype(np.float32))
    with pytest.raises(DataFormatError, match="skip-damaged"):
        build_packed(tree, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = build_packed(tree, tmp_path / "out", skip_damaged=True)
    assert (report.clips, report.too_short, len(report.damaged)) == (1, 1, 1)
    with pytest.raises(OutputError, match="not an empty folder"):
        build_packed(tree, tmp_path / "out", skip_damaged=True)
    with pytest.raises(DataFormatError, match="40 frames"):
        build_packed(tree, tmp_path / "out2", skip_damaged=True, frames=40)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "tree"]


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not a partition"), ("[]", "not a partition"), ('{"TRAIN_SET": [1], "TEST_SET": []}', "lists of identities"),
        ('{"TRAIN_SET": ["001"], "TEST_SET": ["001"]}', "both"), ('{"TRAIN_SET": ["9"], "TEST_SET": []}', "lists none"),
    ],
)  # fmt: skip
def test_bad_partitions(put: Put, tmp_path: Path, content: str, message: str, figure: Make) -> None:
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(DataFormatError, match=message):
        build_packed(put("001/nm-01/090/090.pkl", figure()), tmp_path / "out", partition=tmp_path / "p.json")


@pytest.mark.parametrize(
    "rule, message",
    [
        ({"pattern": "{identity}.txt"}, "must end in"),
        ({"pattern": "{person}.pkl"}, "no field 'person'"),
        ({"pattern": "{view}.pkl"}, "no {identity}"),
        ({"pattern": "{identity}/{.pkl"}, "stray braces"),
        ({"pattern": "{identity}{view}{*}{sequence}.pkl"}, "more than 3"),
        ({"pattern": "{identity}.pkl", "constants": {"frame": "1"}}, "constants"),
        ({"pattern": "{identity}.pkl", "else": 1}, "else"),
        ({"pattern": ""}, "pattern"),
    ],
)
def test_bad_mappings_are_explained(rule: dict, message: str) -> None:
    with pytest.raises(DataFormatError, match=message):
        Mapping.parse({"rules": [rule]})


def test_mapping_files(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text('{"format_version": 2}')
    with pytest.raises(UnsupportedVersionError):
        Mapping.read(path)
    path.write_text("nope")
    with pytest.raises(DataFormatError, match="not JSON"):
        Mapping.read(path)
    with pytest.raises(DataFormatError, match="cannot be read"):
        Mapping.read(tmp_path / "absent")


def test_nothing_there(put: Put, tmp_path: Path, figure: Make) -> None:
    with pytest.raises(DataFormatError, match="not a folder"):
        scan(tmp_path / "absent")
    with pytest.raises(DataFormatError, match="mapping file"):
        scan(put("odd.pkl", figure()))
    with pytest.raises(InvalidRequestError, match="512"):
        build_packed(put("001/nm-01/090/090.pkl", figure()), tmp_path / "o", frames=0)


def test_links_are_followed_and_loops_are_cut(put: Put, tmp_path: Path, figure: Make) -> None:
    tree = put("001/nm-01/090/090.pkl", figure())
    os.symlink(tree / "001", tree / "002")
    os.symlink(tree, tree / "001" / "loop")
    assert [r.identity for r in find_recordings(tree).recordings] == ["001", "002"]


def test_names_that_are_no_labels(put: Put, figure: Make) -> None:
    tree = put("001/nm-01/090/090.pkl", figure())
    put("0\n2/nm-01/090/090.pkl", figure())
    put(f"{'9' * 129}/nm-01/090/090.pkl", figure())
    os.makedirs(os.fsencode(tree) + b"/\xff\xfe/nm-01/090")
    with open(os.fsencode(tree) + b"/\xff\xfe/nm-01/090/090.pkl", "wb"):
        pass
    found = find_recordings(tree)
    assert (len(found.recordings), found.unmatched) == (1, 3)
