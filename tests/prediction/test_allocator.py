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


def test_small_blocks_share_a_segment() -> None:
    allocator = CachingAllocator()
    for number in range(4):
        allocator.allocate(number, MIB // 2)
    assert allocator.reserved == 2 * MIB
    allocator.allocate(4, 512)
    assert allocator.reserved == 4 * MIB


def test_what_was_given_back_is_used_again() -> None:
    allocator = CachingAllocator()
    allocator.allocate(0, 30 * MIB)
    allocator.release(0)
    assert (allocator.allocated, allocator.reserved) == (0, 30 * MIB)
    allocator.allocate(1, 16 * MIB)
    allocator.allocate(2, 14 * MIB)
    assert (allocator.allocated, allocator.reserved) == (30 * MIB, 30 * MIB)


def test_neighbours_that_are_free_become_one_block() -> None:
    allocator = CachingAllocator()
    for number in range(3):
        allocator.allocate(number, 6 * MIB)  # 20 MiB hold three of them
    for number in (0, 2, 1):
        allocator.release(number)
    allocator.allocate(3, 20 * MIB)
    assert allocator.reserved == 20 * MIB


def test_a_hole_that_is_too_small_is_left() -> None:
    allocator = CachingAllocator()
    allocator.allocate(0, 30 * MIB)
    allocator.allocate(1, 30 * MIB)
    allocator.release(0)
    allocator.allocate(2, 32 * MIB)
    assert allocator.reserved == 92 * MIB


def test_a_rest_of_a_large_block_up_to_one_mib_is_not_cut_off() -> None:
    allocator = CachingAllocator()
    allocator.allocate(0, 30 * MIB)
    allocator.release(0)
    allocator.allocate(1, 29 * MIB)
    assert allocator.allocated == 30 * MIB


def test_an_emptied_cache_gives_back_what_nothing_lies_in() -> None:
    allocator = CachingAllocator()
    allocator.allocate(0, 30 * MIB)
    allocator.allocate(1, 6 * MIB)
    allocator.release(0)
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
