"""Tests on a tiny model what each method can do with the installed versions.

A method is trained, saved, loaded in a new process, merged, and tried on 4-bit and 8-bit bases and
with gradient checkpointing. A failed check is recorded with its reason; the probe continues.
"""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.processes import python_environment
from ftlab.basics.words import join_names, shorten
from ftlab.methods.capabilities import Capability
from ftlab.methods.registry import METHODS
from ftlab.methods.spec import BasePrecision, MethodSpec, RunPlan
from ftlab.methods.variant import Variant, with_settings
from ftlab.models.generation import generation_inputs, greedy_config, virtual_tokens
from ftlab.models.loading import load_base_model
from ftlab.models.reference import ModelReference
from ftlab.models.resolve import ResolvedModel
from ftlab.training import probe_reload
from ftlab.training.model import (
    added_loss,
    after_optimizer_step,
    apply_method,
    count_parameters,
    own_optimizer,
    save_initial,
    save_result,
    shipped_bytes,
)
from ftlab.training.probe_reload import Reloaded, Request
from ftlab.training.step import IGNORED, Batch, completion_losses, make_batch

CPU = torch.device("cpu")
END, START = "<|end|>", "<|start|>"
NEW_TOKENS = 8
_PROMPT, _ANSWER, _ROWS, _LETTERS = 6, 18, 4, 12
_SPREAD = 0.1  # large enough that every layer affects the logits


def in_silence() -> None:
    """Sets up this process for a probe: one thread, as the model is too small for more, no logs."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it logs every int8 product
    torch.set_num_threads(1)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a byte tokenizer with 258 tokens; it pads with its end token, as SmolLM2's does."""
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
    """A Llama with two layers and random weights in a folder; every size is a multiple of 64."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, biases: bool = False) -> TinyModel:
        """Writes the model; `biases` adds attention biases, which Llama does not have."""
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
        """Loads the model in eval mode, in fp32 or with linear layers in 4 or 8 bits."""
        source = ResolvedModel(ModelReference("folder", "/tiny-llama"), self.folder)
        return load_base_model(source, "fp32", precision, CPU).eval()


def fixed_batch() -> Batch:
    """Returns a fixed batch of shape (4, 24): prompts of random tokens, answers of few letters."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(2, 258, (_ROWS, _PROMPT), generator=generator)
    answers = torch.randint(60, 60 + _LETTERS, (_ROWS, _ANSWER), generator=generator)
    ids = torch.cat([prompts, answers], dim=1)
    labels = ids.clone()
    labels[:, :_PROMPT] = IGNORED
    return make_batch(ids, torch.ones_like(ids), labels)


def fixed_prompts() -> dict[str, Tensor]:
    """Returns the prompts of the batch, as inputs of `generate`."""
    ids = fixed_batch()["input_ids"][:, :_PROMPT]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def greedy() -> GenerationConfig:
    return greedy_config(NEW_TOKENS, [0], 0)


@torch.no_grad()
def logits_of(model: nn.Module) -> Tensor:
    """Returns the logits on the fixed batch, (4, 24, vocabulary), without those of soft tokens."""
    ids = fixed_batch()["input_ids"]
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :]
    return logits


@torch.no_grad()
def answers_of(model: Any) -> Tensor:
    """Generates answers to the fixed prompts as the app does: (4, `NEW_TOKENS`) token ids."""
    callee, inputs = generation_inputs(model, fixed_prompts())
    output = callee.generate(**inputs, generation_config=greedy())
    return new_tokens(output[:, _PROMPT:] if "input_ids" in inputs else output)


@torch.no_grad()
def likeliest_answers(model: nn.Module) -> Tensor:
    """Greedy answers from a full forward pass per token, without a cache and without `generate`."""
    ids = fixed_prompts()["input_ids"]
    done = torch.zeros(len(ids), dtype=torch.bool)
    for _ in range(NEW_TOKENS):
        token = model(input_ids=ids, use_cache=False).logits[:, -1].argmax(-1)
        token = token.masked_fill(done, 0)
        done |= token == 0
        ids = torch.cat([ids, token[:, None]], dim=1)
    return ids[:, _PROMPT:]


