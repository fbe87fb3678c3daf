"""Recognisers: losses and batches by their definitions, what each kind can see, packages, the protocol."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gaitcrafter_rt.data.packed import PackedClips
from gaitcrafter_rt.errors import DataFormatError, InvalidRequestError, ModelFormatError, OutputError, UnsupportedVersionError
from gaitcrafter_rt.judges import Judge, JudgeSettings, train_judge
from gaitcrafter_rt.judges.networks import build, triplet_loss
from gaitcrafter_rt.judges.protocol import cross_view_mean, part_distances, rank1_table, same_view_mean, split_gallery
from gaitcrafter_rt.judges.sampling import Batches
from gaitcrafter_rt.walkers import render_clip, sample_identity


def test_triplet_loss_is_the_mean_over_violating_triplets() -> None:
    rng = np.random.default_rng(0)
    features, identity, margin = rng.normal(size=(7, 3, 5)), np.array([0, 0, 1, 1, 1, 2, 2]), 0.8
    per_part = []
    for part in range(3):
        violations = []
        for a in range(7):
            for p in range(7):
                for n in range(7):
                    if a != p and identity[a] == identity[p] and identity[a] != identity[n]:
                        far, near = (np.linalg.norm(features[a, part] - features[i, part]) for i in (p, n))
                        violations.append(max(0.0, margin + far - near))
        active = [v for v in violations if v > 0]
        per_part.append(sum(active) / max(len(active), 1))
    ours = triplet_loss(torch.from_numpy(features), torch.from_numpy(identity), margin)
    assert ours.item() == pytest.approx(np.mean(per_part), rel=1e-9)


def test_batches_hold_p_people_and_k_clips_and_depend_on_the_step_alone(others: PackedClips) -> None:
    batches = Batches(others, JudgeSettings(people=4, clips=3, frames=5))
    first, again, next_one = batches.at(7), Batches(others, batches.settings).at(7), batches.at(8)
    assert sorted(Counter(first.identity.tolist()).values()) == [3, 3, 3, 3]
    assert first.clips.shape == (12, 5, 32, 32)
    np.testing.assert_array_equal(first.clips, again.clips)
    assert not np.array_equal(first.clips, next_one.clips)


def test_a_judge_of_one_person_is_refused(tmp_path: Path, others: PackedClips) -> None:
    alone = shutil.copytree(others.folder, tmp_path / "alone")
    np.save(alone / "identity.npy", np.zeros(len(others), np.int32))
    with pytest.raises(DataFormatError, match="1 identities in this split; a recogniser needs at least 2"):
        train_judge(PackedClips.open(alone), tmp_path / "out", JudgeSettings())
    assert not (tmp_path / "out").exists()


def test_training_tells_strangers_apart(judges: dict[str, Path]) -> None:
    """Far above chance on people, recordings and noise it has not seen; an untrained network of the same kind is worse."""
    people = [sample_identity(0, i) for i in range(200, 212)]
    clips = [np.stack([render_clip(p, 90, "nm", recording, size=32) for p in people]) for recording in (0, 1)]
    for kind, path in judges.items():
        judge = Judge.open(path)
        torch.manual_seed(1)
        untrained = Judge(build(judge.config.settings, 10).eval(), judge.config)
        right = {}
        for name, one in (("trained", judge), ("untrained", untrained)):
            gallery, probes = (one.embed(c) for c in clips)
            distances = part_distances(probes, gallery)
            own = np.diag(distances).mean()
            right[name] = own / distances[~np.eye(12, dtype=bool)].mean()
        assert right["trained"] < 0.75 * right["untrained"], (kind, right)


@pytest.mark.parametrize("kind", ["set", "temporal"])
def test_bf16_trains_much_as_fp32_does(kind: str, others: PackedClips, tmp_path: Path) -> None:
    """The same batches from the same start: the loss follows that of fp32 closely, and other bits come out."""
    losses: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for precision, seen in losses.items():
        settings = JudgeSettings(kind=kind, steps=12, frames=6, people=4, clips=3, width=4, embedding=8, precision=precision)
        train_judge(others, tmp_path / precision, settings, progress=lambda step, of, loss, right, seen=seen: seen.append(loss))
    np.testing.assert_allclose(losses["bf16"], losses["fp32"], rtol=0.05)
    assert losses["bf16"] != losses["fp32"]


def test_only_the_temporal_judge_sees_the_order_of_frames(judges: dict[str, Path]) -> None:
    clip = render_clip(sample_identity(0, 205), 90, "nm", 0, size=32)[None]
    mixed = clip[:, np.random.default_rng(0).permutation(30)]
    change = {}
    for kind, path in judges.items():
        straight, shuffled = Judge.open(path).embed(clip), Judge.open(path).embed(mixed)
        change[kind] = np.linalg.norm(straight - shuffled) / np.linalg.norm(straight)
    assert change["set"] < 1e-5
    assert change["temporal"] > 0.05


def test_embeddings_do_not_depend_on_the_batch(judges: dict[str, Path]) -> None:
    clips = np.stack([render_clip(sample_identity(0, i), 90, "nm", 0, size=32) for i in range(5)])
    for path in judges.values():
        judge = Judge.open(path)
        np.testing.assert_allclose(judge.embed(clips)[3], judge.embed(clips[3:4])[0], rtol=1e-4, atol=1e-5)


def test_folding_norms_into_convolutions_does_not_change_a_judge(judges: dict[str, Path]) -> None:
    clips = np.stack([render_clip(sample_identity(0, i), 90, "nm", 0, size=32) for i in range(5)])
    for path in judges.values():
        judge = Judge.open(path)
        plain = build(judge.config.settings, len(judge.config.identities)).eval()
        plain.load_state_dict(load_file(path / "weights.safetensors"))
        with torch.no_grad():
            expected = plain(torch.from_numpy((clips != 0).astype(np.float32)))[0].numpy()
        assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in judge.net.modules()) == 0
        np.testing.assert_allclose(judge.embed(clips), expected, rtol=1e-4, atol=1e-5)


def test_damaged_and_foreign_judges_are_refused(judges: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(judges["set"], tmp_path / "judge")
    weights = (copy / "weights.safetensors").read_bytes()
    (copy / "weights.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(ModelFormatError, match=r"sha256 is not the one in judge\.json"):
        Judge.open(copy)
    (copy / "weights.safetensors").write_bytes(weights)
    config = json.loads((copy / "judge.json").read_text())
    (copy / "judge.json").write_text(json.dumps({**config, "settings": {**config["settings"], "width": 12}}))
    with pytest.raises(ModelFormatError, match="not the weights of this judge"):
        Judge.open(copy)
    (copy / "judge.json").write_text(json.dumps({**config, "format_version": 2}))
    with pytest.raises(UnsupportedVersionError, match="format_version 2 is newer"):
        Judge.open(copy)
    (copy / "judge.json").write_text(json.dumps({**config, "surprise": 1}))
    with pytest.raises(ModelFormatError, match="surprise"):
        Judge.open(copy)
    with pytest.raises(ModelFormatError, match="train-recogniser"):
        Judge.open(tmp_path)


def test_a_judge_does_not_judge_people_it_knows(judges: dict[str, Path], others: PackedClips) -> None:
    judge = Judge.open(judges["set"])
    with pytest.raises(DataFormatError, match=r"trained on people that it is to judge \(101, 102"):
        judge.refuse_acquaintances("0" * 64, list(others.labels.identity))
    with pytest.raises(DataFormatError, match="all of them"):
        judge.refuse_acquaintances(others.meta.clips_sha256, [])
    judge.refuse_acquaintances("0" * 64, ["001", "002"])


def test_wrong_sizes_settings_and_places_are_refused(judges: dict[str, Path], others: PackedClips, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"this judge takes \[clips, frames, 32, 32\]"):
        Judge.open(judges["set"]).embed(np.zeros((1, 30, 64, 64), np.uint8))
    with pytest.raises(InvalidRequestError, match="people is 1"):
        JudgeSettings.checked(people=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(OutputError, match="not an empty folder"):
        train_judge(others, tmp_path / "full", JudgeSettings())


def test_the_protocol_on_embeddings_made_by_hand() -> None:
    """Two people, two views, normal walking three times and a coat once; the coat in view 1 makes person 1 look like person 0."""
    rows = [(i, v, 0, s) for i in range(2) for v in range(2) for s in range(3)] + [(i, v, 1, 0) for i in range(2) for v in range(2)]
    identity, view, covariate, sequence = np.array(rows).T
    embeddings = np.zeros((len(rows), 2, 3), np.float32)
    embeddings[:, :, 0] = identity[:, None]
    embeddings[(covariate == 1) & (view == 1), :, 0] = 0
    gallery = split_gallery(identity, covariate, sequence, normal=0)
    assert gallery.sum() == 8  # two of three recordings
    tables = rank1_table(embeddings, identity, view, covariate, gallery)
    np.testing.assert_array_equal(tables[0], np.ones((2, 2)))
    np.testing.assert_array_equal(tables[1], [[1, 1], [0.5, 0.5]])
    assert (cross_view_mean(tables[1]), same_view_mean(tables[1])) == (0.75, 0.75)
    with pytest.raises(InvalidRequestError, match="two recordings of normal walking"):
        split_gallery(identity, covariate, np.zeros_like(sequence), normal=0)
