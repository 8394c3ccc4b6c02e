"""The training loop: transformers' Trainer with our loss, order of examples, meters, checkpoints.

The Trainer writes optimizer, schedule and random state. This module writes the trainable weights
and AdaLoRA's state.

The callbacks that log to other programs are created here and not by the Trainer, for two reasons:
their imports are in memory before the meter starts, and their errors do not end a run. They receive
only the events for begin, log and end of a run, which are outside the timed steps.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Sampler, SequentialSampler
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ftlab.basics.errors import Diverged, FtlabError, one_line
from ftlab.basics.locks import FileLock, holding
from ftlab.methods.variant import Variant
from ftlab.models.cpu_updates import clip_within_step
from ftlab.models.loading import one_sequence_a_row
from ftlab.models.openmp import threads_sleep
from ftlab.records.resume import Checkpoint
from ftlab.settings.training import (
    TRACKERS,
    Tracker,
    TrainingSettings,
    mlflow_folder,
    tensorboard_folder,
)
from ftlab.training.machine import since, waited_seconds
from ftlab.training.model import (
    added_loss,
    after_optimizer_step,
    own_optimizer,
    rank_allocator,
    rank_scores,
)
from ftlab.training.ranks import ONE_PROCESS, Ranks
from ftlab.training.step import Arithmetic, Batch, OrderedExamples, completion_losses

WEIGHTS, ALLOCATION, PATTERN = "learner.safetensors", "allocation.safetensors", "ranks.json"


def save_learner(
    model: nn.Module, folder: Path, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Writes every trainable weight, or the given ones, and AdaLoRA's ranks with their scores."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_on_cpu(weights or _learning(model)), folder / WEIGHTS)
    allocator = rank_allocator(model)
    if allocator is None:
        return
    scores = {
        f"{kind}/{name}": score
        for kind, stored in rank_scores(allocator).items()
        for name, score in stored.items()
    }
    save_file(_on_cpu(scores), folder / ALLOCATION)
    pattern = allocator.peft_config.rank_pattern
    (folder / PATTERN).write_text(json.dumps(pattern), encoding="utf-8")


def load_learner(
    model: nn.Module, folder: Path, put: Callable[[Tensor, Tensor], Any] = Tensor.copy_
) -> None:
    """Restores the weights by `put(weight, value)`; raises `FtlabError` if they do not match the
    model's."""
    weights = dict(model.named_parameters())  # all: LoRA-FA's optimizer freezes some later
    saved = load_file(folder / WEIGHTS)
    if not saved or any(
        name not in weights
        or weights[name].shape != value.shape
        or weights[name].dtype != value.dtype
        for name, value in saved.items()
    ):
        raise FtlabError(
            f"The checkpoint '{folder.name}' holds other weights than those that learn in this "
            "model; run it again."
        )
    with torch.no_grad():
        for name, value in saved.items():
            put(weights[name], value)
    allocator = rank_allocator(model)
    if allocator is None:
        return
    device = next(iter(weights.values())).device
    for key, score in load_file(folder / ALLOCATION, device=str(device)).items():
        kind, _, name = key.partition("/")
        rank_scores(allocator)[kind][name] = score
    allocator.peft_config.rank_pattern = json.loads((folder / PATTERN).read_text(encoding="utf-8"))


def _learning(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


PROJECT = "ftlab"
"""The trackio project, and MLflow's experiment, of all runs."""


def make_trackers(
    names: Sequence[Tracker], run_folder: Path, note: Callable[[str], None]
) -> list[CarefulTracker]:
    """Returns a callback per name; one that cannot be created is skipped, with a note."""
    trackers = []
    for name in names:
        try:
            callback = _MAKERS[name](run_folder)
        except Exception as error:
            note(f"Nothing is logged to {TRACKERS[name]}: {one_line(error)}")
        else:
            trackers.append(CarefulTracker(TRACKERS[name], callback, note))
    return trackers


def _tensorboard(run_folder: Path) -> TrainerCallback:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(log_dir=str(tensorboard_folder(run_folder))))


def _trackio(run_folder: Path) -> TrainerCallback:
    from transformers.integrations import TrackioCallback

    return TrackioCallback()


