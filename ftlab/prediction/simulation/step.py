"""Answers one question: simulates a training step and scoring of a model without weights.

The step is that of the app (`ftlab.training`), or the standard loop of published measurements: the
model's own loss over the logits of all positions, AdamW, clipped gradients.

Scoring reads all prompts of a batch at once and caches their keys and values for later tokens. With
a small training batch this can take more memory than the training.
"""

from __future__ import annotations

import gc
import inspect
import json
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import peft
import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer
from transformers import PretrainedConfig
from transformers.core_model_loading import revert_weight_conversion

from ftlab.basics.errors import FtlabError, one_line
from ftlab.methods.limits import not_sharded
from ftlab.methods.peft_rules import CONVERTED_INITS
from ftlab.methods.spec import RunPlan
from ftlab.methods.variant import Variant
from ftlab.models.cpu_norms import use_cpu_norms
from ftlab.models.cpu_updates import clip_within_step, use_sparse_token_gradients
from ftlab.models.generation import soft_outputs
from ftlab.models.laid_out import bytes_to_lay_out
from ftlab.models.packed import scales_of, unpacked_on_cpu
from ftlab.prediction.closed_form import dimensions, memory_breakdown, reserved
from ftlab.prediction.duration import ScoringWork, StepWork, Work
from ftlab.prediction.question import Prediction, Question, Step
from ftlab.prediction.simulation.fake import (
    Guesses,
    QuickFakeMode,
    empty_model,
    log_loading,
    logical_size,
    make_fake,
    make_weights_fake,
    on_device,
    put_on_host,
    quantise,
    read_config,
)
from ftlab.prediction.simulation.interceptions import kernels_of
from ftlab.prediction.simulation.shards import divide, ranks
from ftlab.prediction.simulation.starts import complete, known_changes, known_starts
from ftlab.prediction.simulation.work import WorkLog
from ftlab.settings.training import CACHE_BYTES, EVALUATION_BATCH, ROWS_AT_ONCE, DtypePolicy
from ftlab.tasks.formatting import Scoring
from ftlab.training.allocations import (
    WORKSPACES,
    AllocationLog,
    Peak,
    Rehearsal,
    cublas_workspace,
    replay,
)
from ftlab.training.model import (
    added_loss,
    apply_method,
    own_optimizer,
    rank_allocator,
    rank_scores,
    state_of,
)
from ftlab.training.shard_allocations import shards_logged
from ftlab.training.sharding import ends_gathered
from ftlab.training.step import IGNORED, Arithmetic, Batch, completion_losses

_RATE = 1e-4
_BLOCK = 256  # numbers per scale (Dettmers et al. 2022, section 2.1)
_SMALLEST = 4_096  # smaller parameters keep fp32 state (bitsandbytes' min_8bit_size)


