"""One run from spec to result: load, train, evaluate, save, each measured apart."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from ftlab.devices import cpu_count
from ftlab.methods.registry import get_method
from ftlab.models.bundled import QUALITY_NOTE
from ftlab.models.loading import load_base_model, load_tokenizer
from ftlab.models.resolve import resolve_model
from ftlab.runs.directory import RunDirectory, write_json_lines
from ftlab.runs.result import Measures, RunResult
from ftlab.runs.spec import RunSpec
from ftlab.tasks.formatting import PromptFormatter, TransformersTokenizer
from ftlab.tasks.reference import load as load_task
from ftlab.training.arithmetic import Arithmetic
from ftlab.training.data import OrderedExamples, collate, encode, training_order
from ftlab.training.environment import describe_environment
from ftlab.training.evaluation import Evaluation, evaluate
from ftlab.training.meters import DISTURBED_ABOVE, LoadMeter, PhaseMeter, memory_meter
from ftlab.training.model import (
    apply_method,
    count_parameters,
    save_result,
    saved_dtype,
    shipped_bytes,
    torch_device,
)
from ftlab.training.trainer import effective_warmup, train, training_arguments

Report = Callable[[dict[str, Any]], None]


@dataclass
class RunRecord:
    """What is known of a run so far; it outlives an error, so a failed run keeps its numbers."""

    measures: Measures = field(default_factory=Measures)
    environment: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    meter: PhaseMeter | None = None
    began: float = field(default_factory=time.perf_counter)

    def set(self, **measures: Any) -> None:
        self.measures = replace(self.measures, **measures)

    def note(self, sentence: str) -> None:
        if sentence and sentence not in self.notes:
            self.notes.append(sentence)

    def result(self, status: Any, reason: str = "") -> RunResult:
        self.set(total_seconds=time.perf_counter() - self.began)
        return RunResult(
            status=status,
            reason=reason,
            measures=self.measures,
            phases=self.meter.phases if self.meter else {},
            memory_kind=self.meter.memory.kind if self.meter else "",
            environment=self.environment,
            notes=tuple(self.notes),
            finished_at=time.time(),
        )


def execute(spec: RunSpec, directory: RunDirectory, record: RunRecord, report: Report) -> None:
    """Does the run and fills the record. Raises whatever stops it."""
    device = torch_device(spec.device)
    torch.set_num_threads(cpu_count())
    set_seed(spec.seed)
    arithmetic = Arithmetic(spec.dtype_policy, device)
    record.meter = meter = PhaseMeter(memory_meter(device), report)
    record.environment = describe_environment(device)

    # Everything that is no model comes first, so that "before the model" holds it.
    source = resolve_model(spec.model, say=print)
    if source.reference.kind == "bundled":
        record.note(QUALITY_NOTE)
    task, data = load_task(spec.task)
    record.environment |= {
        "model_hash": source.fingerprint(),
        "data_hash": data.fingerprint(),
        "metric": task.metric.label,
    }
    for sentence in data.notes:
        record.note(sentence)
    tokenizer = load_tokenizer(source)
    formatter = PromptFormatter(TransformersTokenizer(tokenizer))
    if not formatter.has_template:
        record.note("The model has no chat template: turns are plain paragraphs.")
    length = spec.settings.max_length
    training = encode(formatter, data.train, length, "training")
    held_out = encode(formatter, data.held_out[: spec.settings.eval_examples], length, "held-out")
    record.note(training.note("training", length))
    record.note(held_out.note("held-out", length))

    if len(held_out.examples) < spec.settings.eval_examples and not held_out.dropped:
        record.note(
            f"The task has {len(held_out.examples)} held-out examples, so that many were scored, "
            f"not {spec.settings.eval_examples}."
        )
    before_model = meter.memory.start()
    record.set(before_model_bytes=before_model)
    with meter.measure("load"):
        learns = spec.variant is not None and not spec.variant.spec.is_adapter
        model: Any = load_base_model(
            source, spec.dtype_policy, spec.base_precision, device, weights_learn=learns
        )
        if spec.variant is not None:
            model = apply_method(
                model, spec.variant, spec.dtype_policy, spec.settings.gradient_checkpointing
            )
    if spec.variant is not None:
        _train(spec, record, model, training, tokenizer.pad_token_id, arithmetic, report)
    else:
        record.set(total_params=count_parameters(model)[1], trainable_params=0)

    with meter.measure("evaluate"):
        evaluation = evaluate(
            model,
            tokenizer,
            held_out,
            task,
            formatter.stop_ids(),
            arithmetic,
            lambda done, total: report({"event": "evaluate", "done": done, "total": total}),
        )
    _record_evaluation(spec, directory, record, held_out.examples, evaluation, task)
    if spec.variant is not None:
        with meter.measure("save"):
            save_result(model, tokenizer, directory.adapter)
        record.set(
            adapter_bytes=shipped_bytes(directory.adapter),
            adapter_dtype=saved_dtype(directory.adapter),
        )


def _train(
    spec: RunSpec,
    record: RunRecord,
    model: Any,
    training: Any,
    pad_id: int,
    arithmetic: Arithmetic,
    report: Report,
) -> None:
    settings = spec.settings
    assert record.meter is not None
    assert spec.learning_rate is not None
    order = training_order(
        [example.length for example in training.formatted],
        settings.steps,
        settings.batch_size * settings.accumulation,
        spec.seed,
    )
    load, memory = LoadMeter(), record.meter.memory
    with tempfile.TemporaryDirectory() as scratch, record.meter.measure("train"):
        arguments = training_arguments(
            settings, spec.learning_rate, spec.seed, arithmetic, Path(scratch)
        )
        trainer, steps = train(
            model,
            OrderedExamples(training.formatted, order),
            arguments,
            arithmetic,
            lambda examples: collate(examples, pad_id),
            lambda event: report(event | {"memory_bytes": memory.now()}),
        )
        # Counted here because some methods freeze weights only when the optimizer is made.
        trainable, total = count_parameters(model)
        model.zero_grad(set_to_none=True)
        trainer.optimizer = trainer.lr_scheduler = None
    own, others = load.read()
    phase = record.meter.phases["train"]
    before = record.measures.before_model_bytes
    disturbed = arithmetic.device.type == "cpu" and others > DISTURBED_ABOVE
    record.set(
        trainable_params=trainable,
        total_params=total,
        peak_memory_bytes=phase.peak_bytes,
        net_peak_memory_bytes=_above(phase.peak_bytes, before),
        train_seconds=steps.total_seconds,
        first_step_seconds=steps.seconds[0],
        step_seconds=steps.step_seconds,
        tokens_per_second=steps.tokens_per_second,
        train_tokens=sum(steps.tokens),
        padding_share=1 - trainer.real_tokens / trainer.padded_tokens,
        train_loss_first=steps.losses[0],
        train_loss_last=steps.losses[-1],
        cpu_share=own,
        other_load=others,
        disturbed=disturbed,
    )
    if disturbed:
        record.note(
            f"Disturbed: other processes used {others:.0%} of the cores during training, "
            "so times are too long."
        )
    for sentence in notes_on_settings(spec, arithmetic):
        record.note(sentence)


def _above(peak: int | None, start: int | None) -> int | None:
    return None if peak is None or start is None else peak - start


def notes_on_settings(spec: RunSpec, arithmetic: Arithmetic) -> list[str]:
    """Sentences on settings that do less, or other, than their name says."""
    settings, device = spec.settings, arithmetic.device.type
    notes = []
    warmup = effective_warmup(settings)
    if warmup < settings.warmup_steps:
        notes.append(
            f"Warm-up was cut from {settings.warmup_steps} steps to {warmup}, "
            f"a quarter of the {settings.steps} steps."
        )
    if settings.optimizer != "adamw":
        notes.append("8-bit AdamW keeps 32-bit state for weights of under 4,096 numbers.")
    if settings.optimizer == "paged_adamw_8bit":
        notes.append(
            "The paged optimizer pages nothing on a CPU."
            if device == "cpu"
            else "Paged optimizer state lies outside torch's allocator, so the peak leaves it out."
        )
    if arithmetic.needs_grad_scaler:
        notes.append("This GPU has no bf16: products are computed in fp16 with scaled gradients.")
    method = get_method(spec.method)
    if method.base_precision == "nf4":
        notes.append(
            "Only the linear layers of a 4-bit base are quantised, not its embeddings, "
            "so a small model saves a smaller share of memory than a large one."
        )
    return notes


def _record_evaluation(
    spec: RunSpec,
    directory: RunDirectory,
    record: RunRecord,
    examples: Any,
    evaluation: Evaluation,
    task: Any,
) -> None:
    """Writes samples.jsonl and the before and after numbers.

    A run takes its "before" from its sweep's base run; the base run is its own.
    """
    base_rows: dict[int, dict[str, Any]] = {}
    if spec.is_base:
        record.set(eval_loss_before=evaluation.loss, score_before=evaluation.score)
    else:
        record.set(eval_loss_after=evaluation.loss, score_after=evaluation.score)
        base = RunDirectory(directory.path.parent / str(spec.base_run_id))
        base_result = base.result() if spec.base_run_id else None
        if base_result is not None and base_result.status == "done":
            record.set(
                eval_loss_before=base_result.measures.eval_loss_before,
                score_before=base_result.measures.score_before,
            )
            base_rows = {row["index"]: row for row in base.samples()}
        else:
            record.note("The base run gave no numbers, so there is nothing to compare with.")
    when = "before" if spec.is_base else "after"
    rows = []
    for index, example in enumerate(examples):
        row = {
            "index": index,
            "prompt": [{"role": m.role, "content": m.content} for m in example.prompt],
            "reference": example.completion,
            f"answer_{when}": evaluation.answers[index],
            f"score_{when}": evaluation.scores[index],
            f"loss_{when}": evaluation.losses[index],
            f"verdict_{when}": task.metric.describe(example, evaluation.answers[index]),
        }
        rows.append({k: v for k, v in base_rows.get(index, {}).items() if k not in row} | row)
    write_json_lines(directory.samples_file, rows)
