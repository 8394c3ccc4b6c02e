"""Held-out loss and the task's own score, measured the same way for every method and the base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftlab.models.generation import answer_batch, greedy_config
from ftlab.tasks.formatting import FormattedExample
from ftlab.tasks.spec import TaskSpec
from ftlab.training.arithmetic import Arithmetic
from ftlab.training.data import EncodedSet, collate
from ftlab.training.loss import completion_losses

EVALUATION_BATCH = 16

Progress = Callable[[int, int], None]
"""Called with the work done so far and the whole."""


@dataclass(frozen=True)
class Evaluation:
    """`loss` is the mean over all completion tokens, `score` the mean over the examples.

    The lists are parallel to the examples; `losses` holds each example's own mean.
    """

    loss: float
    score: float
    losses: list[float]
    scores: list[float]
    answers: list[str]


def evaluate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    held_out: EncodedSet,
    task: TaskSpec,
    stop_ids: Sequence[int],
    arithmetic: Arithmetic,
    progress: Progress,
) -> Evaluation:
    """Loss by teacher forcing, then greedy answers, both in batches of like length."""
    was_training = model.training
    model.eval()
    total = 2 * len(held_out.examples)
    try:
        with torch.inference_mode(), arithmetic.context():
            loss, losses = held_out_loss(
                model, held_out.formatted, tokenizer.pad_token_id, lambda n: progress(n, total)
            )
            answers = _answers(
                model,
                tokenizer,
                held_out.formatted,
                task.max_new_tokens,
                stop_ids,
                lambda n: progress(len(losses) + n, total),
            )
    finally:
        model.train(was_training)
    scores = task.metric.score_each(held_out.examples, answers)
    return Evaluation(loss, sum(scores) / len(scores), losses, scores, answers)


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
