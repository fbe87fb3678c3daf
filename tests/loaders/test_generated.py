"""Clips made in the loader's workers: the same bits in the same order for any number of workers and ranks."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from gaitcrafter_rt import Engine
from gaitcrafter_rt.errors import InvalidRequestError
from gaitcrafter_rt.loaders import Batch, Clips, GeneratedClips, MixedClips

MODEL = Path(__file__).resolve().parent.parent / "fixtures" / "tiny-walker"
CONDITIONS = [
    {"identity": "001", "view": "000"},
    {"identity": {"001": 0.5, "003": 0.5}, "view": "090", "covariate": "bg"},
    {"identity": "002"},
]
FAST = {"steps": 2}


def made(**changes: object) -> GeneratedClips:
    arguments: dict = {"clips": 14, "batch": 4, "seed": 5, "start": 100, "sampler": FAST, **changes}
    return GeneratedClips(MODEL, CONDITIONS, **arguments)


def joined(batches: list[Batch]) -> Batch:
    return Batch(*(torch.cat(fields) for fields in zip(*batches, strict=True)))


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    """The engine itself: 28 clips, uint8 [28, 6, 32, 32]."""
    with Engine(MODEL, threads=1) as engine:
        return torch.from_numpy(engine.generate([CONDITIONS[i % 14 % 3] for i in range(28)], 5, 100, **FAST).frames)


def test_the_engines_own_clips_for_any_workers(truth: torch.Tensor) -> None:
    """Workers are forked before and after an engine ran in this process."""
    source = made()
    for workers in (3, 0, 1, 2):
        batches = list(DataLoader(source, batch_size=None, num_workers=workers))
        assert [len(b.clips) for b in batches] == [4, 4, 4, 2]
        got = joined(batches)
        assert torch.equal(got.clips, truth[:14]), workers
        assert got.numbers.tolist() == list(range(100, 114))
        assert [source.classes[k] for k in got.labels] == [("001", "001=0.5+003=0.5", "002")[i % 3] for i in range(14)]
        assert got.views.tolist() == [(0, 1, -1)[i % 3] for i in range(14)]
        assert got.synthetic.all()


def test_other_block_sizes_and_pixels(truth: torch.Tensor) -> None:
    got = joined(list(made(batch=5, pixels="float32", crop=4)))
    assert torch.equal(got.clips, (truth[:14, ..., 4:-4] > 0).float())


def test_epochs_reach_workers_that_stay(truth: torch.Tensor) -> None:
    source = made()
    loader = DataLoader(source, batch_size=None, num_workers=2, persistent_workers=True)
    first = joined(list(loader))
    source.set_epoch(1)
    second = joined(list(loader))
    assert torch.equal(first.clips, truth[:14])
    assert torch.equal(second.clips, truth[14:])
    assert second.numbers.tolist() == list(range(114, 128))


def test_ranks_share_an_epoch(truth: torch.Tensor) -> None:
    parts = [made(clips=12, batch=2, rank=r, world_size=3) for r in range(3)]
    assert [len(p) for p in parts] == [2, 2, 2]
    blocks = [list(DataLoader(p, batch_size=None, num_workers=r)) for r, p in enumerate(parts)]
    got = joined([blocks[j % 3][j // 3] for j in range(6)])
    assert torch.equal(got.clips, truth[:12])
    with pytest.raises(InvalidRequestError, match="do not fill 3 ranks evenly"):
        made(clips=14, batch=2, rank=0, world_size=3)


def test_spawned_workers(truth: torch.Tensor) -> None:
    loader = DataLoader(made(clips=4), batch_size=None, num_workers=1, multiprocessing_context=multiprocessing.get_context("spawn"))
    assert torch.equal(joined(list(loader)).clips, truth[:4])


def test_bad_requests_come_before_any_worker() -> None:
    with pytest.raises(InvalidRequestError, match="identity 'nobody' is unknown"):
        GeneratedClips(MODEL, [{"identity": "nobody"}], clips=4)
    with pytest.raises(InvalidRequestError, match="0 conditions"):
        GeneratedClips(MODEL, [], clips=4)
    with pytest.raises(InvalidRequestError, match="steps"):
        made(sampler={"steps": 100_000})
    with pytest.raises(InvalidRequestError, match="label must be"):
        made(label="shoe")


@pytest.mark.parametrize("share", [0.5, 0.3, 0.9])
def test_mixtures(packed: Path, truth: torch.Tensor, share: float) -> None:
    captured = Clips(packed, split="train")
    mixed = MixedClips(captured, made(), share, seed=7)
    assert mixed.classes == ["001", "900", "syn-001", "syn-001=0.5+003=0.5", "syn-002"]
    assert mixed.names["view"] == ["000", "045", "090"]
    runs = [list(DataLoader(mixed, batch_size=None, num_workers=w)) for w in (0, 1, 3)]
    for other in runs[1:]:
        assert all(same(a, b) for a, b in zip(runs[0], other, strict=True))
    assert [len(b.clips) for b in runs[0]] == [4, 4, 4, 2]
    got = joined(runs[0])
    real = ~got.synthetic
    for end in (4, 8, 12, 14):
        assert abs(int(real[:end].sum()) - end * share) < 1 + 1e-9
    # Generated clips are the first ones of the epoch, each once; captured ones are rows of the set, none twice.
    numbers = got.numbers[got.synthetic]
    assert sorted(numbers.tolist()) == list(range(100, 100 + len(numbers)))
    assert torch.equal(got.clips[got.synthetic], truth[numbers - 100])
    assert len(set(got.numbers[real].tolist())) == int(real.sum())
    want = captured[got.numbers[real].numpy()]
    assert torch.equal(got.clips[real], want.clips)
    assert torch.equal(got.labels[real], want.labels)
    names = [mixed.names["view"][v] for v in got.views[real]]
    assert names == [captured.names["view"][v] for v in want.views]
    labels = [mixed.classes[k] for k in got.labels[got.synthetic]]
    assert labels == [("syn-001", "syn-001=0.5+003=0.5", "syn-002")[int(i) % 3] for i in numbers - 100]


def test_captured_clips_come_in_passes(packed: Path) -> None:
    """Over 5 epochs of 7 captured clips: 20 clips once each, then 15 of the next pass."""
    mixed = MixedClips(Clips(packed, split="train"), made(clips=14, batch=7, sampler={"steps": 1}), 0.5, seed=1)
    seen: list[int] = []
    for epoch in range(5):
        mixed.set_epoch(epoch)
        batch = joined(list(mixed))
        seen += batch.numbers[~batch.synthetic].tolist()
    assert len(seen) == 35
    counts = np.bincount(seen, minlength=20)
    assert counts.min() == 1
    assert counts.max() == 2


def test_mixtures_must_fit(packed: Path, cache: Path) -> None:
    with pytest.raises(InvalidRequestError, match="captured_share"):
        MixedClips(Clips(packed), made(), 1.0)
    with pytest.raises(InvalidRequestError, match="must be alike"):
        MixedClips(Clips(cache), made(), 0.5)
    with pytest.raises(InvalidRequestError, match="must be alike"):
        MixedClips(Clips(packed, pixels="float32"), made(), 0.5)


def test_an_engine_that_ran_can_be_dropped_after_a_fork() -> None:
    """Its threads stayed in the parent; closing it in the child must not wait for them."""
    engine = Engine(MODEL, threads=2)
    engine.generate(CONDITIONS, **FAST)

    def drop() -> None:
        engine.close()

    child = multiprocessing.get_context("fork").Process(target=drop)
    child.start()
    child.join(30)
    alive = child.is_alive()
    child.kill()
    assert not alive
    assert child.exitcode == 0
    engine.generate(CONDITIONS, **FAST)
