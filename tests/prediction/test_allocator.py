"""The model of CUDA's caching allocator, against what its source says it does."""

from __future__ import annotations

import pytest

from ftlab.training.allocations import (
    EMPTY_CACHE,
    FIRST_PRODUCT,
    Allocation,
    CachingAllocator,
    cublas_workspace,
    replay,
    rounded,
)

MIB = 1 << 20


@pytest.mark.parametrize(("size", "block"), [(0, 512), (1, 512), (512, 512), (513, 1024)])
def test_sizes_are_multiples_of_512(size: int, block: int) -> None:
    assert rounded(size) == block


@pytest.mark.parametrize(
    ("size", "reserved"),
    [
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (11 * MIB + 1, 12 * MIB),
    ],
)
def test_a_segment_is_as_large_as_its_pool_asks_for(size: int, reserved: int) -> None:
    allocator = CachingAllocator()
    allocator.allocate(0, size)
    assert allocator.reserved == reserved


@pytest.mark.parametrize(
    ("events", "reserved"),
    [
        pytest.param([0.5] * 4, 2, id="small blocks share a segment"),
        pytest.param([0.5] * 4 + [1 / 2048], 4, id="a full segment is followed by another"),
        pytest.param([30, "-0", 16, 14], 30, id="a released block is split and used again"),
        # 20 MiB hold three blocks of 6, and become one block again.
        pytest.param([6, 6, 6, "-0", "-2", "-1", 20], 20, id="free neighbours are joined"),
        pytest.param([30, 30, "-0", 32], 92, id="a free block that is too small is left"),
    ],
)
def test_blocks_are_shared_split_and_joined(events: list[float | str], reserved: int) -> None:
    """`events`: MiB of an allocation, or "-N" for the release of allocation N."""
    allocator = CachingAllocator()
    for number, event in enumerate(events):
        if isinstance(event, str):
            allocator.release(int(event[1:]))
        else:
            allocator.allocate(number, int(event * MIB))
    assert allocator.reserved == reserved * MIB


def test_a_released_block_counts_as_reserved_only() -> None:
    allocator = CachingAllocator()
    allocator.allocate(0, 30 * MIB)
    allocator.release(0)
    assert (allocator.allocated, allocator.reserved) == (0, 30 * MIB)
    allocator.allocate(1, 29 * MIB)
    assert allocator.allocated == 30 * MIB, "a rest of up to 1 MiB is not split off"
    allocator.allocate(2, 6 * MIB)
    allocator.release(1)
    allocator.empty_cache()
    assert (allocator.reserved, allocator.most_reserved) == (20 * MIB, 50 * MIB)


def test_a_replay_keeps_the_workspaces_of_cublas_and_the_peaks() -> None:
    made = [Allocation(0, 30 * MIB), Allocation(0, None), EMPTY_CACHE, Allocation(1, 20 * MIB)]
    workspace = cublas_workspace((8, 0))
    allocator = replay(made, workspace)
    assert allocator.most_allocated == 2 * workspace + 30 * MIB
    assert allocator.reserved == 40 * MIB  # 20 for the workspaces, in one segment of small ones


def test_a_workspace_is_taken_at_the_first_product_of_its_thread() -> None:
    first = [Allocation(0, 30 * MIB), Allocation(0, None)]
    made = [*first, FIRST_PRODUCT, FIRST_PRODUCT, Allocation(1, 30 * MIB)]
    workspace = cublas_workspace((8, 0))
    assert replay(made, workspace).reserved == 60 * MIB  # both lie where the first block was


@pytest.mark.parametrize(
    ("capability", "size"),
    [((7, 5), 8_519_680), ((8, 9), 8_519_680), ((9, 0), 32 * MIB), ((12, 0), 32 * MIB)],
)
def test_the_workspace_of_cublas_is_larger_since_hopper(
    capability: tuple[int, int], size: int
) -> None:
    assert cublas_workspace(capability) == size


def test_a_free_block_of_one_stream_is_not_given_to_another() -> None:
    made = [Allocation(0, 30 * MIB), Allocation(0, None)]
    same, other = ([*made, Allocation(1, 30 * MIB, stream)] for stream in (0, 1))
    alone = replay(made).most_reserved
    assert replay(same).most_reserved == alone
    assert replay(other).most_reserved == alone + 30 * MIB
    assert replay(other).most_allocated == replay(same).most_allocated
