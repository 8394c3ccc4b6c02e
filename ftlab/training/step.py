"""One training step: its precision, its batch, and the loss on the completion alone.

A language model's logits are the largest tensor of a small fine-tune: (rows, length, vocabulary).
Only the positions before a completion token are projected on the vocabulary, and where even those
are many, some at a time (Wijmans et al. 2024, "Cut your losses in large-vocabulary language
models", avoid the same tensor with a kernel of their own).
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
from transformers.utils import ModelOutput

from ftlab.basics.errors import FtlabError
from ftlab.models.generation import soft_outputs
from ftlab.models.loading import compute_dtype
from ftlab.settings.training import DtypePolicy
from ftlab.tasks.formatting import FormattedExample
from ftlab.tasks.order import padded_length


@dataclass(frozen=True)
class Arithmetic:
    """The precision of forward and backward under one dtype policy.

    Under `bf16` and `mixed` products are computed in 16 bits over weights of any type, so fp32
    adapters stay fp32 masters. fp16 (CUDA without bf16) is left to the Trainer, which scales the
    gradients.
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
    """Stops PEFT from raising every layer's input to the fp32 of the adapter's masters.

    Autocast then computes the adapter's two products in 16 bits, as it does the base's.
    """
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            setattr(module, "cast_input_dtype_enabled", False)  # noqa: B010 - typed as a Tensor


IGNORED = -100
"""The label of a position that carries no loss, as torch's cross entropy has it."""

Batch = dict[str, Any]
"""Tensors of one batch, and facts about it as plain numbers, so that no step asks the device:

`input_ids`, `attention_mask` and `labels` are (rows, length). `kept` holds the places before each
completion token, counted through all rows, `targets` those tokens and `rows` the row of each, all
(tokens with loss,). `tokens` is how many are no padding.
"""


class OrderedExamples(Dataset[FormattedExample]):
    """The training set in the order in which it is seen."""

    def __init__(self, formatted: Sequence[FormattedExample], order: Sequence[int]) -> None:
        self._formatted = formatted
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> FormattedExample:
        return self._formatted[self._order[position]]

    def fingerprint(self) -> str:
        """SHA-256 over the tokens of the examples in order: equal where a model sees the same.

        Hashed are the SHA-256 of each example, one after another: the number of its prompt's tokens
        and all its token ids, as 32-bit little-endian numbers. The seed is not in it.
        """
        each = {index: _digest(self._formatted[index]) for index in dict.fromkeys(self._order)}
        return hashlib.sha256(b"".join(each[index] for index in self._order)).hexdigest()


def _digest(example: FormattedExample) -> bytes:
    numbers = (len(example.prompt_ids), *example.prompt_ids, *example.completion_ids)
    return hashlib.sha256(struct.pack(f"<{len(numbers)}I", *numbers)).digest()


def collate(examples: Sequence[FormattedExample], pad_id: int) -> Batch:
    """Pads on the right.

    Padding is masked by attention, never by token id: some models pad with their end token.
    """
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
    """The batch of those tensors on the CPU. The first token of a row has none before it."""
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
    }


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on the device."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


LOGITS_AT_ONCE = 1 << 25
"""Logits computed at a time: 134 MB in fp32. With a vocabulary of 128k, those of 256 tokens."""


def completion_losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """The loss of every completion token.

    Returns `(losses, rows)`, each of shape (tokens with loss,): nats in fp32, and the row of the
    batch that each token belongs to. Raises `FtlabError` if no token of the batch carries loss.
    """
    targets, rows = batch["targets"], batch["rows"]
    if not targets.numel():
        raise FtlabError(
            f"None of the {len(batch['labels'])} examples of a batch has a completion token, so it "
            "has no loss; give each example an answer."
        )
    soft = soft_outputs(model)
    kept = batch["kept"] + (rows + 1) * soft if soft else batch["kept"]
    # No attention mask: a causal model's tokens never see the padding, which is on their right.
    inputs = {"input_ids": batch["input_ids"], "use_cache": False}
    causal_lm = _causal_lm(model)
    head = getattr(causal_lm, "get_output_embeddings", lambda: None)()
    if head is None:
        return _losses(model(**inputs).logits.flatten(0, 1)[kept], targets), rows
    at_once = max(1, LOGITS_AT_ONCE // int(head.weight.shape[0]))
    if len(targets) > at_once:
        backbone_output = _run_backbone(model, causal_lm, inputs, kept[:0])
        if backbone_output is not None:
            return _losses_by_part(causal_lm, backbone_output, kept, targets, at_once), rows
    with _only_at(head, kept):
        return _losses(model(**inputs).logits, targets), rows


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="none")


def _causal_lm(model: nn.Module) -> Any:
    """The causal language model without PEFT's wrapper around it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


@contextmanager
def _only_at(head: nn.Module, kept: Tensor) -> Iterator[None]:
    """Hands the output layer the hidden states of those places alone, (places, width).

    `kept` counts places through all rows. transformers' own `logits_to_keep` takes a mask for as
    much, and a GPU has to be waited for to count what a mask picks.
    """

    def choose(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0].flatten(0, -2).index_select(0, kept), *inputs[1:])

    hook = head.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        hook.remove()


def _losses_by_part(
    causal_lm: Any, backbone_output: ModelOutput, kept: Tensor, targets: Tensor, at_once: int
) -> Tensor:
    """The losses of `at_once` tokens at a time; their logits are computed again backwards."""

    def losses(hidden: Tensor, part: Tensor) -> Tensor:
        with _backbone_returning(causal_lm, backbone_output, hidden[None]):
            logits = causal_lm(inputs_embeds=hidden[None], use_cache=False).logits
        return _losses(logits[0], part)

    hidden = backbone_output["last_hidden_state"].flatten(0, -2).index_select(0, kept)
    parts = zip(hidden.split(at_once), targets.split(at_once), strict=True)
    return torch.cat([checkpoint(losses, *part, use_reentrant=False) for part in parts])


def _run_backbone(
    model: nn.Module, causal_lm: Any, inputs: dict[str, Any], nowhere: Tensor
) -> ModelOutput | None:
    """What the layers below the output layer return; `None` where they cannot be told apart.

    The whole model is run, since PEFT puts soft tokens in at the top, but for no logits at all.
    OPT and its like, where this is in vain, have small vocabularies and seldom come here.
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
    """Stands in for the backbone and returns what it is given."""

    def __init__(self, output: ModelOutput) -> None:
        super().__init__()
        self._output = output

    def forward(self, *_: Any, **__: Any) -> ModelOutput:
        return self._output


@contextmanager
def _backbone_returning(causal_lm: Any, output: ModelOutput, hidden: Tensor) -> Iterator[None]:
    """Lets the model turn some hidden states into logits in its own way.

    So whatever an architecture does to its logits (a soft cap, a scale) is done.
    """
    name = causal_lm.base_model_prefix
    backbone = getattr(causal_lm, name)
    setattr(causal_lm, name, _Given(type(output)(**{**output, "last_hidden_state": hidden})))
    try:
        yield
    finally:
        setattr(causal_lm, name, backbone)
