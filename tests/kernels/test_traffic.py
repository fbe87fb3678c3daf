"""Bytes and operations by arithmetic: what the kernels promise, the counters themselves, and that docs/gpu-kernels.md agrees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gaitcrafter_rt.errors import DataFormatError
from gaitcrafter_rt.export.kernel_report import block_ratio, byte_tables, passes_of_norm, passes_of_rms, replaced
from gaitcrafter_rt.export.kernel_table import paper
from gaitcrafter_rt.export.launches import network_launches
from gaitcrafter_rt.export.traffic import (
    H100_BYTES,
    H100_OPERATIONS,
    TorchTraffic,
    floor_of,
    floor_seconds,
    kernels_by_block,
    torch_by_block,
    work_of,
)

pytest.importorskip("triton", reason="needs the extra gpu")
PAGE = Path(__file__).parents[2] / "docs" / "gpu-kernels.md"


def test_group_norm_silu_takes_three_passes_over_the_tensor() -> None:
    passes, statistics = passes_of_norm()
    assert passes == 3 and statistics < 0.1
    assert passes_of_rms() < 2.01


@pytest.mark.parametrize("clips", [1, 32])
def test_temporal_attention_in_one_kernel_moves_little_more_than_its_input(clips: int) -> None:
    memory, l2 = block_ratio(clips)
    assert memory <= 1.3 < l2


def test_weights_of_temporal_attention_count_once_per_launch() -> None:
    launch = next(launch for launch in network_launches(paper(), 2) if launch.name == "block")
    image = 2 * 30 * 64 * 64 * 64 * 2  # two clips, bf16
    weights = (3 * 256 * 64 + 64 * 256) * 2 + 64 * 4
    positions = (8 * 30 * 30 + 2 * 30 * 16) * 4
    assert launch.dram_bytes == 2 * image + weights + positions
    programs = launch.grid[0]
    assert launch.l2_bytes == 2 * image + programs * ((3 * 256 * 64 + 64 * 256) * 2 + 8 * 30 * 30 * 4)


def test_torchs_operations_are_counted_as_they_read_and_write() -> None:
    x = torch.empty(4, 8, device="meta")  # 128 bytes
    with TorchTraffic() as traffic:
        x.view(8, 4).t()
        assert traffic.bytes == 0
        x + 1
        assert traffic.bytes == 2 * 128
        x.add_(x)
        assert traffic.bytes == 2 * 128 + 3 * 128
        F.linear(x, torch.empty(16, 8, device="meta"))
        assert traffic.bytes == 5 * 128 + 128 + 512 + 256
        before = traffic.bytes
        torch.empty(1, 8, device="meta").expand(4, 8) * x  # a row that is read again and again counts once
        assert traffic.bytes - before == 32 + 128 + 128


def test_blocks_are_all_of_a_network_and_torchs_sequence_moves_more() -> None:
    ours, theirs = kernels_by_block(paper(), 2), torch_by_block(paper())
    whole, parts = work_of(network_launches(paper(), 2), 2), [work_of(launches, 2) for launches in ours.values()]
    assert sum(p.launches for p in parts) == whole.launches
    assert sum(p.dram for p in parts) == pytest.approx(whole.dram)
    assert ours.keys() == theirs.keys()
    for kind, launches in ours.items():
        assert work_of(launches, 2).dram < theirs[kind], kind
    # The fusion that pays most: at least the five times that projected q, k, v and scores cost over one read and one write.
    assert theirs["temporal attention"] > 10 * work_of(ours["temporal attention"], 2).dram


def test_the_floor_is_the_longer_of_bytes_and_operations() -> None:
    launches = network_launches(paper(), 4)
    seconds, work = floor_seconds(launches, 4), work_of(launches, 4)
    assert max(work.dram / H100_BYTES, work.operations / H100_OPERATIONS) <= seconds
    assert seconds <= work.dram / H100_BYTES + work.operations / H100_OPERATIONS
    floor = floor_of(paper(), 4)
    assert floor.calls == 20 and floor.call == pytest.approx(seconds)
    assert floor.night == pytest.approx(36000 / (20 * seconds + floor.sampler))


def test_the_page_says_what_is_counted() -> None:
    """After a change: python -m gaitcrafter_rt.export.kernel_report docs/gpu-kernels.md --only bytes"""
    page = PAGE.read_text()
    for name, text in byte_tables().items():
        assert replaced(page, name, text) == page, name


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(DataFormatError, match="0 places for the table 'floors'"):
        replaced("# page", "floors", "| a |")