def _mlflow(run_folder: Path) -> TrainerCallback:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read at its import
    import mlflow
    from transformers.integrations import MLflowCallback

    class WrittenAtOnce(MLflowCallback):
        """Waits for MLflow's threads, which would write during the timed steps."""

        def on_train_begin(self, *given: Any, **named: Any) -> None:
            super().on_train_begin(*given, **named)
            mlflow.flush_async_logging()

        def on_log(self, *given: Any, **named: Any) -> None:
            super().on_log(*given, **named)
            mlflow.flush_async_logging()

    folder = mlflow_folder(run_folder.parent)
    with holding(FileLock(folder / ".lock")):  # two runs cannot make the tables at once
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            mlflow.set_tracking_uri(f"sqlite:///{folder.resolve() / 'mlflow.db'}")
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT)
    return WrittenAtOnce()


_MAKERS: dict[str, Callable[[Path], TrainerCallback]] = {
    "tensorboard": _tensorboard,
    "trackio": _trackio,
    "mlflow": _mlflow,
}


class CarefulTracker(TrainerCallback):
    """Forwards events to a callback; after its first error it adds a note and stops."""

    def __init__(self, label: str, callback: TrainerCallback, note: Callable[[str], None]) -> None:
        self._label = label
        self._callback: TrainerCallback | None = callback
        self._note = note

    def on_train_begin(self, *given: Any, **named: Any) -> None:
        self._pass_on("on_train_begin", given, named)

    def on_log(self, *given: Any, **named: Any) -> None:
        self._pass_on("on_log", given, named)

    def on_train_end(self, *given: Any, **named: Any) -> None:
        """May be called again; the callback is called once."""
        self._pass_on("on_train_end", given, named)
        self._callback = None

    def _pass_on(self, event: str, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        if self._callback is None:
            return
        try:
            getattr(self._callback, event)(*given, **named)
        except Exception as error:
            self._callback = None
            self._note(f"Logging to {self._label} ended early: {one_line(error)}")


OPTIMIZER_NAMES = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}
SCHEDULE_NAMES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant_with_warmup",
}


@dataclass(frozen=True)
class CheckpointHandling:
    """How checkpoints are written during training.

    A checkpoint is written within `pause()`. Then `kept(trainer, folder)` is called if it is
    complete, else `lost(error)`, and the training continues. If `resume` is given, training starts
    from that checkpoint, which is in the Trainer's output folder. After step `pause_after` a
    checkpoint is written and training stops.
    """

    pause: Callable[[], AbstractContextManager[None]] = nullcontext
    kept: Callable[[FairTrainer, Path], None] = lambda trainer, folder: None
    lost: Callable[[Exception], None] = lambda error: None
    resume: Checkpoint | None = None
    pause_after: int | None = None


