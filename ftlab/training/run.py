"""One run from spec to result: load, train, save, evaluate, each measured separately."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from ftlab.basics.devices import cpu_count
from ftlab.basics.errors import Diverged, one_line
from ftlab.basics.locks import TimedSteps
from ftlab.methods.limits import failed_on_base, incompatible
from ftlab.methods.spec import RunPlan
from ftlab.methods.targets import reach_words
from ftlab.models.bundled import QUALITY_NOTE
from ftlab.models.dimensions import shape_of_model
from ftlab.models.loading import load_base_model, load_tokenizer
from ftlab.models.resolve import resolve_model
from ftlab.records.base_runs import GENERAL_TEXT_HASH, General, untouched_point
from ftlab.records.comparability import SCORED
from ftlab.records.result import ANSWERING, RANK_PEAKS, Measures, RunResult
from ftlab.records.resume import (
    Checkpoint,
    Earlier,
    checkpoint_interval,
    hashes_of,
    record_checkpoint,
)
from ftlab.records.run import RunDirectory, write_json_lines
from ftlab.records.spec import RunSpec, decided
from ftlab.settings.training import EVAL_SPLITS, EVALUATION_BATCH
from ftlab.tasks.formatting import (
    BatchSize,
    PromptFormatter,
    Scoring,
    TransformersTokenizer,
    encode,
    longest_batch,
    scoring_batch,
    training_order,
)
from ftlab.tasks.reference import load as load_task
from ftlab.tasks.registry import general_fingerprint, general_passages
from ftlab.training.answering import ANSWERS, Prompts, measure_answering
from ftlab.training.evaluate import (
    CurvePoints,
    as_passages,
    base_quality,
    curve_examples,
    evaluate,
    run_quality,
)
from ftlab.training.first_pass import first_pass
from ftlab.training.machine import (
    FEWEST_STEPS,
    CardWatch,
    Disturbance,
    KeptRates,
    LoadMeter,
    describe_environment,
    same_step,
    slowdowns_of,
)
from ftlab.training.memory import card_memory, check_room, measure_memory_breakdown
from ftlab.training.meters import PhaseMeter, memory_meter
from ftlab.training.model import (
    apply_method,
    count_parameters,
    save_initial,
    save_result,
    saved_dtype,
    shipped_bytes,
    torch_device,
)
from ftlab.training.ranks import ONE_PROCESS, Ranks
from ftlab.training.step import Arithmetic, OrderedExamples
from ftlab.training.trainer import (
    CarefulTracker,
    CheckpointHandling,
    FairTrainer,
    StepMeter,
    effective_warmup,
    is_astray,
    make_trackers,
    synchronise,
    train,
    training_arguments,
)


def notes_on_settings(spec: RunSpec, arithmetic: Arithmetic, skipped: int = 0) -> list[str]:
    """Returns notes on settings with another effect than expected; `skipped` steps overflowed."""
    settings, device = spec.settings, arithmetic.device.type
    notes = []
    warmup = effective_warmup(settings)
    if warmup < settings.warmup_steps:
        notes.append(
            f"Warm-up was cut from {settings.warmup_steps} steps to {warmup}, "
            f"a quarter of the {settings.steps} steps."
        )
    if settings.optimizer != "adamw":
        notes.append(
            "8-bit AdamW keeps 32-bit state for embeddings and for weights of under 4,096 numbers."
        )
    if settings.optimizer == "paged_adamw_8bit":
        notes.append(
            "The paged optimizer pages nothing on a CPU."
            if device == "cpu"
            else "Paged optimizer state lies outside torch's allocator, so torch's peaks leave it "
            "out; where it does not fit the GPU it is moved to the host's memory and back."
        )
    if arithmetic.needs_grad_scaler:
        notes.append("This GPU has no bf16: products are computed in fp16 with scaled gradients.")
    if skipped:
        notes.append(
            f"{skipped} of {settings.steps} steps overflowed in fp16 and changed nothing, while "
            "the scale of the gradients was being found."
        )
    if spec.variant is not None and device != "cpu" and failed_on_base(spec.variant):
        notes.append(
            f"On a CPU {spec.variant.spec.label} was seen not to learn on a base held in "
            f"{spec.base_precision}; on this device nobody has tried."
        )
    if spec.base_precision == "nf4":
        notes.append(
            "Only the linear layers of a 4-bit base are quantised, not its embeddings, "
            "so a small model saves a smaller share of memory than a large one."
        )
    return notes


def steps_of(earlier: Earlier) -> StepMeter:
    """Returns the steps before the resume as if this process had run them."""
    skipped = sum(bool(event.get("skipped")) for event in earlier.events)
    return StepMeter(
        earlier.steps("seconds"), earlier.steps("tokens"), earlier.steps("loss"), skipped=skipped
    )


@dataclass(frozen=True)
class KeptPeak:
    """Peak memory of the training phase, and memory of the process before the model; bytes."""

    peak_bytes: int | None
    before_model_bytes: int | None

    @property
    def net(self) -> int | None:
        if self.peak_bytes is None or self.before_model_bytes is None:
            return None
        return self.peak_bytes - self.before_model_bytes


def highest(peaks: Sequence[KeptPeak]) -> KeptPeak:
    """Returns the one with the highest net peak."""
    return max(peaks, key=lambda one: -1 if one.net is None else one.net)


Report = Callable[[dict[str, Any]], None]


@dataclass
class RunRecord:
    """The measurements of a run so far; kept after an error, so a failed run has numbers."""

    measures: Measures = field(default_factory=Measures)
    environment: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    general_losses: tuple[float, ...] = ()
    general_tokens: tuple[int, ...] = ()
    anatomy: dict[str, int] = field(default_factory=dict)
    longest: BatchSize | None = None
    scoring: Scoring | None = None
    earlier: Earlier | None = None
    pause_after: int | None = None
    ranks: Ranks = ONE_PROCESS
    meter: PhaseMeter | None = None
    began: float = field(default_factory=time.perf_counter)

    def set(self, **measures: Any) -> None:
        self.measures = replace(self.measures, **measures)

    def note(self, *sentences: str) -> None:
        """Adds the sentences that are not "" and not there yet."""
        self.notes += [s for s in dict.fromkeys(sentences) if s and s not in self.notes]

    def peak(self, peak_bytes: int | None) -> KeptPeak:
        """Returns the higher net peak: of this process, or of the parts before a resume."""
        own = KeptPeak(peak_bytes, self.measures.before_model_bytes)
        if self.earlier is None:
            return own
        checkpoint = self.earlier.checkpoint
        before = KeptPeak(checkpoint.peak_bytes, checkpoint.before_model_bytes)
        return highest([own, before])

    def set_peak(self, peak: KeptPeak) -> None:
        self.set(
            before_model_bytes=peak.before_model_bytes,
            peak_memory_bytes=peak.peak_bytes,
            net_peak_memory_bytes=peak.net,
        )

    def gather_peaks(self) -> None:
        """Sets the peak to that of the rank with the highest one, and records that of each."""
        if not self.ranks.are_several:
            return
        own = KeptPeak(self.measures.peak_memory_bytes, self.measures.before_model_bytes)
        peaks = self.ranks.gathered(own)
        self.set_peak(highest(peaks))
        self.environment[RANK_PEAKS] = [peak.net for peak in peaks]
        self.note(
            f"Divided over {self.ranks.count} processes (FSDP): memory is that of the process "
            "which took most, time and tokens are of all. The peak has no breakdown."
        )

    def checkpoint_handling(self) -> CheckpointHandling:
        """Returns the handlers that record each checkpoint with the measurements so far."""
        assert self.meter is not None
        meter = self.meter

        def kept(trainer: FairTrainer, folder: Path) -> None:
            peak = highest(self.ranks.gathered(self.peak(meter.peak_so_far)))
            if not self.ranks.is_first:
                return
            checkpoint = Checkpoint(
                step=trainer.state.global_step,
                files=hashes_of(folder),
                run_seconds=time.perf_counter() - self.began,
                peak_bytes=peak.peak_bytes,
                before_model_bytes=peak.before_model_bytes,
                real_tokens=trainer.real_tokens,
                padded_tokens=trainer.padded_tokens,
                added_loss=trainer.added_loss,
            )
            record_checkpoint(folder.parent, checkpoint)

        def lost(error: Exception) -> None:
            self.note(f"A checkpoint could not be written, the run continues: {one_line(error)}")

        resume = self.earlier.checkpoint if self.earlier else None
        return CheckpointHandling(meter.pause, kept, lost, resume, self.pause_after)

    def completed(self) -> RunResult:
        """The result of a run without an error: done, or paused and to be resumed."""
        if self.pause_after is None:
            return self.result("done")
        return self.result("cancelled", f"Paused after step {self.pause_after:,}, as asked.")

    def result(self, status: Any, reason: str = "") -> RunResult:
        after = self.meter.phases.get(ANSWERING) if self.meter else None
        seconds = time.perf_counter() - self.began
        self.set(total_seconds=seconds - (after.seconds if after else 0))
        return RunResult(
            status=status,
            reason=reason,
            measures=self.measures,
            phases=self.meter.phases if self.meter else {},
            memory_kind=self.meter.memory.kind if self.meter else "",
            anatomy=self.anatomy,
            general_losses=self.general_losses,
            general_tokens=self.general_tokens,
            resumed=self.earlier.resumed if self.earlier else (),
            environment=self.environment,
            notes=tuple(self.notes),
            finished_at=time.time(),
        )


def execute(spec: RunSpec, directory: RunDirectory, record: RunRecord, report: Report) -> None:
    """Executes the run and fills the record; raises the error that stops it.

    Every rank of a run over several GPUs executes it; the first one writes what is kept.
    """
    is_first = record.ranks.is_first
    if is_first:
        directory.scratch.mkdir(parents=True, exist_ok=True)
    record.pause_after = _pause_ahead(spec, directory, record.earlier)
    try:
        prompts = _execute(spec, directory, record, report)
        paused = record.pause_after is not None
        if prompts is not None and spec.settings.measure_answering and not paused:
            _measure_answering(directory, record, prompts, report)
    finally:
        if is_first:
            shutil.rmtree(directory.scratch, ignore_errors=True)


def _pause_ahead(spec: RunSpec, directory: RunDirectory, earlier: Earlier | None) -> int | None:
    """The step after which the run pauses; `None` if it was not asked to, or is past that step."""
    begins = earlier.checkpoint.step if earlier else 0
    pause = None if spec.is_base else directory.pauses_after()
    return pause if pause is not None and begins < pause < spec.settings.steps else None


def _measure_answering(
    directory: RunDirectory, record: RunRecord, prompts: Prompts, report: Report
) -> None:
    """Measures what answering costs, after the model of the run was freed; never raises an error.

    Whatever fails, the run is done, and its other measures are kept.
    """
    assert record.meter is not None
    record.meter.current = ANSWERING
    try:
        record.meter.memory.start()  # gives back the memory of the training
        costs = measure_answering(directory.spec(), directory, prompts, report)
    except Exception as error:  # see above; a full disk, for example
        record.note(f"What answering costs was not measured: {one_line(error)}")
        return
    record.meter.phases[ANSWERING] = costs.phase
    record.set(**costs.measures)
    record.note(*costs.notes)


def _execute(
    spec: RunSpec, directory: RunDirectory, record: RunRecord, report: Report
) -> Prompts | None:
    """Loads, trains, saves and evaluates; returns the first scored prompts, `None` for a base."""
    device = torch_device(spec.device)
    # Runs on like devices share the cores, also while fewer of them are there, and so do ranks.
    ranks = record.ranks
    torch.set_num_threads(max(1, cpu_count() // max(len(spec.may_use), ranks.count)))
    set_seed(spec.seed)
    arithmetic = Arithmetic(spec.dtype_policy, device)
    record.meter = meter = PhaseMeter(memory_meter(device), report)
    record.environment = describe_environment(device)

    # Everything except the model is loaded first, so that `before_model_bytes` includes it.
    source = resolve_model(spec.model, say=print)
    planned, spec = spec, decided(spec, source.config())
    if spec != planned and ranks.is_first:  # the model was not here when the run was planned
        directory.complete_spec(spec)
    if spec.variant is not None:
        shape = shape_of_model(spec.model)
        found = incompatible(spec.variant, shape, spec.settings, spec.device)
        if found:  # only for a model that was not on this machine when the run was queued
            found.refuse()
        if shape is not None:
            record.note(reach_words(spec.variant.spec, shape, spec.variant.values()))
    if source.reference.kind == "bundled":
        record.note(QUALITY_NOTE)
    task, data = load_task(spec.task)
    record.environment |= {
        "model_hash": source.fingerprint(),
        "data_hash": data.fingerprint(spec.settings.eval_examples),
        GENERAL_TEXT_HASH: general_fingerprint(),
        "metric": task.metric.label,
    }
    record.note(*data.notes)
    tokenizer = load_tokenizer(source)
    formatter = PromptFormatter(TransformersTokenizer(tokenizer))
    if not formatter.has_template:
        record.note("The model has no chat template: turns are plain paragraphs.")
    length = spec.settings.max_length
    training = None if spec.is_base else encode(formatter, data.train, length, "training")
    split = EVAL_SPLITS[spec.settings.eval_split]
    measured = data.tuning if spec.settings.eval_split == "tuning" else data.held_out
    held_out = encode(formatter, measured[: spec.settings.eval_examples], length, split)
    passages = as_passages(formatter, general_passages())
    record.environment[SCORED] = len(held_out.examples)
    if training is not None:
        record.note(training.note("training", length))
    record.note(held_out.note(split, length))

    if len(held_out.examples) < spec.settings.eval_examples and not held_out.dropped:
        record.note(
            f"The task has {len(held_out.examples)} {split} examples, so that many were scored, "
            f"not {spec.settings.eval_examples}."
        )
    if spec.settings.eval_split == "tuning":
        record.note("Measured on the tuning examples, which are for choosing settings.")
    if spec.settings.eval_answers:
        record.scoring = scoring_batch(held_out.formatted, task.max_new_tokens)
    else:
        record.note("Only the loss was measured: no answers were generated, so there is no score.")
    logs = ranks.is_first and not spec.is_base
    trackers = make_trackers(spec.settings.report_to, directory.path, record.note) if logs else []
    before_model = meter.memory.start()
    record.set(before_model_bytes=before_model)
    if device.type == "cuda":
        check_room(spec, card_memory(device))
    with meter.measure("load"):
        learns = spec.variant is not None and not spec.variant.spec.is_adapter
        model: Any = load_base_model(
            source, spec.dtype_policy, spec.base_precision, device, weights_learn=learns,
            onto_device=not ranks.are_several,
        )  # fmt: skip
        if spec.variant is not None:
            model = apply_method(
                model,
                spec.variant,
                spec.dtype_policy,
                spec.settings.gradient_checkpointing,
                RunPlan(spec.settings.steps, str(source.folder)),
            )
            initial = save_initial(model, directory.scratch / "initial")
        if ranks.are_several:
            from ftlab.training.sharding import shard  # one process needs nothing of FSDP

            shard(model, device, ranks)
    measured_on = partial(
        evaluate, model, tokenizer, task=task, stop_ids=formatter.stop_ids(),
        arithmetic=arithmetic, with_answers=spec.settings.eval_answers,
    )  # fmt: skip
    if training is not None:
        points = CurvePoints(
            spec.settings.eval_every,
            spec.settings.steps,
            lambda: measured_on(curve_examples(held_out), progress=lambda done, total: None),
            meter,
            report,
            device,
        )
        if spec.settings.eval_every and record.earlier is None:
            some = curve_examples(held_out).formatted
            tokens = [len(example.completion_ids) for example in some]
            untouched = untouched_point(spec, directory.path.parent, tokens)
            if untouched["loss"] is not None:
                report(untouched)
        paused = record.pause_after is not None
        keeps = paused or record.earlier is not None or checkpoint_interval(spec.settings)
        _train(
            spec, record, model, training, tokenizer.pad_token_id, arithmetic, report, trackers,
            directory.checkpoints if keeps else directory.scratch,
            points.after_step,
        )  # fmt: skip
        # The weights of a paused run are in its checkpoint.
        unsaved = None if paused else _save(spec, record, model, tokenizer, directory, initial)
    else:
        unsaved = None
        record.set(total_params=count_parameters(model)[1], trainable_params=0)

    with meter.measure("evaluate"):
        evaluation = measured_on(
            held_out,
            progress=lambda done, total: report(
                {"event": "evaluate", "done": done, "total": total}
            ),
            passages=passages if spec.settings.eval_answers else (),
            spare_bytes=min(ranks.gathered(_below_peak(meter))),
        )
    if evaluation.batch < EVALUATION_BATCH:
        record.note(
            f"Scoring ran out of memory with {EVALUATION_BATCH} examples at once, and went on with "
            f"{evaluation.batch}."
        )
    start = record.measures.train_loss_first
    if start is not None and is_astray(evaluation.loss, start):
        if ranks.is_first:
            shutil.rmtree(directory.adapter, ignore_errors=True)
        raise Diverged(
            f"The test loss after the last step is {evaluation.loss:.2f}, that of the first "
            f"training step was {start:.2f} (learning rate {spec.learning_rate:g}); "
            "lower the learning rate."
        )
    if not ranks.is_first:
        return None
    record.general_losses = evaluation.general_losses
    record.general_tokens = tuple(passage.length - 1 for passage in passages)
    if spec.is_base:
        quality = base_quality(held_out, evaluation, task)
    else:
        quality = run_quality(
            spec,
            directory.path.parent,
            held_out,
            General(record.general_losses, record.general_tokens, general_fingerprint()),
            evaluation,
            task,
        )
    record.set(**quality.measures)
    record.note(*quality.notes)
    write_json_lines(directory.samples_file, quality.rows)
    if unsaved is not None:
        meter.current = "save"
        raise unsaved
    if spec.is_base:
        return None
    first = tuple(example.prompt_ids for example in held_out.formatted[:ANSWERS])
    return Prompts(first, int(tokenizer.pad_token_id), tuple(formatter.stop_ids()))


def _below_peak(meter: PhaseMeter) -> int:
    """The bytes that are free again since the peak of the training; 0 for a base, or if unknown."""
    trained, now = meter.phases.get("train"), meter.memory.now()
    if trained is None or trained.peak_bytes is None or now is None:
        return 0
    return max(0, trained.peak_bytes - now)


def _save(
    spec: RunSpec,
    record: RunRecord,
    model: Any,
    tokenizer: Any,
    directory: RunDirectory,
    initial: Path | None,
) -> Exception | None:
    """Saves the result before it is scored; returns an error, so that the model is still scored."""
    assert record.meter is not None
    assert spec.variant is not None
    try:
        with record.meter.measure("save"):
            save_result(model, spec.variant, tokenizer, directory.adapter, initial, record.ranks)
    except Exception as error:
        return error
    if not record.ranks.is_first:
        return None
    record.set(
        adapter_bytes=shipped_bytes(directory.adapter),
        adapter_dtype=saved_dtype(directory.adapter),
    )
    return None


def _train(
    spec: RunSpec,
    record: RunRecord,
    model: Any,
    training: Any,
    pad_id: int,
    arithmetic: Arithmetic,
    report: Report,
    trackers: Sequence[CarefulTracker],
    folder: Path,
    after_step: Callable[[int], None],
) -> None:
    settings = spec.settings
    assert record.meter is not None
    assert spec.variant is not None
    assert spec.learning_rate is not None
    order = training_order(
        [example.length for example in training.formatted],
        settings.steps,
        settings.batch_size * settings.accumulation,
        spec.seed,
    )
    examples = OrderedExamples(training.formatted, order)
    record.longest, longest = longest_batch(training.formatted, order, settings.batch_size)
    record.environment["order_hash"] = examples.fingerprint()
    load, memory, steps = LoadMeter(), record.meter.memory, StepMeter()
    card = CardWatch.of(arithmetic.device)
    batch = record.ranks.collate([training.formatted[index] for index in longest], pad_id)
    if record.earlier is not None:
        steps = steps_of(record.earlier)
        record.note(record.earlier.sentence)

    def before_steps(trainer: FairTrainer) -> None:
        assert trainer.optimizer is not None
        began = time.perf_counter()
        kernel = first_pass(model, trainer.optimizer, batch, arithmetic, settings.max_grad_norm)
        synchronise(arithmetic.device)
        record.set(first_pass_seconds=time.perf_counter() - began)
        record.environment["attention"] = kernel

    def after_each_step(step: int) -> None:
        card.look()
        after_step(step)

    timed = TimedSteps(spec.device).timed() if record.ranks.is_first else nullcontext()
    try:
        with record.meter.measure("train"), timed:
            arguments = training_arguments(
                settings, spec.learning_rate, spec.seed, arithmetic, folder, spec.run_id,
                checkpoint_interval(settings),
            )  # fmt: skip
            trainer, _ = train(
                model,
                spec.variant,
                examples,
                arguments,
                arithmetic,
                lambda examples: record.ranks.collate(examples, pad_id),
                lambda event: report(
                    event | {"memory_bytes": memory.now(), "peak_bytes": memory.peak()}
                ),
                trackers,
                steps,
                before_steps,
                after_each_step,
                record.checkpoint_handling(),
                record.ranks,
            )
            model.zero_grad(set_to_none=True)
    except Exception:  # the record keeps what was measured before any error
        _record_size(record, model)
        record.set(
            steps_done=len(steps.losses),
            train_loss_first=steps.losses[0] if steps.losses else None,
            train_loss_last=steps.losses[-1] if steps.losses else None,
        )
        raise
    assert trainer.optimizer is not None
    disturbance = _disturbance(spec, record, steps, load, card)
    try:
        if record.pause_after is None and not record.ranks.are_several:
            record.anatomy = measure_memory_breakdown(
                model, trainer.optimizer, [batch] * min(settings.accumulation, 2), arithmetic
            )
    except Exception as error:  # a failed memory breakdown does not fail the run
        record.note(f"The memory breakdown of the peak could not be measured: {one_line(error)}")
        model.zero_grad(set_to_none=True)
    trainer.optimizer = trainer.lr_scheduler = None
    _record_size(record, model)
    record.gather_peaks()
    record.set(
        train_seconds=steps.total_seconds,
        first_step_seconds=steps.seconds[0],
        step_seconds=steps.step_seconds,
        tokens_per_second=steps.tokens_per_second,
        train_tokens=sum(steps.tokens),
        padding_share=1 - trainer.real_tokens / trainer.padded_tokens,
        train_loss_first=steps.losses[0],
        train_loss_last=steps.losses[-1],
        skipped_steps=steps.skipped if arithmetic.needs_grad_scaler else None,
        steps_done=record.pause_after,
        cpu_share=disturbance.own,
        other_load=disturbance.others,
        slowdown=disturbance.worst and disturbance.worst.times,
        disturbed=disturbance.is_disturbed,
    )
    record.note(disturbance.sentence, *notes_on_settings(spec, arithmetic, steps.skipped))


def _disturbance(
    spec: RunSpec, record: RunRecord, steps: StepMeter, load: LoadMeter, card: CardWatch
) -> Disturbance:
    """Returns how other processes disturbed the steps; stores the rate of a quiet run."""
    rates, step = KeptRates(), same_step(spec, record.environment)
    seconds = steps.seconds[len(steps.seconds) - len(steps.work) :]  # without steps before a resume
    slowdowns = slowdowns_of(seconds, steps.work, steps.waited, rates.rate(step))
    own, others = load.read()
    other_ranks = sum(record.ranks.gathered(own)) - own  # they are no other work
    found = Disturbance(
        own + other_ranks,
        max(0.0, others - other_ranks),
        slowdowns,
        card.sentence,
        sum(steps.slept) / max(1, len(steps.slept)),
    )
    if record.ranks.is_first and found.is_quiet and len(seconds) > FEWEST_STEPS:
        rates.keep(step, sum(seconds[1:]) / sum(steps.work[1:]))
    return found


def _record_size(record: RunRecord, model: Any) -> None:
    """Records parameters and peak memory; some methods freeze weights only with the optimizer."""
    assert record.meter is not None
    trainable, total = count_parameters(model)
    phase = record.meter.phases.get("train")  # missing if the device failed before the phase
    record.set(trainable_params=trainable, total_params=total)
    record.set_peak(record.peak(phase.peak_bytes if phase else None))
