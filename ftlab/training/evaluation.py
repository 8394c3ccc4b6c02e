"""Held-out loss and the task's own score, measured the same way for every method and the base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftlab.models.generation import answer_batch, greedy_config
from ftlab.models.loading import give_back_memory
from ftlab.settings.training import EVALUATION_BATCH
from ftlab.tasks.formatting import EncodedSet, FormattedExample, PromptFormatter
from ftlab.tasks.spec import TaskSpec
from ftlab.training.arithmetic import Arithmetic
from ftlab.training.data import collate, on_device
from ftlab.training.failures import is_out_of_memory
from ftlab.training.loss import completion_losses

Progress = Callable[[int, int], None]
"""Called with the work done so far and the whole."""


@dataclass(frozen=True)
class Evaluation:
    """`loss` is the mean over all completion tokens, `score` the mean over the examples.

    The lists are parallel to the examples; `losses` holds each example's own mean. Where no answers
    were asked for, `score` is `None`, and `scores` and `answers` are empty. `general_loss` is the
    mean over all tokens of the passages, `general_losses` each passage's own. `batch` is how many
    examples were scored at once in the end.
    """

    loss: float
    score: float | None
    losses: list[float]
    scores: list[float]
    answers: list[str]
    general_loss: float | None = None
    general_losses: tuple[float, ...] = ()
    batch: int = EVALUATION_BATCH


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
    batches = ShrinkingBatches(arithmetic.device)
    try:
        with torch.inference_mode(), arithmetic.context():
            loss, losses = held_out_loss(
                model, held_out.formatted, pad_id, lambda n: progress(n, total), batches
            )
            if passages:
                general, each = held_out_loss(
                    model, passages, pad_id, lambda n: progress(count + n, total), batches
                )
            if not with_answers:
                return Evaluation(loss, None, losses, [], [], general, tuple(each), batches.size)
            answers = _answers(
                model,
                tokenizer,
                held_out.formatted,
                task.max_new_tokens,
                stop_ids,
                lambda n: progress(seen + n, total),
                batches,
            )
    finally:
        model.train(was_training)
    scores = task.metric.score_each(held_out.examples, answers)
    score = sum(scores) / len(scores)
    return Evaluation(loss, score, losses, scores, answers, general, tuple(each), batches.size)


class ShrinkingBatches:
    """Works through examples in batches of like length, which shrink where memory runs out."""

    def __init__(self, device: torch.device, size: int = EVALUATION_BATCH) -> None:
        self.size = size
        self._device = device

    def work(self, lengths: Sequence[int], do: Callable[[list[int]], None]) -> None:
        """Calls `do` with the places of each batch, shortest examples first.

        A batch that runs out of memory is done again as two of half its size; a single example
        that does ends it all with that error.
        """
        order = sorted(range(len(lengths)), key=lambda place: (lengths[place], place))
        while order:
            places = order[: self.size]
            if self._did(do, places):
                order = order[len(places) :]
            else:
                self.size = max(1, len(places) // 2)

    def _did(self, do: Callable[[list[int]], None], places: list[int]) -> bool:
        """Whether there was memory enough; the error is let go of, since it holds what was made."""
        try:
            do(places)
        except Exception as error:
            if len(places) == 1 or not is_out_of_memory(error):
                raise
        else:
            return True
        give_back_memory(self._device)
        return False


def as_passages(formatter: PromptFormatter, texts: Sequence[str]) -> list[FormattedExample]:
    """Plain texts as the model reads them, without a template; every token carries loss.

    All but the first of each, which nothing comes before.
    """
    return [FormattedExample("", text, (), tuple(formatter.plain_ids(text))) for text in texts]


def held_out_loss(
    model: PreTrainedModel | PeftModel,
    examples: Sequence[FormattedExample],
    pad_id: int,
    done: Callable[[int], None],
    batches: ShrinkingBatches | None = None,
) -> tuple[float, list[float]]:
    """The mean over all completion tokens, and each example's own, in nats."""
    device = next(model.parameters()).device
    sums, counts = [0.0] * len(examples), [0] * len(examples)
    finished = 0

    def score(places: list[int]) -> None:
        nonlocal finished
        batch = collate([examples[place] for place in places], pad_id)
        own = torch.bincount(batch["rows"], minlength=len(places)).tolist()
        losses, _ = completion_losses(model, on_device(batch, device))
        for place, values in zip(places, losses.cpu().split(own), strict=True):
            sums[place], counts[place] = float(values.sum()), values.numel()
        finished += len(places)
        done(finished)

    batches = ShrinkingBatches(device) if batches is None else batches
    batches.work([example.length for example in examples], score)
    means = [total / count for total, count in zip(sums, counts, strict=True)]
    return sum(sums) / sum(counts), means


def _answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[FormattedExample],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    done: Callable[[int], None],
    batches: ShrinkingBatches,
) -> list[str]:
    answers = [""] * len(examples)
    config = greedy_config(max_new_tokens, stop_ids, int(tokenizer.pad_token_id))
    finished = 0

    def answer(places: list[int]) -> None:
        nonlocal finished
        prompts = [examples[place].prompt_ids for place in places]
        for place, text in zip(
            places, answer_batch(model, tokenizer, prompts, config), strict=True
        ):
            answers[place] = text
        finished += len(places)
        done(finished)

    batches.work([len(example.prompt_ids) for example in examples], answer)
    return answers
