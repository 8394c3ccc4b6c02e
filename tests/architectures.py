"""Tiny random models of 30 architectures with one tokenizer, and what is asked of each.

A method is trained on a model by the parts that a run is trained with, saved, loaded again and made
to answer; every step is held against the plain way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ftlab.methods.limits import incompatible_with_model
from ftlab.methods.spec import RunPlan
from ftlab.methods.variant import Variant, trainable_parameters
from ftlab.models.dimensions import shape_of_model
from ftlab.models.generation import generation_inputs, greedy_config, left_padded, virtual_tokens
from ftlab.playground.attach import attach
from ftlab.playground.decoding import Lane
from ftlab.playground.panes import PaneSource
from ftlab.playground.rows import RowAdapters
from ftlab.prediction.question import Step, ask_about
from ftlab.prediction.simulation.fake import read_config
from ftlab.prediction.simulation.step import build, count
from ftlab.tasks.formatting import FormattedExample
from ftlab.training.model import apply_method, count_parameters, save_result
from ftlab.training.probe import CPU, TinyModel, byte_tokenizer
from ftlab.training.step import IGNORED, Batch, collate, completion_losses

METHODS = ("full", "lora", "qlora", "prompt_tuning")

_SIZES: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
_WINDOW = {"head_dim": 16, "sliding_window": 64}
_GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4}
_NO_DROPOUT = dict.fromkeys(
    ("resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout", "attention_dropout", "hidden_dropout",
     "attention_probs_dropout_prob", "residual_dropout", "embedding_dropout"), 0.0,
)  # fmt: skip
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {}, "mistral": {"sliding_window": None}, "qwen2": {}, "qwen3": {"head_dim": 16},
    "gemma": {"head_dim": 16}, "gemma2": _WINDOW, "gemma3_text": _WINDOW,
    "phi": {"num_key_value_heads": 4}, "phi3": {},
    "gpt2": _GPT | {"n_positions": 256}, "gpt_neox": {},
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64}, "bloom": _GPT, "falcon": {},
    "stablelm": {}, "olmo2": {}, "granite": {}, "smollm3": {},
    "starcoder2": {"sliding_window": None}, "cohere": {}, "glm4": {"head_dim": 16},
    "exaone4": _WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}, "nemotron": {},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "qwen2_moe": _EXPERTS | {"shared_expert_intermediate_size": 128},
    "qwen3_moe": _EXPERTS | {"head_dim": 16},
    "gpt_oss": _WINDOW | {
        "num_local_experts": 4, "num_experts_per_tok": 2,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "deepseek_v3": {
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1,
        "moe_intermediate_size": 64, "first_k_dense_replace": 1, "kv_lora_rank": 16,
        "q_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16,
        "num_key_value_heads": 4, "head_dim": 8,
    },
    "mamba": {"state_size": 8, "expand": 2, "conv_kernel": 4, "time_step_rank": 4},
}  # fmt: skip
"""What each family's configuration says beside the common sizes."""


def config_of(family: str, **more: Any) -> Any:
    return AutoConfig.for_model(
        family, **(_SIZES | _NO_DROPOUT | {"initializer_range": 0.1} | FAMILIES[family] | more)
    )


