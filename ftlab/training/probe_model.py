"""The tiny Llama that methods are probed on: made from a seed, with a fixed batch to learn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ftlab.methods.spec import BasePrecision
from ftlab.models.generation import generation_inputs, greedy_config
from ftlab.models.loading import load_base_model
from ftlab.models.reference import ModelReference
from ftlab.models.resolve import ResolvedModel
from ftlab.training.data import IGNORED, Batch, make_batch

CPU = torch.device("cpu")
END, START = "<|end|>", "<|start|>"
NEW_TOKENS = 8
_PROMPT, _ANSWER, _ROWS, _LETTERS = 6, 18, 4, 12
_SPREAD = 0.1  # wide enough that what a layer computes shows in the logits


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, 258 in all; it pads with its end token, as SmolLM2's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([END, START, *alphabet])}
    raw = Tokenizer(models.BPE(vocabulary, [], unk_token=None))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([END, START])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token=END, pad_token=END, bos_token=START
    )


@dataclass(frozen=True)
class TinyModel:
    """A random Llama of two layers in a folder, with every size a multiple of 64."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, biases: bool = False) -> TinyModel:
        """Writes the model; `biases` gives its attention biases, which Llama has none of."""
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            vocab_size=320,
            max_position_embeddings=128,
            initializer_range=_SPREAD,
            attention_bias=biases,
            tie_word_embeddings=True,
            eos_token_id=0,
            pad_token_id=0,
            bos_token_id=1,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        return cls(folder)

    def load(self, precision: BasePrecision | None = None) -> Any:
        """The model in eval mode and fp32, or with its linear layers in 4 or 8 bits."""
        source = ResolvedModel(ModelReference("folder", "/tiny-llama"), self.folder)
        return load_base_model(source, "fp32", precision, CPU).eval()


def fixed_batch() -> Batch:
    """Questions of random tokens, and answers of a few letters: (4, 24), the same every time."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(2, 258, (_ROWS, _PROMPT), generator=generator)
    answers = torch.randint(60, 60 + _LETTERS, (_ROWS, _ANSWER), generator=generator)
    ids = torch.cat([prompts, answers], dim=1)
    labels = ids.clone()
    labels[:, :_PROMPT] = IGNORED
    return make_batch(ids, torch.ones_like(ids), labels)


def fixed_prompts() -> dict[str, Tensor]:
    """The questions of the batch, as inputs of `generate`."""
    ids = fixed_batch()["input_ids"][:, :_PROMPT]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def greedy() -> GenerationConfig:
    return greedy_config(NEW_TOKENS, [0], 0)


@torch.no_grad()
def logits_of(model: nn.Module) -> Tensor:
    """The logits on the fixed batch, (4, 24, vocabulary), without those of soft tokens."""
    ids = fixed_batch()["input_ids"]
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :]
    return logits


@torch.no_grad()
def answers_of(model: Any) -> Tensor:
    """What the app has the model answer to the fixed prompts: (4, `NEW_TOKENS`) token ids."""
    callee, inputs = generation_inputs(model, fixed_prompts())
    output = callee.generate(**inputs, generation_config=greedy())
    return new_tokens(output[:, _PROMPT:] if "input_ids" in inputs else output)


@torch.no_grad()
def likeliest_answers(model: nn.Module) -> Tensor:
    """The same by the whole sequence anew for each token, with no cache and no `generate`."""
    ids = fixed_prompts()["input_ids"]
    done = torch.zeros(len(ids), dtype=torch.bool)
    for _ in range(NEW_TOKENS):
        token = model(input_ids=ids, use_cache=False).logits[:, -1].argmax(-1)
        token = token.masked_fill(done, 0)
        done |= token == 0
        ids = torch.cat([ids, token[:, None]], dim=1)
    return ids[:, _PROMPT:]


def new_tokens(tokens: Tensor) -> Tensor:
    """Filled up to `NEW_TOKENS` where all rows ended early."""
    return nn.functional.pad(tokens, (0, NEW_TOKENS - tokens.shape[1]), value=0)
