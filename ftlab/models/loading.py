"""Loads base weights in a run's precision; saves and loads trained weights.

The trained part of a model's own weights is saved as a folder with `trained_weights.safetensors`
(tensors by their names in the model) and `trained_weights.json` (the base model's id and the
method).
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    masking_utils,
)

from ftlab.basics.errors import FtlabError
from ftlab.methods.dimensions import PASSED_OVER
from ftlab.methods.spec import BasePrecision
from ftlab.models.cpu_attention import use_cpu_attention
from ftlab.models.cpu_norms import use_cpu_norms
from ftlab.models.cpu_products import use_cpu_products
from ftlab.models.cpu_updates import use_sparse_token_gradients
from ftlab.models.gpu_attention import Capability, use_gpu_attention
from ftlab.models.packed import forbid_repacking
from ftlab.models.resolve import ResolvedModel
from ftlab.settings.training import DtypePolicy


def load_tokenizer(model: ResolvedModel) -> PreTrainedTokenizerBase:
    """The model's own tokenizer; the end-of-text token replaces a missing padding token."""
    tokenizer = AutoTokenizer.from_pretrained(
        model.folder, local_files_only=True, trust_remote_code=False
    )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def compute_dtype(policy: DtypePolicy, device: torch.device) -> torch.dtype:
    """The dtype of matrix products: fp32 for that policy, else bf16 if supported, else fp16."""
    if policy == "fp32":
        return torch.float32
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def weight_dtype(policy: DtypePolicy, device: torch.device, weights_learn: bool) -> torch.dtype:
    """The dtype in which unquantised base weights are stored on the device."""
    return held_dtype(policy, compute_dtype(policy, device), weights_learn)


def held_dtype(policy: DtypePolicy, compute: torch.dtype, weights_learn: bool) -> torch.dtype:
    """The dtype of stored unquantised base weights if products are computed in `compute`.

    Trained weights are never stored in fp16: a gradient scaler refuses to unscale fp16 gradients.
    """
    if policy != "bf16" or (weights_learn and compute is torch.float16):
        return torch.float32
    return compute


def load_base_model(
    model: ResolvedModel,
    policy: DtypePolicy,
    base_precision: BasePrecision | None,
    device: torch.device,
    weights_learn: bool = False,
    onto_device: bool = True,
) -> PreTrainedModel:
    """Loads the base model onto the device: unquantised as the policy says, or in 4 or 8 bits.

    With `weights_learn` the model's own weights will be trained, as in full fine-tuning. Without
    `onto_device` the weights stay in the model's file where they have its dtype, and are read from
    there when they are first used: they will be divided over several devices.
    Raises `FtlabError` if the folder has no causal language model that transformers supports.
    """
    options: dict[str, Any] = {"dtype": weight_dtype(policy, device, weights_learn)}
    if base_precision is not None:
        kept = kept_whole(model.config().get("model_type"))
        options["quantization_config"] = _quantization(base_precision, policy, device, kept)
    if base_precision is not None or (device.type != "cpu" and onto_device):
        options["device_map"] = {"": device}  # loads each weight from its file onto the device
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            model.folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            use_kernels=False,  # transformers 5.25 would replace layers by code from the Hub
            **options,
        )
    except (ValueError, KeyError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise FtlabError(
            f"The model '{model.reference.name}' cannot be loaded as a causal language model: "
            f"{lines[0]}"
        ) from error
    if base_precision is not None and device.type == "cpu":
        _let_go_of_file(loaded)
    use_kernels(device)
    if device.type == "cpu":
        use_cpu_norms(loaded)
        if weights_learn:
            use_sparse_token_gradients(loaded)
    forbid_repacking(loaded)
    _fold_last_position(loaded)
    loaded.config._name_or_path = model.public_id
    loaded.name_or_path = model.public_id
    return cast(PreTrainedModel, loaded)


def use_kernels(device: torch.device) -> None:
    """Selects attention and matrix products for the device, for all models of this process."""
    if device.type == "cpu":
        use_cpu_attention()
        use_cpu_products()
    elif device.type == "cuda":
        use_gpu_attention(capability_of(device))


def capability_of(device: torch.device) -> Capability | None:
    """The GPU's compute capability; `None` for AMD GPUs, whose numbers have another meaning."""
    return None if torch.version.hip else torch.cuda.get_device_capability(device)


@contextmanager
def one_sequence_a_row() -> Iterator[None]:
    """Disables transformers' check for rows packed with several texts.

    The check reads the position values in each forward pass. That forces a GPU synchronisation, and
    it is impossible for tensors without values (`prediction.simulation`).
    """
    before = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = before


def _let_go_of_file(model: nn.Module) -> None:
    """Copies the weights that were not quantised, so that the memory-mapped file is released.

    A single tensor in it keeps the whole file resident: 212 MB for the bundled model.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():  # 4-bit weights are stored as bytes
            parameter.data = parameter.data.clone()


def _fold_last_position(model: PreTrainedModel) -> None:
    """Prevents the first generation step from copying the output matrix for each row.

    For its strided input (the last position of each prompt) torch would use a batched product: 16
    prompts of the bundled model took 885 MB more.
    """
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(_contiguous_input)


def _contiguous_input(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[Any, ...]:
    return (inputs[0].contiguous(), *inputs[1:])


def kept_whole(architecture: Any) -> list[str] | None:
    """The layers of an architecture that are not quantised; `None`: only the output layer.

    The others are layers whose weight the model multiplies with directly, without the layer.
    """
    layers = PASSED_OVER.get(str(architecture))
    return None if layers is None else ["lm_head", *layers]


def _quantization(
    precision: BasePrecision, policy: DtypePolicy, device: torch.device, kept: list[str] | None
) -> BitsAndBytesConfig:
    if precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        llm_int8_skip_modules=kept,
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype(policy, device),
    )


def give_back_memory(device: torch.device) -> None:
    """Returns unused memory to the device's driver, so that other processes can use it.

    Models contain reference cycles, so garbage is collected first. On a CPU torch caches nothing.
    """
    gc.collect()
    if device.type in ("cuda", "mps"):
        module: Any = getattr(torch, device.type)
        module.empty_cache()


WEIGHTS = "trained_weights.safetensors"
FACTS = "trained_weights.json"


def save_trained_weights(
    model: PreTrainedModel,
    method: str,
    folder: Path,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Writes the parameters that require a gradient, or the given `weights`, with the base model's
    id and the method."""
    learnt = weights or {
        name: parameter.detach().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(learnt, folder / WEIGHTS, metadata={"format": "pt"})
    facts = {"base_model_name_or_path": model.name_or_path, "method": method}
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def put_trained_weights(model: nn.Module, folder: Path) -> None:
    """Replaces parameters of the model with new ones that have the saved values.

    The old parameters are not modified, so a model that shares them is not affected. Raises
    `FtlabError`, before any change, for an unknown name, another shape or a non-finite value.
    """
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    own = dict(model.named_parameters())
    for name, tensor in saved.items():
        if name not in own or own[name].shape != tensor.shape:
            raise FtlabError(
                f"The saved weight {name} of shape {tuple(tensor.shape)} does not fit this "
                "model; it belongs to another model, so choose another."
            )
        if not tensor.isfinite().all():
            raise FtlabError(
                f"The saved weight {name} holds values that are no numbers (NaN or infinity): its "
                "training went astray, so choose another."
            )
    for name, tensor in saved.items():
        path, _, last = name.rpartition(".")
        held: Any = own[name]
        module: Any = model.get_submodule(path)
        parameter = nn.Parameter(tensor.to(held.device, held.dtype), requires_grad=False)
        setattr(module, last, parameter)
