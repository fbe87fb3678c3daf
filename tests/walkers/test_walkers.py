"""Clips of rendered walkers: determinism, what identity, view and covariate must change, and bad requests."""

import multiprocessing
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from gaitcrafter_rt.errors import InvalidRequestError
from gaitcrafter_rt.walkers import COVARIATES, VIEWS, render_clip, render_dataset, sample_identity


@cache
def clip(index: int, view: int, covariate: str = "nm", sequence: int = 0, frames: int = 30) -> np.ndarray:
    return render_clip(sample_identity(0, index), view, covariate, sequence, frames=frames) > 0


def extent(mask: np.ndarray) -> np.ndarray:
    """Columns from the first to the last foreground one per frame, [frames]."""
    occupied = mask.any(axis=1)
    return occupied.shape[1] - occupied[:, ::-1].argmax(1) - occupied.argmax(1)


def test_importing_the_package_loads_no_numpy():
    code = "import sys, gaitcrafter_rt.walkers as w; w.VIEWS; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_constants():
    assert VIEWS == (0, 18, 36, 54, 72, 90, 108, 126, 144, 162, 180)
    assert COVARIATES == ("nm", "bg", "cl")


def test_identity_depends_on_seed_and_index_alone():
    later = [sample_identity(5, i) for i in (3, 1, 2)]
    np.random.seed(1)  # noqa: NPY002 - global state must not matter
    assert later == [sample_identity(5, i) for i in (3, 1, 2)]
    assert len({sample_identity(seed, index).shape for seed in (0, 5) for index in range(20)}) == 40


def test_clip_is_uint8_0_or_255_and_grey_keeps_the_threshold():
    walker = sample_identity(0, 1)
    binary = render_clip(walker, 36, "bg", 2)
    grey = render_clip(walker, 36, "bg", 2, grey=True)
    assert binary.shape == (30, 64, 64) and binary.dtype == np.uint8
    assert set(np.unique(binary)) == {0, 255} and len(np.unique(grey)) > 2
    assert np.array_equal(binary > 0, grey >= 128)
    assert render_clip(walker, 36, "bg", 2, frames=3, size=32).shape == (3, 32, 32)


