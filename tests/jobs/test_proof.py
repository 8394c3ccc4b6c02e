"""What a proof runs: the matched LoRA, ladders, and what is known from before."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.basics.processes import WorkerEnded
from ftlab.jobs import proof
from ftlab.jobs.peft_check import Checked
from ftlab.jobs.proof import ask_probe, known_ladder, known_sweep, proof_of
from ftlab.jobs.tuning import Ladder, Point, Tuned, tuning_settings
from ftlab.methods.capabilities import Capability, capabilities
from ftlab.methods.dimensions import ModelShape
from ftlab.methods.variant import Variant, read_variants
from ftlab.models.dimensions import shape_of_model
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from tests.fakes import SWEEP, make_run

LORA = capabilities()["lora"]
REQUEST = SweepRequest(settings=TrainingSettings(steps=4, eval_examples=4), seeds=(0, 1))
(WAVEFT,) = read_variants('{"peft_type": "WAVEFT"}')


@pytest.fixture
def llama(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> ModelShape:
    """A small model's shape in place of the bundled one's."""
    shape = shape_of_model(str(tiny_model))
    assert shape is not None
    monkeypatch.setattr(proof, "shape_of_model", lambda name: shape)
    return shape


@pytest.fixture
def peft(monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT takes the configuration, which trains 1,000 numbers."""

    def answer(variants: list[Variant], request: SweepRequest) -> list[Checked]:
        return [Checked(variant, 1000) for variant in variants]

    def normalised(request: SweepRequest) -> tuple[SweepRequest, list[object]]:
        return request, []

    monkeypatch.setattr(proof, "check_variants", answer)
    monkeypatch.setattr(proof, "check_request", normalised)


@pytest.mark.usefixtures("llama")
def test_a_method_meets_full_fine_tuning_and_a_lora_of_as_many_parameters() -> None:
    found = proof_of(Variant("pissa", {"r": 4}), REQUEST, 3, LORA)
    methods = [variant.method for variant in found.request.variants]
    assert methods == ["pissa", "lora", "full"]
    assert found.request.variants[1].hyperparameters["r"] == 4
    assert all(len(ladder.rates) == 3 for ladder in found.ladders)
    assert all(variant.learning_rate is None for variant in found.request.variants)


@pytest.mark.usefixtures("llama")
def test_lora_and_full_fine_tuning_are_not_compared_with_themselves() -> None:
    own = proof_of(Variant("full"), REQUEST, 2, LORA).request.variants
    assert [variant.method for variant in own] == ["full", "lora"]


@pytest.mark.usefixtures("llama", "peft")
@pytest.mark.parametrize(
    ("factor", "rate", "middle"), [(1, None, 1e-3), (4, None, 4e-3), (16, 5e-4, 5e-4)]
)
def test_the_ladder_of_a_peftconfig_lies_around_its_rate_or_where_the_tiny_model_learnt(
    factor: int, rate: float | None, middle: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "size_of_model", lambda name: None)
    variant = replace(WAVEFT, learning_rate=rate)
    found = proof_of(variant, REQUEST, 3, replace(LORA, rate_factor=factor))
    assert found.ladders[0].rates[1] == middle
    assert "not within 10 %" in found.matching, "no LoRA has 1,000 numbers here"


@pytest.mark.usefixtures("llama")
def test_a_wrong_value_is_refused_before_anything_runs() -> None:
    with pytest.raises(InvalidRequest, match="r is 0"):
        proof_of(Variant("lora", {"r": 0}), REQUEST, 3, LORA)


