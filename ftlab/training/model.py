"""Applies a method to a base model, calls its hooks in the training loop, and saves the result.

The trained model determines the hooks, so an adapter that was configured by hand gets the same
hooks as one from the registry.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, PeftType, get_peft_model
from peft.tuners.adalora.layer import RankAllocator
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftlab.basics.devices import CPU, MPS, kind_of, why_driver_is_too_old
from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.torch_devices import way_out, why_no_kernels
from ftlab.methods.dimensions import ModelShape, shape_from
from ftlab.methods.limits import incompatible_with_model
from ftlab.methods.peft_rules import CONVERTED_INITS
from ftlab.methods.registry import hooks_of
from ftlab.methods.spec import LoopHooks, RunPlan
from ftlab.methods.targets import config_on
from ftlab.methods.variant import Variant
from ftlab.models.loading import FACTS, save_trained_weights
from ftlab.settings.training import DtypePolicy
from ftlab.training.ranks import ONE_PROCESS, Ranks
from ftlab.training.step import compute_adapters_in_low_precision

_CONVERSION = "path_initial_model_for_weight_conversion"
_SHIPPED_CONFIGS = ("adapter_config.json", "config.json", FACTS)


def apply_method(
    base: PreTrainedModel,
    variant: Variant,
    policy: DtypePolicy,
    gradient_checkpointing: bool,
    plan: RunPlan,
    adapters_in_fp32: bool = True,
) -> PreTrainedModel | PeftModel:
    """Returns the model ready to train: with an adapter, or with some base weights trainable.

    Raises `NotApplicable` if the model cannot be trained with the method, `FtlabError` if a
    setting does not fit the model (layers that it lacks, for example).
    """
    method, values = variant.spec, variant.values()
    shape = shape_of(base)
    found = incompatible_with_model(variant, shape)
    if found:
        found.refuse()
    if method.peft_config is None:
        method.select_trainable(base, values)
        if gradient_checkpointing and not method.ships_whole_model:
            base.enable_input_require_grads()
        _hold_learning_weights_in_fp32(base)
        return base
    # No prepare_model_for_kbit_training: it converts embeddings and norms of a 4-bit base to fp32.
    # With LoRA they follow the dtype policy, so LoRA and QLoRA would differ in more than the
    # quantisation. On a GPU without bf16 both use fp16 between layers; `mixed` uses fp32.
    if gradient_checkpointing:
        base.enable_input_require_grads()
    config: Any = config_on(method, values, plan, shape)
    config.base_model_name_or_path = base.name_or_path
    try:
        model = get_peft_model(base, config, autocast_adapter_dtype=adapters_in_fp32)
    except (ValueError, TypeError) as error:
        raise FtlabError(f"{variant.label} does not fit this model: {error}") from error
    if getattr(config, "tokenizer_name_or_path", None):
        config.tokenizer_name_or_path = base.name_or_path  # saved files contain no path
    _hold_soft_tokens_on_device(model)
    if policy != "fp32":
        compute_adapters_in_low_precision(model)
    if adapters_in_fp32:
        _hold_learning_weights_in_fp32(model)
    return model


def _hold_soft_tokens_on_device(model: PeftModel) -> None:
    """Moves the soft tokens' ids, which PEFT else copies from the CPU in every forward pass."""
    numbers: dict[str, torch.Tensor] = getattr(model, "prompt_tokens", {})
    for name, encoder in dict(getattr(model, "prompt_encoder", {})).items():
        numbers[name] = numbers[name].to(next(encoder.parameters()).device)


