"""The proposed model: on a GPU with a way to the Hub alone, and only one that fits what is free."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.devices import Device
from ftlab.jobs import sweep_costs
from ftlab.jobs.inputs import Access
from ftlab.methods.variant import Variant
from ftlab.models.dimensions import catalogue
from ftlab.models.hub import HubReach
from ftlab.prediction.client import NobodyWaits
from ftlab.prediction.question import Prediction, Question
from ftlab.records.spec import SweepRequest
from ftlab.settings.training import TrainingSettings
from ftlab.tabs.context import AppContext
from ftlab.tabs.experiment import costs
from ftlab.tabs.experiment.costs import may_propose, proposable, proposal_html, propose
from ftlab.tasks.reference import TaskReference
from tests.prediction.fakes import GB, SizedPredictor, failing
from tests.tabs.page_fakes import page_context

GPU = Device("cuda:0", "NVIDIA <i>L4</i>", 24 * GB)
CPU = Device("cpu", "CPU, 2 cores", 16 * GB)
REQUEST = SweepRequest(
    "bundled", TaskReference("bundled", "sql"), (Variant("full"), Variant("lora", {"r": 4}))
)
BY_CONFIG = {repr(sorted(model.config.items())): model for model in catalogue()}


class Hub:
    """Answers, and counts the questions."""

    def __init__(self, answer: bool = True) -> None:
        self.answer, self.asked = answer, 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.answer


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU, 20 GB of which are free, and no word of being offline."""
    known = {"auto": GPU, "cuda:0": GPU, "cpu": CPU}
    monkeypatch.setattr(costs, "resolve_device", known.__getitem__)
    monkeypatch.setattr(sweep_costs, "like_devices", lambda name: (known[name],))
    monkeypatch.setattr(sweep_costs, "free_bytes", lambda device: 20 * GB)
    monkeypatch.setattr(costs, "list_devices", lambda: (GPU, CPU))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def size_of(question: Question) -> float:
    """Weights in bf16, and 2 GB for the rest."""
    return 2 * BY_CONFIG[repr(sorted(question.config.items()))].parameters / GB + 2


@pytest.fixture
def context(tmp_path: Path, hub: Hub) -> AppContext:
    made = page_context(tmp_path, SizedPredictor(size_of, beside=0))
    return replace(made, hub=HubReach(hub))


def asked(context: AppContext) -> list[Question]:
    assert isinstance(context.predictor, SizedPredictor)
    return context.predictor.asked


def test_the_largest_model_whose_lora_fits_what_is_free_is_proposed(context: AppContext) -> None:
    found = propose(REQUEST, context, context.predictor.ask)
    assert found is not None
    assert found.largest.model.label == "Llama 3.1 8B"  # 16.1 + 2 GB; Gemma 2 9B takes 20.5
    assert len(asked(context)) <= 4
    assert all(question.variant == Variant("lora", {"r": 4}) for question in asked(context))


def test_without_lora_in_the_form_its_defaults_are_used(context: AppContext) -> None:
    propose(replace(REQUEST, variants=(Variant("full"),)), context, context.predictor.ask)
    assert [question.variant for question in asked(context)][:1] == [Variant("lora")]


def test_the_settings_of_the_form_are_used(context: AppContext) -> None:
    settings = TrainingSettings(batch_size=9, max_length=512, gradient_checkpointing=True)
    propose(
        replace(REQUEST, settings=settings, dtype_policy="fp32"), context, context.predictor.ask
    )
    step = asked(context)[0].step
    assert (step.batch, step.length, step.checkpointing) == (9, 512, True)
    assert (step.weights, step.device) == ("fp32", "cuda")


@pytest.mark.parametrize(
    ("device", "answer", "offline", "times"),
    [("cpu", True, "", 0), ("auto", False, "", 1), ("auto", True, "1", 0)],
    ids=["on a CPU", "without the Hub", "offline"],
)
def test_nothing_is_proposed_or_predicted(
    device: str, answer: bool, offline: str, times: int, context: AppContext, hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    hub.answer = answer
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    assert propose(replace(REQUEST, device=device), context, context.predictor.ask) is None
    assert (hub.asked, asked(context)) == (times, [])


def test_nothing_is_proposed_if_the_prediction_fails(tmp_path: Path) -> None:
    context = replace(page_context(tmp_path, SizedPredictor(failing)), hub=HubReach(lambda: True))
    assert propose(REQUEST, context, context.predictor.ask) is None


@pytest.mark.parametrize(
    "wrong", [{"model": ""}, {"device": "cpu"}, {"task": TaskReference("file", "/no/such.csv")}]
)
def test_an_incomplete_form_raises_no_error(wrong: dict[str, Any], context: AppContext) -> None:
    propose(replace(REQUEST, **wrong), context, context.predictor.ask)


def test_a_cancelled_question_proposes_nothing(context: AppContext) -> None:
    def ask(questions: Sequence[Question]) -> Iterator[tuple[int, Prediction]]:
        raise NobodyWaits

    assert propose(REQUEST, context, ask) is None


def test_the_proposal_says_what_it_takes_and_can_be_chosen(context: AppContext) -> None:
    said = proposal_html(propose(REQUEST, context, context.predictor.ask), "bundled")
    assert "Largest that fits this GPU: <b>Llama 3.1 8B</b>" in said
    assert 'data-choose="meta-llama/Llama-3.1-8B"' in said
    assert "18.96 GB of 20.00 GB free" in html.unescape(said)
    assert "<i>L4</i>" not in said


def test_a_model_that_is_chosen_already_is_not_proposed_again(context: AppContext) -> None:
    assert (
        proposal_html(propose(REQUEST, context, context.predictor.ask), "meta-llama/Llama-3.1-8B")
        == ""
    )
    assert proposal_html(None, "bundled") == ""


@pytest.mark.parametrize(
    ("access", "devices", "ever"),
    [
        (Access(), (GPU, CPU), True),
        (Access(), (CPU,), False),
        (Access(may_ask_hub=False), (GPU, CPU), False),
        (Access(may_train=False), (GPU, CPU), False),
    ],
)
def test_models_are_proposed_only_with_a_gpu_the_hub_and_training(
    access: Access, devices: tuple[Device, ...], ever: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "list_devices", lambda: devices)
    assert may_propose(access) is ever


def test_only_what_the_hub_has_can_be_chosen() -> None:
    assert proposable("Qwen/Qwen2.5-7B")
    assert not any(map(proposable, ["GPT-3-175B", "/etc", "", "owner/other"]))
