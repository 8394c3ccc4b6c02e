"""The largest model that fits, and how few questions find it."""

from __future__ import annotations

import pytest

from ftlab.methods.variant import Variant, parse_variant
from ftlab.models.catalogue import KnownModel, catalogue
from ftlab.prediction.fit import largest_that_fits, on_hub
from ftlab.prediction.question import Prediction, Question, Step
from tests.prediction.fakes import GB, SizedPredictor

BILLION = 1_000_000_000


def model(billions: float, name: str = "") -> KnownModel:
    label = name or f"owner/{billions:g}B"
    return KnownModel(label, label, int(billions * BILLION), {"billions": billions})


SIZES = [model(billions) for billions in (70, 32, 14, 8, 3, 1, 0.5)]


def search(
    free_gb: float, beside_gb: float = 1, variant: str = "lora", weights: str = "bf16"
) -> tuple[str | None, list[float]]:
    """The label found and what was asked, where a run takes its weights, and beside them as much
    more as the model is wide: `beside_gb` for a billion parameters, twice that for four."""
    per_weight = {"bf16": 2, "fp32": 4}[weights] if "nf4" not in variant else 0.5

    def peak(question: Question) -> float:
        billions = question.config["billions"]
        return float(per_weight * billions + beside_gb * billions**0.5)

    predictor = SizedPredictor(peak, beside=0)

    def question(model: KnownModel) -> Question:
        step = Step(length=64, weights=weights)  # type: ignore[arg-type]
        return Question(model.config, parse_variant(variant), step)

    def fits(answer: Prediction) -> bool:
        return (answer.peak_reserved_bytes or 0) <= free_gb * GB

    found = largest_that_fits(SIZES, question, predictor.ask, fits, int(free_gb * GB))
    asked = [question.config["billions"] for question in predictor.asked]
    return (found.model.label if found else None), asked


@pytest.mark.parametrize(
    ("free_gb", "beside_gb", "label"),
    [
        (80, 1, "owner/32B"), (80, 0.1, "owner/32B"), (24, 1, "owner/8B"), (16, 1, "owner/3B"),
        (7, 1, "owner/1B"), (24, 20, "owner/1B"), (2, 1, "owner/0.5B"), (300, 1, "owner/70B"),
    ],
)  # fmt: skip
def test_it_is_the_largest_of_all_that_fit(free_gb: float, beside_gb: float, label: str) -> None:
    found, asked = search(free_gb, beside_gb)
    assert found == label
    assert len(asked) <= 3


def test_a_model_whose_weights_alone_do_not_fit_is_never_asked() -> None:
    assert search(24)[1] == [8]
    assert search(24, weights="fp32")[1] == [3]
    assert search(24, variant="lora:base=nf4") == ("owner/32B", [32])


def test_where_nothing_fits_nothing_is_found() -> None:
    assert search(0.5) == (None, [])
    found, asked = search(2, beside_gb=50)
    assert found is None
    assert len(asked) <= 2


def test_a_model_that_cannot_be_predicted_is_passed_over() -> None:
    predictor = SizedPredictor(lambda q: None if q.config["billions"] > 10 else 1)
    step = Step(length=64)
    found = largest_that_fits(
        SIZES, lambda m: Question(m.config, Variant("lora"), step), predictor.ask,
        lambda answer: True, 500 * GB,
    )  # fmt: skip
    assert found is not None
    assert found.model.label == "owner/8B"


def test_only_models_that_the_hub_has_are_proposed_the_largest_first() -> None:
    found = on_hub()
    assert {model.id for model in catalogue()} - {model.id for model in found} == {
        "GPT-3-175B",
        "LLaMA-65B",
    }
    sizes = [model.parameters for model in found]
    assert sizes == sorted(sizes, reverse=True)