def test_same_bits_in_any_order_and_with_any_number_of_processes():
    request = {"identities": range(2, 4), "views": (0, 90), "covariates": ("nm", "cl"), "sequences": range(2)}
    steps = []
    alone = list(render_dataset(**request, progress=lambda done, total: steps.append((done, total))))
    pooled = list(render_dataset(**request, workers=2))
    assert [row[:4] for row in alone] == [row[:4] for row in pooled]
    assert all(np.array_equal(a[4], b[4]) for a, b in zip(alone, pooled, strict=True))
    assert steps == [(2 * n, 16) for n in range(1, 9)]
    for index, view, covariate, sequence, bits in reversed(alone):
        again = render_clip(sample_identity(0, index), view, covariate, sequence)
        assert np.array_equal(np.unpackbits(bits).reshape(30, 64, 64), again // 255)
    assert not multiprocessing.active_children()


def test_packed_bits_are_msb_first_frame_major():
    ((_, _, _, _, bits),) = render_dataset([0], [90], ["nm"], [0], frames=2)
    assert bits.dtype == np.uint8 and bits.shape == (2 * 64 * 64 // 8,)
    frames = clip(0, 90, frames=2)
    for position in np.flatnonzero(frames)[::97]:
        assert bits[position // 8] >> (7 - position % 8) & 1
    assert int(np.unpackbits(bits).sum()) == int(frames.sum())


@pytest.mark.parametrize("view", [0, 54, 90, 180])
@pytest.mark.parametrize("covariate", COVARIATES)
def test_frames_fill_the_height_and_are_centred(view, covariate):
    frames = clip(1, view, covariate)
    assert frames[:, 0].any(axis=1).all() and frames[:, -1].any(axis=1).all()
    mass = frames.sum(axis=1).cumsum(axis=1)
    assert np.abs((mass > mass[:, -1:] / 2).argmax(axis=1) - 32).max() <= 1
    assert not frames[:, :, 0].any() and not frames[:, :, -1].any()
    assert 0.08 < frames.mean() < 0.35


@pytest.mark.parametrize("index", range(4))
def test_front_and_back_are_alike_and_the_side_is_not(index):
    front, side, back = (extent(clip(index, view)).std() for view in (0, 90, 180))
    assert abs(front - back) < 0.5 * abs(front - side)
    mean_front, mean_back = clip(index, 0).mean(0), clip(index, 180).mean(0)
    # From behind, left and right swap; column 32 is the centre.
    mirrored = np.roll(mean_back[:, ::-1], 1, axis=1)
    assert np.abs(mean_front - mirrored).mean() < 0.5 * np.abs(mean_front - clip(index, 90).mean(0)).mean()


def test_walks_to_the_right_in_the_side_view():
    # Feet point forward: the lowest rows reach further to the right of the ankle than to its left.
    for index in range(4):
        frames = clip(index, 90)[:, 60:].mean(axis=(0, 1))
        ankle = clip(index, 90)[:, 54:57].mean(axis=(0, 1))
        columns = np.arange(64)
        assert (frames * columns).sum() / frames.sum() > (ankle * columns).sum() / ankle.sum() + 0.5


@pytest.mark.parametrize("index", range(5))
def test_legs_open_and_close_with_the_stride_time(index):
    frames = 150
    width = extent(clip(index, 90, frames=frames)[:, 44:]).astype(float)
    spectrum = np.abs(np.fft.rfft((width - width.mean()) * np.hanning(frames), 4096))
    steps_per_second = spectrum.argmax() * 25.0 / 4096
    stride_time = sample_identity(0, index).style.stride_time
    # A stride has two steps; a recording's stride time deviates by up to 3.3 %.
    assert 2.0 / steps_per_second == pytest.approx(stride_time, rel=0.05)
    assert width[0] > 1.5 * width.min(), "the clip starts near heel strike, where the legs are open"


@pytest.mark.parametrize(("covariate", "least"), [("nm", 15), ("cl", 13)])
@pytest.mark.parametrize("view", [0, 72])
def test_gei_nearest_neighbour_finds_the_identity(covariate, least, view):
    gallery = np.stack([clip(i, view, covariate, 0).mean(0) for i in range(16)])
    found = [((gallery - clip(i, view, covariate, 1).mean(0)) ** 2).sum((1, 2)).argmin() for i in range(16)]
    assert sum(a == b for a, b in enumerate(found)) >= least


def test_covariates_change_the_silhouette():
    def overlap(a, b):
        return (a & b).sum() / (a | b).sum()

    for view in (36, 90):
        again = np.mean([overlap(clip(i, view), clip(i, view, "nm", 1)) for i in range(8)])
        for covariate in ("bg", "cl"):
            assert np.mean([overlap(clip(i, view), clip(i, view, covariate)) for i in range(8)]) < again - 0.03
        assert all(clip(i, view, "cl").sum() > 1.03 * clip(i, view).sum() for i in range(8))


def test_a_hand_bag_hangs_on_its_own_side():
    carriers = [i for i in range(40) if sample_identity(0, i).accessories.bag_kind == "hand_bag"][:4]
    for index in carriers:
        side = sample_identity(0, index).accessories.bag_side
        for view, mirror in ((0, 1), (180, -1)):
            gain = clip(index, view, "bg").mean(0) - clip(index, view).mean(0)
            balance = gain[34:50, 33:].sum() - gain[34:50, :31].sum()
            # The left hand (+1) is on the image's right when the walker comes towards the camera.
            assert balance * side * mirror > 3.0


def test_views_and_sequences_differ_and_seeds_separate_data_sets():
    walker = sample_identity(0, 0)
    base = render_clip(walker, 90, "nm", 0)
    others = [
        render_clip(walker, 90, "nm", 1),
        render_clip(walker, 72, "nm", 0),
        render_clip(walker, 90, "nm", 0, seed=1),
    ]
    assert all((base != other).any() for other in others)
    assert render_clip(walker, 45.5, "nm", 0).any()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"view": 181}, "0..180"), ({"view": -1}, "0..180"), ({"view": "90"}, "0..180"),
        ({"view": float("nan")}, "0..180"),
        ({"covariate": "xx"}, "nm, bg, cl"), ({"covariate": None}, "nm, bg, cl"), ({"covariate": ["nm"]}, "nm, bg, cl"),
        ({"sequence": -1}, "sequence"), ({"sequence": 1.0}, "sequence"), ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"), ({"frames": 0}, "frames"), ({"frames": 10**9}, "frames"),
        ({"size": 15}, "size"), ({"size": 33}, "even"), ({"size": True}, "size"), ({"identity": 3}, "sample_identity"),
    ],
)  # fmt: skip
def test_bad_clip_requests(change, word):
    request = {"identity": sample_identity(0, 0), "view": 0, "covariate": "nm", "sequence": 0} | change
    with pytest.raises(InvalidRequestError, match=word):
        render_clip(**request)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"identities": []}, "identities"), ({"identities": [-1]}, "identity index"), ({"views": [200]}, "0..180"),
        ({"views": []}, "views"), ({"covariates": ["coat"]}, "nm, bg, cl"), ({"sequences": [0.5]}, "sequence"),
        ({"workers": 0}, "workers"), ({"frames": 1, "size": 18}, "multiple of 8"), ({"seed": None}, "seed"),
    ],
)  # fmt: skip
def test_bad_data_set_requests_are_refused_by_the_call_itself(change, word):
    with pytest.raises(InvalidRequestError, match=word):
        render_dataset(**({"identities": range(2)} | change))


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (0, -1), (0.0, 0), (0, "1"), (2**63, 0), (0, 2**31), (True, 0)])
def test_bad_identities(seed, index):
    with pytest.raises(InvalidRequestError):
        sample_identity(seed, index)


