"""The famous claims, recomputed."""

from __future__ import annotations

from ftlab.models.catalogue import known_model
from ftlab.prediction.fit import (
    claims,
    full_training_bytes,
    gpt3_parameters,
    lora_on_gpt3,
    qlora_on_65b,
)


def test_gpt3_has_the_parameters_of_its_shape_in_the_catalogue() -> None:
    model = known_model("GPT-3 175B")
    assert model is not None
    assert gpt3_parameters() == model.parameters
    assert 174e9 < gpt3_parameters() < 176e9


def test_lora_trains_nearly_ten_thousand_times_fewer_parameters_than_gpt3_has() -> None:
    assert lora_on_gpt3() == 18_874_368
    assert 9_000 < gpt3_parameters() / lora_on_gpt3() < 10_000


def test_a_full_fine_tuning_of_65b_parameters_takes_more_than_780_gb() -> None:
    model = known_model("LLaMA 65B")
    assert model is not None
    assert full_training_bytes(model.parameters) > 780e9


def test_each_claim_has_its_paper_and_a_reason() -> None:
    for claim in claims():
        assert claim.why.endswith(".")
        assert claim.url.startswith("https://arxiv.org/abs/")
    shown = {claim.what: claim.ours for claim in claims(41_000_000_000)}
    assert shown["LLaMA 65B, QLoRA"] == "41.00 GB"
    assert shown["Its checkpoint"] == "37.7 MB"
    assert shown["T5-XXL, a prompt of five tokens: parameters trained"] == "20,480"
    assert {claim.what: claim.ours for claim in claims()}["LLaMA 65B, QLoRA"] == "–"


def test_qlora_on_65b_is_asked_as_its_paper_trained_it() -> None:
    question = qlora_on_65b()
    assert (question.step.packing, question.step.length) == ("nf4-double", 512)
    assert question.variant.values()["r"] == 64
