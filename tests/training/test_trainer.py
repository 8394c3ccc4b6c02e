"""Steps that accumulation does not change, and what is reported of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ftlab.errors import FtlabError
from ftlab.runs.spec import TrainingSettings
from ftlab.tasks.formatting import FileTokenizer, FormattedExample, PromptFormatter
from ftlab.tasks.spec import Example, Message
from ftlab.training.arithmetic import Arithmetic
from ftlab.training.data import OrderedExamples, collate
from ftlab.training.trainer import FairTrainer, train, training_arguments

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
