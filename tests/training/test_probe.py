"""The probe finds what is broken, and says so in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn

from ftlab.basics.errors import FtlabError
from ftlab.methods import registry
from ftlab.methods.capabilities import Capability
from ftlab.methods.registry import METHODS
from ftlab.methods.spec import MethodSpec
from ftlab.methods.variant import Variant
from ftlab.training import probe as probing
from ftlab.training.probe import (
    LADDER,
    Findings,
    Probed,
    TinyModel,
    answers_of,
    climb,
    in_plain_words,
    likeliest_answers,
    train_tiny,
    whole_reason,
)
from ftlab.training.probe_reload import Reloaded, Request


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return TinyModel.make(tmp_path_factory.mktemp("probe") / "tiny-llama")


@pytest.fixture
def all_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fresh process is started; it would have said that all is well."""

    def answer(requests: list[Request], folder: Path) -> dict[str, Reloaded]:
        return {request.id: Reloaded(0.0, True) for request in requests}

    monkeypatch.setattr(probing, "_reload", answer)


@pytest.fixture
def no_quantised_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing._Probe, "_ask_precision", lambda self, *_: None)


def change(monkeypatch: pytest.MonkeyPatch, spec: MethodSpec) -> None:
    """Puts the method in the place of the registry's."""
    monkeypatch.setitem(METHODS, spec.id, spec)
    monkeypatch.setitem(registry._BY_ID, spec.id, spec)


def probe_lora(folder: Path) -> Capability:
    return probing.probe(map(probing.variant_to_probe, ["lora"]), folder)["lora"]


def test_lora_can_do_everything(tmp_path: Path, all_reload: None) -> None:
    seen = probe_lora(tmp_path)
    assert seen.reason == ""
    assert seen.learns
    assert seen.answers
    for check in ("merges", "base_untouched", "on_4bit", "on_8bit", "with_checkpointing"):
        assert getattr(seen, check), check


@pytest.mark.usefixtures("all_reload", "no_quantised_base")
def test_a_method_that_does_not_train_ends_no_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("no such layer")

    change(monkeypatch, replace(METHODS["lora"], peft_config=broken))
    found = probing.probe(map(probing.variant_to_probe, ["lora", "ia3"]), tmp_path)
    assert not found["lora"].trains
    assert found["lora"].reason == "Training: ValueError: no such layer."
    assert found["lora"].adapter_bytes is None
    assert found["ia3"].learns


@pytest.mark.usefixtures("all_reload", "no_quantised_base")
def test_a_text_that_is_the_bases_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PEFT's `generate` passes over a prefix."""

    def of_the_base(model: Any) -> Any:
        bare = model.get_base_model() if isinstance(model, PeftModel) else model
        if not isinstance(model, PeftModel):
            return answers_of(bare)
        with model.disable_adapter():
            return answers_of(bare)

    monkeypatch.setattr(probing, "answers_of", of_the_base)
    probing._base_answers.cache_clear()
    seen = probe_lora(tmp_path)
    assert not seen.generates
    assert not seen.changes_output
    assert "Changing the text: the text is the base's." in seen.reason


@pytest.mark.usefixtures("all_reload", "no_quantised_base")
def test_a_merge_that_loses_the_change_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "peft.tuners.lora.LoraModel.merge_and_unload", lambda self, **_: self.unload()
    )
    seen = probe_lora(tmp_path)
    assert seen.merges is False
    assert seen.reason.startswith("Merging: the logits differ by ")


@pytest.mark.usefixtures("all_reload", "no_quantised_base")
def test_a_base_that_was_written_into_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = probing.after_optimizer_step

    def spoil(model: nn.Module, step: int, skipped: Callable[[], bool]) -> None:
        really(model, step, skipped)
        with torch.no_grad():
            next(iter(model.parameters()))[0, 0] += 1e-6

    monkeypatch.setattr(probing, "after_optimizer_step", spoil)
    assert probe_lora(tmp_path).base_untouched is False


@pytest.mark.slow
def test_a_base_in_8_bits_whose_codes_are_taken_for_weights_is_found_out(
    tmp_path: Path, all_reload: None
) -> None:
    """HRA multiplies the codes themselves: its loss falls there, from where no base begins."""
    seen = probing.probe(map(probing.variant_to_probe, ["hra"]), tmp_path)["hra"]
    assert seen.learns
    assert seen.on_8bit is False
    assert "the base's is" in seen.reason


