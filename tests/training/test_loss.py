"""The loss on the completion alone, and accumulation that changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from ftlab.errors import FtlabError
from ftlab.runs.spec import TrainingSettings
from ftlab.tasks.formatting import FileTokenizer, FormattedExample, PromptFormatter
from ftlab.tasks.spec import Example, Message
from ftlab.training.arithmetic import Arithmetic, completion_losses, virtual_tokens
from ftlab.training.data import IGNORED, OrderedExamples, collate
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


def lora(folder: Path) -> Any:
    torch.manual_seed(1)
    config = LoraConfig(
        r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
    )
    return get_peft_model(base(folder), config)


def prompt_tuning(folder: Path) -> Any:
    torch.manual_seed(1)
    return get_peft_model(
        base(folder), PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    )


def plain_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """All positions' logits, shifted by hand: what the kept logits must agree with."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    logits = logits[:, virtual_tokens(model) :]
    return F.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]).float(),
        batch["labels"][:, 1:].reshape(-1),
        ignore_index=IGNORED,
    )


@pytest.mark.parametrize("build", [base, lora, prompt_tuning])
def test_kept_logits_give_the_plain_loss_and_gradient(
    tiny_model: Path, examples: list[FormattedExample], build: Any
) -> None:
    batch = collate(examples, pad_id=0)
    ours, theirs = build(tiny_model), build(tiny_model)
    loss = completion_losses(ours, batch)[0].mean()
    reference = plain_loss(theirs, batch)
    torch.testing.assert_close(loss, reference, rtol=1e-5, atol=0)
    loss.backward()
    reference.backward()
    pairs = list(zip(ours.named_parameters(), theirs.parameters(), strict=True))
    learning = [(name, a, b) for (name, a), b in pairs if a.requires_grad]
    assert learning
    for name, a, b in learning:
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_every_loss_knows_its_row(tiny_model: Path, examples: list[FormattedExample]) -> None:
    losses, rows = completion_losses(base(tiny_model), collate(examples, pad_id=0))
    assert losses.shape == rows.shape
    counts = [int((rows == row).sum()) for row in range(len(examples))]
    assert counts == [len(example.completion_ids) for example in examples]


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