def new_tokens(tokens: Tensor) -> Tensor:
    """Pads the tokens to `NEW_TOKENS` if all rows ended early."""
    return nn.functional.pad(tokens, (0, NEW_TOKENS - tokens.shape[1]), value=0)


STEPS = 20
FALL = 0.05
"""The relative decrease from its first value at which the loss counts as fallen."""

LADDER = (1, 4, 16, 64)
"""Multiples of a method's default learning rate, tried in this order until the loss falls."""

EARLY = 2
"""The step whose gradients are kept; at the first step, half of LoRA's gradients are zero."""


@dataclass(frozen=True)
class Trained:
    """A trained model. `losses` are those before each step, and the one after the last step.

    `gradients` are those of step `EARLY`, by the names of the trainable parameters.
    """

    model: Any
    losses: tuple[float, ...]
    gradients: dict[str, Tensor] = field(repr=False)
    trainable: int
    initial: Path | None

    @property
    def fell(self) -> bool:
        return self.losses[-1] <= (1 - FALL) * self.losses[0]

    @property
    def change(self) -> str:
        return f"{self.losses[0]:.2f} to {self.losses[-1]:.2f}"


def train_tiny(
    tiny: TinyModel,
    variant: Variant,
    precision: BasePrecision | None,
    rate: float,
    scratch: Path,
    steps: int = STEPS,
    checkpointing: bool = False,
) -> Trained:
    """Trains the variant on the fixed batch; `rate` is the constant learning rate.

    Raises `NotANumber` if a loss is not finite, and any error of PEFT, torch or ftlab.
    """
    base = tiny.load(precision)
    torch.manual_seed(0)
    model: Any = apply_method(
        base, variant, "fp32", checkpointing, RunPlan(STEPS, str(tiny.folder))
    )
    initial = save_initial(model, scratch / "initial")
    if checkpointing:  # as in transformers' Trainer
        model.activation_checkpointing_enable(
            activation_checkpointing_kwargs={"use_reentrant": False}
        )
    model.train()
    options: dict[str, Any] = {"lr": rate, "weight_decay": 0.0}
    optimizer = own_optimizer(variant, model, torch.optim.AdamW, options) or torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad], **options
    )
    batch, losses, gradients = fixed_batch(), [], {}
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = completion_losses(model, batch)[0].mean()
        losses.append(_finite(loss, step))
        added = added_loss(model)
        (loss if added is None else loss + added).backward()
        if step == EARLY:
            gradients = {
                name: parameter.grad.clone()
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            }
        optimizer.step()
        after_optimizer_step(model, step, lambda: False)
    with torch.no_grad():
        losses.append(_finite(completion_losses(model, batch)[0].mean(), steps))
    model.zero_grad()
    trainable, _ = count_parameters(model)
    return Trained(model, tuple(losses), gradients, trainable, initial)


def climb(
    tiny: TinyModel, variant: Variant, precision: BasePrecision | None, scratch: Path
) -> tuple[int, Trained]:
    """Returns the first factor in `LADDER` at which the loss falls, and the model trained with it.

    If the loss never falls, returns the smallest factor. Skips factors with a non-finite loss;
    raises `NotANumber` if all have one.
    """
    tried: dict[int, Trained] = {}
    error: FtlabError | None = None
    for times in LADDER:
        rate = times * _rate(variant)
        try:
            tried[times] = train_tiny(tiny, variant, precision, rate, scratch / str(times))
        except NotANumber as reason:
            error = reason
            continue
        if tried[times].fell:
            return times, tried[times]
    if not tried:
        assert error is not None
        raise error
    return next(iter(tried.items()))


def _rate(variant: Variant) -> float:
    return variant.learning_rate or variant.spec.learning_rate


class NotANumber(FtlabError):
    """A loss that is infinite or NaN."""


def _finite(loss: Tensor, step: int) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NotANumber(f"the loss is no number at step {step}")
    return value


