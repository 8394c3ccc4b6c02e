"""The record of what torch hands out, on real tensors and on fake ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ftlab.training.allocations import EMPTY_CACHE, AllocationLog

KB = 1024


def test_a_new_storage_is_an_allocation_and_its_end_a_release() -> None:
    log = AllocationLog()
    with log:
        first = torch.zeros(KB, dtype=torch.uint8)
        second = first + 1
        del first
        third = second[10:]  # a view takes nothing
        second.add_(1)
        del second, third
    sizes = [item.size for item in log.allocations()]
    assert sizes == [KB, KB, None, None]
    assert log.peak().bytes == 2 * KB


def test_every_size_is_rounded_as_on_cuda_unless_asked_otherwise() -> None:
    log = AllocationLog()
    with log:
        kept = [torch.zeros(3), torch.zeros(0)]
    assert (log.peak().bytes, log.peak(rounding=False).bytes) == (1024, 12)
    assert len(kept) == 2


def test_results_in_lists_are_seen() -> None:
    log = AllocationLog()
    with log:
        parts = torch._foreach_add([torch.zeros(512), torch.zeros(512)], 1.0)
    assert log.peak(rounding=False).bytes == 2 * 4 * 512 + 2 * 4 * 512
    assert len(parts) == 2


def test_the_anatomy_tells_weights_gradients_activations_and_the_rest_apart() -> None:
    weight = torch.ones(256, 256, requires_grad=True)
    log = AllocationLog()
    log.name([weight], "weights")
    with log:
        log.phase = "forward"
        inputs = torch.ones(64, 256)
        hidden = (inputs @ weight).exp()  # exp keeps its result for the way back
        loss = hidden.sum()
        log.phase = "backward"
        loss.backward()
        log.name([weight.grad], "gradients")
    anatomy = log.peak(rounding=False).anatomy
    assert anatomy["weights"] == anatomy["gradients"] == 4 * 256 * 256
    assert anatomy["activations"] == 4 * (64 * 256 + 64 * 256 + 1)  # inputs, exp, loss
    assert anatomy["optimizer"] == 0
    assert sum(anatomy.values()) == log.peak(rounding=False).bytes


def test_what_ends_with_the_forward_pass_is_temporary() -> None:
    log = AllocationLog()
    with log:
        log.phase = "forward"
        big = torch.zeros(4 * KB)
        small = big[:1].clone()
        del big
        log.phase = "backward"
    assert log.peak().anatomy["temporary"] == 16 * KB
    assert small.numel() == 1


def test_fake_tensors_are_recorded_and_take_no_memory() -> None:
    log = AllocationLog()
    with FakeTensorMode(), log:
        huge = torch.empty(1 << 40, dtype=torch.uint8)
        twice = huge * 2
    assert log.peak().bytes == 2 << 40
    assert isinstance(twice, Tensor)


def test_emptying_the_cache_is_noted_in_its_place() -> None:
    log = AllocationLog()
    with log:
        first = torch.zeros(1)
        log.empty_cache()
        second = torch.zeros(1)
    made = log.allocations()
    assert [item is EMPTY_CACHE for item in made] == [False, True, False]
    assert len([first, second]) == 2


@pytest.mark.parametrize("name", ["weights", "optimizer"])
def test_the_first_name_of_a_storage_stays(name: str) -> None:
    kept = torch.zeros(128)
    log = AllocationLog()
    log.name([kept, None], name)  # type: ignore[arg-type]
    log.name([kept], "gradients")
    with log:
        pass
    assert log.peak().anatomy[name] == 512  # type: ignore[index]
