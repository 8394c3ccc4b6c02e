"""The loss on the completion alone, the same for every architecture as the plain way gives it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.models import (
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    Qwen2Config,
)  # fmt: skip

from ftlab.basics.errors import FtlabError
from ftlab.models.generation import virtual_tokens
from ftlab.tasks.formatting import FormattedExample
from ftlab.training import step as loss_module
from ftlab.training.step import IGNORED, Batch, OrderedExamples, collate, completion_losses
from tests.training.steps import examples_of

SHAPE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 211, "initializer_range": 0.3, "pad_token_id": 0,
}  # fmt: skip
ARCHITECTURES: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "gemma2, soft-capped logits": lambda: Gemma2Config(
        **SHAPE, head_dim=32, final_logit_softcapping=3.0, sliding_window=8
    ),
    "gpt2": lambda: GPT2Config(
        n_embd=64, n_layer=2, n_head=2, vocab_size=211, initializer_range=0.3, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0,
    ),
    "cohere, scaled logits": lambda: CohereConfig(**SHAPE, logit_scale=0.25),
    "granite, divided logits": lambda: GraniteConfig(**SHAPE, logits_scaling=4.0),
    "mixtral, a mixture of experts": lambda: MixtralConfig(**SHAPE, num_local_experts=2),
    "opt, a backbone that is never called whole": lambda: OPTConfig(
        hidden_size=64, ffn_dim=96, num_hidden_layers=2, num_attention_heads=2, vocab_size=211,
        word_embed_proj_dim=64, init_std=0.3, dropout=0.0,
    ),
}  # fmt: skip
LORA_TARGETS = {
    "gpt2": ["c_attn", "c_proj"],
    "mixtral, a mixture of experts": ["q_proj", "v_proj"],
}


def full(architecture: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(ARCHITECTURES[architecture]())


def lora(architecture: str) -> Any:
    targets = LORA_TARGETS.get(architecture, "all-linear")
    config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(full(architecture), config)


def prompt_tuning(architecture: str) -> Any:
    config = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    return get_peft_model(full(architecture), config)


def batch_of(*lengths: tuple[int, int]) -> Batch:
    """Random examples of so many prompt and completion tokens each."""
    torch.manual_seed(7)
    examples = [
        FormattedExample(
            "",
            "",
            tuple(torch.randint(1, 200, (prompt,)).tolist()),
            tuple(torch.randint(1, 200, (completion,)).tolist()),
        )
        for prompt, completion in lengths
    ]
    return collate(examples, pad_id=0)


BATCH = batch_of((5, 4), (9, 1), (3, 8), (12, 3))


def plain_loss(model: Any, batch: Batch) -> torch.Tensor:
    """All positions' logits under an attention mask, shifted by hand."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    logits = logits[:, virtual_tokens(model) :]
    return F.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]).float(),
        batch["labels"][:, 1:].reshape(-1),
        ignore_index=IGNORED,
    )


def assert_same_loss_and_gradient(build: Callable[[str], Any], architecture: str) -> None:
    ours, theirs = build(architecture), build(architecture)
    loss, reference = completion_losses(ours, BATCH)[0].mean(), plain_loss(theirs, BATCH)
    torch.testing.assert_close(loss, reference, rtol=1e-5, atol=0)
    loss.backward()
    reference.backward()
    learning = 0
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None and b.grad is not None and b.grad.norm() > 0:
            assert (a.grad - b.grad).norm() <= 1e-5 * b.grad.norm(), name
            learning += 1
    assert learning


@pytest.mark.parametrize("build", [full, lora, prompt_tuning])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kept_logits_give_the_plain_loss_and_gradient(architecture: str, build: Any) -> None:
    assert_same_loss_and_gradient(build, architecture)