def in_plain_words(error: BaseException) -> str:
    """Returns a known explanation of the error, else its first sentence, without a full stop."""
    text = one_line(error)
    for part, words in _KNOWN:
        if part in text:
            return words
    return shorten(text.split(". ")[0].rstrip("."), 160)


_KNOWN = (
    ("floating point dtype can require grad", "weights in so few bits cannot learn"),
    ("initialize PiSSA under", "its start is taken from weights in 16 bits or more"),
    ("no attribute 'unsqueeze'", "PEFT loses the scales of 8-bit weights on a CPU"),
    ("shapes cannot be multiplied", "PEFT takes packed weights for ones of full size"),
    ("must match the size of tensor b", "it turns off the cache, in which a prefix lies"),
    ("is invalid for input of size", "PEFT takes packed weights for ones of full size"),
)
"""Parts of observed error messages of PEFT and torch, and their causes."""

_CHECKS = {
    "trains": "training",
    "loss_falls": "learning",
    "saves": "saving",
    "reloads": "loading again",
    "generates": "answering",
    "changes_output": "changing the text",
    "merges": "merging",
    "on_4bit": "on 4 bits",
    "on_8bit": "on 8 bits",
    "with_checkpointing": "gradient checkpointing",
    "base_untouched": "leaving the base alone",
    "plain_generate": "PEFT's own generate",
}


def whole_reason(reasons: Mapping[str, str]) -> str:
    """Joins the reasons by check to one text; checks with the same reason share a sentence."""
    shared: dict[str, list[str]] = {}
    for check, why in reasons.items():
        shared.setdefault(why, []).append(_CHECKS[check])
    parts = [f"{join_names(names)}: {why}." for why, names in shared.items()]
    return " ".join(part[0].upper() + part[1:] for part in parts)


SAME_MERGED = 1e-3
SAME_GRADIENT = 1e-4
SAME_START = 1e-3
"""Tolerances: for logits (magnitude about 10) after a merge, for a gradient relative to its largest
value, and for a loss in nats."""


