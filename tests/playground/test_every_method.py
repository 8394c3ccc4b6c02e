"""Every method of the registry, trained and saved by ftlab, gives the same answer as with PEFT."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftlab.basics.errors import FtlabError
from ftlab.methods.registry import METHODS
from ftlab.methods.spec import RunPlan
from ftlab.methods.variant import Variant
from ftlab.models.loading import WEIGHTS
from ftlab.playground.attach import Attached, marks
from ftlab.playground.engine import Engine
from ftlab.playground.panes import WEIGHTS_FILE, find_source
from ftlab.playground.requests import GenerateRequest
from ftlab.records.run import RunDirectory
from tests.fakes import make_run
from tests.playground.asking import finals, texts
from tests.playground.conftest import PROMPT, NewEngine
from tests.playground.kinds import chat_ids, forwarded, generated, load_plain, spelt
from tests.tiny import make_tiny_model

ROWS = {"lora", "rslora", "pissa", "lora_plus", "lora_fa", "qlora", "lora_int8"}
"""Methods whose result is plain LoRA: rows of one batch."""

ADAPTERS = [method.id for method in METHODS.values() if method.is_adapter]
PARTS = [m.id for m in METHODS.values() if not (m.is_adapter or m.ships_whole_model)]
SETTINGS: dict[str, dict[str, Any]] = {"last_layers": {"layers": 1}}
SOFT = 1.0  # noise for vectors before the prompt, which move the answer less than weights do
TOKENS = 12


@dataclass(frozen=True)
class Trained:
    """Makes finished runs of a method on a model, as if each had learnt something at random."""

    runs_folder: Path

    def __call__(
        self, method: str, model: Path, dtype: torch.dtype = torch.float32
    ) -> RunDirectory:
        from transformers import AutoModelForCausalLM

        from ftlab.training.model import apply_method, save_initial, save_result

        settings = SETTINGS.get(method, {})
        run = make_run(self.runs_folder, method, model=str(model), hyperparameters=settings)
        variant, plan = Variant(method, settings), RunPlan(steps=10, tokenizer=str(model))
        torch.manual_seed(1)
        base = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
        learner = apply_method(base, variant, "fp32", False, plan)
        initial = save_initial(learner, run.path / "initial")
        noise = SOFT if variant.spec.family == "prompt" else 0.1
        with torch.no_grad():
            for parameter in learner.parameters():
                if parameter.requires_grad:
                    parameter.add_(noise * torch.randn_like(parameter))
        save_result(learner, variant, None, run.adapter, initial)  # type: ignore[arg-type]
        return run


@pytest.fixture
def trained(runs_folder: Path, one_thread: None) -> Trained:
    return Trained(runs_folder)


@pytest.fixture(scope="module")
def with_biases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-biases"
    return make_tiny_model(folder, context=128, spread=0.3, dtype="bfloat16", biases=True)


def attached(engine: Engine, run: RunDirectory) -> Attached:
    return engine.attached(find_source(engine.runs_folder, run.run_id))


def test_all_methods_are_tested_here() -> None:
    assert {*ADAPTERS, *PARTS, "full"} == set(METHODS)
    assert set(ADAPTERS) > ROWS


@pytest.mark.slow
@pytest.mark.parametrize("method", ADAPTERS)
def test_an_adapter_of_every_method_answers_as_with_peft(
    method: str, engine: Engine, trained: Trained, ask: GenerateRequest, tiny_model: Path
) -> None:
    """Soft tokens are compared with a whole forward pass: PEFT's `generate` ignores a prefix, and
    puts the text after soft tokens at positions that training never used."""
    run, before = trained(method, tiny_model), marks(engine.base)
    base, answer = finals(engine, ask, "base", run.run_id)
    plain, ids = load_plain(tiny_model, run.adapter), chat_ids(tiny_model, PROMPT)
    greedy = forwarded if METHODS[method].family == "prompt" else generated
    assert (answer.kind, answer.text) == ("done", spelt(tiny_model, greedy(plain, ids, TOKENS)))
    assert answer.text != base.text
    assert base.adapter_sha256 == ""
    weights = (run.adapter / WEIGHTS_FILE).read_bytes()
    assert answer.adapter_sha256 == hashlib.sha256(weights).hexdigest()
    assert (attached(engine, run).low_rank is not None) == (method in ROWS)
    assert marks(engine.base) == before


@pytest.mark.parametrize("method", PARTS)
def test_trained_weights_answer_as_a_model_with_these_weights(
    method: str,
    new_engine: NewEngine,
    trained: Trained,
    ask: GenerateRequest,
    with_biases: Path,
) -> None:
    engine = new_engine("fp32", with_biases)
    run, before = trained(method, with_biases), marks(engine.base)
    base, answer = finals(engine, replace(ask, model=str(with_biases)), "base", run.run_id)
    plain, weights = load_plain(with_biases, None), run.adapter / WEIGHTS
    learnt = load_file(weights)
    assert learnt
    assert not plain.load_state_dict(learnt, strict=False).unexpected_keys
    ids = chat_ids(with_biases, PROMPT)
    assert answer.text == spelt(with_biases, generated(plain, ids, TOKENS))
    assert answer.text != base.text
    assert answer.adapter_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert marks(engine.base) == before
    model: Any = attached(engine, run).model
    shared = {parameter.data_ptr() for parameter in engine.base.parameters()}
    own = {n for n, parameter in model.named_parameters() if parameter.data_ptr() not in shared}
    assert own == set(learnt), "all other weights are the base's own"


def test_trained_weights_are_loaded_once_and_anew_when_they_change(
    engine: Engine, trained: Trained, ask: GenerateRequest, tiny_model: Path
) -> None:
    run = trained("last_layers", tiny_model)
    first = attached(engine, run)
    assert attached(engine, run) is first
    weights = load_file(run.adapter / WEIGHTS)
    save_file({name: 2 * tensor for name, tensor in weights.items()}, run.adapter / WEIGHTS)
    assert attached(engine, run).sha256 != first.sha256
    assert texts(engine, ask, "base", run.run_id)


def test_trained_weights_are_refused_on_a_base_in_4_bits(
    new_engine: NewEngine, trained: Trained, ask: GenerateRequest, tiny_model: Path
) -> None:
    run = trained("last_layers", tiny_model)
    base, part = finals(new_engine("nf4"), replace(ask, precision="nf4"), "base", run.run_id)
    assert [base.kind, part.kind] == ["done", "error"]
    assert "answer in 16 or 32 bits" in part.text


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda file: file.unlink(), "trained_weights.safetensors is missing"),
        (lambda file: file.write_bytes(b"torn"), "they are damaged"),
        (
            lambda file: save_file({"model.norm.weight": torch.full((64,), torch.nan)}, file),
            "no numbers",
        ),
        (
            lambda file: save_file({"model.norm.weight": torch.ones(3)}, file),
            "does not fit this model",
        ),
    ],
    ids=["gone", "torn", "no numbers", "another shape"],
)
def test_bad_trained_weights_are_refused_and_the_base_stays(
    spoil: Callable[[Path], Any],
    words: str,
    engine: Engine,
    trained: Trained,
    tiny_model: Path,
) -> None:
    run, before = trained("last_layers", tiny_model), marks(engine.base)
    spoil(run.adapter / WEIGHTS)
    with pytest.raises(FtlabError, match=words):
        attached(engine, run)
    assert marks(engine.base) == before
