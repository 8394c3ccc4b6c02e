"""Steps that accumulation does not change, and what is reported of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ftlab.basics.errors import Diverged, FtlabError
from ftlab.methods.variant import Variant
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.formatting import FileTokenizer, FormattedExample, PromptFormatter
from ftlab.tasks.spec import Example, Message
from ftlab.training.step import Arithmetic, OrderedExamples, collate
from ftlab.training.trainer import (
    DIVERGED_STEPS,
    FairTrainer,
    StepMeter,
    has_diverged,
    train,
    training_arguments,
)

FULL = Variant("full")
CPU = torch.device("cpu")
FP32 = Arithmetic("fp32", CPU)


@pytest.fixture(scope="module")
def examples(tiny_model: Path) -> list[FormattedExample]:
    formatter = PromptFormatter(FileTokenizer(tiny_model))
    texts = [("a", "yes"), ("what is it", "no"), ("longer question", "perhaps"), ("b", "x")] * 2
    return [formatter.format(Example((Message("user", q),), a)) for q, a in texts]


def base(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path


def one_step(
    folder: Path, examples: list[FormattedExample], scratch: Path, batch: int, accumulation: int
) -> tuple[dict[str, torch.Tensor], float]:
    """The weights after one step of plain gradient descent in all but name, and its loss."""
    settings = TrainingSettings(
        steps=1, batch_size=batch, accumulation=accumulation, warmup_steps=0, max_grad_norm=0.0,
        schedule="constant",
    )  # fmt: skip
    model = base(folder)
    losses: list[float] = []
    trainer, _ = train(
        model,
        FULL,
        OrderedExamples(examples, range(len(examples))),
        training_arguments(settings, 1e-3, 0, FP32, scratch),
        FP32,
        lambda items: collate(items, 0),
        lambda event: losses.append(event["loss"]),
    )
    assert isinstance(trainer, FairTrainer)
    return dict(model.named_parameters()), losses[-1]


def test_four_batches_of_two_give_the_step_of_one_batch_of_eight(
    tiny_model: Path, examples: list[FormattedExample], scratch: Path
) -> None:
    whole, loss_whole = one_step(tiny_model, examples, scratch, 8, 1)
    parts, loss_parts = one_step(tiny_model, examples, scratch, 2, 4)
    assert loss_parts == pytest.approx(loss_whole, rel=1e-4)
    reference = dict(base(tiny_model).named_parameters())
    for name, weight in whole.items():
        assert not torch.equal(weight, reference[name])
        torch.testing.assert_close(parts[name], weight, rtol=1e-4, atol=2e-5, msg=name)


def test_the_same_seed_gives_the_same_losses_bit_for_bit(
    tiny_model: Path, examples: list[FormattedExample], scratch: Path
) -> None:
    first, loss_first = one_step(tiny_model, examples, scratch, 4, 2)
    second, loss_second = one_step(tiny_model, examples, scratch, 4, 2)
    assert loss_first == loss_second
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_loss_that_is_no_number_stops_the_run_with_step_and_rate(
    tiny_model: Path, examples: list[FormattedExample], scratch: Path
) -> None:
    model = base(tiny_model)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    arguments = training_arguments(TrainingSettings(steps=3, batch_size=2), 1e-3, 0, FP32, scratch)
    with pytest.raises(FtlabError, match="loss is not a number at step 1"):
        train(
            model,
            FULL,
            OrderedExamples(examples, range(6)),
            arguments,
            FP32,
            lambda items: collate(items, 0),
            lambda event: None,
        )


def test_steps_report_real_tokens_without_padding(
    tiny_model: Path, examples: list[FormattedExample], scratch: Path
) -> None:
    settings = TrainingSettings(steps=2, batch_size=4)
    events: list[dict[str, Any]] = []
    trainer, meter = train(
        base(tiny_model),
        FULL,
        OrderedExamples(examples, range(8)),
        training_arguments(settings, 1e-3, 0, FP32, scratch),
        FP32,
        lambda items: collate(items, 0),
        events.append,
    )
    assert meter.tokens == [
        sum(e.length for e in examples[:4]),
        sum(e.length for e in examples[4:]),
    ]
    assert [event["step"] for event in events] == [1, 2]
    assert trainer.padded_tokens > trainer.real_tokens


@pytest.mark.parametrize(
    ("losses", "diverged"),
    [
        ([1.0, 9.0, 9.0, 9.0, 9.0], False),
        ([1.0, 9.0, 9.0, 9.0, 9.0, 9.0], True),
        ([1.0, 1.0, 1.0, 1.0, 99.0, 1.0], True),
        ([3.0, 5.5, 5.5, 5.5, 5.5, 5.5], False),
        ([3.0, 6.1, 6.1, 6.1, 6.1, 6.1], True),
        ([0.5, 2.4, 2.4, 2.4, 2.4, 2.4], False),
        ([3.0] + [0.5] * 40, False),
    ],
)
def test_a_run_has_diverged_where_five_losses_lie_far_above_the_first(
    losses: list[float], diverged: bool
) -> None:
    assert has_diverged(losses) is diverged


def test_a_rising_loss_stops_the_run_and_the_steps_so_far_are_kept(
    tiny_model: Path, examples: list[FormattedExample], scratch: Path
) -> None:
    settings = TrainingSettings(steps=20, batch_size=2, warmup_steps=0, max_grad_norm=0.0)
    meter = StepMeter()
    with pytest.raises(Diverged, match=r"loss rose from \d+\.\d+ to \d+\.\d+ by step \d+ \(learn"):
        train(
            base(tiny_model),
            FULL,
            OrderedExamples(examples, list(range(8)) * 5),
            training_arguments(settings, 3.0, 0, FP32, scratch),
            FP32,
            lambda items: collate(items, 0),
            lambda event: None,
            meter=meter,
        )
    assert DIVERGED_STEPS < len(meter.losses) < 20


def test_what_is_done_between_the_steps_is_not_in_their_time(
    tiny_model: Path,
    examples: list[FormattedExample],
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
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
    _, meter = train(
        base(tiny_model),
        FULL,
        OrderedExamples(examples, range(6)),
        training_arguments(TrainingSettings(steps=3, batch_size=2), 1e-3, 0, FP32, scratch),
        FP32,
        lambda items: collate(items, 0),
        lambda event: None,
        after_step=evaluate,
    )
    assert seen == [1, 2, 3]
    assert meter.total_seconds < 1000