@dataclass
class Findings:
    """The results so far; `reasons` has a sentence for every failed check."""

    found: dict[str, bool | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def ask(self, check: str, question: Callable[[], str]) -> bool:
        """Runs a check; `question` returns the reason of the failure, or "" on success."""
        try:
            why = question()
        except Exception as error:
            why = in_plain_words(error)
        self.found[check] = not why
        if why:
            self.reasons[check] = why
        return not why


@dataclass
class Probed:
    """A method that was trained and saved here; the checks in a new process are still missing."""

    spec: MethodSpec
    findings: Findings
    rate_factor: int | None = None
    adapter_bytes: int | None = None
    request: Request | None = None


def variant_to_probe(method_id: str) -> Variant:
    """The method with the settings that it has on the tiny model."""
    spec = METHODS[method_id]
    return with_settings(Variant(spec.id), spec.probe.settings)


def probe(variants: Iterable[Variant], folder: Path) -> dict[str, Capability]:
    """Probes the variants, one of each method, by its id; `folder` is for temporary files."""
    plain = TinyModel.make(folder / "tiny-llama")
    biased = TinyModel.make(folder / "tiny-llama-with-biases", biases=True)
    probed = []
    for variant in variants:
        tiny = biased if variant.spec.probe.needs_biases else plain
        probed.append(_Probe(variant, tiny, folder / "methods" / variant.method).run())
    answers = _reload([item.request for item in probed if item.request], folder)
    return {item.spec.id: _capability(item, answers.get(item.spec.id)) for item in probed}


@cache
def _base_answers(tiny: TinyModel, precision: BasePrecision | None) -> Tensor:
    return answers_of(tiny.load(precision))


@cache
@torch.no_grad()
def _base_loss(tiny: TinyModel, precision: BasePrecision | None) -> float:
    return float(completion_losses(tiny.load(precision).train(), fixed_batch())[0].mean())


class _Probe:
    """All checks of one variant in this process."""

    def __init__(self, variant: Variant, tiny: TinyModel, folder: Path) -> None:
        self._spec = variant.spec
        self._tiny = tiny
        self._folder = folder
        self._variant = variant
        self._findings = Findings()
        self._probed = Probed(self._spec, self._findings)

    def run(self) -> Probed:
        ask = self._findings.ask
        if not ask("trains", self._train):
            return self._probed
        trained, factor = self._trained, self._probed.rate_factor
        assert factor is not None
        self._rate = factor * _rate(self._variant)
        model = trained.model.eval()
        ask("loss_falls", lambda: _fell(trained))
        ask("generates", lambda: self._generates(model))
        ask("changes_output", lambda: self._changes(model))
        if ask("saves", lambda: self._save(trained)):
            self._ask_merge()
        ask("base_untouched", lambda: self._untouched(model))
        self._ask_precision("on_4bit", "nf4")
        self._ask_precision("on_8bit", "int8")
        ask("with_checkpointing", self._checkpoints)
        return self._probed

    def _train(self) -> str:
        factor, self._trained = climb(
            self._tiny, self._variant, self._spec.base_precision, self._folder / "training"
        )
        self._probed.rate_factor = factor
        if not self._trained.trainable:
            return "no weight learns"
        if not self._trained.gradients:
            return "no weight gets a gradient"
        return ""

    def _generates(self, model: Any) -> str:
        self._answers = answers_of(model)
        if torch.equal(self._answers, likeliest_answers(model)):
            return ""
        return "the text differs from the likeliest token after token"

    def _changes(self, model: Any) -> str:
        same = torch.equal(self._answers, _base_answers(self._tiny, self._spec.base_precision))
        return "the text is the base's" if same else ""

    def _save(self, trained: Trained) -> str:
        spec, model, saved = self._spec, trained.model, self._folder / "saved"
        kind = "adapter" if spec.is_adapter else "model" if spec.ships_whole_model else "weights"
        expected = {
            "input_ids": fixed_batch()["input_ids"],
            "logits": logits_of(model),
            "prompts": fixed_prompts()["input_ids"],
            "answers": self._answers,
        }
        tokenizer = AutoTokenizer.from_pretrained(self._tiny.folder)
        save_result(model, self._variant, tokenizer, saved, trained.initial)
        tensors = {name: tensor.contiguous() for name, tensor in expected.items()}
        save_file(tensors, self._folder / probe_reload.EXPECTED)
        quantization = getattr(model.config, "quantization_config", None)
        self._probed.adapter_bytes = shipped_bytes(saved)
        self._probed.request = Request(
            spec.id,
            kind,
            str(self._tiny.folder),
            str(self._folder),
            None if quantization is None else quantization.to_dict(),
        )
        return ""

    def _ask_merge(self) -> None:
        """Checks that the saved adapter can be merged into a base in 32 bits."""
        if not self._spec.is_adapter or virtual_tokens(self._trained.model):
            self._findings.found["merges"] = None
        else:
            self._findings.ask("merges", self._merges)

    def _merges(self) -> str:
        saved = str(self._folder / "saved")
        model: Any = PeftModel.from_pretrained(self._tiny.load(), saved).eval()
        before = logits_of(model)
        after = logits_of(model.merge_and_unload(safe_merge=True))
        return _apart(float((before - after).abs().max()), SAME_MERGED)

    def _untouched(self, model: Any) -> str:
        """Removes the adapter and compares the base's weights exactly; do not use `model` again."""
        if not self._spec.is_adapter:
            return "its own weights learn"
        soft = virtual_tokens(model)
        bare = model.get_base_model() if soft else model.unload()
        held = dict(bare.named_parameters())
        for name, parameter in self._tiny.load(self._spec.base_precision).named_parameters():
            if name not in held or not torch.equal(held[name].data, parameter.data):
                return "the start is taken out of the base's weights"
        return ""

    def _ask_precision(self, check: str, precision: BasePrecision) -> None:
        own = self._spec.base_precision
        if own is None:
            self._findings.ask(check, lambda: self._learns_on(precision))
        else:
            self._findings.found[check] = self._trained.fell if own == precision else None

    def _learns_on(self, precision: BasePrecision) -> str:
        """Checks that the loss falls and starts at the base's: quantised codes are no weights."""
        again = self._again(precision)
        base = _base_loss(self._tiny, precision)
        starts_as_base = abs(self._trained.losses[0] - _base_loss(self._tiny, None)) < SAME_START
        if starts_as_base and abs(again.losses[0] - base) > SAME_START:
            return f"before any step the loss is {again.losses[0]:.2f}, the base's is {base:.2f}"
        return _fell(again)

    def _again(self, precision: BasePrecision | None, **options: Any) -> Trained:
        return train_tiny(
            self._tiny, self._variant, precision, self._rate, self._folder / "again", **options
        )

    def _checkpoints(self) -> str:
        """Compares the gradients of step `EARLY` with and without gradient checkpointing."""
        again = self._again(self._spec.base_precision, steps=EARLY, checkpointing=True)
        wanted = self._trained.gradients
        if again.gradients.keys() != wanted.keys():
            return "other weights get a gradient than without it"
        largest = max(float(gradient.abs().max()) for gradient in wanted.values())
        apart = max(float((again.gradients[name] - wanted[name]).abs().max()) for name in wanted)
        if apart <= SAME_GRADIENT * largest:
            return ""
        return f"the gradient differs by {apart / largest:.0%} from that without it"


def _fell(trained: Trained) -> str:
    return "" if trained.fell else f"the loss went from {trained.change}"


def _apart(difference: float, tolerance: float) -> str:
    return "" if difference <= tolerance else f"the logits differ by {difference:.2g}"


def _reload(requests: list[Request], folder: Path) -> dict[str, Reloaded]:
    """The results of all requests from a new process; if it fails, an error for each."""
    rows = json.dumps([asdict(request) for request in requests])
    (folder / probe_reload.REQUESTS).write_text(rows, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", probe_reload.__name__, str(folder)],
        capture_output=True,
        text=True,
        env=python_environment() | {"TRANSFORMERS_VERBOSITY": "error"},
        check=False,
    )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return {request.id: Reloaded(error=why) for request in requests}
    answers = json.loads(done.stdout.strip().splitlines()[-1])
    return {method: Reloaded(**answer) for method, answer in answers.items()}


def _capability(probed: Probed, reloaded: Reloaded | None) -> Capability:
    findings, found = probed.findings, probed.findings.found
    plan = probed.spec.probe
    if reloaded is not None:
        findings.ask("reloads", lambda: _reloads(reloaded, plan.same_logits))
        findings.ask("plain_generate", lambda: _plainly(reloaded))
    return Capability(
        id=probed.spec.id,
        trains=bool(found.get("trains")),
        loss_falls=bool(found.get("loss_falls")),
        reloads=bool(found.get("reloads")),
        generates=bool(found.get("generates")),
        changes_output=bool(found.get("changes_output")),
        plain_generate=bool(found.get("plain_generate")),
        merges=found.get("merges"),
        on_4bit=found.get("on_4bit"),
        on_8bit=found.get("on_8bit"),
        with_checkpointing=found.get("with_checkpointing"),
        base_untouched=found.get("base_untouched"),
        adapter_bytes=probed.adapter_bytes,
        rate_factor=probed.rate_factor,
        reason=whole_reason(findings.reasons),
        note=plan.note,
    )


def _reloads(reloaded: Reloaded, tolerance: float) -> str:
    if reloaded.difference is None:
        return in_plain_words(FtlabError(reloaded.error))
    return _apart(reloaded.difference, tolerance)


def _plainly(reloaded: Reloaded) -> str:
    if reloaded.same_answers is None:
        return in_plain_words(FtlabError(reloaded.answer_error or reloaded.error))
    if reloaded.same_answers:
        return ""
    return "another text than ftlab's, which puts the learnt vectors in itself"
