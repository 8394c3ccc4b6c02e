"""Held-out loss and the task's own score, measured the same way for every method and the base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftlab.models.generation import answer_batch, greedy_config
from ftlab.tasks.encoding import EncodedSet
from ftlab.tasks.formatting import FormattedExample, PromptFormatter
from ftlab.tasks.spec import TaskSpec
from ftlab.training.arithmetic import Arithmetic
from ftlab.training.data import collate
from ftlab.training.loss import completion_losses

EVALUATION_BATCH = 16

Progress = Callable[[int, int], None]
"""Called with the work done so far and the whole."""


@dataclass(frozen=True)
class Evaluation:
    """`loss` is the mean over all completion tokens, `score` the mean over the examples.

    The lists are parallel to the examples; `losses` holds each example's own mean. Where no answers
    were asked for, `score` is `None`, and `scores` and `answers` are empty. `general_loss` is the
    mean over all tokens of the passages, `general_losses` each passage's own.
    """

    loss: float
    score: float | None
    losses: list[float]
    scores: list[float]
    answers: list[str]
    general_loss: float | None = None
    general_losses: tuple[float, ...] = ()


def evaluate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    held_out: EncodedSet,
    task: TaskSpec,
    stop_ids: Sequence[int],
    arithmetic: Arithmetic,
    progress: Progress,
    with_answers: bool = True,
    passages: Sequence[FormattedExample] = (),
) -> Evaluation:
    """Loss by teacher forcing, then greedy answers, both in batches of like length.

    Before the answers the loss of the `passages` (`as_passages`), if there are any.
    """
    was_training = model.training
    model.eval()
    count = len(held_out.examples)
    seen = count + len(passages)
    total = seen + (count if with_answers else 0)
    pad_id = int(tokenizer.pad_token_id)
    general: float | None = None
    each: list[float] = []
    try:
        with torch.inference_mode(), arithmetic.context():
            loss, losses = held_out_loss(
                model, held_out.formatted, pad_id, lambda n: progress(n, total)
            )
            if passages:
                general, each = held_out_loss(
                    model, passages, pad_id, lambda n: progress(count + n, total)
                )
            if not with_answers:
                return Evaluation(loss, None, losses, [], [], general, tuple(each))
            answers = _answers(
                model,
                tokenizer,
                held_out.formatted,
                task.max_new_tokens,
                stop_ids,
                lambda n: progress(seen + n, total),
            )
    finally:
        model.train(was_training)
    scores = task.metric.score_each(held_out.examples, answers)
    score = sum(scores) / len(scores)
    return Evaluation(loss, score, losses, scores, answers, general, tuple(each))


def as_passages(formatter: PromptFormatter, texts: Sequence[str]) -> list[FormattedExample]:
    """Plain texts as the model reads them, without a template; every token carries loss.

    All but the first of each, which nothing comes before.
    """
    return [FormattedExample("", text, (), tuple(formatter.plain_ids(text))) for text in texts]


def _batches_of_like_length(lengths: Sequence[int]) -> list[list[int]]:
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    return [order[i : i + EVALUATION_BATCH] for i in range(0, len(order), EVALUATION_BATCH)]


def held_out_loss(
    model: PreTrainedModel | PeftModel,
    examples: Sequence[FormattedExample],
    pad_id: int,
    done: Callable[[int], None],
) -> tuple[float, list[float]]:
    """The mean over all completion tokens, and each example's own, in nats."""
    device = next(model.parameters()).device
    sums, counts = [0.0] * len(examples), [0] * len(examples)
    finished = 0
    for indices in _batches_of_like_length([example.length for example in examples]):
        batch = collate([examples[i] for i in indices], pad_id)
        losses, rows = completion_losses(model, {k: v.to(device) for k, v in batch.items()})
        for row, index in enumerate(indices):
            own = losses[rows == row]
            sums[index], counts[index] = float(own.sum()), own.numel()
        finished += len(indices)
        done(finished)
    means = [total / count for total, count in zip(sums, counts, strict=True)]
    return sum(sums) / sum(counts), means


def _answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[FormattedExample],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    done: Callable[[int], None],
) -> list[str]:
    answers = [""] * len(examples)
    config = greedy_config(max_new_tokens, stop_ids, int(tokenizer.pad_token_id))
    finished = 0
    for indices in _batches_of_like_length([len(example.prompt_ids) for example in examples]):
        prompts = [examples[i].prompt_ids for i in indices]
        for index, answer in zip(
            indices, answer_batch(model, tokenizer, prompts, config), strict=True
        ):
            answers[index] = answer
        finished += len(indices)
        done(finished)
    return answers
