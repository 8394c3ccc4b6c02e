"""Putting adapters on the resident base without copying or changing a weight of it.

PEFT lays the adapter over a clone: a second module tree on the base's own parameters and buffers.
What is plain LoRA arithmetic is then taken off again as pairs of small matrices, for rows of one
batch; everything else keeps its clone.

Each layer's base product is computed once for all rows. The adapters' ranks are laid side by side:
h = x [A1 A2 …], everything but a row's own slice is masked to zero, and h [B1; B2; …] is added. Two
small products a layer however many adapters there are; a row of the base has an empty slice.

On a quantised base each adapter is multiplied with its own rows instead, in PEFT's order and
precision. There a last bit that is rounded otherwise moved the first token's logits by 1 to 8 %
(SmolLM2-135M in NF4), so what is added must be PEFT's to the bit. On a CPU that is done one row
after another. On a GPU, where many small products take their time in being started and kernels
choose by shape anyway, all rows are multiplied at once.
"""

from __future__ import annotations

import copy
import hashlib
import re
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftConfig, PeftModel, PeftType, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from ftlab.basics.errors import FtlabError, one_line
from ftlab.methods.peft_rules import BASE_CHANGING_INITS
from ftlab.models.loading import FACTS, WEIGHTS, put_trained_weights
from ftlab.playground.panes import CONFIG_FILE, WEIGHTS_FILE, PaneSource

_PLAIN_LAYERS = ("Linear", "Linear8bitLt", "Linear4bit")

_PREFIXES = ("base_model.model.", "base_model.")
"""What PEFT writes before a weight's name: the first for layers, the second for soft tokens."""

Model = TypeVar("Model", bound=nn.Module)

Marks = dict[str, tuple[int, int]]
"""Where each weight lies in memory, and how often it has been written."""


@dataclass(frozen=True)
class Pair:
    """One layer's LoRA: scaling * B (A x) is added; `a` is (r, in), `b` is (out, r)."""

    a: Tensor
    b: Tensor
    scaling: float


@dataclass(frozen=True)
class LowRank:
    """Plain LoRA by the layer's name. Without layers it is the base."""

    layers: dict[str, Pair] = field(default_factory=dict)


@dataclass(frozen=True)
class Attached:
    """What a pane answers with: rows of the shared batch, or a model of its own.

    `sha256` is that of the weights file(s), "" for the base.
    """

    low_rank: LowRank | None = None
    model: PreTrainedModel | PeftModel | None = None
    sha256: str = ""