@pytest.mark.usefixtures("all_reload", "no_quantised_base")
def test_a_gradient_that_checkpointing_changes_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = probing.train_tiny

    def wrong(*arguments: Any, **options: Any) -> Any:
        trained = really(*arguments, **options)
        if options.get("checkpointing"):
            changed = {name: 1.5 * gradient for name, gradient in trained.gradients.items()}
            return replace(trained, gradients=changed)
        return trained

    monkeypatch.setattr(probing, "train_tiny", wrong)
    seen = probe_lora(tmp_path)
    assert seen.with_checkpointing is False
    assert seen.reason == (
        "Gradient checkpointing: the gradient differs by 50% from that without it."
    )


@pytest.mark.parametrize(
    ("method", "answer", "reloads", "plain"),
    [
        ("ia3", Reloaded(2e-4, True), False, True),
        ("ia3", Reloaded(0.0, False), True, False),
        ("ia3", Reloaded(error="KeyError: 'x'"), False, False),
        ("pissa", Reloaded(5e-4, True), True, True),  # it was converted, which rounds
    ],
)
def test_the_answer_of_the_new_process_counts(
    method: str, answer: Reloaded, reloads: bool, plain: bool
) -> None:
    seen = probing._capability(Probed(METHODS[method], Findings()), answer)
    assert (seen.reloads, seen.plain_generate) == (reloads, plain)
    assert bool(seen.reason) == (method == "ia3")


def test_a_fresh_process_that_dies_is_an_answer_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    request = Request("lora", "adapter", "base", "folder")
    assert probing._reload([request], tmp_path)["lora"].error == "exit status 1"


@pytest.mark.slow
def test_the_ladder_is_climbed_until_the_loss_falls(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = replace(METHODS["lora"], learning_rate=1e-5)
    change(monkeypatch, slow)
    factor, trained = climb(tiny, Variant("lora"), None, tmp_path)
    assert factor in LADDER[1:]
    assert trained.fell
    change(monkeypatch, replace(slow, learning_rate=1e-9))
    factor, trained = climb(tiny, Variant("lora"), None, tmp_path)
    assert factor == LADDER[0]
    assert not trained.fell


def test_a_loss_that_is_no_number_is_an_error(tiny: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(FtlabError, match="the loss is no number"):
        train_tiny(tiny, Variant("full"), None, float("inf"), tmp_path, steps=2)


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning", "p_tuning"])
def test_learnt_vectors_stand_before_the_question_for_the_whole_answer(
    method: str, tiny: TinyModel, tmp_path: Path
) -> None:
    rate = METHODS[method].learning_rate
    trained = train_tiny(tiny, Variant(method), None, rate, tmp_path, steps=5)
    model = trained.model.eval()
    assert torch.equal(answers_of(model), likeliest_answers(model))


def test_the_likeliest_answer_ends_where_the_end_token_comes() -> None:
    class Ends(nn.Module):
        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
            length = input_ids.shape[1]
            token = {6: 5, 7: 0}.get(length, 9)
            logits = torch.zeros(*input_ids.shape, 10)
            logits[..., token] = 1
            return type("Output", (), {"logits": logits})

    assert likeliest_answers(Ends())[0].tolist() == [5, 0, 0, 0, 0, 0, 0, 0]
    padded = probing.new_tokens(torch.tensor([[5, 0]]))
    assert padded.tolist() == [[5, 0, 0, 0, 0, 0, 0, 0]]


def test_a_known_error_is_told_in_plain_words_and_another_is_cut() -> None:
    known = RuntimeError("only Tensors of floating point dtype can require gradients")
    assert in_plain_words(known) == "weights in so few bits cannot learn"
    assert in_plain_words(ValueError("One thing. Another.")) == "ValueError: One thing"
    assert len(in_plain_words(ValueError("x" * 500))) == 160


def test_checks_that_fail_for_one_reason_share_its_sentence() -> None:
    text = whole_reason({"on_4bit": "too few", "merges": "no", "on_8bit": "too few"})
    assert text == "On 4 bits and on 8 bits: too few. Merging: no."
