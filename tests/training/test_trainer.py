"""The training loop: accumulation, divergence, and what is reported of a step."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from ftlab.basics.errors import Diverged, FtlabError
from ftlab.training.trainer import DIVERGED_STEPS, StepMeter, has_diverged
from tests.training.steps import examples_of, take_steps


def one_step(
    folder: Path, scratch: Path, batch: int, accumulation: int
) -> tuple[dict[str, Tensor], float]:
    """The weights after one step without clipping, and its loss."""
    model, _, meter = take_steps(
        folder, scratch, "full", rate=1e-3, steps=1, batch_size=batch, accumulation=accumulation,
        max_grad_norm=0.0,
    )  # fmt: skip
    return dict(model.named_parameters()), meter.losses[-1]


def test_four_batches_of_two_give_the_step_of_one_batch_of_eight(
    tiny_model: Path, tmp_path: Path
) -> None:
    whole, loss_whole = one_step(tiny_model, tmp_path, 8, 1)
    parts, loss_parts = one_step(tiny_model, tmp_path, 2, 4)
    assert loss_parts == pytest.approx(loss_whole, rel=1e-4)
    reference = dict(AutoModelForCausalLM.from_pretrained(tiny_model).named_parameters())
    for name, weight in whole.items():
        assert not torch.equal(weight, reference[name])
        torch.testing.assert_close(parts[name], weight, rtol=1e-4, atol=2e-5, msg=name)


def test_the_same_seed_gives_the_same_losses_bit_for_bit(tiny_model: Path, tmp_path: Path) -> None:
    first, loss_first = one_step(tiny_model, tmp_path, 4, 2)
    second, loss_second = one_step(tiny_model, tmp_path, 4, 2)
    assert loss_first == loss_second
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_loss_that_is_no_number_stops_the_run_with_step_and_rate(
    tiny_model: Path, tmp_path: Path
) -> None:
    def spoil(model: Any) -> None:
        with torch.no_grad():
            model.model.norm.weight.fill_(float("nan"))

    with pytest.raises(FtlabError, match="loss is not a number at step 1"):
        take_steps(tiny_model, tmp_path, "full", change=spoil)


def test_steps_report_real_tokens_without_padding(tiny_model: Path, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    _, trainer, meter = take_steps(
        tiny_model, tmp_path, "full", report=events.append, steps=2, batch_size=4
    )
    lengths = [example.length for example in examples_of(tiny_model)]
    assert meter.tokens == [sum(lengths[:4]), sum(lengths[4:])]
    assert [event["step"] for event in events] == [1, 2]
    assert trainer.padded_tokens > trainer.real_tokens


@pytest.mark.parametrize(
    ("losses", "diverged"),
    [
        ([2.0] * 20, False),
        ([1.0, 9.0, 9.0, 9.0, 9.0], False),  # too few to tell
        ([1.0, 9.0, 9.0, 9.0, 9.0, 9.0], True),
        ([1.0, 1.0, 1.0, 1.0, 99.0, 1.0], True),
        ([3.0, 6.1, 6.1, 6.1, 6.1, 6.1], True),
        ([3.0, 5.5, 5.5, 5.5, 5.5, 5.5], False),  # 2.5 more, yet not twice as much
        ([0.5, 2.4, 2.4, 2.4, 2.4, 2.4], False),  # five times as much, yet small
        ([2.0, *[9.0] * 5, *[1.0] * 5], False),
        ([3.0] + [0.5] * 40, False),
    ],
)
def test_a_run_has_diverged_if_five_losses_are_far_above_the_first(
    losses: list[float], diverged: bool
) -> None:
    assert has_diverged(losses) is diverged


def test_a_rising_loss_stops_the_run_and_the_steps_so_far_are_kept(
    tiny_model: Path, tmp_path: Path
) -> None:
    meter = StepMeter()
    with pytest.raises(Diverged, match=r"loss rose from \d+\.\d+ to \d+\.\d+ by step \d+ \(learn"):
        take_steps(
            tiny_model, tmp_path, "full", rate=3.0, meter=meter, steps=20, max_grad_norm=0.0,
            schedule="cosine",
        )  # fmt: skip
    assert DIVERGED_STEPS < len(meter.losses) < 20


def test_work_between_the_steps_is_not_in_their_time(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = 0.0

    def clock() -> float:
        return real() + late

    def evaluate(step: int) -> None:
        nonlocal late
        seen.append(step)
        late += 1000.0

    seen: list[int] = []
    real = time.perf_counter
    monkeypatch.setattr("ftlab.training.trainer.time.perf_counter", clock)
    _, _, meter = take_steps(tiny_model, tmp_path, "full", after_step=evaluate, steps=3)
    assert seen == [1, 2, 3]
    assert meter.total_seconds < 1000


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0, 1, 1, 1]),
        ("linear", [0, 1, 2 / 3, 1 / 3]),
        ("cosine", [0, 1, 0.75, 0.25]),
    ],
)
def test_the_rate_rises_over_a_quarter_of_the_steps_at_most_and_then_follows_its_schedule(
    schedule: str, rates: list[float], tiny_model: Path, tmp_path: Path
) -> None:
    events: list[dict[str, Any]] = []
    take_steps(
        tiny_model, tmp_path, report=events.append, rate=0.004, steps=4, batch_size=1,
        warmup_steps=9, schedule=schedule,
    )  # fmt: skip
    assert [event["learning_rate"] for event in events] == pytest.approx(
        [0.004 * rate for rate in rates]
    )


def test_a_step_is_that_of_plain_adamw_with_clipped_gradients_and_decay(
    tiny_model: Path, tmp_path: Path
) -> None:
    found, _, meter = take_steps(
        tiny_model, tmp_path, "full", rate=1e-3, steps=2, max_grad_norm=0.5, weight_decay=0.3
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": 0.3},
            {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
        ],
        lr=1e-3,
    )
    examples, losses = examples_of(tiny_model), []
    for batch in (examples[:2], examples[2:4]):
        each = []
        for example in batch:
            ids = torch.tensor([[*example.prompt_ids, *example.completion_ids]])
            logits = model(ids).logits[0, len(example.prompt_ids) - 1 : -1]
            targets = torch.tensor(example.completion_ids)
            each.append(cross_entropy(logits, targets, reduction="none"))
        loss = torch.cat(each).mean()
        loss.backward()
        assert torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5) > 0.5
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert meter.losses == pytest.approx(losses, rel=1e-4)
    expected = dict(model.named_parameters())
    for name, weight in found.named_parameters():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=2e-5, msg=name)


def test_rates_of_the_steps_leave_out_the_first_which_is_slower() -> None:
    meter = StepMeter([9.0, 2.0, 1.0, 4.0], [100, 10, 20, 40])
    assert meter.total_seconds == 16
    assert meter.step_seconds == 2, "the median"
    assert meter.tokens_per_second == 10
    only = StepMeter([4.0], [100])
    assert (only.step_seconds, only.tokens_per_second) == (4, 25)
