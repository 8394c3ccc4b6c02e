"""Rows of one batch on a 4-bit base: the GPU's way of adding (forced on a CPU) and the CPU's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ftlab.models.loading import load_base_model
from ftlab.models.reference import ModelReference
from ftlab.models.resolve import ResolvedModel
from ftlab.playground import rows as rows_module
from ftlab.playground.attach import LowRank, Pair, attach, clone_on_same_weights
from ftlab.playground.decoding import Lane
from ftlab.playground.panes import PaneSource
from ftlab.playground.requests import GenerateRequest
from ftlab.playground.rows import (
    RowAdapters,
    Way,
    at_once,
    hooks_at_once,
    one_by_one,
    together,
    way_of,
)
from tests.playground.asking import finals
from tests.playground.conftest import AddAdapter, NewEngine
from tests.playground.kinds import first_logits

IDS = [1, 40, 50, 60, 70]
LONGER = [1, 90, 80, 70, 60, 50, 40, 30]

PEFT_TOLERANCE = {"atol": 3e-5, "rtol": 1e-5}
"""What PEFT allows its own mixed batch on a 4-bit base that computes in fp32: its
tests/test_common_gpu.py, `test_4bit_lora_mixed_adapter_batches_lora`."""


@pytest.fixture
def bases(tiny_model: Path, one_thread: None) -> Callable[[str], Any]:
    """An NF4 base that computes in "bf16", as the playground's does, or in "fp32"."""
    source = ResolvedModel(ModelReference("folder", str(tiny_model)), tiny_model)

    def load(policy: Any) -> Any:
        base = load_base_model(source, policy, "nf4", torch.device("cpu"))
        return base.requires_grad_(False).eval()

    return load


@pytest.fixture
def adapters(add_adapter: AddAdapter) -> list[Path]:
    """Of different ranks, some of them alike, and on different layers."""
    return [
        add_adapter("lora", seed=1, r=2).folder,
        add_adapter("lora", seed=2, r=5, target_modules=["q_proj", "v_proj"]).folder,
        add_adapter("lora", seed=3, r=1, target_modules=["up_proj", "v_proj"]).folder,
        add_adapter("lora", seed=4, r=8, lora_alpha=4).folder,
        add_adapter("lora", seed=5, r=2, target_modules=["o_proj", "v_proj"]).folder,
    ]


def attached(base: Any, adapters: Sequence[Path]) -> list[LowRank]:
    found = [attach(base, PaneSource(f.name, f.name, folder=f, is_adapter=True)) for f in adapters]
    return [one.low_rank for one in found if one.low_rank]


def prefilled(rows: RowAdapters, numbers: Sequence[int], prompts: Sequence[list[int]]) -> Tensor:
    rows.rows = numbers
    with torch.inference_mode():
        return Lane(rows, prompts, 0).prefill()


def plain_logits(base: Any, adapter: Path, ids: list[int]) -> Tensor:
    return first_logits(
        PeftModel.from_pretrained(clone_on_same_weights(base), str(adapter)).eval(), ids
    )


ALIKE, PADDED = [LONGER] * 7, [IDS, LONGER] * 3 + [IDS]


@pytest.mark.parametrize(
    ("policy", "prompts"),
    [("fp32", ALIKE), ("fp32", PADDED), ("bf16", ALIKE)],  # in bf16 padding alone moves a row
    ids=["fp32", "fp32, padded", "bf16"],
)
def test_every_row_is_within_pefts_own_tolerance_of_plain_peft(
    policy: str, prompts: list[list[int]], bases: Callable[[str], Any], adapters: list[Path]
) -> None:
    base = bases(policy)
    rows = RowAdapters(base, attached(base, adapters), at_once)
    order = [3, 0, 1, 2, 5, 4, 1]
    for found, number, ids in zip(prefilled(rows, order, prompts), order, prompts, strict=True):
        if not number:
            continue
        wanted = plain_logits(base, adapters[number - 1], ids)
        assert float((wanted - first_logits(base, ids)).norm() / wanted.norm()) > 0.1
        if policy == "fp32":
            torch.testing.assert_close(found, wanted, **PEFT_TOLERANCE)
        else:
            assert float((found - wanted).norm() / wanted.norm()) < 1e-2


@pytest.mark.parametrize("policy", ["bf16", "fp32"])
def test_the_base_row_is_bit_identical_on_4_bits(
    policy: str, bases: Callable[[str], Any], adapters: list[Path]
) -> None:
    base = bases(policy)
    rows = RowAdapters(base, attached(base, adapters), at_once)
    with torch.inference_mode():
        alone = Lane(base, [IDS, LONGER, IDS], 0).prefill()
    beside = prefilled(rows, [0, 4, 1], [IDS, LONGER, IDS])
    assert torch.equal(beside[0], alone[0])
    assert not torch.equal(beside[1], alone[1])
    assert torch.equal(prefilled(rows, [0, 0, 0], [IDS, LONGER, IDS]), alone)


