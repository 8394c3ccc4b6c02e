"""What each method can do with the installed versions: tried on a tiny model, never guessed.

A method is trained, saved, loaded in a fresh process, merged, and tried on a base in 4 and 8 bits
and with gradient checkpointing. Whatever fails is an answer with its reason; nothing ends a probe.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer

from ftlab.environment import python_environment
from ftlab.errors import FtlabError
from ftlab.methods.capabilities import Capability
from ftlab.methods.registry import METHODS
from ftlab.methods.spec import BasePrecision, MethodSpec
from ftlab.methods.variant import Variant, with_settings
from ftlab.models.generation import virtual_tokens
from ftlab.training import probe_reload
from ftlab.training.loss import completion_losses
from ftlab.training.model import save_result, shipped_bytes
from ftlab.training.probe_model import (
    TinyModel,
    answers_of,
    fixed_batch,
    fixed_prompts,
    likeliest_answers,
    logits_of,
)
from ftlab.training.probe_reload import Reloaded, Request
from ftlab.training.probe_training import EARLY, Trained, climb, train_tiny
from ftlab.training.probe_words import in_plain_words, whole_reason

SAME_MERGED = 1e-3
SAME_GRADIENT = 1e-4
SAME_START = 1e-3
"""Largest differences that count as none: of logits of a size of about 10 after a merge, of a
gradient as a share of its largest value, and of a loss in nats."""


@dataclass
class Findings:
    """The answers so far, and in `reasons` a sentence for every check that failed."""

    found: dict[str, bool | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def ask(self, check: str, question: Callable[[], str]) -> bool:
        """Answers the check; `question` returns why not, or "" where all is well."""
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
    """A method that was trained and saved here, and waits for its answers from a fresh process."""

    spec: MethodSpec
    findings: Findings
    rate_factor: int | None = None
    adapter_bytes: int | None = None
    request: Request | None = None


def probe(methods: Iterable[str], folder: Path) -> dict[str, Capability]:
    """Probes the methods of those ids; `folder` is scratch."""
    plain = TinyModel.make(folder / "tiny-llama")
    biased = TinyModel.make(folder / "tiny-llama-with-biases", biases=True)
    probed = []
    for method in methods:
        spec = METHODS[method]
        tiny = biased if spec.probe.needs_biases else plain
        probed.append(_Probe(spec, tiny, folder / "methods" / method).run())
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
    """All that is asked of one method in this process."""

    def __init__(self, spec: MethodSpec, tiny: TinyModel, folder: Path) -> None:
        self._spec = spec
        self._tiny = tiny
        self._folder = folder
        self._variant = with_settings(Variant(spec.id), spec.probe.settings)
        self._findings = Findings()
        self._probed = Probed(spec, self._findings)

    def run(self) -> Probed:
        ask = self._findings.ask
        if not ask("trains", self._train):
            return self._probed
        trained, factor = self._trained, self._probed.rate_factor
        assert factor is not None
        self._rate = factor * self._spec.learning_rate
        model = trained.model.eval()
        ask("loss_falls", lambda: _fell(trained))
        ask("generates", lambda: self._generates(model))
        ask("changes_output", lambda: self._changes(model))
        if ask("saves", lambda: self._save(trained)):
            self._ask_merge(ask)
        ask("base_untouched", lambda: self._untouched(model))
        self._ask_precision(ask, "on_4bit", "nf4")
        self._ask_precision(ask, "on_8bit", "int8")
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

    def _ask_merge(self, ask: Callable[[str, Callable[[], str]], bool]) -> None:
        """Whether the saved adapter can be laid into a base in 32 bits for good."""
        soft = self._spec.is_adapter and virtual_tokens(self._trained.model)
        if not self._spec.is_adapter or soft:
            self._findings.found["merges"] = None
            return
        ask("merges", self._merges)

    def _merges(self) -> str:
        saved = str(self._folder / "saved")
        model: Any = PeftModel.from_pretrained(self._tiny.load(), saved).eval()
        before = logits_of(model)
        after = logits_of(model.merge_and_unload(safe_merge=True))
        return _apart(before, after, SAME_MERGED)

    def _untouched(self, model: Any) -> str:
        """Compares the base's weights, bit by bit, with the adapter off; the model is used up."""
        if not self._spec.is_adapter:
            return "its own weights learn"
        soft = virtual_tokens(model)
        bare = model.get_base_model() if soft else model.unload()
        held = dict(bare.named_parameters())
        for name, parameter in self._tiny.load(self._spec.base_precision).named_parameters():
            if name not in held or not torch.equal(held[name].data, parameter.data):
                return "the start is taken out of the base's weights"
        return ""

    def _ask_precision(
        self, ask: Callable[[str, Callable[[], str]], bool], check: str, precision: BasePrecision
    ) -> None:
        own = self._spec.base_precision
        if own is None:
            ask(check, lambda: self._learns_on(precision))
        else:
            self._findings.found[check] = self._trained.fell if own == precision else None

    def _learns_on(self, precision: BasePrecision) -> str:
        """A loss that falls is not enough: what starts as the base must do so on this one as well.

        PEFT may take the codes of quantised weights for the weights.
        """
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
        """Compares the gradients of an early step with those that were had without."""
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


def _apart(one: Tensor, other: Tensor, tolerance: float) -> str:
    difference = float((one - other).abs().max())
    return "" if difference <= tolerance else f"the logits differ by {difference:.2g}"


def _reload(requests: list[Request], folder: Path) -> dict[str, Reloaded]:
    """What a fresh process says to all of them; an error for each where it did not end well."""
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
    if reloaded.difference <= tolerance:
        return ""
    return f"the logits differ by {reloaded.difference:.2g}"


def _plainly(reloaded: Reloaded) -> str:
    if reloaded.same_answers is None:
        return in_plain_words(FtlabError(reloaded.answer_error or reloaded.error))
    return (
        ""
        if reloaded.same_answers
        else ("another text than ftlab's, which puts the learnt vectors in itself")
    )