def attach(base: PreTrainedModel, source: PaneSource) -> Attached:
    """The adapter of the source on the base; the base stays as it is.

    Raises `FtlabError` if the files are missing, damaged, or made for another shape.
    """
    folder = _complete(source)
    weights = folder / WEIGHTS_FILE
    try:
        config = PeftConfig.from_pretrained(str(folder))
        _refuse_what_changes_the_base(config)
        copies = _check_numbers(weights, base, config)
        with warnings.catch_warnings():
            # To PEFT an adapter that lacks layers is worth a warning; the pane would lie.
            warnings.filterwarnings("error", message=".*missing adapter keys")
            clone: Any = clone_on_same_weights(base)
            known = dict(getattr(clone, "_checkpoint_conversion_mapping", None) or {})
            model = PeftModel.from_pretrained(
                clone,
                str(folder),
                is_trainable=False,
                key_mapping=_passing_over(copies) | known if copies else None,
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
    """A second module tree on the very same tensors; only Python objects are new."""
    memo: dict[int, object] = {id(tensor): tensor for tensor in _tensors(model)}
    for module in model.modules():
        state = getattr(module, "quant_state", None)  # of 4 bits: scales beside the parameter
        if state is not None:
            memo[id(state)] = state
    return copy.deepcopy(model, memo)


def marks(model: nn.Module) -> Marks:
    """Whatever replaces a weight of the base, or writes into it, changes these."""
    return {name: (p.data_ptr(), p._version) for name, p in model.named_parameters()}


def as_low_rank(model: PeftModel, dtype: torch.dtype) -> LowRank | None:
    """The adapter's matrices in that dtype; `None` unless it is plain LoRA on linear layers."""
    config = model.active_peft_config
    if not isinstance(config, LoraConfig) or config.peft_type != PeftType.LORA:
        return None
    if config.layer_replication or _mixes_rows(model.get_base_model()):
        return None
    name = model.active_adapter
    layers = {}
    base: Any = model.get_base_model()
    for path, module in base.named_modules():
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
    """The base's own, but fp32 on a quantised base, where PEFT computes adapters in it."""
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
    """Whether several adapters can be rows of one batch on this base."""
    return not _mixes_rows(model)


def _mixes_rows(model: nn.Module) -> bool:
    """A mixture of experts hands its layers tokens of all rows in one heap."""
    config: Any = getattr(model, "config", None)
    if config is not None:
        config = config.get_text_config()
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    return any(getattr(config, name, None) for name in names)


def _complete(source: PaneSource) -> Path:
    folder = source.folder
    assert folder is not None
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():  # PEFT would look for it on the Hub
            raise FtlabError(
                f"The adapter of '{source.label}' is not there: {name} is missing; "
                "run it again, or choose another."
            )
    return folder


def _refuse_what_changes_the_base(config: PeftConfig) -> None:
    """PiSSA and its like subtract their start from the base's weights, which all panes share."""
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
    """The names of the saved weights that are mere copies of the base's own.

    PEFT would write whatever carries the name of a base weight into the base of all panes, so one
    that is no copy is refused here, before anything is loaded; so is what is no number.
    """
    own = dict(base.named_parameters(remove_duplicate=False))
    replaced = tuple(getattr(config, "modules_to_save", None) or ())
    copies = []
    with safe_open(weights, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - no mapping
            saved = file.get_tensor(key)
            if saved.is_floating_point() and not saved.isfinite().all():
                raise FtlabError(
                    f"The adapter's weight {key} holds values that are no numbers (NaN or "
                    "infinity): its training went astray, so choose another."
                )
            name = next((n for n in _names_in_base(key) if n in own), None)
            if name is None or (key.endswith(name) and _is_in(name, replaced)):
                continue
            held = own[name].detach()
            if saved.shape != held.shape or not torch.equal(saved.to(held), held):
                raise FtlabError(
                    f"The adapter brings the base's weight {name} along, changed, and all panes "
                    "share that one; train and save it with modules_to_save, or choose another."
                )
            copies.append(key)
    return copies


def _is_in(name: str, modules: tuple[str, ...]) -> bool:
    """Whether PEFT takes the weight of that name for one of the `modules_to_save`."""
    parents = accumulate(name.split(".")[:-1], "{}.{}".format)
    return any(parent.endswith(modules) for parent in parents)


def _names_in_base(key: str) -> Iterator[str]:
    """The names under which the base may know what an adapter calls `key`."""
    inner = re.sub(r"\.(base_layer|original_module)\b", "", key)
    yield from (inner.removeprefix(prefix) for prefix in _PREFIXES if inner.startswith(prefix))


def _passing_over(copies: Collection[str]) -> dict[str, str]:
    """PEFT's `key_mapping` by which it finds no place for these."""
    names = (key.removeprefix(_PREFIXES[0]) for key in copies)
    return {rf"^{re.escape(name)}$": f"a_copy_of.{name}" for name in names}


def _check_every_weight_is_used(model: PeftModel, weights: Path, copies: Collection[str]) -> None:
    """PEFT passes over weights that the model has no place for, without a word."""
    worn = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    with safe_open(weights, framework="pt") as file:
        saved = set(file.keys())
    over = sorted(saved - worn - set(copies))
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
    for module in model.modules():  # LLM.int8 keeps its weights beside the parameter
        state = getattr(module, "state", None)
        for name in ("CB", "SCB"):
            tensor = getattr(state, name, None)
            if isinstance(tensor, Tensor):
                yield tensor


def put_part(base: PreTrainedModel, source: PaneSource) -> Attached:
    """A clone that shares all weights with the base but those of the source.

    Raises `FtlabError` if they are missing, damaged or made for another shape, and on a base in 4
    bits: they are whole numbers of 16 bits that learnt beside others of 16.
    """
    folder = _complete_clone(source)
    if is_quantised(base):
        raise FtlabError(
            f"'{source.label}' has weights of its own in 16 bits, which cannot stand in a base "
            "held in 4; answer in 16 or 32 bits, or leave it out."
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


def _complete_clone(source: PaneSource) -> Path:
    folder = source.folder
    assert folder is not None
    for name in (FACTS, WEIGHTS):
        if not (folder / name).is_file():
            raise FtlabError(
                f"The weights of '{source.label}' are not there: {name} is missing; "
                "run it again, or choose another."
            )
    return folder


@dataclass
class _Batch:
    """What each row of the coming forwards wears.

    The hooks refer to this and not to the model that they are on: without that circle an adapter's
    memory is free as soon as nobody wears it.
    """

    device: torch.device
    rows: tuple[int, ...] = ()
    index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    _masks: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def set(self, rows: Sequence[int]) -> None:
        self.rows = tuple(rows)
        self.index = torch.tensor(self.rows, dtype=torch.long, device=self.device)
        self._masks.clear()

    def others(self, widths: tuple[int, ...], device: torch.device) -> Tensor:
        """(rows, 1, all ranks): true where the rank is not of the row's own adapter."""
        if widths not in self._masks:
            mask = torch.ones(len(self.rows), 1, sum(widths), dtype=torch.bool)
            starts = list(accumulate(widths, initial=0))
            for row, adapter in enumerate(self.rows):
                if adapter:
                    mask[row, 0, starts[adapter - 1] : starts[adapter]] = False
            self._masks[widths] = mask.to(device)
        return self._masks[widths]


Hook = Callable[..., Tensor]
"""A forward hook, which gets the batch as well."""

Way = Callable[[Sequence[Pair | None]], Sequence[Hook]]
"""Makes a layer's hooks from what each adapter has for that layer."""


def way_of(base: PreTrainedModel) -> Way:
    """How rows get what their adapters add on this base: decided here alone."""
    if not is_quantised(base):
        return together
    return one_by_one if _device_of(base).type == "cpu" else at_once


class RowAdapters:
    """A clone of the base in which each row of a batch wears an adapter of its own, or none.

    `rows` says what each row wears: 0 is the base, i + 1 is `adapters[i]`. It is set for every lane
    anew. `way` is the base's own where none is given.
    """

    def __init__(
        self, base: PreTrainedModel, adapters: Sequence[LowRank], way: Way | None = None
    ) -> None:
        self.model = clone_on_same_weights(base)
        self.adapters = tuple(adapters)
        self._batch = _Batch(_device_of(base))
        way = way or way_of(base)
        for path in dict.fromkeys(path for adapter in adapters for path in adapter.layers):
            layer = self.model.get_submodule(path)
            for hook in way([adapter.layers.get(path) for adapter in adapters]):
                layer.register_forward_hook(partial(hook, batch=self._batch))

    @property
    def rows(self) -> tuple[int, ...]:
        return self._batch.rows

    @rows.setter
    def rows(self, rows: Sequence[int]) -> None:
        assert all(0 <= row <= len(self.adapters) for row in rows)
        self._batch.set(rows)

    def wears(self, adapter: LowRank) -> int:
        """The number of that adapter in `rows`."""
        if not adapter.layers:
            return 0
        return 1 + next(i for i, known in enumerate(self.adapters) if known is adapter)


def together(pairs: Sequence[Pair | None]) -> list[Hook]:
    worn = [pair for pair in pairs if pair]
    hook = partial(
        _add_together,
        down=torch.cat([pair.a for pair in worn]).t().contiguous(),
        up=torch.cat([pair.b * pair.scaling for pair in worn], dim=1).t().contiguous(),
        widths=tuple(len(pair.a) if pair else 0 for pair in pairs),
    )
    return [hook]


def _add_together(
    layer: nn.Module,
    inputs: tuple[Tensor, ...],
    output: Tensor,
    batch: _Batch,
    down: Tensor,
    up: Tensor,
    widths: tuple[int, ...],
) -> Tensor:
    """A forward hook: the layer's output and each row's own low-rank product."""
    x, rows = _checked(inputs[0], batch), len(batch.rows)
    low = x.reshape(-1, x.shape[-1]).to(down.dtype) @ down
    # Not a product with zeros: what overflows in one adapter would be no number in every row.
    low = low.view(rows, -1, down.shape[1]).masked_fill(batch.others(widths, low.device), 0)
    flat = output.reshape(-1, output.shape[-1])
    if flat.dtype != up.dtype:  # a layer that its model keeps in fp32
        low, up = low.to(flat.dtype), up.to(flat.dtype)
    return torch.addmm(flat, low.view(-1, down.shape[1]), up).view_as(output)


def one_by_one(pairs: Sequence[Pair | None]) -> list[Hook]:
    return [partial(_add_one_by_one, pairs=pairs)]


def _add_one_by_one(
    layer: nn.Module,
    inputs: tuple[Tensor, ...],
    output: Tensor,
    batch: _Batch,
    pairs: Sequence[Pair | None],
) -> Tensor:
    """The same, one row after another and rounded as PEFT rounds."""
    x = _checked(inputs[0], batch)
    sums = output.clone()
    for adapter, own, added in zip(
        batch.rows, x.chunk(len(batch.rows)), sums.chunk(len(batch.rows)), strict=True
    ):
        pair = pairs[adapter - 1] if adapter else None
        if pair is not None:
            low = F.linear(own.to(pair.a.dtype), pair.a)
            added += (F.linear(low, pair.b) * pair.scaling).to(added.dtype)
    return sums


def at_once(pairs: Sequence[Pair | None]) -> list[Hook]:
    """A hook for each rank: a product filled up with zeros to another rank is rounded otherwise."""
    ranks = sorted({len(pair.a) for pair in pairs if pair})
    return [_of_one_rank([p if p and len(p.a) == rank else None for p in pairs]) for rank in ranks]


def _of_one_rank(pairs: Sequence[Pair | None]) -> Hook:
    """Place 0 of the stacked matrices is for rows that get nothing here."""
    worn = [pair for pair in pairs if pair]
    places = [0]
    for pair in pairs:
        places.append(max(places) + 1 if pair else 0)
    down = torch.stack([torch.zeros_like(worn[0].a), *(pair.a for pair in worn)])
    up = torch.stack([torch.zeros_like(worn[0].b), *(pair.b for pair in worn)])
    return partial(
        _add_at_once,
        down=down,
        up=up,
        scaling=up.new_tensor([0.0, *(pair.scaling for pair in worn)]).view(-1, 1, 1),
        places=torch.tensor(places, device=up.device),
    )


def _add_at_once(
    layer: nn.Module,
    inputs: tuple[Tensor, ...],
    output: Tensor,
    batch: _Batch,
    down: Tensor,
    up: Tensor,
    scaling: Tensor,
    places: Tensor,
) -> Tensor:
    """The same for all rows, each rounded as PEFT rounds. Nothing here waits for the device."""
    x, rows = _checked(inputs[0], batch), len(batch.rows)
    place = places.index_select(0, batch.index)
    own, sums = x.reshape(rows, -1, x.shape[-1]), output.reshape(rows, -1, output.shape[-1])
    own, down = own.to(down.dtype), down.index_select(0, place)
    if down.shape[1] > 1:
        low = torch.bmm(own, down.transpose(1, 2))
    else:  # in this order a product with one vector is summed up as PEFT's is
        low = torch.bmm(down, own.transpose(1, 2)).transpose(1, 2)
    added = torch.bmm(low, up.index_select(0, place).transpose(1, 2))
    added = (added * scaling.index_select(0, place)).to(sums.dtype)
    # Not a sum with zeros: what is no number in the base's own row must not be made one.
    return torch.where((place > 0).view(-1, 1, 1), sums + added, sums).view_as(output)


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _checked(x: Tensor, batch: _Batch) -> Tensor:
    """Some models lay rows end to end; (rows, length, width) is the rule."""
    rows = len(batch.rows)
    if x.shape[0] != rows and (x.dim() != 2 or x.shape[0] % rows):
        raise RuntimeError(f"{x.shape[0]} rows where {rows} wear adapters")
    return x