class FairTrainer(Trainer):
    """Uses the examples in the given order, and computes the loss only on completion tokens.

    The loss of a step is the mean over all completion tokens of its batches, so 4 accumulated
    batches of 2 give the same gradient as one batch of 8.
    """

    def __init__(
        self,
        *,
        variant: Variant,
        arithmetic: Arithmetic,
        keeping: CheckpointHandling,
        ranks: Ranks = ONE_PROCESS,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._ranks = ranks
        self._whole: dict[str, Tensor] | None = None
        self._keeping = keeping
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the tokens of the step
        self._variant = variant
        self._arithmetic = arithmetic
        resume = keeping.resume
        self.real_tokens = resume.real_tokens if resume else 0
        self.padded_tokens = resume.padded_tokens if resume else 0
        self._added = resume.added_loss if resume else 0.0
        self._added_since: list[Tensor] = []  # on the device, so that a step need not synchronise
        self._scale_before = 0.0

    @property
    def pause_after(self) -> int | None:
        return self._keeping.pause_after

    @property
    def _learner(self) -> nn.Module:
        assert isinstance(self.model, nn.Module)
        return self.model

    @property
    def added_loss(self) -> float:
        """The sum of the method's own loss terms over all steps so far."""
        self._added += sum(map(float, self._added_since))
        self._added_since.clear()
        return self._added

    def after_optimizer_step(self, step: int) -> None:
        after_optimizer_step(self._learner, step, self.was_skipped)

    def draw_own_numbers(self) -> None:
        """Gives each rank random numbers of its own for the next step, so that dropout differs
        between their rows; the same after a resume."""
        if self._ranks.are_several:
            place = self.state.global_step * self._ranks.count + self._ranks.index
            torch.manual_seed((int(self.args.seed) << 32) + place)

    def note_scale(self) -> None:
        """Stores the scale before a step, for `was_skipped` after it."""
        scaler = self.accelerator.scaler
        self._scale_before = 0.0 if scaler is None else float(scaler.get_scale())

    def was_skipped(self) -> bool:
        """Whether the step's gradients overflowed in fp16, so that it changed no weight.

        The scaler then lowers its scale. accelerate does not notice this with a fused optimizer,
        which skips the step itself. Waits for the device.
        """
        scaler = self.accelerator.scaler
        return scaler is not None and float(scaler.get_scale()) < self._scale_before

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """Creates the method's own optimizer if it has one, else the Trainer's."""
        if self.optimizer is None:
            chosen, options = self.get_optimizer_cls_and_kwargs(self.args)
            options |= {"weight_decay": self.args.weight_decay}
            self.optimizer = own_optimizer(self._variant, self._learner, chosen, options)
        return super().create_optimizer(model)

    def _get_train_sampler(self, *args: Any) -> Sampler[int]:
        return SequentialSampler(cast(OrderedExamples, self.train_dataset))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        with self._keeping.pause():
            try:
                if self._ranks.are_several:
                    self._save_ranks(folder, partial(super()._save_checkpoint, model, trial))
                else:
                    super()._save_checkpoint(model, trial)
                self._keeping.kept(self, folder)
            except (OSError, RuntimeError, SafetensorError) as error:  # torch: RuntimeError
                if self._ranks.is_first:
                    shutil.rmtree(folder, ignore_errors=True)
                self._keeping.lost(error)

    def _save_ranks(self, folder: Path, save: Callable[[], None]) -> None:
        """The first rank writes what all share, each its part of the optimizer's state.

        Raises `OSError` in every rank if one could not write.
        """
        from ftlab.training.sharding import whole_weights

        self._whole = whole_weights(self._learner, self._ranks, learning_only=True)
        why = ""
        try:
            if self._ranks.is_first:
                save()
            else:
                folder.mkdir(parents=True, exist_ok=True)
                self._save_optimizer_and_scheduler(str(folder))
        except (OSError, RuntimeError, SafetensorError) as error:
            why = one_line(error)
        self._whole = None
        failed = list(filter(None, self._ranks.gathered(why)))
        if failed:
            raise OSError(failed[0])

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        save_learner(self._learner, Path(output_dir), self._whole)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self._ranks.are_several:
            load_learner(self._learner, Path(resume_from_checkpoint))
            return
        from ftlab.training.sharding import put_whole

        load_learner(self._learner, Path(resume_from_checkpoint), put_whole)

    @property
    def _optimizer_file(self) -> str:
        return f"optimizer-{self._ranks.index}.pt" if self._ranks.index else "optimizer.pt"

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._ranks.are_several:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        from ftlab.training.sharding import local_parts

        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        folder = Path(output_dir)
        torch.save(local_parts(self.optimizer.state_dict()), folder / self._optimizer_file)
        if self._ranks.is_first:
            torch.save(self.lr_scheduler.state_dict(), folder / "scheduler.pt")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self._ranks.are_several:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        from ftlab.training.sharding import divided_state

        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        folder = Path(checkpoint)
        state = torch.load(folder / self._optimizer_file, map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(divided_state(state, self.optimizer))
        self.lr_scheduler.load_state_dict(torch.load(folder / "scheduler.pt", weights_only=True))

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
        """The completion tokens of a step, those of other ranks included."""
        if self._ranks.are_several:
            return sum(batch["items"] for batch in batch_samples)
        return super()._get_num_items_in_batch(batch_samples, device)

    def training_step(self, *given: Any, **named: Any) -> Tensor:
        """Returns the loss of all ranks."""
        return self._ranks.mean(super().training_step(*given, **named))

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        if not self._ranks.are_several:
            assert self.optimizer is not None
            norm = clip_within_step(self.optimizer, model.parameters(), self.args.max_grad_norm)
            return super()._clip_grad_norm(model) if norm is None else norm
        norm = super()._clip_grad_norm(model)
        from ftlab.training.sharding import whole_tensor

        return whole_tensor(norm)  # accelerate's is whole from 1.16 on

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        self.real_tokens += inputs["tokens"]
        self.padded_tokens += inputs["padded"]
        with self._arithmetic.context():
            losses, _ = completion_losses(model, inputs)
        items = losses.numel() if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() / items
        if self._ranks.are_several:  # FSDP averages the gradients of the ranks
            loss = loss * self._ranks.count
        added = added_loss(model)
        if added is None:
            return loss
        added = added / self.args.gradient_accumulation_steps
        self._added_since.append(added.detach())
        return loss + added


@dataclass
class StepMeter:
    """Times of the training steps, with the device synchronised, and their losses.

    `tokens` excludes padding, `work` includes it. `waited` is the seconds that threads waited for a
    core (`machine.waited_seconds`), `slept` whether threads slept between operators at the end of
    the step (`openmp.threads_sleep`).
    """

    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    work: list[int] = field(default_factory=list)
    waited: list[float | None] = field(default_factory=list)
    slept: list[bool] = field(default_factory=list)
    skipped: int = 0
    """Steps that changed nothing, because their gradients overflowed in fp16."""

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds)

    @property
    def step_seconds(self) -> float:
        """The median of the steps after the first; the first step if there is only one."""
        later = sorted(self.seconds[1:] or self.seconds)
        return later[len(later) // 2]

    @property
    def tokens_per_second(self) -> float:
        """Tokens without padding per second after the first step, or of the only step."""
        first = 1 if len(self.seconds) > 1 else 0
        return sum(self.tokens[first:]) / sum(self.seconds[first:])


@dataclass(eq=False)
class MeteringCallback(TrainerCallback):
    """Times and reports every step; may raise `Diverged`. Set `trainer` before it starts."""

    meter: StepMeter
    synchronise: Callable[[], None]
    report: Callable[[dict[str, Any]], None]
    before_steps: Callable[[FairTrainer], None]
    after_step: Callable[[int], None]
    trainer: FairTrainer = field(init=False)
    _began: float = 0.0
    _tokens_before: int = 0
    _padded_before: int = 0
    _waited_before: float | None = None
    _was_skipped: bool = False
    _added_before: float = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._tokens_before = self.trainer.real_tokens  # not 0 in a resumed run
        self._padded_before = self.trainer.padded_tokens
        self._added_before = self.trainer.added_loss
        self.before_steps(self.trainer)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.trainer.note_scale()
        self.trainer.draw_own_numbers()
        self._waited_before = waited_seconds()
        self.synchronise()
        self._began = time.perf_counter()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.trainer.after_optimizer_step(state.global_step + 1)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.synchronise()
        self.meter.seconds.append(time.perf_counter() - self._began)
        self.meter.tokens.append(self.trainer.real_tokens - self._tokens_before)
        self.meter.work.append(self.trainer.padded_tokens - self._padded_before)
        self.meter.waited.append(since(self._waited_before, waited_seconds()))
        self.meter.slept.append(threads_sleep())
        self._padded_before = self.trainer.padded_tokens
        self._was_skipped = self.trainer.was_skipped()
        self.meter.skipped += self._was_skipped
        self._tokens_before = self.trainer.real_tokens
        if state.global_step == self.trainer.pause_after:
            control.should_save = control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        added = self.trainer.added_loss - self._added_before
        self._added_before = self.trainer.added_loss
        loss, rate = float(logs["loss"]) - added, float(logs["learning_rate"])
        step, losses = state.global_step, self.meter.losses
        # A gradient scaler finds its scale through overflows, and skips those steps.
        norm = 0.0 if self._was_skipped else float(logs.get("grad_norm") or 0.0)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = "gradient" if math.isfinite(loss) else "loss"
            raise Diverged(
                f"The {what} is not a number at step {step} (learning rate {rate:.3g}); "
                "lower the learning rate, or use the fp32 dtype policy."
            )
        losses.append(loss)
        event = {
            "event": "step",
            "step": step,
            "loss": loss,
            "learning_rate": rate,
            "tokens": self.meter.tokens[-1],
            "seconds": self.meter.seconds[-1],
        }
        self.report(event | {"skipped": True} if self._was_skipped else event)
        if has_diverged(losses):
            now = sum(losses[-DIVERGED_STEPS:]) / DIVERGED_STEPS
            raise Diverged(
                f"The loss rose from {losses[0]:.2f} to {now:.2f} by step {step} "
                f"(learning rate {rate:.3g}); lower the learning rate."
            )
        self.after_step(step)


DIVERGED_FACTOR, DIVERGED_NATS, DIVERGED_STEPS = 2.0, 2.0, 5
"""A run has diverged if the mean loss of the last DIVERGED_STEPS steps is more than DIVERGED_FACTOR
times the first loss and DIVERGED_NATS above it: one batch may be twice as hard as another."""


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether the mean of the last losses is far above the first loss."""
    if len(losses) <= DIVERGED_STEPS:
        return False
    return is_astray(sum(losses[-DIVERGED_STEPS:]) / DIVERGED_STEPS, losses[0])


def is_astray(loss: float, start: float) -> bool:
    """Whether a mean loss is not finite, or so far above `start` that the run diverged."""
    far = loss > DIVERGED_FACTOR * start and loss > start + DIVERGED_NATS
    return far or not math.isfinite(loss)


def effective_warmup(settings: TrainingSettings) -> int:
    """Returns the warm-up steps, at most a quarter of all: else a short run would hardly learn."""
    return min(settings.warmup_steps, settings.steps // 4)


def training_arguments(
    settings: TrainingSettings,
    learning_rate: float,
    seed: int,
    arithmetic: Arithmetic,
    folder: Path,
    run_name: str | None = None,
    checkpoint_every: int = 0,
) -> TrainingArguments:
    """Returns our settings as arguments of the Trainer, which evaluates nothing itself.

    It writes a checkpoint to `folder` every `checkpoint_every` steps (0: never). Two checkpoints
    are kept, so that one is complete while the next is written.

    `report_to` is empty, because `make_trackers` creates the logging callbacks.
    """
    on_cpu = arithmetic.device.type == "cpu"
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=learning_rate,
        lr_scheduler_type=SCHEDULE_NAMES[settings.schedule],
        warmup_steps=effective_warmup(settings),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim=OPTIMIZER_NAMES[settings.optimizer],
        activation_checkpointing=settings.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        fp16=arithmetic.needs_grad_scaler,
        use_cpu=on_cpu,
        seed=seed,
        data_seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps" if checkpoint_every else "no",
        save_steps=checkpoint_every or settings.steps,
        save_total_limit=2,
        eval_strategy="no",
        report_to=[],
        run_name=run_name,
        project=PROJECT,
        trackio_static_space_id=False,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=not on_cpu,
    )


def train(
    model: nn.Module,
    variant: Variant,
    examples: OrderedExamples,
    arguments: TrainingArguments,
    arithmetic: Arithmetic,
    collator: Callable[..., Batch],
    report: Callable[[dict[str, Any]], None],
    trackers: Sequence[CarefulTracker] = (),
    meter: StepMeter | None = None,
    before_steps: Callable[[FairTrainer], None] = lambda trainer: None,
    after_step: Callable[[int], None] = lambda step: None,
    keeping: CheckpointHandling | None = None,
    ranks: Ranks = ONE_PROCESS,
) -> tuple[FairTrainer, StepMeter]:
    """Runs the steps; raises `Diverged` if a loss or gradient is not finite, or a loss too high.

    `meter` is filled step by step, so a meter passed by the caller has the values after an error.
    `before_steps(trainer)` is called after the optimizer is created, `after_step(step)` after each
    step; neither counts in the time of the steps.
    """
    meter = StepMeter() if meter is None else meter
    keeping = CheckpointHandling() if keeping is None else keeping
    synchronised = partial(synchronise, arithmetic.device)
    callback = MeteringCallback(meter, synchronised, report, before_steps, after_step)
    trainer = FairTrainer(
        variant=variant,
        arithmetic=arithmetic,
        keeping=keeping,
        ranks=ranks,
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=collator,
        callbacks=[callback, *trackers],
    )
    callback.trainer = trainer
    try:
        resume = keeping.resume
        with one_sequence_a_row():
            trainer.train(
                resume_from_checkpoint=f"{arguments.output_dir}/{resume.folder}" if resume else None
            )
    finally:
        for tracker in trackers:  # the Trainer does not call this for a failed run
            tracker.on_train_end(trainer.args, trainer.state, trainer.control)
    return trainer, meter


def synchronise(device: torch.device) -> None:
    """Waits until the device has finished its queued work, so that times are correct."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