def _hold_learning_weights_in_fp32(model: nn.Module) -> None:
    """Converts every trainable fp16 weight to fp32.

    A gradient scaler refuses to unscale fp16 gradients. PEFT converts its own matrices to fp32, but
    not the layers of the model that some methods copy (layer-norm tuning).
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype is torch.float16:
            parameter.data = parameter.data.float()


def shape_of(model: PreTrainedModel) -> ModelShape:
    """Returns the loaded model's shape; a quantised weight counts with its logical shape."""
    layers = {
        f"{name}.weight": (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    weights = {
        name: layers.get(name, tuple(parameter.shape))
        for name, parameter in model.named_parameters()
    }
    return shape_from(weights, model.config.to_dict())


def count_parameters(model: PreTrainedModel | PeftModel) -> tuple[int, int]:
    """Returns `(trainable, total)`; a 4-bit weight counts two values per stored byte."""
    trainable = total = 0
    for parameter in model.parameters():
        count = parameter.numel()
        if parameter.__class__.__name__ == "Params4bit":
            count *= 2 * parameter.element_size()
        total += count
        if parameter.requires_grad:
            trainable += count
    return trainable, total


def save_initial(model: PreTrainedModel | PeftModel, folder: Path) -> Path | None:
    """Saves the initial adapter if its initialisation changed the base's weights.

    PEFT needs it to save the trained adapter as plain LoRA for the unchanged base. Returns the
    folder, or `None` if the base was not changed.
    """
    if not isinstance(model, PeftModel):
        return None
    config: Any = model.active_peft_config
    start = str(getattr(config, "init_lora_weights", "")).lower()
    if not start.startswith(CONVERTED_INITS):
        return None
    model.save_pretrained(str(folder))
    return folder


def save_result(
    model: PreTrainedModel | PeftModel,
    variant: Variant,
    tokenizer: PreTrainedTokenizerBase,
    target: Path,
    initial: Path | None = None,
    ranks: Ranks = ONE_PROCESS,
) -> None:
    """Writes the result as safetensors: the adapter, the trained weights, or the whole model.

    The folder is renamed into place when complete. `initial` is the result of `save_initial`. A
    model that is divided over ranks is gathered on the host of the first, which writes it.
    """
    if not ranks.are_several:
        _write_result(model, variant, tokenizer, target, initial)
        return
    from ftlab.training.sharding import ends_gathered, whole_weights

    with ends_gathered(model):
        weights = whole_weights(model, ranks, not variant.spec.ships_whole_model)
        try:
            if weights is not None:
                _write_result(model, variant, tokenizer, target, initial, weights)
        finally:
            ranks.wait()


def _write_result(
    model: PreTrainedModel | PeftModel,
    variant: Variant,
    tokenizer: PreTrainedTokenizerBase,
    target: Path,
    initial: Path | None,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Writes the given weights in place of the model's own."""
    temporary = target.with_name(f".{target.name}.partial")  # RunDirectory.partial_adapter
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        if isinstance(model, PeftModel):
            converted: dict[str, Any] = {} if initial is None else {_CONVERSION: str(initial)}
            model.save_pretrained(
                str(temporary), safe_serialization=True, state_dict=weights, **converted
            )
        elif variant.spec.ships_whole_model:
            model.save_pretrained(str(temporary), safe_serialization=True, state_dict=weights)
            tokenizer.save_pretrained(temporary)
        else:
            save_trained_weights(model, variant.method, temporary, weights)
        shutil.rmtree(target, ignore_errors=True)  # left by a run that was killed and resumed
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def shipped_bytes(folder: Path) -> int:
    """Returns the size on disk of the files needed to reuse the result: weights and config."""
    return sum(
        path.stat().st_size
        for path in folder.iterdir()
        if path.suffix == ".safetensors" or path.name in _SHIPPED_CONFIGS
    )


def saved_dtype(folder: Path) -> str:
    """Returns the dtype of the first saved weight, for example "fp32" or "bf16"."""
    from safetensors import safe_open

    names = {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - a safe_open handle is no dict
                dtype = str(file.get_slice(key).get_dtype())
                return names.get(dtype, dtype.lower())
    return ""


def torch_device(device_id: str) -> torch.device:
    """Returns torch's device, in a worker GPU 0; raises `FtlabError` if torch cannot use it."""
    if device_id == CPU:
        return torch.device(CPU)
    kind = kind_of(device_id)
    why = _why_unusable(kind)
    if why:
        raise FtlabError(
            f"The device {device_id} is not usable by torch {torch.__version__} here: {why}. "
            "Or choose the device cpu."
        )
    return torch.device(MPS) if kind == MPS else torch.device("cuda", 0)


def _why_unusable(kind: str) -> str:
    """Returns the reason from the driver or torch, and a way out; "" if usable."""
    usable = torch.backends.mps.is_available() if kind == MPS else torch.cuda.is_available()
    if usable:
        lacks = "" if kind == MPS else why_no_kernels(torch)
        return f"{lacks}; {way_out(lacks)}" if lacks else ""
    too_old = why_driver_is_too_old().rstrip(".")
    if too_old:
        return too_old
    if kind != MPS and not (torch.version.cuda or torch.version.hip):
        return "this build of torch is for the CPU; install one for CUDA (see pytorch.org)"
    try:
        getattr(torch, kind).init() if kind != MPS else torch.zeros(1, device=MPS)
    except Exception as error:
        return one_line(error)[:200].rstrip(".")
    return "the driver shows no device; see what `nvidia-smi` (AMD: `rocm-smi`) says of it"


def own_optimizer(
    variant: Variant, model: nn.Module, optimizer_class: type[Optimizer], options: dict[str, Any]
) -> Optimizer | None:
    """Returns the method's optimizer, made from the chosen one and its `options`; else `None`."""
    own = variant.spec.optimizer
    return None if own is None else own.make(model, optimizer_class, options, variant.values())


def after_optimizer_step(model: nn.Module, step: int, skipped: Callable[[], bool]) -> None:
    """Calls the method's hook after weight update `step` (from 1), while gradients exist."""
    hooks = _hooks(model)
    if hooks is not None:
        hooks.after_step(model, step, skipped)


def added_loss(model: nn.Module) -> Tensor | None:
    """Returns the term that the method adds to the loss; `None` if there is none."""
    hooks = _hooks(model)
    return None if hooks is None else hooks.added_loss(model)


def _hooks(model: nn.Module) -> LoopHooks | None:
    if not isinstance(model, PeftModel):
        return None
    config: Any = model.active_peft_config
    return hooks_of(config.peft_type)


def rank_allocator(model: nn.Module) -> RankAllocator | None:
    """Returns AdaLoRA's rank allocator, which keeps scores per weight; `None` for others."""
    tuner: Any = adalora(model)
    return None if tuner is None else tuner.rankallocator


def rank_scores(allocator: RankAllocator) -> dict[str, dict[str, Tensor]]:
    """Returns the allocator's own score dictionaries by kind; a score has its weight's shape."""
    return {kind: getattr(allocator, kind) for kind in ("ipt", "exp_avg_ipt", "exp_avg_unc")}


def adalora(model: nn.Module) -> Any:
    """Returns AdaLoRA's tuner if the model has one, else `None`."""
    if isinstance(model, PeftModel):
        config: Any = model.active_peft_config
        if config.peft_type == PeftType.ADALORA:
            return model.base_model
    return None


def state_of(optimizer: Optimizer) -> Iterable[Tensor]:
    """Yields the tensors of an optimizer's state."""
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))
