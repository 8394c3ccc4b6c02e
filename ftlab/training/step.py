"""One training step: its precision, its batch, and the loss on the completion tokens only.

A language model's logits are the largest tensor of a small fine-tune: (rows, length, vocabulary).
Only the positions before a completion token are projected to the vocabulary. If there are many,
they are processed in chunks (Wijmans et al. 2024, "Cut your losses in large-vocabulary language
models", avoid the same tensor with a custom kernel).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset
from transformers import DynamicCache
from transformers.utils import ModelOutput

from ftlab.basics.errors import FtlabError
from ftlab.models.decoding import cache_of
from ftlab.models.generation import soft_outputs
from ftlab.models.loading import compute_dtype
from ftlab.settings.training import DtypePolicy
from ftlab.tasks.formatting import FormattedExample, padded_length


@dataclass(frozen=True)
class Arithmetic:
    """The precision of forward and backward pass under one dtype policy.

    Under `bf16` and `mixed` matrix products use autocast to 16 bits, whatever the dtype of the
    weights, so fp32 adapters stay fp32 master weights. For fp16 (CUDA without bf16) the Trainer
    scales the gradients.
    """

    policy: DtypePolicy
    device: torch.device

    @property
    def needs_grad_scaler(self) -> bool:
        return compute_dtype(self.policy, self.device) is torch.float16

    def context(self) -> AbstractContextManager[None]:
        dtype = compute_dtype(self.policy, self.device)
        if dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=dtype)


def compute_adapters_in_low_precision(model: nn.Module) -> None:
    """Has autocast compute adapters in 16 bits; PEFT else casts each input to fp32."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            setattr(module, "cast_input_dtype_enabled", False)  # noqa: B010 - typed as a Tensor


IGNORED = -100
"""The label of a position without loss, as in torch's cross entropy."""

Batch = dict[str, Any]
"""Tensors of one batch, and counts as plain numbers, so that a step need not synchronise.

`input_ids`, `attention_mask` and `labels` are (rows, length). `kept` holds the position before each
completion token in the flattened batch, `targets` those tokens and `rows` the row of each, all of
shape (tokens with loss,). `tokens` is the number of tokens without padding, `padded` that with it.
"""


class OrderedExamples(Dataset[FormattedExample]):
    """The training set in the order of training."""

    def __init__(self, formatted: Sequence[FormattedExample], order: Sequence[int]) -> None:
        self._formatted = formatted
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> FormattedExample:
        return self._formatted[self._order[position]]

    def fingerprint(self) -> str:
        """Returns a SHA-256 over the examples' tokens in order: equal for equal training data.

        It hashes the concatenated SHA-256 of each example. That covers the number of prompt tokens
        and all token ids, as 32-bit little-endian numbers. The seed is not included.
        """
        each = {index: _digest(self._formatted[index]) for index in dict.fromkeys(self._order)}
        return hashlib.sha256(b"".join(each[index] for index in self._order)).hexdigest()


def _digest(example: FormattedExample) -> bytes:
    numbers = (len(example.prompt_ids), *example.prompt_ids, *example.completion_ids)
    return hashlib.sha256(struct.pack(f"<{len(numbers)}I", *numbers)).digest()


def collate(examples: Sequence[FormattedExample], pad_id: int) -> Batch:
    """Builds a batch padded on the right; `attention_mask` marks padding, never a token id."""
    length = padded_length(example.length for example in examples)
    shape = (len(examples), length)
    input_ids = torch.full(shape, pad_id)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED)
    for row, example in enumerate(examples):
        tokens = torch.tensor(example.prompt_ids + example.completion_ids)
        input_ids[row, : example.length] = tokens
        attention_mask[row, : example.length] = 1
        labels[row, len(example.prompt_ids) : example.length] = tokens[len(example.prompt_ids) :]
    return make_batch(input_ids, attention_mask, labels)


def make_batch(input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Batch:
    """Returns the batch on the CPU; the first token of a row never has a loss."""
    carries = labels[:, 1:] != IGNORED
    rows, places = carries.nonzero().unbind(1)
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": labels,
        "kept": rows * labels.shape[1] + places,
        "targets": labels[:, 1:][carries],
        "rows": rows,
        "tokens": int(attention_mask.sum()),
        "padded": labels.numel(),
    }


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Returns the batch with its tensors on the device."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def is_divided(model: nn.Module) -> bool:
    """Whether its weights are divided over ranks (`ftlab.training.sharding`): all of them must call
    it equally often."""
    return hasattr(model, "unshard")


LOGITS_AT_ONCE = 1 << 25
"""Logits per chunk: 134 MB in fp32, or 256 tokens with a vocabulary of 128k."""