def make_model(family: str, folder: Path) -> TinyModel:
    """A random model of the family in the folder, in fp32, with its tokenizer."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config_of(family)).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return TinyModel(folder)


@dataclass(frozen=True)
class Check:
    """One question about a method on a family: a short head, and what a tick means."""

    name: str
    meaning: str


CHECKS = (
    Check("learns", "every weight that should learn gets a gradient, and the loss falls"),
    Check("plain", "loss and gradients are those of all logits under an attention mask (1e-5)"),
    Check("counted", "parameters and the file's bytes are predicted exactly"),
    Check("reloads", "loaded by transformers and PEFT alone it gives the same logits"),
    Check("answers", "prompts of several lengths at once get the text that each gets alone"),
    Check("side by side", "in a playground's pane its text is its own, and the base's the base's"),
)

_RATES = {"full": 1e-3, "prompt_tuning": 0.1}
_STEPS = 4
_SAME = 1e-5
_NEW = 6


@dataclass
class Trial:
    """A method on a model: trained at once, then asked one check after another."""

    family: str
    tiny: TinyModel
    method: str
    scratch: Path

    @property
    def variant(self) -> Variant:
        return Variant(self.method)

    def refusal(self) -> str:
        """The sentence that a person gets before the run; "" where it can be trained."""
        shape = shape_of_model(str(self.tiny.folder))
        assert shape is not None
        found = incompatible_with_model(self.variant, shape)
        return "" if found is None else found.message

    def answers(self) -> dict[str, str]:
        """By the name of a check what is wrong; "" where nothing is."""
        self.model = self._new()
        asked = (
            self._learns, self._is_plain, self._is_counted, self._reloads, self._answers_at_once,
            self._answers_side_by_side,
        )  # fmt: skip
        return {check.name: ask() for check, ask in zip(CHECKS, asked, strict=True)}

    def _new(self) -> Any:
        torch.manual_seed(0)
        base = self.tiny.load(self.variant.base_precision)
        plan = RunPlan(_STEPS, str(self.tiny.folder))
        return apply_method(base, self.variant, "fp32", False, plan).train()

    def _learns(self) -> str:
        learning = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(learning.values(), lr=_RATES.get(self.method, 1e-3))
        losses = []
        moved: set[str] = set()
        for _ in range(_STEPS):
            optimizer.zero_grad()
            loss = completion_losses(self.model, _batch())[0].mean()
            loss.backward()
            moved |= {n for n, p in learning.items() if p.grad is not None and p.grad.any()}
            optimizer.step()
            losses.append(float(loss.detach()))
        self.model.zero_grad()
        still = sorted(learning.keys() - moved)
        if still:
            return f"{len(still)} weights get no gradient, as {still[0]}"
        return "" if losses[-1] < losses[0] else f"the loss went from {losses[0]} to {losses[-1]}"

    def _is_plain(self) -> str:
        found = self._gradients(completion_losses(self.model, _batch())[0].mean())
        wanted = self._gradients(_plain_loss(self.model))
        return _apart(found, wanted)

    def _gradients(self, loss: Tensor) -> dict[str, Tensor]:
        self.model.zero_grad()
        loss.backward()
        found = {n: p.grad for n, p in self.model.named_parameters() if p.grad is not None}
        self.model.zero_grad()
        return {"the loss": loss.detach()} | found

    def _is_counted(self) -> str:
        shape = shape_of_model(str(self.tiny.folder))
        assert shape is not None
        learning, total = count_parameters(self.model)
        self.saved = self.scratch / self.method
        tokenizer = AutoTokenizer.from_pretrained(self.tiny.folder)
        save_result(self.model, self.variant, tokenizer, self.saved)
        written = sum(path.stat().st_size for path in self.saved.glob("*.safetensors"))
        config = self.tiny.load().config.to_dict()
        step = Step(96, completion_tokens=8, weights="fp32", device="cpu")
        (question,) = ask_about(config, [self.variant], step)
        predicted = count(
            build(read_config(question.config), question.variant, question.step),
            question.variant,
            question.step,
        )
        pairs = {
            "by formula": (trainable_parameters(self.variant, shape), learning),
            "trainable": (predicted.trainable, learning),
            "in all": (predicted.total, total),
            "bytes": (predicted.file_bytes, written),
        }
        wrong = [f"{what} {said}, not {is_}" for what, (said, is_) in pairs.items() if said != is_]
        return "; ".join(wrong)

    @cached_property
    def _reloaded(self) -> Any:
        if self.method == "full":
            return AutoModelForCausalLM.from_pretrained(self.saved).eval()
        if self.variant.base_precision is None:
            base = AutoModelForCausalLM.from_pretrained(self.tiny.folder)
        else:
            base = self.tiny.load(self.variant.base_precision)
        return PeftModel.from_pretrained(base, str(self.saved)).eval()

    def _reloads(self) -> str:
        self.model.eval()
        return _apart({"the logits": _logits(self._reloaded)}, {"the logits": _logits(self.model)})

    def _answers_at_once(self) -> str:
        self.wanted = [_likeliest(self._reloaded, prompt) for prompt in _PROMPTS]
        callee, inputs = generation_inputs(self._reloaded, left_padded(_PROMPTS, 0, CPU))
        with torch.inference_mode():
            output = callee.generate(**inputs, generation_config=greedy_config(_NEW, [0], 0))
        if "input_ids" in inputs:
            output = output[:, inputs["input_ids"].shape[1] :]
        return _differ(_until_end(output.tolist()), self.wanted)

    def _answers_side_by_side(self) -> str:
        base = self.tiny.load(self.variant.base_precision)
        of_base = [_likeliest(base, prompt) for prompt in _PROMPTS]
        trained: Any = self._reloaded
        if self.variant.spec.is_adapter:
            source = PaneSource("a", "a", self.method, folder=self.saved, is_adapter=True)
            attached = attach(base, source)
            if attached.low_rank is not None:
                rows = RowAdapters(base, [attached.low_rank])
                rows.rows = [0] * len(_PROMPTS) + [1] * len(_PROMPTS)
                return _differ(_in_lane(rows, [*_PROMPTS, *_PROMPTS]), [*of_base, *self.wanted])
            trained = attached.model
        lanes = [(base, of_base), (trained, self.wanted)]
        return "".join(_differ(_in_lane(model, _PROMPTS), texts) for model, texts in lanes)


_PROMPTS = ([17, 90, 33, 101, 64, 12], [99, 40, 7], [201, 55, 143, 80, 21])


def _batch() -> Batch:
    """Four rows of different lengths, padded on the right."""
    generator = torch.Generator().manual_seed(0)

    def tokens(number: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, 258, (number,), generator=generator).tolist())

    sizes = ((6, 9), (3, 14), (11, 2), (5, 4))
    return collate([FormattedExample("", "", tokens(a), tokens(b)) for a, b in sizes], 0)


def _plain_loss(model: Any) -> Tensor:
    """All positions' logits under an attention mask, shifted by hand."""
    batch = _batch()
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    logits = logits[:, virtual_tokens(model) : -1].flatten(0, 1)
    return F.cross_entropy(logits, batch["labels"][:, 1:].flatten(), ignore_index=IGNORED)


