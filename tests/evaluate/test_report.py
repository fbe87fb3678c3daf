"""The whole report: unseen recordings pass for good clips, and every kind of bad clip is caught by its own figure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rendered_world import WALKERS, World

from gaitcrafter_rt.clips import ClipBatch
from gaitcrafter_rt.data.packed import PackedClips
from gaitcrafter_rt.errors import DataFormatError, InvalidRequestError, ModelFormatError
from gaitcrafter_rt.evaluate import classifier, evaluate_model, render_markdown, write_card
from gaitcrafter_rt.evaluate.clipset import ClipSet
from gaitcrafter_rt.evaluate.markdown import BEGIN, END
from gaitcrafter_rt.evaluate.model_run import cells, walker_periods


def figures(world: World, clips: ClipBatch | PackedClips, **more: object) -> dict[str, dict]:
    report = evaluate_model(clips, world.data, cache=world.cache, known_periods=walker_periods(world.data), threads=1, **more)
    return {f["key"]: f for f in report["figures"] + report["blends"]}


@pytest.fixture(scope="module")
def good(world: World) -> dict[str, dict]:
    return figures(world, world.batch())


def value(figure: dict, of: str = "generated") -> float:
    return figure[of]["value"]


def test_unseen_recordings_read_like_held_out_ones(good: dict[str, dict]) -> None:
    for key in ("whole_frames", "period", "period_stride_time", "view", "covariate", "rank1", "rank1_one", "foreground", "flicker"):
        found, held = good[key]["generated"], good[key]["reference"]
        assert found["low"] <= held["high"], key
        assert held["low"] <= found["high"], key
    assert value(good["view"], "reference") > 0.95
    assert value(good["covariate"], "reference") > 0.95
    assert value(good["rank1"]) > 0.9
    assert good["rank1_ratio"]["verdict"] == "reached"
    assert good["whole_frames"]["verdict"] == "inconclusive"  # 40 clips, however good, do not show 97 %
    assert good["whole_frames"]["generated"]["n"] == WALKERS * 4 * 30
    assert good["two_seeds"]["generated"] is None
    assert not [f for f in good.values() if f["verdict"] == "not reached"]


def test_salt_noise_breaks_the_component_figure(world: World) -> None:
    salt = np.random.default_rng(0).random(world.fresh.shape) < 0.01
    found = figures(world, world.batch(np.where(salt, 1, world.fresh)))["whole_frames"]
    assert value(found) < 0.3
    assert found["verdict"] == "not reached"


def test_shuffled_frames_break_the_period(world: World, good: dict[str, dict]) -> None:
    order = np.random.default_rng(0)
    found = figures(world, world.batch(np.stack([clip[order.permutation(len(clip))] for clip in world.fresh])))
    assert value(found["period"]) < 0.5
    assert found["period"]["verdict"] == "not reached"
    assert value(found["flicker"]) > 1.5 * value(good["flicker"])


def test_swapped_identities_are_recognised_at_chance(world: World) -> None:
    moved = [c | {"identity": f"{(int(c['identity']) + 4) % WALKERS + 1:03d}"} for c in world.conditions]
    found = figures(world, world.batch(conditions=moved))
    assert value(found["rank1"]) < 0.2
    assert found["rank1_ratio"]["verdict"] == "not reached"
    assert value(found["view"]) > 0.95


def test_wrong_labels_are_read_as_wrong(world: World) -> None:
    other = {"054": "090", "090": "054", "nm": "cl", "cl": "nm"}
    for axis in ("view", "covariate"):
        found = figures(world, world.batch(conditions=[c | {axis: other[c[axis]]} for c in world.conditions]))[axis]
        assert value(found) < 0.1
        assert found["verdict"] == "not reached"


def test_copied_training_clips_show(world: World, good: dict[str, dict]) -> None:
    rows = np.flatnonzero(world.data.split == 0)
    copies = figures(world, world.batch(world.data.batch(rows), [world.data.names(int(i)) for i in rows]))
    assert value(copies["training_distance"]) == pytest.approx(0, abs=1e-5)
    assert value(good["training_distance"]) > 0.5 * value(good["training_distance"], "reference") > 0


def test_few_identities_decide_nothing(world: World) -> None:
    rows = [i for i, c in enumerate(world.conditions) if c["identity"] <= "008"]
    found = figures(world, world.batch(world.fresh[rows], [world.conditions[i] for i in rows]))
    assert {f["verdict"] for f in found.values() if f["goal"]} == {"inconclusive"}
    assert found["whole_frames"]["reference"]["clusters"] == 8


def test_packed_sets_are_measured_too(world: World) -> None:
    found = figures(world, world.data)
    assert value(found["rank1"]) == pytest.approx(1.0, abs=0.1)
    assert found["view"]["generated"]["n"] == len(world.data)
    assert found["whole_frames"]["verdict"] == "reached"


def test_repeats_and_blends(world: World) -> None:
    """A blend that is one known walker is not new; one that is a stranger is."""
    strangers = [i for i, c in enumerate(world.conditions) if c["view"] == "090" and c["covariate"] == "nm"]
    known = [world.data.select(identity=f"{i + 1:03d}", view="090", covariate="nm", split=0) for i in range(WALKERS)]
    clips = np.concatenate([world.data.batch(rows) for rows in known])
    names = world.data.labels.identity
    two = zip(names, names[1:] + names[:1], strict=True)
    pairs = [{"identity": {a: 1, b: 1}, "view": "090", "covariate": "nm"} for a, b in two]
    blends = world.batch(clips, [p for p in pairs for _ in range(2)])
    found = figures(world, world.batch(), repeats=world.batch(), blends=blends)
    assert value(found["two_seeds"]) == 1.0
    assert value(found["blend_unique"]) < 0.3
    assert value(found["blend_same"]) == pytest.approx(value(found["blend_same"], "reference"), rel=0.3)
    mirrored = world.batch(np.repeat(world.fresh[strangers][..., ::-1], 2, axis=0), [p for p in pairs for _ in range(2)])
    found = figures(world, world.batch(), blends=mirrored)
    assert value(found["blend_unique"]) == 1.0
    assert value(found["blend_same"]) == pytest.approx(0, abs=1e-5)
    assert value(found["blend_consistent"]) == 1.0


def test_classifier_is_trained_once_per_data_set(world: World, good: dict[str, dict], tmp_path: Path) -> None:
    (cached,) = world.cache.iterdir()
    before = cached.read_bytes()
    training = ClipSet.from_packed(world.data, 0)

    def never(done: int, of: int) -> None:
        raise AssertionError("trained again")

    classifier.obtain(world.data, training, world.cache, threads=1, progress=never)
    assert cached.read_bytes() == before
    cached.write_bytes(before[: len(before) // 2])
    with pytest.raises(AssertionError, match="trained again"):
        classifier.obtain(world.data, training, world.cache, threads=1, progress=never)
    cached.write_bytes(before)


def test_cache_key_follows_the_labels(world: World) -> None:
    key = classifier.cache_key(world.data)
    relabelled = PackedClips.open(world.data.folder)
    relabelled.view = np.roll(world.data.view, 1)
    assert classifier.cache_key(relabelled) != key
    assert classifier.cache_key(PackedClips.open(world.data.folder)) == key


def test_report_is_json_and_reads_as_a_table(world: World, tmp_path: Path) -> None:
    report = json.loads(json.dumps(evaluate_model(world.batch(), world.data, cache=world.cache, threads=1)))
    assert report["data"]["source"] == "rendered"
    text = render_markdown(report)
    assert "nothing here is a statement about CASIA-B" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(report["figures"])
    assert len({line.count("|") for line in rows}) == 1
    card = tmp_path / "README.md"
    card.write_bytes(b"# A model\r\nmine \xff\n")
    write_card(tmp_path, report)
    card.write_bytes(card.read_bytes() + b"\nafter\n")
    write_card(tmp_path, report | {"figures": report["figures"][:1]})
    written = card.read_bytes()
    assert written.startswith(b"# A model\r\nmine \xff\n\n" + BEGIN.encode())
    assert written.endswith(END.encode() + b"\n\nafter\n")
    assert written.count(b"\n| ") == 2
    assert [p.name for p in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize("text", [BEGIN, END, END + BEGIN, BEGIN + END + BEGIN + END], ids=["begin", "end", "reversed", "twice"])
def test_a_card_with_odd_marks_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(ModelFormatError, match="once each"):
        write_card(tmp_path, {})
    assert (tmp_path / "README.md").read_text() == text


def test_what_does_not_fit_is_refused(world: World) -> None:
    with pytest.raises(InvalidRequestError, match="shape"):
        evaluate_model(world.batch(world.fresh[:, :8]), world.data, cache=world.cache)
    with pytest.raises(InvalidRequestError, match="identity 'nobody'"):
        evaluate_model(
            world.batch(conditions=[c | {"identity": "nobody"} for c in world.conditions]), world.data, cache=world.cache
        )
    with pytest.raises(DataFormatError, match="one identity"):
        evaluate_model(world.batch(conditions=[{} for _ in world.conditions]), world.data, cache=world.cache)


def test_cells_are_the_whole_vocabulary(world: World) -> None:
    assert sorted(map(repr, cells(world.data.labels))) == sorted(map(repr, world.conditions))
