"""Attaches adapters to the base model in memory without copying or changing its weights.

PEFT applies the adapter to a clone: a second module tree that shares the base's parameters and
buffers. If the adapter is plain LoRA, its matrices are then extracted as pairs of small matrices
for rows of one batch (`ftlab.playground.rows`). All other adapters keep their clone.
"""

from __future__ import annotations

import copy
import hashlib
import re
import traceback
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import LoraConfig, PeftConfig, PeftModel, PeftType, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from ftlab.basics.errors import FtlabError, one_line
from ftlab.methods.peft_rules import BASE_CHANGING_INITS
from ftlab.models.laid_out import make_plain
from ftlab.models.loading import FACTS, WEIGHTS, put_trained_weights
from ftlab.playground.panes import CONFIG_FILE, WEIGHTS_FILE, PaneSource

_PLAIN_LAYERS = ("Linear", "Linear8bitLt", "Linear4bit")

_PREFIXES = ("base_model.model.", "base_model.")
"""PEFT's prefixes of weight names: the first for layers, the second for soft tokens."""

Model = TypeVar("Model", bound=nn.Module)

Marks = dict[str, tuple[int, int]]
"""Each weight's memory address and its version counter (number of in-place writes)."""


@dataclass(frozen=True)
class Pair:
    """One layer's LoRA: scaling * B (A x) is added; `a` is (r, in), `b` is (out, r)."""

    a: Tensor
    b: Tensor
    scaling: float


@dataclass(frozen=True)
class LowRank:
    """Plain LoRA: a `Pair` by layer name. No layers means the base itself."""

    layers: dict[str, Pair] = field(default_factory=dict)


@dataclass(frozen=True)
class Attached:
    """The attached source of a pane: a LoRA for rows of the shared batch, or its own model.

    `sha256` is the hash of the weights file(s), "" for the base.
    """

    low_rank: LowRank | None = None
    model: PreTrainedModel | PeftModel | None = None
    sha256: str = ""