def test_both_ways_agree_after_rows_are_dropped(
    bases: Callable[[str], Any], adapters: list[Path]
) -> None:
    base = bases("fp32")
    found = []
    for way in (one_by_one, at_once):
        rows = RowAdapters(base, attached(base, adapters), way)
        rows.rows = [0, 3, 2, 4]
        lane = Lane(rows, [LONGER, IDS, LONGER, IDS], 0)
        with torch.inference_mode():
            lane.prefill()
            lane.keep([1, 3])
            found.append(lane.step([33, 44]))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
    assert float((found[0][0] - found[0][1]).abs().max()) > 0.1


def test_nan_and_infinity_stay_in_their_row(bases: Callable[[str], Any]) -> None:
    """One adapter overflows; a row of the base that overflows by itself is left as it is."""
    layer = nn.Linear(4, 3, bias=False)
    batch = rows_module._Batch(torch.device("cpu"))
    batch.set([0, 1, 2])
    huge = Pair(torch.full((2, 4), 3e38), torch.ones(3, 2), 1.0)
    small = Pair(torch.ones(2, 4), torch.ones(3, 2), 0.5)
    x = torch.ones(3, 2, 4)
    x[0, 1] = torch.inf
    x[0, 0] = -0.0
    output = layer(x)
    (hook,) = hooks_at_once([huge, small])
    with torch.inference_mode():
        found = hook(layer, (x,), output, batch=batch)
    torch.testing.assert_close(found[0], output[0], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(found[0, 0].signbit(), output[0, 0].signbit())
    assert found[1].isinf().all()
    torch.testing.assert_close(found[2], output[2] + 4.0)


class _Operations(TorchDispatchMode):
    """Records the name of every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__.split(".")[0])
        return func(*args, **(kwargs or {}))


def test_no_value_is_read_from_the_device_and_more_rows_need_no_more_operations() -> None:
    """Tensors on "meta" have no values: `tolist`, `item`, copies and masks as indices raise."""
    meta = torch.device("meta")
    pairs = [
        Pair(torch.ones(rank, 64, device=meta), torch.ones(32, rank, device=meta), 2.0)
        for rank in (1, 4, 4)
    ]
    layer = nn.Linear(64, 32, device=meta)
    hooks = hooks_at_once([pairs[0], None, *pairs[1:]])
    assert len(hooks) == 2, "one for each rank"
    operations = []
    for count in (3, 24):
        batch = rows_module._Batch(meta)
        batch.set([row % 5 for row in range(count)])
        x = torch.ones(count, 5, 64, device=meta)
        output = layer(x)
        with _Operations() as seen:
            for hook in hooks:
                assert hook(layer, (x,), output, batch=batch).shape == (count, 5, 32)
        operations.append(seen.names)
    assert operations[0].count("bmm") == 2 * len(hooks)
    assert operations[0] == operations[1]


@pytest.mark.parametrize(
    ("device", "is_quantised", "way"),
    [
        ("cpu", True, one_by_one),
        ("meta", True, at_once),  # stands for any device that is no CPU
        ("cpu", False, together),
        ("meta", False, together),
    ],
)
def test_the_way_is_chosen_by_base_and_device(device: str, is_quantised: bool, way: Way) -> None:
    base: Any = nn.Linear(2, 2, device=device)
    base.is_quantized = is_quantised
    assert way_of(base) is way


def test_panes_give_the_same_results_in_both_ways(
    new_engine: NewEngine, add_adapter: AddAdapter, ask: GenerateRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    zero = add_adapter("lora", init_lora_weights=True, noise=0.0).name
    names = [add_adapter("lora", seed=seed, r=seed + 1).name for seed in (1, 2)]
    request = replace(ask, precision="nf4", panes=("base", zero, *names))
    wanted = finals(new_engine("nf4"), request)
    monkeypatch.setattr(rows_module, "way_of", lambda base: at_once)
    found = finals(new_engine("nf4"), request)
    assert found[0].text == found[1].text == wanted[0].text
    assert found[1].changes_nothing
    for ours, theirs in zip(found[2:], wanted[2:], strict=True):
        assert ours.text.split()[:1] == theirs.text.split()[:1]
        assert ours.next_token is not None
        assert theirs.next_token is not None
        assert ours.next_token.kl_nats == pytest.approx(theirs.next_token.kl_nats, rel=0.05)
        assert not ours.changes_nothing
