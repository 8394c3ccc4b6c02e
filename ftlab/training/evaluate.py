"""Test loss and the task's score, measured the same way for the base and every method.

They are measured for the base (before), during the steps (the curve), and after the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftlab.models.decoding import (
    ReadPrompts,
    answers_what_it_read,
    begun_answer,
    greedy_answers,
    has_ended,
)
from ftlab.models.generation import answer_batch, answer_texts, greedy_config, virtual_tokens
from ftlab.models.laid_out import laid_out_meanwhile
from ftlab.models.loading import give_back_memory
from ftlab.models.packed import unpacked_on_cpu
from ftlab.records.base_runs import General, Quality, against_base, curve_event
from ftlab.records.spec import RunSpec
from ftlab.settings.training import CACHE_BYTES, CURVE_EXAMPLES, EVALUATION_BATCH, ROWS_AT_ONCE
from ftlab.tasks.formatting import EncodedSet, FormattedExample, PromptFormatter
from ftlab.tasks.spec import TaskSpec
from ftlab.training.failures import is_out_of_memory
from ftlab.training.first_pass import same_random_numbers
from ftlab.training.meters import PhaseMeter
from ftlab.training.step import (
    Arithmetic,
    ReadBatch,
    collate,
    is_divided,
    on_device,
    read_batch,
)

Progress = Callable[[int, int], None]
"""Called with the work done so far and the total."""


@dataclass(frozen=True)
class Evaluation:
    """`loss` is the mean over all completion tokens, `score` the mean over the examples.

    The lists are parallel to the examples; `losses` holds the mean of each example. Without
    answers, `score` is `None`, and `scores` and `answers` are empty. `general_loss` is the mean
    over all tokens of the passages, `general_losses` the mean of each passage. `batch` is the final
    batch size.
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
    spare_bytes: int = 0,
) -> Evaluation:
    """Measures the loss by teacher forcing, and greedy answers, in batches of similar length.

    Where the model allows it, the answers continue from what the loss's own pass computed. It also
    measures the loss of the `passages` (`as_passages`). `spare_bytes` can be used without a higher
    peak than the run had; up to half of them are for copies of weights that are quicker on a CPU.

    Ranks of a divided model all compute the same. If memory runs out in one, the error is raised:
    the others would wait for it.
    """
    was_training = model.training
    model.eval()
    count = len(held_out.examples)
    seen = count + len(passages)
    total = seen + (count if with_answers else 0)
    pad_id = int(tokenizer.pad_token_id)
    general: float | None = None
    each: list[float] = []
    answers: list[str] = []
    batches = ShrinkingBatches(arithmetic.device, may_shrink=not is_divided(model))
    finished = Finished(lambda done: progress(done, total))
    writer = Answers(
        model, tokenizer, held_out.formatted, task.max_new_tokens, stop_ids, finished, spare_bytes
    )
    try:
        with (
            _quick_weights(model, max(CACHE_BYTES, spare_bytes) // 2, with_answers),
            torch.inference_mode(),
            arithmetic.context(),
            _ends_gathered(model),
        ):
            reader = writer.read if with_answers and answers_what_it_read(model) else None
            loss, losses = held_out_loss(
                model, held_out.formatted, pad_id, finished.of("loss"), batches, reader
            )
            if with_answers:
                answers = writer.finish(batches)
            if passages:
                general, each = held_out_loss(
                    model, passages, pad_id, finished.of("passages"), batches
                )
    finally:
        model.train(was_training)
    scores = task.metric.score_each(held_out.examples, answers) if with_answers else []
    score = sum(scores) / len(scores) if with_answers else None
    return Evaluation(loss, score, losses, scores, answers, general, tuple(each), batches.size)


@contextmanager
def _quick_weights(model: nn.Module, room: int, with_answers: bool) -> Iterator[None]:
    """Copies of weights meanwhile, in at most `room` bytes, whose products are the same bit for bit
    and quicker on a CPU: 4-bit weights unpacked, and for answers bf16 weights in oneDNN's layout.

    Enter it outside `torch.inference_mode`, in which changes of a weight are not counted.
    """
    with unpacked_on_cpu(model, room, laid_out=with_answers) as taken:
        left = room - taken if with_answers and not is_divided(model) else 0
        with laid_out_meanwhile(model, left):
            yield


def _ends_gathered(model: nn.Module) -> AbstractContextManager[None]:
    if not is_divided(model):
        return nullcontext()
    from ftlab.training.sharding import ends_gathered

    return ends_gathered(model)


class ShrinkingBatches:
    """Processes examples in batches of similar length; halves a batch that runs out of memory,
    unless it may not shrink."""

    def __init__(
        self, device: torch.device, size: int = EVALUATION_BATCH, *, may_shrink: bool = True
    ) -> None:
        self.size = size
        self._device = device
        self._may_shrink = may_shrink

    def work(
        self,
        lengths: Sequence[int],
        do: Callable[[list[int]], None],
        done: Callable[[int], None] | None = None,
    ) -> None:
        """Calls `do` with the positions of each batch, shortest first, then `done` with their sum.

        A batch that runs out of memory is retried at half the size. If a single example runs out
        of memory, that error is raised.
        """
        order = sorted(range(len(lengths)), key=lambda place: (lengths[place], place))
        while order:
            places = order[: self.size]
            if self._did(do, places):
                order = order[len(places) :]
                if done is not None:
                    done(len(lengths) - len(order))
            else:
                self.size = max(1, len(places) // 2)

    def _did(self, do: Callable[[list[int]], None], places: list[int]) -> bool:
        """Returns False on out of memory; drops the error, because it keeps tensors alive."""
        try:
            do(places)
        except Exception as error:
            if len(places) == 1 or not self._may_shrink or not is_out_of_memory(error):
                raise
        else:
            return True
        give_back_memory(self._device)
        return False


def as_passages(formatter: PromptFormatter, texts: Sequence[str]) -> list[FormattedExample]:
    """Encodes plain texts without a template; every token except the first carries loss."""
    return [FormattedExample("", text, (), tuple(formatter.plain_ids(text))) for text in texts]


def held_out_loss(
    model: PreTrainedModel | PeftModel,
    examples: Sequence[FormattedExample],
    pad_id: int,
    done: Callable[[int], None],
    batches: ShrinkingBatches | None = None,
    read: Callable[[list[int], ReadBatch], None] | None = None,
) -> tuple[float, list[float]]:
    """Returns the mean over all completion tokens, and the mean of each example, in nats.

    `read` gets the places of each batch and what the model computed for it.
    """
    device = next(model.parameters()).device
    sums, counts = [0.0] * len(examples), [0] * len(examples)

    def score(places: list[int]) -> None:
        batch = collate([examples[place] for place in places], pad_id)
        own = torch.bincount(batch["rows"], minlength=len(places)).tolist()
        found = read_batch(model, on_device(batch, device), read is not None)
        for place, values in zip(places, found.losses.cpu().split(own), strict=True):
            sums[place], counts[place] = float(values.sum()), values.numel()
        if read is not None:
            read(places, found)

    batches = ShrinkingBatches(device) if batches is None else batches
    batches.work([example.length for example in examples], score, done)
    means = [total / count for total, count in zip(sums, counts, strict=True)]
    return sum(sums) / sum(counts), means


@dataclass
class Finished:
    """Adds up the work done of several kinds, which may take turns."""

    report: Callable[[int], None]
    _done: dict[str, int] = field(default_factory=dict)

    def of(self, kind: str) -> Callable[[int], None]:
        """The function to call with the work done of that kind."""

        def done(count: int) -> None:
            self._done[kind] = count
            self.report(sum(self._done.values()))

        return done


class Answers:
    """Generates greedy answers of at most `max_new_tokens` to the prompts of the examples.

    Batches that the model has read for the loss wait until there are enough for one call; what was
    not read, or ran out of memory, is left to `generate`.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        examples: Sequence[FormattedExample],
        max_new_tokens: int,
        stop_ids: Sequence[int],
        finished: Finished,
        spare_bytes: int = 0,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._examples = examples
        self._config = greedy_config(max_new_tokens, stop_ids, int(tokenizer.pad_token_id))
        self._new_tokens = max_new_tokens
        self._stop_ids = frozenset(stop_ids)
        self._done = finished.of("answers")
        self._cache_bytes = max(CACHE_BYTES, spare_bytes // 2)
        self._answers: dict[int, str] = {}
        self._waiting: list[ReadPrompts] = []
        self._places: list[int] = []
        self._most = 0

    def read(self, places: list[int], found: ReadBatch) -> None:
        """Takes the batch whose rows are the examples at those places."""
        if found.cache is None or found.likeliest is None:
            return
        chosen = found.likeliest.tolist()
        soft, begun = virtual_tokens(self._model), []
        for place in places:
            reference = self._examples[place].completion_ids
            own, chosen = chosen[: len(reference)], chosen[len(reference) :]
            begun.append(begun_answer(own, reference, self._stop_ids, self._new_tokens))
        rows = []
        for row, (place, answer) in enumerate(zip(places, begun, strict=True)):
            if has_ended(answer, self._stop_ids, self._new_tokens):
                self._keep([place], [answer])
            else:
                rows.append(row)
        if not rows:
            return
        if len(rows) < len(places):
            found.cache.batch_select_indices(torch.tensor(rows, device=found.likeliest.device))
        places, begun = [places[row] for row in rows], [begun[row] for row in rows]
        lengths = [
            soft + len(self._examples[place].prompt_ids) + len(answer) - 1
            for place, answer in zip(places, begun, strict=True)
        ]
        batch = ReadPrompts(found.cache, lengths, begun)
        most = self._cache_bytes // (batch.bytes_per_token * (max(lengths) + self._new_tokens))
        self._most = min(ROWS_AT_ONCE, max(EVALUATION_BATCH, most))
        if len(self._places) + len(places) > self._most:
            self._answer_waiting()
        self._waiting.append(batch)
        self._places += places

    def finish(self, batches: ShrinkingBatches) -> list[str]:
        """Answers all prompts that are left; returns the answers of all examples."""
        self._answer_waiting()
        left = [place for place in range(len(self._examples)) if place not in self._answers]
        before = len(self._answers)

        def answer(chosen: list[int]) -> None:
            places = [left[choice] for choice in chosen]
            prompts = [self._examples[place].prompt_ids for place in places]
            texts = answer_batch(self._model, self._tokenizer, prompts, self._config)
            self._answers.update(zip(places, texts, strict=True))

        lengths = [len(self._examples[place].prompt_ids) for place in left]
        batches.work(lengths, answer, lambda count: self._done(before + count))
        return [self._answers[place] for place in range(len(self._examples))]

    def _answer_waiting(self) -> None:
        places, self._places = self._places, []
        if not places:
            return
        try:
            ids = greedy_answers(self._model, self._waiting, self._new_tokens, self._stop_ids)
        except Exception as error:
            if is_divided(self._model) or not is_out_of_memory(error):
                raise
            self._waiting.clear()
            self._most = EVALUATION_BATCH
        else:
            self._keep(places, ids)

    def _keep(self, places: Sequence[int], ids: Sequence[Sequence[int]]) -> None:
        self._answers.update(zip(places, answer_texts(self._tokenizer, ids), strict=True))
        self._done(len(self._answers))


def curve_examples(held_out: EncodedSet) -> EncodedSet:
    """Returns the test examples that are used for the points of the curve."""
    return replace(
        held_out,
        examples=held_out.examples[:CURVE_EXAMPLES],
        formatted=held_out.formatted[:CURVE_EXAMPLES],
    )


@dataclass(frozen=True)
class CurvePoints:
    """Evaluates every `every` steps (0: never) and after the last, outside all measurements."""

    every: int
    steps: int
    evaluate: Callable[[], Evaluation]
    meter: PhaseMeter
    report: Callable[[dict[str, Any]], None]
    device: torch.device

    def after_step(self, step: int) -> None:
        """Reports a point if one is due after this step."""
        if not self.every or (step % self.every and step != self.steps):
            return
        with self.meter.pause(), same_random_numbers(self.device):
            found = self.evaluate()
        self.report(curve_event(step, found.loss, found.score))


def base_quality(held_out: EncodedSet, evaluation: Evaluation, task: TaskSpec) -> Quality:
    """Returns the quality of a base run, which is the "before" of every other run."""
    measures = {
        "eval_loss_before": evaluation.loss,
        "score_before": evaluation.score,
        "general_loss_before": evaluation.general_loss,
    }
    return Quality(measures, _rows("before", held_out, evaluation, task), ())


def run_quality(
    spec: RunSpec,
    runs_folder: Path,
    held_out: EncodedSet,
    general: General,
    evaluation: Evaluation,
    task: TaskSpec,
) -> Quality:
    """Returns the quality of a trained run; "before" is the sweep's base run in its precision."""
    measures = {
        "eval_loss_after": evaluation.loss,
        "score_after": evaluation.score,
        "general_loss_after": evaluation.general_loss,
    }
    rows = _rows("after", held_out, evaluation, task)
    found = against_base(spec, runs_folder, rows, general)
    return replace(found, measures={**measures, **found.measures})


def _rows(
    when: str, held_out: EncodedSet, evaluation: Evaluation, task: TaskSpec
) -> list[dict[str, Any]]:
    rows = []
    for index, example in enumerate(held_out.examples):
        row: dict[str, Any] = {
            "index": index,
            "prompt": [{"role": m.role, "content": m.content} for m in example.prompt],
            "reference": example.completion,
            "tokens": len(held_out.formatted[index].completion_ids),
            f"loss_{when}": evaluation.losses[index],
        }
        if evaluation.answers:
            answer = evaluation.answers[index]
            row |= {
                f"answer_{when}": answer,
                f"score_{when}": evaluation.scores[index],
                f"verdict_{when}": task.metric.describe(example, answer),
            }
        rows.append(row)
    return rows