class EightBitAdamW(Optimizer):
    """Creates the state of bitsandbytes' 8-bit AdamW, whose kernel allocates nothing else.

    Paged state is in memory that torch's allocator does not count. `in_32_bits` holds the ids of
    parameters with 32-bit state.
    """

    def __init__(
        self,
        params: Any,
        lr: float = _RATE,
        is_paged: bool = False,
        in_32_bits: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__(params, {"lr": lr})
        self._is_paged = is_paged
        self._in_32_bits = in_32_bits

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self.state[parameter] = self._state(parameter)

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        if parameter.numel() < _SMALLEST or id(parameter) in self._in_32_bits:
            return {name: torch.zeros_like(parameter, dtype=torch.float32) for name in "mv"}
        blocks = -(-parameter.numel() // _BLOCK)
        scales = {f"absmax_{name}": torch.zeros(blocks) for name in "mv"}
        if self._is_paged:
            return scales
        return scales | {name: torch.zeros_like(parameter, dtype=torch.uint8) for name in "mv"}


def make_optimizer(model: nn.Module, variant: Variant, step: Step) -> Optimizer:
    """Returns the method's own optimizer, else the chosen one, over the trainable parameters.

    In the standard loop AdamW is the `foreach` implementation, torch's default on CUDA, which
    computes on all parameters at once; in the app's own step it is the fused one.
    """
    options: dict[str, Any] = {"lr": _RATE}
    chosen: Any = EightBitAdamW
    if step.optimizer == "adamw":
        chosen = torch.optim.AdamW
        options |= {"fused": True} if step.is_own else {"foreach": True}
    elif step.optimizer == "paged_adamw_8bit":
        options |= {"is_paged": True}
    own = own_optimizer(variant, model, chosen, options)
    if own is not None:
        return own
    if chosen is EightBitAdamW:
        options |= {"in_32_bits": _embeddings(model)}
    made: Optimizer = chosen([p for p in model.parameters() if p.requires_grad], **options)
    return made


def _embeddings(model: nn.Module) -> frozenset[int]:
    """Returns the ids of embeddings, whose state is in 32 bits (`Trainer.create_optimizer`)."""
    layers = (module for module in model.modules() if isinstance(module, nn.Embedding))
    return frozenset(id(parameter) for layer in layers for parameter in layer.parameters())


@dataclass(frozen=True)
class Scored:
    """The peak bytes of scoring, including weights, and its work."""

    peak: int
    work: ScoringWork


def score(
    model: Any, scoring: Scoring, arithmetic: Arithmetic, log: WorkLog, step: Step, trained: int
) -> Scored:
    """Simulates the scoring of a batch of answers; call it in a fake mode, within a new log.

    The pass over the longest prompts is simulated, and the pass over the first new token. The
    memory at the end of the answers is computed from their cache: it grows by the new tokens, and
    one layer's part counts twice, because growing copies it. `trained` is the peak of the steps in
    bytes: what is free since then decides whether 4-bit weights stay unpacked, and which weights
    are laid out for a CPU.
    """
    log.name(scales_of(model), "weights")
    log.name(on_device(model, step.device), "weights")
    room = max(CACHE_BYTES, trained - log.living) // 2
    unpacked = unpacked_on_cpu(model, room) if step.device == "cpu" else nullcontext(0)
    causal_lm: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    length = scoring.prompt + soft_outputs(model)
    model.eval()
    with torch.no_grad(), arithmetic.context(), unpacked as taken:
        laid_out = bytes_to_lay_out(model, room - taken, exact=True) if step.shard == 1 else 0
        weights = log.living
        log.take()
        with _output_apart(causal_lm, log) as apart:
            ids = torch.zeros(scoring.rows, length, dtype=torch.long)
            mask = torch.ones_like(ids)
            mask[:1, :1] = 0  # nearly every batch is padded
            output = causal_lm(
                input_ids=ids, attention_mask=mask, use_cache=True, **_last_logits(causal_lm)
            )
            del ids, mask
        prompts = apart.rest()
        logits = output.logits.numel() * output.logits.element_size()
        a_token = (log.living - weights - logits) / (scoring.rows * length)
        rows = _answers_at_once(scoring, a_token * (length + scoring.new_tokens))
        grown = a_token * rows * (length + scoring.new_tokens)
        copied = grown / (2 * max(1, int(causal_lm.config.get_text_config().num_hidden_layers)))
        chosen = rows * int(output.logits.shape[-1]) * 4  # the last token's, in fp32
        waiting = a_token * (rows - scoring.rows) * length
        peak = laid_out + max(
            log.peak(rounding=step.device != "cpu").bytes + round(waiting),
            round(weights + grown + copied + chosen),
        )
        with _output_apart(causal_lm, log) as apart:
            causal_lm(
                input_ids=torch.zeros(scoring.rows, 1, dtype=torch.long),
                attention_mask=torch.ones(scoring.rows, length + 1, dtype=torch.long),
                past_key_values=output.past_key_values,
                use_cache=True,
            )
        token = apart.rest()
    model.train()
    return Scored(peak, ScoringWork(prompts, token, apart.own, scoring.rows, length))


class _Output:
    """The work of the output layer in one forward pass, apart from the rest of it."""

    def __init__(self, log: WorkLog) -> None:
        self._log = log
        self._before = self.own = Work()

    def begins(self, *given: Any) -> None:
        self._before = self._log.take()

    def ends(self, *given: Any) -> None:
        self.own = self._log.take()

    def rest(self) -> Work:
        """Call it once after the pass."""
        return self._before + self._log.take()


@contextmanager
def _output_apart(causal_lm: Any, log: WorkLog) -> Iterator[_Output]:
    """Counts the work of the output layer in one forward pass apart from the rest of the pass.

    Nothing is counted apart for a model that names no such layer.
    """
    output, layer = _Output(log), causal_lm.get_output_embeddings()
    hooks = []
    if layer is not None:
        hooks = [
            layer.register_forward_pre_hook(output.begins),
            layer.register_forward_hook(output.ends),
        ]
    try:
        yield output
    finally:
        for hook in hooks:
            hook.remove()


def _answers_at_once(scoring: Scoring, bytes_a_row: float) -> int:
    """How many rows are answered together, with all their tokens, as `training.evaluate` does it.

    Where all examples fit in one batch, there are no more of them.
    """
    if scoring.rows < EVALUATION_BATCH:
        return scoring.rows
    return min(ROWS_AT_ONCE, max(scoring.rows, int(CACHE_BYTES / max(1, bytes_a_row))))


def _last_logits(causal_lm: Any) -> dict[str, int]:
    """Returns the argument with which `generate` requests the last logits, if it is accepted."""
    known = "logits_to_keep" in inspect.signature(causal_lm.forward).parameters
    return {"logits_to_keep": 1} if known else {}


_NAMES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16",
    torch.float16: "F16", torch.bfloat16: "BF16", torch.int32: "I32", torch.float32: "F32",
    torch.complex64: "C64", torch.float64: "F64", torch.int64: "I64",
}  # fmt: skip
"""In the order of safetensors, which writes tensors of the last dtype first."""

_ORDER = list(_NAMES)
_ALIGNED_TO = 8


def saved_tensors(model: Any, variant: Variant) -> Mapping[str, Tensor]:
    """Returns what a run would save: the adapter, the trainable weights, or the whole model."""
    if isinstance(model, PeftModel):
        found: Mapping[str, Tensor] = get_peft_model_state_dict(model)
        start = str(getattr(model.active_peft_config, "init_lora_weights", "")).lower()
        return _as_plain_lora(found) if start.startswith(CONVERTED_INITS) else found
    if not variant.spec.ships_whole_model:
        return {name: p for name, p in model.named_parameters() if p.requires_grad}
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    held = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    # Uses the names of the published files, which store each expert separately.
    as_saved: Mapping[str, Tensor] = revert_weight_conversion(model, held)
    return as_saved


def _as_plain_lora(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Doubles the rank: trained and initial adapter, which was subtracted from the base."""
    return {
        name: torch.cat([tensor, tensor], dim=0 if "lora_A" in name else 1)
        for name, tensor in tensors.items()
    }


def safetensors_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Returns the size of a safetensors file with those tensors, including its header.

    The header is JSON after eight bytes of length, padded with spaces to a multiple of eight
    (github.com/huggingface/safetensors, "Format").
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda x: (-_ORDER.index(x[1].dtype), x[0])):
        start, end = end, end + math.prod(tensor.shape) * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = len(json.dumps(header, separators=(",", ":")).encode())
    return 8 + -(-text // _ALIGNED_TO) * _ALIGNED_TO + end


_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_CLIP = 1.0  # gradient norm limit of PEFT's comparison and of the Trainer
_FIRST = 64  # tokens of the short step before the measured one
_PLAN = RunPlan(1_000, "none")


@dataclass(frozen=True)
class Sizes:
    """Trainable and total parameters, and the bytes of the saved file."""

    trainable: int
    total: int
    file_bytes: int


@dataclass(frozen=True)
class Simulated:
    """`live` is the peak of tensors; `allocated` and `reserved` are torch's counters on CUDA.

    `scoring` is the scoring of answers; `None` if it was not requested. `sizes` are `None` for a
    model that was divided: `count` them of the whole one.
    """

    sizes: Sizes | None
    live: Peak
    allocated: int
    reserved: int
    work: StepWork
    scoring: Scored | None = None


def build(config: PretrainedConfig, variant: Variant, step: Step) -> Any:
    """Returns the model on the meta device with the method applied, ready to train.

    Raises `FtlabError` if the method does not fit the model.
    """
    dtype = _dtype(step)
    model = empty_model(config, dtype, step.attention)
    if step.device == "cpu":
        use_cpu_norms(model)
        if step.is_own and not variant.spec.is_adapter:
            use_sparse_token_gradients(model)
            # torch finds the rows of padding by comparing ids, and a fake tensor has no values.
            model.get_input_embeddings().padding_idx = None
    model.config.use_cache = not step.is_own  # the default: the model caches keys and values
    if step.packing is not None:
        model = quantise(model, step.packing, dtype)
        if not step.is_own:  # as in published runs on a packed base
            model = peft.prepare_model_for_kbit_training(
                model, use_gradient_checkpointing=step.checkpointing
            )
    with torch.device("meta"), known_starts(step.device == "cuda"):
        model = apply_method(
            model,
            variant,
            _policy(step) if step.is_own else "fp32",
            step.checkpointing,
            _PLAN,
            adapters_in_fp32=step.adapters == "fp32",
        )
        complete(model)
    if step.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def simulate(model: Any, variant: Variant, step: Step) -> Simulated:
    """Simulates the step of a model on the meta device, with the memory use of its device."""
    step = replace(step, batch=step.rows)
    loss_positions = step.batch * (step.completion_tokens or step.length)
    on_cuda = step.device == "cuda"
    with (
        ranks(step.shard) as mesh, QuickFakeMode(), Guesses(loss_positions), known_changes(on_cuda),
        kernels_of(step) as log, shards_logged(log),
    ):  # fmt: skip
        hold_fake(model, step, log, mesh)
        with log:
            first, work = run_steps(model, variant, step, log)
        sizes = None if mesh is not None else _sizes(model, variant)
        live = log.peak(rounding=on_cuda)
        scoring = None
        if step.scoring is not None:
            scoring = _scoring(model, step, step.scoring, live.bytes)
    if not on_cuda:
        return Simulated(sizes, live, live.bytes, live.bytes, work, scoring)
    workspace = cublas_workspace(step.capability)
    allocator = replay(log.allocations(first if step.is_own else None), workspace)
    if scoring is not None:
        scoring = replace(scoring, peak=scoring.peak + WORKSPACES * workspace)
    return Simulated(sizes, live, allocator.most_allocated, allocator.most_reserved, work, scoring)


def _scoring(model: Any, step: Step, scoring: Scoring, trained: int) -> Scored:
    """Scores after the steps, without gradients and optimizer."""
    model.zero_grad(set_to_none=True)
    with kernels_of(step) as log, shards_logged(log), ends_gathered(model), log:
        return score(model, scoring, _arithmetic(step), log, step, trained)


def count(model: Any, variant: Variant, step: Step) -> Sizes:
    """Counts the sizes of a model from `build` without simulating a step."""
    with QuickFakeMode(), Guesses(0):
        hold_fake(model, step, AllocationLog())
        make_optimizer(model, variant, step)  # some methods freeze weights there
        return _sizes(model, variant)


def _sizes(model: Any, variant: Variant) -> Sizes:
    """Returns the sizes of a model in a fake mode, after its optimizer was created."""
    sizes = [(p.requires_grad, logical_size(p)) for p in model.parameters()]
    return Sizes(
        sum(size for learns, size in sizes if learns),
        sum(size for _, size in sizes),
        safetensors_bytes(saved_tensors(model, variant)),
    )


def hold_fake(model: Any, step: Step, log: AllocationLog, mesh: DeviceMesh | None = None) -> None:
    """Gives the model fake tensors and logs them as weights; call it in a fake mode.

    Over the ranks of a `mesh` the model is divided.
    """
    make_fake(model)
    if step.device == "cuda":
        put_on_host(model)
    if step.packing is not None:
        make_weights_fake(model, _dtype(step), shares_code=step.device == "cuda")
        if step.device == "cuda":
            log_loading(model, _dtype(step), log)
            if step.is_own:
                log.empty_cache()  # as a run does before it measures
        log.name(scales_of(model), "weights")
    divide(model, mesh)
    log.name(on_device(model, step.device), "weights")


def _dtype(step: Step) -> torch.dtype:
    """Returns bf16 for fp16 in ftlab's own step, because autocast on a CPU uses bf16."""
    return torch.bfloat16 if step.is_own and step.weights == "fp16" else _DTYPES[step.weights]


def run_steps(model: Any, variant: Variant, step: Step, log: WorkLog) -> tuple[Rehearsal, StepWork]:
    """Runs one full step, with the optimizer state already allocated as after an earlier step.

    The state of a full model is placed in memory that an earlier step left free, so a short step
    runs first. An adapter's state is small and is created without one. Returns the step's first
    forward and backward pass, which a run executes once before all steps, and the step's work.
    """
    before = log.position
    optimizer = make_optimizer(model, variant, step)
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    if step.loop == "comparison" and isinstance(model, PeftModel):
        with model.disable_adapter():  # when re-enabled by PEFT, LoRA-FA's A is trainable too
            pass
    if step.loop == "bare" and not step.is_own:
        _optimizer_step(model, optimizer, step, 1, log)
    elif variant.spec.is_adapter:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
                log.name([parameter.grad], "gradients")
        _update(model, optimizer, log)
    else:
        _optimizer_step(model, optimizer, _shortened(step), 1, log)
    if not step.is_own and step.loop != "bare":
        log.empty_cache()  # PEFT's comparison does so after each step
    start, end, work = _optimizer_step(model, optimizer, step, min(step.accumulation, 2), log)
    for parameter in frozen:
        parameter.requires_grad_(False)  # trainable weights are counted as in the optimizer
    return Rehearsal(before, start, end), work


def _shortened(step: Step) -> Step:
    kept = step.completion_tokens
    length = min(_FIRST, step.length)
    return replace(
        step, length=length, completion_tokens=None if kept is None else min(kept, length)
    )


def _optimizer_step(
    model: Any, optimizer: Optimizer, step: Step, batches: int, log: WorkLog
) -> tuple[int, int, StepWork]:
    """Returns the log positions of the first batch's start and backward end, and the work."""
    optimizer.zero_grad()  # not earlier: a loop empties its cache while the last gradients exist
    log.take()
    start, ends = log.position, []
    for _ in range(batches):
        log.phase = "forward"
        loss, kept = (_own_loss if step.is_own else _standard_loss)(model, step)
        log.phase = "backward"
        loss.backward()
        log.name((p.grad for p in model.parameters()), "gradients")
        del loss, kept
        ends.append(log.position)
    passes = log.take().times(1 / batches)
    log.phase = "optimizer"
    if step.is_own or step.loop != "bare":
        _clip(model, optimizer, step)
    _update(model, optimizer, log)
    return start, ends[0], StepWork(passes, log.take(), step.batch * step.length)


def _clip(model: Any, optimizer: Optimizer, step: Step) -> None:
    norm = None
    if step.is_own and step.shard == 1:
        norm = clip_within_step(optimizer, model.parameters(), _CLIP)
    if norm is None:
        nn.utils.clip_grad_norm_(model.parameters(), _CLIP, foreach=True)


def _update(model: Any, optimizer: Optimizer, log: AllocationLog) -> None:
    log.name(_importances(model), "optimizer")
    optimizer.step()
    log.name(state_of(optimizer), "optimizer")


def _standard_loss(model: Any, step: Step) -> tuple[Tensor, Any]:
    """Returns the loss, and the outputs that a loop keeps during the backward pass."""
    ids = torch.zeros(step.batch, step.length, dtype=torch.long)
    mask = None
    if step.loop != "bare":
        mask = torch.ones_like(ids)
        mask[:1, -1:] = 0  # nearly every batch is padded; others need no mask
    outputs = model(input_ids=ids, attention_mask=mask, labels=ids)
    return outputs.loss, outputs


def _own_loss(model: Any, step: Step) -> tuple[Tensor, Any]:
    """Returns the app's own loss, on completion tokens only and under the dtype policy."""
    ids = torch.zeros(step.batch, step.length, dtype=torch.long)
    kept = torch.zeros(step.batch * (step.completion_tokens or step.length), dtype=torch.long)
    batch: Batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.full_like(ids, IGNORED),
        "kept": kept,
        "targets": torch.zeros_like(kept),
        "rows": torch.zeros_like(kept),
    }
    with _arithmetic(step).context():
        losses, _ = completion_losses(model, batch)
    loss = losses.sum() / losses.numel()
    added = added_loss(model)
    return (loss if added is None else loss + added), batch


def _arithmetic(step: Step) -> Arithmetic:
    return Arithmetic(_policy(step), torch.device("cpu"))


def _policy(step: Step) -> DtypePolicy:
    if step.mixed:
        return "mixed"
    return "fp32" if step.weights == "fp32" else "bf16"


def _importances(model: Any) -> list[Tensor]:
    """Creates and returns the scores that AdaLoRA keeps per weight to allocate ranks."""
    allocator = rank_allocator(model)
    if allocator is None:
        return []
    allocator.update_ipt(model.base_model.model)
    return [score for scores in rank_scores(allocator).values() for score in scores.values()]


def predict(question: Question) -> Prediction:
    """Predicts the memory of the method on the model; raises nothing but `MemoryError`.

    If the step cannot be simulated, parameters and file size are still counted.
    """
    gc.disable()  # so that tensors are freed only by reference counting, at defined times
    try:
        return answer(question)
    finally:
        gc.enable()
        gc.collect()


def answer(question: Question) -> Prediction:
    """Same as `predict`, for a process with garbage collection disabled."""
    began = time.perf_counter()
    variant = question.variant
    known = Prediction(variant.method, variant.label)
    try:
        known = _predict(question, known)
    except FtlabError as error:
        known = replace(known, reason=str(error))
    except Exception as error:
        _raise_if_out_of_memory(error)
        traceback.print_exc()
        known = replace(known, reason=f"It cannot be built: {one_line(error)[:200].rstrip('.')}.")
    return replace(known, seconds=round(time.perf_counter() - began, 2))


def _predict(question: Question, known: Prediction) -> Prediction:
    step, variant = question.step, question.variant
    undivided = not_sharded(variant, step.shard)
    if undivided is not None:
        undivided.refuse()
    config = read_config(question.config)
    check_length(config, step.length)
    model = build(config, variant, step)
    try:
        simulated = simulate(model, variant, step)
    except FtlabError:
        raise
    except Exception as error:
        _raise_if_out_of_memory(error)
        traceback.print_exc()
        known = _with_sizes(known, count(build(config, variant, step), variant, step))
        return _in_closed_form(question, replace(known, reason=_not_simulated(error)))
    scoring = simulated.scoring
    sizes = simulated.sizes or count(build(config, variant, step), variant, step)
    return replace(
        _with_sizes(known, sizes),
        peak_allocated_bytes=simulated.allocated,
        peak_reserved_bytes=simulated.reserved,
        anatomy={str(part): size for part, size in simulated.live.anatomy.items()},
        scoring_bytes=None if scoring is None else scoring.peak,
        # The time of a divided step depends on the link of the cards, whose speed is not known.
        work=simulated.work if step.shard == 1 else None,
        scoring_work=None if scoring is None or step.shard > 1 else scoring.work,
        how="simulated",
    )


def _with_sizes(known: Prediction, sizes: Sizes) -> Prediction:
    return replace(
        known,
        trainable_params=sizes.trainable,
        total_params=sizes.total,
        adapter_bytes=sizes.file_bytes,
    )


def _in_closed_form(question: Question, known: Prediction) -> Prediction:
    """Adds the memory from formulas, if they apply to the model."""
    size = dimensions(question.config)
    if (
        size is None
        or question.step.shard > 1
        or known.trainable_params is None
        or known.total_params is None
    ):
        return known
    parts = memory_breakdown(
        size, question.variant, question.step, known.trainable_params, known.total_params
    )
    return replace(
        known,
        peak_allocated_bytes=sum(parts.values()),
        peak_reserved_bytes=reserved(parts),
        anatomy=parts,
        how="closed form",
    )


def _raise_if_out_of_memory(error: Exception) -> None:
    """Raises `MemoryError`; some libraries report it only in the message of another error."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        raise MemoryError from error


def _not_simulated(error: Exception) -> str:
    what = one_line(error)[:160].rstrip(".")
    if isinstance(error, DataDependentOutputException | DynamicOutputShapeException):
        what = "what it computes depends on values, as the routing of a mixture of experts does"
    return f"Its memory cannot be simulated: {what}."


def check_length(config: Any, length: int) -> None:
    """Raises `FtlabError` if the length is above the model's number of positions."""
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    if isinstance(most, int) and length > most:
        raise FtlabError(
            f"The length of {length:,} tokens is above the model's {most:,} positions; "
            f"choose {most:,} or less."
        )