# --- the second family ---


def boxes(index: int, view: int, covariate: str = "nm", sequence: int = 0) -> np.ndarray:
    return render_clip(sample_identity(0, index), view, covariate, sequence, family="boxes") > 0


def test_both_families_draw_the_same_person():
    """Outlines differ, the pose does not: boxes overlap the hulls of their own frame more than those of a quarter cycle on."""
    for index in range(4):
        other = boxes(index, 90)
        same = [(clip(index, 90)[f] & other[f]).sum() / (clip(index, 90)[f] | other[f]).sum() for f in range(0, 30, 3)]
        apart = [(clip(index, 90)[f] & other[f - 7]).sum() / (clip(index, 90)[f] | other[f - 7]).sum() for f in range(9, 30, 3)]
        assert np.mean(same) > 0.72 and np.mean(same) > np.mean(apart) + 0.05
        assert not np.array_equal(other, clip(index, 90))


def test_the_second_family_is_segmented_worse_and_stays_deterministic():
    def holes(mask: np.ndarray) -> int:
        return sum(ndimage.label(~frame)[1] - 1 for frame in mask)

    first = sum(holes(clip(index, 90)) for index in range(8))
    second = sum(holes(boxes(index, 90)) for index in range(8))
    assert second > 1.3 * first
    assert np.array_equal(boxes(3, 36, "bg", 1), boxes(3, 36, "bg", 1))
    assert not np.array_equal(boxes(3, 36, "bg", 1), boxes(3, 36, "bg", 2))


def test_a_packed_set_names_its_family(tmp_path):
    from gaitcrafter_rt.data.packed import PackedClips
    from gaitcrafter_rt.evaluate.model_run import walker_periods
    from gaitcrafter_rt.walkers import render_training_set

    render_training_set(
        tmp_path / "set", identities=2, train_sequences=1, test_sequences=0, views=[90], covariates=["nm"], family="boxes"
    )
    data = PackedClips.open(tmp_path / "set")
    assert data.meta.made_by.endswith("family boxes") and data.meta.source == "rendered"
    assert sorted(walker_periods(data)) == ["001", "002"]
    with pytest.raises(InvalidRequestError, match="hulls, boxes"):
        render_clip(sample_identity(0, 1), 90, "nm", 0, family="cubes")
