"""Loading base weights in the precision that a run asks for, and the weights that were trained.

What was trained of a model's own weights is saved as a folder with `trained_weights.safetensors`,
tensors by their names in the model, and `trained_weights.json`, which names the base that they
belong to.
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
from torch import Tensor, nn
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
from ftlab.models.gpu_attention import Capability, use_gpu_attention
from ftlab.models.resolve import ResolvedModel
from ftlab.settings.training import DtypePolicy


def load_tokenizer(model: ResolvedModel) -> PreTrainedTokenizerBase:
    """The model's own tokenizer; a missing padding token is taken from the end-of-text token."""
    tokenizer = AutoTokenizer.from_pretrained(
        model.folder, local_files_only=True, trust_remote_code=False
    )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def compute_dtype(policy: DtypePolicy, device: torch.device) -> torch.dtype:
    """What matrix products are computed in: bf16 where the device has it, else fp16."""
    if policy == "fp32":
        return torch.float32
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def weight_dtype(policy: DtypePolicy, device: torch.device, weights_learn: bool) -> torch.dtype:
    """What unquantised base weights are held in on the device."""
    return held_dtype(policy, compute_dtype(policy, device), weights_learn)


def held_dtype(policy: DtypePolicy, compute: torch.dtype, weights_learn: bool) -> torch.dtype:
    """What unquantised base weights are held in where products are computed in `compute`.

    Weights that learn are never held in fp16: a gradient scaler refuses to unscale theirs.
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
) -> PreTrainedModel:
    """The base model on the device: unquantised as the policy says, or in 4 or 8 bits.

    `weights_learn` says whether its own weights will be trained, as in full fine-tuning.
    Raises `FtlabError` if the folder holds no causal language model that transformers knows.
    """
    options: dict[str, Any] = {"dtype": weight_dtype(policy, device, weights_learn)}
    if base_precision is not None:
        kept = kept_whole(model.config().get("model_type"))
        options["quantization_config"] = _quantization(base_precision, policy, device, kept)
    if base_precision is not None or device.type != "cpu":
        options["device_map"] = {"": device}  # each weight goes from its file to the device
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            model.folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
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
    use_attention(device)
    forbid_repacking(loaded)
    _fold_last_position(loaded)
    loaded.config._name_or_path = model.public_id
    loaded.name_or_path = model.public_id
    return cast(PreTrainedModel, loaded)


def use_attention(device: torch.device) -> None:
    """Has the models of this process compute attention in the way that suits the device."""
    if device.type == "cpu":
        use_cpu_attention()
    elif device.type == "cuda":
        use_gpu_attention(capability_of(device))


def capability_of(device: torch.device) -> Capability | None:
    """The card's compute capability; `None` of AMD's, whose numbers mean something else."""
    return None if torch.version.hip else torch.cuda.get_device_capability(device)


@contextmanager
def one_sequence_a_row() -> Iterator[None]:
    """Tells transformers that no row of a batch is packed with several texts.

    It looks for that in the values of the positions, once a forward pass. A GPU would have to be
    waited for, and of tensors without values (`prediction.simulation`) nothing can be known.
    """
    before = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = before


def forbid_repacking(model: nn.Module) -> None:
    """Keeps 4-bit weights in the layout that training can read.

    On a CPU with AVX512-BF16 bitsandbytes repacks a `Linear4bit` in place at the first forward in
    eval mode without gradient; from then on training gets no gradient, and no error either.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - typed as a Tensor


def _let_go_of_file(model: nn.Module) -> None:
    """Copies the weights that were not quantised, so that nothing refers to the file any longer.

    On a CPU the file is mapped into memory, and one tensor that lies in it keeps all of it
    resident: 212 MB of the bundled model's weights in 16 bits, beside the same in 4 bits.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():  # 4 bits are held in bytes
            parameter.data = parameter.data.clone()


def _fold_last_position(model: PreTrainedModel) -> None:
    """Keeps the first step of an answer from copying the output matrix once a row.

    It hands the output layer a strided slice (the last position of each prompt), and torch then
    multiplies in batches: 16 prompts of the bundled model took 885 MB more, for a frozen matrix.
    """
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(_contiguous_input)


def _contiguous_input(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[Any, ...]:
    return (inputs[0].contiguous(), *inputs[1:])


def kept_whole(architecture: Any) -> list[str] | None:
    """The layers of an architecture that are not held in fewer bits; `None`: the output layer.

    Beside that one those whose weight the model multiplies with by itself, as numbers.
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
    """Hands what nothing uses any more to the device's driver, for other processes to take.

    Models refer to themselves here and there, so garbage is collected first; then torch lets go of
    the blocks that it keeps for later. On a CPU it keeps none.
    """
    gc.collect()
    if device.type in ("cuda", "mps"):
        module: Any = getattr(torch, device.type)
        module.empty_cache()


def packed_layers(model: nn.Module) -> Iterator[Any]:
    """bitsandbytes' layers, by name: where none is asked for, it need not be installed."""
    kinds = ("Linear4bit", "Linear8bitLt")  # PEFT's layers around them have the same names
    return (
        module
        for module in model.modules()
        if type(module).__name__ in kinds and type(module).__module__.startswith("bitsandbytes.")
    )


def has_four_bits(layer: nn.Module) -> bool:
    """Whether a packed layer holds 4 bits a weight; 8 otherwise."""
    return type(layer).__name__ == "Linear4bit"


def scales_of(model: nn.Module) -> Iterator[Tensor]:
    """The tensors that belong to packed weights and are no parameters of the model."""
    for layer in packed_layers(model):
        yield from scales_of_layer(layer)


def scales_of_layer(layer: Any) -> Iterator[Tensor]:
    """Those of one layer."""
    if not has_four_bits(layer):
        yield layer.weight.SCB
        return
    state = layer.weight.quant_state
    yield from (state.absmax, state.code)
    if state.nested:
        yield from (state.offset, state.state2.absmax, state.state2.code)


WEIGHTS = "trained_weights.safetensors"
FACTS = "trained_weights.json"


def save_trained_weights(model: PreTrainedModel, method: str, folder: Path) -> None:
    """Writes the parameters that require a gradient, and whose they are."""
    learnt = {
        name: parameter.detach().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(learnt, folder / WEIGHTS, metadata={"format": "pt"})
    facts = {"base_model_name_or_path": model.name_or_path, "method": method}
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def put_trained_weights(model: nn.Module, folder: Path) -> None:
    """Gives the model new parameters with the saved values; those it had are not written into.

    So a clone that shares its parameters with another model changes alone. Raises `FtlabError` if
    a name or a shape is not the model's, and then nothing is changed.
    """
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    own = dict(model.named_parameters())
    for name, tensor in saved.items():
        if name not in own or own[name].shape != tensor.shape:
            raise FtlabError(
                f"The saved weight {name} of shape {tuple(tensor.shape)} has no place in this "
                "model; it is made for another model, so choose another."
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


def is_trained_weights(folder: Path) -> bool:
    return (folder / FACTS).is_file()
