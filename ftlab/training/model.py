"""Putting a method on a base model, and saving what it learnt."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftlab.errors import FtlabError
from ftlab.methods.variant import Variant
from ftlab.runs.spec import DtypePolicy
from ftlab.training.arithmetic import compute_adapters_in_low_precision


def apply_method(
    base: PreTrainedModel, variant: Variant, policy: DtypePolicy, gradient_checkpointing: bool
) -> PreTrainedModel | PeftModel:
    """The model ready to train: an adapter laid over the base, or the base with all weights free.

    Raises `FtlabError` if the method does not fit the model (layers that it lacks, say).
    """
    method = variant.spec
    if method.peft_config is None:
        method.select_trainable(base)
        return base
    # No prepare_model_for_kbit_training: it turns a 4-bit base's embeddings and norms to fp32, but
    # LoRA's stay as the dtype policy says: the two would differ in more than the quantisation. On a
    # GPU without bf16 both have fp16 between their layers; `mixed` has fp32.
    if gradient_checkpointing:
        base.enable_input_require_grads()
    config = method.peft_config(variant.values())
    config.base_model_name_or_path = base.name_or_path
    try:
        model = get_peft_model(base, config)
    except ValueError as error:
        raise FtlabError(f"{method.label} does not fit this model: {error}") from error
    if policy != "fp32":
        compute_adapters_in_low_precision(model)
    return model


def count_parameters(model: PreTrainedModel | PeftModel) -> tuple[int, int]:
    """`(trainable, total)`; a 4-bit weight counts its logical size, two values a stored byte."""
    trainable = total = 0
    for parameter in model.parameters():
        count = parameter.numel()
        if parameter.__class__.__name__ == "Params4bit":
            count *= 2 * parameter.element_size()
        total += count
        if parameter.requires_grad:
            trainable += count
    return trainable, total


def save_result(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, target: Path
) -> None:
    """Writes the adapter (or the whole model) as safetensors; the folder appears complete."""
    temporary = target.with_name(f".{target.name}.partial")  # RunDirectory.partial_adapter
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(str(temporary), safe_serialization=True)
        if not isinstance(model, PeftModel):
            tokenizer.save_pretrained(temporary)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def shipped_bytes(folder: Path) -> int:
    """Size on disk of what must be shipped to reuse the result: weights and their config."""
    return sum(
        path.stat().st_size
        for path in folder.iterdir()
        if path.suffix == ".safetensors" or path.name in ("adapter_config.json", "config.json")
    )


def saved_dtype(folder: Path) -> str:
    """The dtype of the saved weights, as "fp32" or "bf16"; the first one's where they differ."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - a safe_open handle is no dict
                return _short(file.get_slice(key).get_dtype())
    return ""


def _short(dtype: str) -> str:
    return {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}.get(dtype, dtype.lower())


def torch_device(device_id: str) -> torch.device:
    """torch's device; the worker sees only its own GPU, as number 0."""
    if device_id == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise FtlabError(
            f"The device {device_id} is not usable by torch {torch.__version__} here; "
            "install a CUDA build of torch, or choose the device cpu."
        )
    return torch.device("cuda", 0)