def completion_losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Computes the loss of every completion token.

    Returns `(losses, rows)`, each of shape (tokens with loss,): nats in fp32, and the row of each
    token in the batch. Raises `FtlabError` if no token of the batch carries loss.
    """
    return read_batch(model, batch, use_cache=False).losses, batch["rows"]


@dataclass(frozen=True)
class ReadBatch:
    """`losses` as of `completion_losses`, and what answers can continue from.

    `likeliest` is the token with the largest logit where each completion token stands, (tokens with
    loss,); `cache` holds the keys and values of all tokens. Both are `None` if not asked for.
    """

    losses: Tensor
    likeliest: Tensor | None
    cache: DynamicCache | None


def read_batch(model: nn.Module, batch: Batch, use_cache: bool) -> ReadBatch:
    """Reads a batch; raises as `completion_losses`."""
    targets, rows = batch["targets"], batch["rows"]
    if not targets.numel():
        raise FtlabError(
            f"None of the {len(batch['labels'])} examples of a batch has a completion token, so it "
            "has no loss; give each example an answer."
        )
    # No attention mask: in a causal model tokens do not attend to the padding on their right.
    inputs = {"input_ids": batch["input_ids"], "use_cache": use_cache}
    causal_lm: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    kept = batch["kept"]
    soft = soft_outputs(model)
    kept = kept + (rows + 1) * soft if soft else kept
    head = getattr(causal_lm, "get_output_embeddings", lambda: None)()
    if head is None:
        output = model(**inputs)
        found = _losses(output.logits.flatten(0, 1)[kept], targets, use_cache)
        return ReadBatch(*found, cache_of(output))
    at_once = max(1, LOGITS_AT_ONCE // int(head.weight.shape[0]))
    if len(targets) > at_once and not is_divided(model):  # ranks have different numbers of parts
        backbone_output = _run_backbone(model, causal_lm, inputs, kept[:0])
        if backbone_output is not None:
            found = _losses_by_part(causal_lm, backbone_output, kept, targets, at_once, use_cache)
            return ReadBatch(*found, cache_of(backbone_output))
    with _only_at(head, kept):
        output = model(**inputs)
    return ReadBatch(*_losses(output.logits, targets, use_cache), cache_of(output))


def _losses(logits: Tensor, targets: Tensor, choose: bool) -> tuple[Tensor, Tensor | None]:
    """The losses, and with `choose` the tokens with the largest logits."""
    wide = logits.float()
    losses = F.cross_entropy(wide, targets, reduction="none")
    return losses, wide.argmax(dim=-1) if choose else None


@contextmanager
def _only_at(head: nn.Module, kept: Tensor) -> Iterator[None]:
    """Passes only the hidden states at the `kept` positions to the output layer, (kept, width).

    `kept` holds positions in the flattened batch. transformers' `logits_to_keep` would need a mask
    for this, and indexing with a mask synchronises the GPU.
    """

    def choose(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0].flatten(0, -2).index_select(0, kept), *inputs[1:])

    hook = head.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        hook.remove()


def _losses_by_part(
    causal_lm: Any,
    backbone_output: ModelOutput,
    kept: Tensor,
    targets: Tensor,
    at_once: int,
    choose: bool,
) -> tuple[Tensor, Tensor | None]:
    """Returns `_losses`, `at_once` tokens at a time; the backward pass recomputes the logits."""

    def losses(hidden: Tensor, part: Tensor) -> tuple[Tensor, Tensor | None]:
        with _backbone_returning(causal_lm, backbone_output, hidden[None]):
            logits = causal_lm(inputs_embeds=hidden[None], use_cache=False).logits
        return _losses(logits[0], part, choose)

    hidden = backbone_output["last_hidden_state"].flatten(0, -2).index_select(0, kept)
    parts = zip(hidden.split(at_once), targets.split(at_once), strict=True)
    found = [checkpoint(losses, *part, use_reentrant=False) for part in parts]
    each, chosen = zip(*found, strict=True)
    return torch.cat(each), torch.cat(chosen) if choose else None


def _run_backbone(
    model: nn.Module, causal_lm: Any, inputs: dict[str, Any], nowhere: Tensor
) -> ModelOutput | None:
    """Returns the output of the layers below the output layer; `None` if it cannot be captured.

    It runs the whole model, because PEFT inserts soft tokens there, but computes no logits. It
    fails for OPT and similar models, but they have small vocabularies and are rarely chunked.
    """
    outputs: list[Any] = []
    backbone = causal_lm.base_model
    hook = backbone.register_forward_hook(lambda module, given, output: outputs.append(output))
    try:
        with _only_at(causal_lm.get_output_embeddings(), nowhere):
            model(**inputs)
    finally:
        hook.remove()
    found = len(outputs) == 1 and isinstance(outputs[0], ModelOutput)
    return outputs[0] if found and "last_hidden_state" in outputs[0] else None


class _Given(nn.Module):
    """Replaces the backbone and returns a fixed output."""

    def __init__(self, output: ModelOutput) -> None:
        super().__init__()
        self._output = output

    def forward(self, *_: Any, **__: Any) -> ModelOutput:
        return self._output


@contextmanager
def _backbone_returning(causal_lm: Any, output: ModelOutput, hidden: Tensor) -> Iterator[None]:
    """Makes the backbone return the given hidden states, so that the model computes the logits.

    This includes the architecture's own changes of the logits (a soft cap, a scale).
    """
    name = causal_lm.base_model_prefix
    backbone = getattr(causal_lm, name)
    setattr(causal_lm, name, _Given(type(output)(**{**output, "last_hidden_state": hidden})))
    try:
        yield
    finally:
        setattr(causal_lm, name, backbone)