@torch.no_grad()
def _logits(model: nn.Module) -> Tensor:
    logits: Tensor = model(input_ids=_batch()["input_ids"], use_cache=False).logits
    return logits


def _apart(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """What differs by more than 1e-5 of its own size."""
    if found.keys() != wanted.keys():
        return f"other weights get a gradient: {sorted(found.keys() ^ wanted.keys())[:3]}"
    for name, tensor in found.items():
        other = wanted[name]
        if (tensor - other).norm() > _SAME * other.norm():
            share = float((tensor - other).norm() / other.norm())
            return f"{name} differs by {share:.1e} of its size"
    return ""


def _likeliest(model: Any, prompt: Sequence[int]) -> list[int]:
    """The greedy answer by the whole text anew for each token, without cache and padding."""
    ids = torch.tensor([list(prompt)])
    made: list[int] = []
    with torch.inference_mode():
        while len(made) < _NEW and 0 not in made:
            whole = torch.cat([ids, torch.tensor([made], dtype=torch.long)], dim=1)
            made.append(int(model(input_ids=whole, use_cache=False).logits[0, -1].argmax()))
    return made


def _in_lane(model: Any, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The greedy answers of the playground's own generation, all rows at once."""
    lane, made = Lane(model, prompts, 0), []
    with torch.inference_mode():
        logits = lane.prefill()
        for _ in range(_NEW):
            made.append(logits.argmax(-1).tolist())
            logits = lane.step(made[-1])
    return _until_end([list(row) for row in zip(*made, strict=True)])


def _until_end(rows: list[list[int]]) -> list[list[int]]:
    return [row[: row.index(0) + 1] if 0 in row else row for row in rows]


def _differ(found: list[list[int]], wanted: list[list[int]]) -> str:
    row = next(
        (i for i, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1]), None
    )
    return "" if row is None else f"row {row} is {found[row]}, alone {wanted[row]}. "