def answering(text: str | Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*asked: object, **limits: object) -> str:
        if isinstance(text, Exception):
            raise text
        return text

    monkeypatch.setattr(proof, "answer_once", answer)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (WorkerEnded(1, last="boom"), "could not be tried"),
        (TimeoutError("no answer in 300 s"), "no answer in 300 s"),
        ("{}", "could not be tried"),
    ],
)
def test_a_probe_without_an_answer_is_one_sentence(
    said: str | Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(said, monkeypatch)
    with pytest.raises(FtlabError, match=words):
        ask_probe(WAVEFT)


def test_what_cannot_be_trained_at_all_ends_the_proof_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = replace(LORA, trains=False, reason="scikit-learn is required.")
    answering(json.dumps(asdict(found)), monkeypatch)
    with pytest.raises(FtlabError, match=r"WAVEFT does not train .*scikit-learn is required"):
        ask_probe(WAVEFT)


@pytest.mark.slow
@pytest.mark.model
def test_a_peftconfig_is_probed_in_a_process_of_its_own() -> None:
    found = ask_probe(WAVEFT)
    assert isinstance(found, Capability)
    assert found.learns
    assert found.reloads
    assert found.merges


@pytest.mark.usefixtures("llama")
def test_a_rival_without_a_rate_is_left_out_with_its_reason_and_the_method_ends_the_proof() -> None:
    found = proof_of(Variant("pissa"), REQUEST, 2, LORA)
    own, lora, full = found.request.variants
    rate, none = (Point(1e-3, "done", (1.0,)),), (Point(1e-3, "diverged"),)
    tuned = [Tuned(own, rate, 2.0, ()), Tuned(lora, none, 2.0, ()), Tuned(full, rate, 2.0, ())]
    assert [variant.method for variant in found.comparison(tuned).variants] == ["pissa", "full"]
    (said,) = found.left_out(tuned)
    assert said.startswith("LoRA is not compared: it has no learning rate. Every run diverged")
    with pytest.raises(FtlabError, match=r"PiSSA has no learning rate\. Every run diverged"):
        found.comparison([replace(tuned[0], points=none), *tuned[1:]])


def ladder(folder: Path, *rates: float, losses: tuple[float | None, ...] = ()) -> None:
    settings = tuning_settings(REQUEST.settings)
    for rate, loss in zip(rates, losses or [1.0] * len(rates), strict=True):
        make_run(
            folder, "lora", "diverged" if loss is None else "done", learning_rate=rate,
            measures={"eval_loss_after": loss}, settings=settings,
        )  # fmt: skip


def test_a_ladder_that_was_run_is_not_run_again_unless_it_has_no_rate(tmp_path: Path) -> None:
    asked = Ladder(Variant("lora"), (1e-3, 3e-3))
    ladder(tmp_path, 1e-3, 3e-3, 9e-3)
    found = known_ladder(asked, REQUEST, RunStore(tmp_path).runs())
    assert found is not None
    assert found.suggestion.rate == 1e-3
    for other in (
        replace(asked, rates=(1e-4, 1e-3)),
        replace(asked, variant=Variant("lora", {"r": 4})),
    ):
        assert known_ladder(other, REQUEST, RunStore(tmp_path).runs()) is None
    more = replace(REQUEST, settings=TrainingSettings(steps=5, eval_examples=4))
    assert known_ladder(asked, more, RunStore(tmp_path).runs()) is None
    ladder(tmp_path / "none", 1e-3, 3e-3, losses=(None, None))
    assert known_ladder(asked, REQUEST, RunStore(tmp_path / "none").runs()) is None


def compared(folder: Path, *seeds: int, last: str = "done", sweep: str = SWEEP) -> None:
    make_run(folder, "base", sweep_id=sweep, settings=REQUEST.settings)
    for seed in seeds:
        status = last if seed == seeds[-1] else "done"
        make_run(
            folder, "lora", status, seed=seed, sweep_id=sweep, learning_rate=1e-3,  # type: ignore[arg-type]
            settings=REQUEST.settings, model=REQUEST.model,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("seeds", "last", "known"),
    [((0, 1), "done", True), ((0, 1), "queued", True), ((0, 1), "failed", False),
     ((0,), "done", False), ((0, 1, 2), "done", False)],
)  # fmt: skip
def test_a_comparison_is_known_if_it_has_these_runs_and_none_of_them_failed(
    tmp_path: Path, seeds: tuple[int, ...], last: str, known: bool
) -> None:
    compared(tmp_path, *seeds, last=last)
    asked = replace(REQUEST, variants=(Variant("lora", learning_rate=1e-3),))
    found = known_sweep(asked, RunStore(tmp_path).runs())
    assert (found is not None) == known
    assert known_sweep(replace(asked, seeds=(5,)), RunStore(tmp_path).runs()) is None


def test_the_newest_of_two_comparisons_counts(tmp_path: Path) -> None:
    newer = "20261130-120000-cd34"
    compared(tmp_path, 0, 1)
    compared(tmp_path, 0, 1, sweep=newer)
    asked = replace(REQUEST, variants=(Variant("lora", learning_rate=1e-3),))
    found = known_sweep(asked, RunStore(tmp_path).runs())
    assert found is not None
    assert found[0].sweep_id == newer