@pytest.mark.parametrize("build", [lora])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_computed_a_few_tokens_at_a_time_change_nothing(
    architecture: str, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", 211 * 3)
    assert_same_loss_and_gradient(build, architecture)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_more_logits_are_computed_at_once_than_allowed_where_the_backbone_is_known(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", 211 * 3)
    most = 16 if architecture.startswith("opt") else 3
    model = full(architecture)
    seen: list[int] = []
    model.get_output_embeddings().register_forward_hook(
        lambda module, given, output: seen.append(output.numel() // output.shape[-1])
    )
    losses, _ = completion_losses(model, BATCH)
    assert max(seen) == most
    losses.sum().backward()
    assert max(seen) == most


def test_an_evaluation_in_bf16_may_compute_logits_in_parts_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = prompt_tuning("llama").eval()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        whole, _ = completion_losses(model, BATCH)
        monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", 211 * 3)
        parts, _ = completion_losses(model, BATCH)
    torch.testing.assert_close(parts, whole, rtol=0.02, atol=0)


def test_a_model_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", 211 * 3)
    model = full("llama")
    backbone, names = model.model, list(model.state_dict())
    completion_losses(model, BATCH)[0].sum().backward()
    assert model.model is backbone
    assert list(model.state_dict()) == names


class OldLlama(torch.nn.Module):
    """An architecture that computes all logits or none."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, use_cache: bool = False, attention_mask: Any = None) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)


def test_an_architecture_that_keeps_no_chosen_logits_gets_the_plain_loss() -> None:
    assert_same_loss_and_gradient(lambda name: OldLlama(full(name)), "llama")


def test_every_loss_knows_its_row() -> None:
    losses, rows = completion_losses(full("llama"), BATCH)
    assert losses.shape == rows.shape
    assert [int((rows == row).sum()) for row in range(4)] == [4, 1, 8, 3]


def test_a_completion_of_one_token_has_the_loss_of_that_token() -> None:
    batch = batch_of((6, 1))
    model = full("llama")
    losses, _ = completion_losses(model, batch)
    logits = model(batch["input_ids"][:, :6]).logits[0, -1]
    expected = -logits.log_softmax(-1)[batch["input_ids"][0, 6]]
    torch.testing.assert_close(losses, expected[None], rtol=1e-5, atol=0)


def test_a_batch_with_no_completion_token_is_refused_in_a_sentence() -> None:
    with pytest.raises(FtlabError, match="None of the 2 examples of a batch has a completion"):
        completion_losses(full("llama"), batch_of((4, 0), (7, 0)))


def test_an_example_with_no_completion_token_takes_no_part() -> None:
    model = full("llama")
    losses, rows = completion_losses(model, batch_of((4, 0), (7, 2)))
    assert rows.tolist() == [1, 1]
    assert losses.isfinite().all()


def test_padding_is_on_the_right_and_only_the_completion_carries_loss(tiny_model: Path) -> None:
    items = examples_of(tiny_model)[:2]
    batch = collate(items, pad_id=0)
    rows, length = batch["input_ids"].shape
    assert rows == 2
    assert length % 8 == 0
    assert 0 <= length - max(item.length for item in items) < 8
    for row, item in enumerate(items):
        labels = batch["labels"][row]
        assert labels[labels != IGNORED].tolist() == list(item.completion_ids)
        assert batch["attention_mask"][row].sum() == item.length
        assert torch.all(batch["attention_mask"][row, : item.length] == 1)


def test_the_fingerprint_is_of_the_tokens_in_their_order_and_of_nothing_else() -> None:
    one, two = (FormattedExample("a", "b", (n, 2), (3,)) for n in (1, 7))
    first = OrderedExamples([one, two], [0, 1, 0]).fingerprint()
    assert first == OrderedExamples([two, one], [1, 0, 1]).fingerprint()
    for other, order in (([one, two], [0, 0, 1]), ([one, two], [0, 1]), ([one, one], [0, 1, 0])):
        assert OrderedExamples(other, order).fingerprint() != first
    moved = FormattedExample("a", "b", (1,), (2, 3))  # the same tokens, more of them with loss
    assert OrderedExamples([moved, two], [0, 1, 0]).fingerprint() != first