def attach(base: PreTrainedModel, source: PaneSource) -> Attached:
    """Attaches the source's adapter to the base; the base is not changed.

    Raises `FtlabError` if the files are missing, damaged, or made for another shape.
    """
    folder = _complete(source, CONFIG_FILE, WEIGHTS_FILE)
    weights = folder / WEIGHTS_FILE
    try:
        config = PeftConfig.from_pretrained(str(folder))
        _refuse_what_changes_the_base(config)
        copies = _check_numbers(weights, base, config)
        with warnings.catch_warnings():
            # PEFT only warns if an adapter lacks layers; the pane would show wrong answers.
            warnings.filterwarnings("error", message=".*missing adapter keys")
            clone: Any = clone_on_same_weights(base)
            if config.peft_type == PeftType.GLORA:
                make_plain(clone)  # PEFT takes no subclass of torch's linear layer there
            known = dict(getattr(clone, "_checkpoint_conversion_mapping", None) or {})
            model = PeftModel.from_pretrained(
                clone,
                str(folder),
                is_trainable=False,
                key_mapping=_ignoring(copies) | known if copies else None,
            )
        _check_every_weight_is_used(model, weights, copies)
    except (FtlabError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        traceback.print_exc()
        in_bits = " or its kind cannot be put on a base in 4 bits" if is_quantised(base) else ""
        raise FtlabError(
            f"The adapter of '{source.label}' cannot be put on {base.name_or_path}: it is damaged "
            f"or made for another shape{in_bits} ({one_line(error)[:160]}); choose another."
        ) from error
    model.eval().requires_grad_(False)
    low_rank = as_low_rank(model, adapter_dtype(base))
    sha256 = sha256_of([weights])
    return Attached(low_rank, None if low_rank else model, sha256)


def clone_on_same_weights(model: Model) -> Model:
    """Clones the module tree; all tensors are shared, only the Python objects are new."""
    memo: dict[int, object] = {id(tensor): tensor for tensor in _tensors(model)}
    for module in model.modules():
        state = getattr(module, "quant_state", None)  # 4 bits: scales outside the parameter
        if state is not None:
            memo[id(state)] = state
    return copy.deepcopy(model, memo)


def marks(model: nn.Module) -> Marks:
    """Marks that change when a weight of the model is replaced or written in place."""
    return {name: (p.data_ptr(), p._version) for name, p in model.named_parameters()}


def as_low_rank(model: PeftModel, dtype: torch.dtype) -> LowRank | None:
    """Returns the adapter's matrices in `dtype`; `None` if not plain LoRA on linear layers."""
    config = model.active_peft_config
    if not isinstance(config, LoraConfig) or config.peft_type != PeftType.LORA:
        return None
    if config.layer_replication or not shares_a_batch(model.get_base_model()):
        return None
    name = model.active_adapter
    layers = {}
    for path, module in model.get_base_model().named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            return None
        if not isinstance(module, BaseTunerLayer):
            continue
        if not isinstance(module, LoraLayer) or not _is_plain(module, name):
            return None
        down: Any = module.lora_A[name]
        up: Any = module.lora_B[name]
        scaling = float(module.scaling[name])
        layers[path] = Pair(down.weight.to(dtype), up.weight.to(dtype), scaling)
    return LowRank(layers)


def adapter_dtype(base: PreTrainedModel) -> torch.dtype:
    """The base's dtype; fp32 on a quantised base, where PEFT computes adapters in fp32."""
    return torch.float32 if is_quantised(base) else base.dtype


def is_quantised(model: nn.Module) -> bool:
    return bool(getattr(model, "is_quantized", False))


def sha256_of(files: list[Path]) -> str:
    """SHA-256 in hex over the files' content, in the order given."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def shares_a_batch(model: nn.Module) -> bool:
    """Whether several adapters can be rows of one batch on this base.

    In a mixture of experts they cannot: its layers get tokens of all rows mixed together.
    """
    config: Any = getattr(model, "config", None)
    if config is not None:
        config = config.get_text_config()
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    return not any(getattr(config, name, None) for name in names)


def _complete(source: PaneSource, *names: str) -> Path:
    folder = source.folder
    assert folder is not None
    for name in names:
        if not (folder / name).is_file():  # PEFT would look for it on the Hub
            what = "adapter" if source.is_adapter else "weights"
            raise FtlabError(
                f"The {what} of '{source.label}' cannot be found: {name} is missing; "
                "run it again, or choose another."
            )
    return folder


def _refuse_what_changes_the_base(config: PeftConfig) -> None:
    """PiSSA and similar inits subtract their start from the base's weights, which panes share."""
    start = str(getattr(config, "init_lora_weights", "")).lower()
    if start.startswith(BASE_CHANGING_INITS):
        raise FtlabError(
            f"The adapter starts from '{start}', which changes the base's own weights; save it "
            "converted to plain LoRA (path_initial_model_for_weight_conversion) and choose that."
        )
    if getattr(config, "alora_invocation_tokens", None):
        raise FtlabError(
            "An activated LoRA (alora_invocation_tokens) looks for its tokens in the whole text, "
            "and panes read one token at a time; choose a plain LoRA."
        )


def _check_numbers(weights: Path, base: nn.Module, config: PeftConfig) -> list[str]:
    """Returns the names of the saved weights that are copies of the base's weights.

    PEFT would write a saved weight with the name of a base weight into the base of all panes.
    Therefore one that is not a copy is refused here, before loading; so are NaN and infinity.
    """
    own = dict(base.named_parameters(remove_duplicate=False))
    replaced = tuple(getattr(config, "modules_to_save", None) or ())
    copies = []
    with safe_open(weights, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - no mapping
            saved = file.get_tensor(key)
            if saved.is_floating_point() and not saved.isfinite().all():
                raise FtlabError(
                    f"The adapter's weight {key} contains NaN or infinity: its training diverged, "
                    "so choose another."
                )
            name = next((n for n in _names_in_base(key) if n in own), None)
            if name is None or (key.endswith(name) and _is_in(name, replaced)):
                continue
            held = own[name].detach()
            if saved.shape != held.shape or not torch.equal(saved.to(held), held):
                raise FtlabError(
                    f"The adapter contains a changed copy of the base's weight {name}, which all "
                    "panes share; train and save it with modules_to_save, or choose another."
                )
            copies.append(key)
    return copies


def _is_in(name: str, modules: tuple[str, ...]) -> bool:
    """Whether PEFT treats the weight of that name as one of the `modules_to_save`."""
    parents = accumulate(name.split(".")[:-1], "{}.{}".format)
    return any(parent.endswith(modules) for parent in parents)


def _names_in_base(key: str) -> Iterator[str]:
    """Yields possible names in the base for the adapter's weight `key`."""
    inner = re.sub(r"\.(base_layer|original_module)\b", "", key)
    yield from (inner.removeprefix(prefix) for prefix in _PREFIXES if inner.startswith(prefix))


def _ignoring(copies: Collection[str]) -> dict[str, str]:
    """A `key_mapping` that renames these weights, so that PEFT ignores them."""
    names = (key.removeprefix(_PREFIXES[0]) for key in copies)
    return {rf"^{re.escape(name)}$": f"a_copy_of.{name}" for name in names}


def _check_every_weight_is_used(model: PeftModel, weights: Path, copies: Collection[str]) -> None:
    """PEFT silently ignores weights that do not exist in the model."""
    used = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    with safe_open(weights, framework="pt") as file:
        over = sorted(set(file.keys()) - used - set(copies))
    if over:
        raise FtlabError(
            f"The model has no place for {len(over)} of the adapter's weights, as {over[0]}; it "
            "is made for another model, so choose another."
        )


def _is_plain(module: LoraLayer, name: str) -> bool:
    return (
        type(module).__name__ in _PLAIN_LAYERS
        and name in module.lora_A
        and name not in module.lora_variant
        and not module.lora_bias.get(name)
        and not module.merged
        and not module.disable_adapters
    )


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():  # LLM.int8 keeps its weights outside the parameter
        state = getattr(module, "state", None)
        for name in ("CB", "SCB"):
            tensor = getattr(state, name, None)
            if isinstance(tensor, Tensor):
                yield tensor


def put_part(base: PreTrainedModel, source: PaneSource) -> Attached:
    """Clones the base and replaces the source's weights; all other weights are shared.

    Raises `FtlabError` if they are missing, damaged or made for another shape, and on a base in 4
    bits: they are full 16-bit weights that were trained together with other 16-bit weights.
    """
    folder = _complete(source, FACTS, WEIGHTS)
    if is_quantised(base):
        raise FtlabError(
            f"'{source.label}' has trained weights in 16 bits, which cannot replace weights of a "
            "base held in 4 bits; answer in 16 or 32 bits, or leave it out."
        )
    clone = clone_on_same_weights(base)
    try:
        put_trained_weights(clone, folder)
    except (FtlabError, MemoryError):
        raise
    except Exception as error:
        traceback.print_exc()
        raise FtlabError(
            f"The weights of '{source.label}' cannot be read: they are damaged "
            f"({one_line(error)[:160]}); run it again, or choose another."
        ) from error
    return Attached(None, clone.eval().requires_grad_(False), sha256_of([folder / WEIGHTS]))
