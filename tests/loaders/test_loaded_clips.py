"""Clips by position, out of a cache, shards, or a packed set; P x K batches."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from gaitcrafter_rt.bulk import ClipDataset
from gaitcrafter_rt.data.packed import PackedClips
from gaitcrafter_rt.dataset import Selection
from gaitcrafter_rt.errors import InvalidRequestError
from gaitcrafter_rt.loaders import Batch, Clips, PKSampler


def test_cache_and_shards_give_the_clips_of_the_job(job: Path, cache: Path) -> None:
    numbers = [n for n in range(200) if n != 117]
    wanted = [198, 0, 64, 64, 120]
    with ClipDataset.open(job) as data:
        truth = data.read([numbers[k] for k in wanted])
    for source in (cache, job):
        clips = Clips(source)
        assert len(clips) == 199
        assert clips.classes == ["001", "001=0.3+002=0.7"]
        batch = clips[wanted]
        assert batch.clips.dtype == torch.uint8
        np.testing.assert_array_equal(batch.clips.numpy(), truth.frames)
        assert batch.numbers.tolist() == truth.clip_indices.tolist()
        assert [clips.names["view"][v] for v in batch.views] == [next(iter(c["view"])) for c in truth.conditions]
        names = ["001" if len(c["identity"]) == 1 else "001=0.3+002=0.7" for c in truth.conditions]
        assert [clips.classes[k] for k in batch.labels] == names
        assert batch.covariates.tolist() == [-1] * 5
        assert batch.synthetic.all()
        one = clips[198]
        assert torch.equal(one.clips, batch.clips[0])
        assert one.labels == batch.labels[0]
        assert torch.equal(clips[-1].clips, one.clips)


def test_every_way_to_ask_torch(cache: Path, job: Path) -> None:
    """Whole batches and collated samples, with and without workers, forked with a file open: the same clips."""
    for source in (cache, job):
        clips = Clips(source, label="view")
        clips[[0]]  # a shard is open before the fork
        sampler = PKSampler(clips.labels, 2, 3, seed=5, batches=4)
        want = [clips[at] for at in sampler]
        for workers in (0, 2):
            whole = list(DataLoader(clips, sampler=sampler, batch_size=None, num_workers=workers))
            collated = list(DataLoader(clips, batch_sampler=sampler, num_workers=workers))
            for got in (whole, collated):
                assert len(got) == 4
                for a, b in zip(got, want, strict=True):
                    assert isinstance(a, Batch)
                    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_pixels_crop_and_labels(cache: Path) -> None:
    plain = Clips(cache)[[3, 4]]
    floats = Clips(cache, pixels="float32", crop=3)[[3, 4]]
    assert floats.clips.dtype == torch.float32
    assert torch.equal(floats.clips, (plain.clips[..., 3:-3] > 0).float())
    assert set(Clips(cache, foreground=1)[[3]].clips.unique().tolist()) == {0, 1}
    assert Clips(cache, label="covariate").labels.tolist() == [-1] * 199


def test_packed_training_sets(packed: Path) -> None:
    truth = PackedClips.open(packed)
    clips = Clips(packed, split="train", foreground=1)
    assert len(clips) == 20
    assert len(Clips(packed, split="test")) == 10
    batch = Clips(packed, split="test", foreground=1)[[9, 0]]
    np.testing.assert_array_equal(batch.clips.numpy(), truth.batch([29, 20]))
    assert batch.numbers.tolist() == [29, 20]
    assert not batch.synthetic.any()
    with pytest.raises(InvalidRequestError, match="split must be"):
        Clips(packed, split="all")


def test_selection_of_shards(job: Path) -> None:
    clips = Clips(job, selection=Selection.of({"view": ["090"]}, limit=20))
    assert len(clips) == 20
    assert clips.names["view"] == ["090"]
    assert clips.store.numbers.tolist() == [100 + 2 * k + 1 for k in range(20)]
    with pytest.raises(InvalidRequestError, match="no clip there"):
        Clips(job, selection=Selection.of({"view": ["045"]}))


def test_pickles_are_small_and_open_again(cache: Path, job: Path, packed: Path) -> None:
    for clips in (Clips(cache), Clips(job, selection=Selection.of({"view": ["090"]})), Clips(packed, split="test")):
        again = pickle.loads(pickle.dumps(clips))
        assert all(torch.equal(a, b) for a, b in zip(clips[[1, 5]], again[[1, 5]], strict=True))


def test_bad_requests(cache: Path) -> None:
    clips = Clips(cache)
    with pytest.raises(IndexError):
        clips[199]
    for bad in ([199], [-1], [], [0.5], [[1]]):
        with pytest.raises(InvalidRequestError):
            clips[bad]  # type: ignore[index]
    for arguments in ({"label": "shoe"}, {"pixels": "bits"}, {"crop": 8}, {"foreground": 0}):
        with pytest.raises(InvalidRequestError):
            Clips(cache, **arguments)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="select clips when it is made"):
        Clips(cache, selection=Selection.of({"view": ["090"]}))


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12), p=st.integers(1, 6), k=st.integers(1, 6),
    seed=st.integers(0, 2**63), world=st.sampled_from([1, 2, 3]),
)  # fmt: skip
def test_pk_batches(sizes: list[int], p: int, k: int, seed: int, world: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes) * 3 - 3 * (sizes[0] == 1))
    classes = len({c for c in labels.tolist() if c >= 0})
    if p > classes or p * k % world:
        with pytest.raises(InvalidRequestError):
            PKSampler(labels, p, k, rank=0, world_size=world)
        return
    ranks = [list(PKSampler(labels, p, k, seed=seed, batches=3, rank=r, world_size=world)) for r in range(world)]
    alone = list(PKSampler(labels, p, k, seed=seed, batches=3, rank=0, world_size=1))
    counts = {c: int((labels == c).sum()) for c in set(labels.tolist())}
    for step in range(3):
        batch = alone[step]
        drawn = labels[batch]
        assert len(batch) == p * k
        assert (drawn >= 0).all()
        assert sorted(np.unique(drawn, return_counts=True)[1].tolist()) == [k] * p
        for c in set(drawn.tolist()):
            here = [i for i in batch if labels[i] == c]
            if counts[c] >= k:
                assert len(set(here)) == k, "drawn twice though there are enough"
        assert sorted(i for r in ranks for i in r[step]) == sorted(batch)
        assert all(len(r[step]) == p * k // world for r in ranks)
    assert alone == list(PKSampler(labels, p, k, seed=seed, batches=3, rank=0, world_size=1))


def test_pk_epochs_and_spread() -> None:
    labels = np.repeat(np.arange(50), 20)
    sampler = PKSampler(labels, 8, 4, seed=1)
    assert len(sampler) == 1000 // 32
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(PKSampler(labels, 8, 4, seed=2)) != first
    many = np.concatenate([PKSampler(labels, 8, 4, seed=3, batches=500).batch(0, s) for s in range(500)])
    # Each of 1000 clips is drawn 16 times on average; Poisson-like counts stay well inside 2..40.
    counts = np.bincount(many, minlength=1000)
    assert 2 <= counts.min() <= counts.max() <= 40
    with pytest.raises(InvalidRequestError, match="rank 2 of 2"):
        PKSampler(labels, 8, 4, rank=2, world_size=2)
    with pytest.raises(InvalidRequestError, match="cannot share evenly"):
        PKSampler(labels, 3, 3, rank=0, world_size=2)


def test_ranks_of_a_process_group(tmp_path: Path, cache: Path) -> None:
    """A real process group of one names the ranks where the caller does not."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        sampler = PKSampler(Clips(cache).labels, 2, 2)
        assert (sampler.rank, sampler.world_size) == (0, 1)
    finally:
        torch.distributed.destroy_process_group()
