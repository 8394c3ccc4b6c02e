"""Whether a step fits a card and what would make it fit, the largest model that fits, claims."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from ftlab.basics.cards import Card, card_of, cards, find_card
from ftlab.basics.devices import Device
from ftlab.basics.errors import FtlabError
from ftlab.methods.variant import Variant, parse_variant
from ftlab.models.dimensions import KnownModel, catalogue, known_model
from ftlab.prediction.duration import Band
from ftlab.prediction.fit import (
    changes,
    claims,
    fit,
    fitting,
    full_training_bytes,
    gpt3_parameters,
    largest_that_fits,
    lora_on_gpt3,
    on_hub,
    over_cards,
    qlora_on_65b,
    verdict,
)
from ftlab.prediction.question import Prediction, Question, Step, ask_about
from tests.prediction.fakes import GB, SizedPredictor

CARD = Card("x", "Card", 10 * GB, context_bytes=0)


def question(method: str = "lora", **step: object) -> Question:
    (made,) = ask_about({}, [parse_variant(method)], Step(**{"length": 1024, "batch": 8} | step))  # type: ignore[arg-type]
    return made


def asking(size: Callable[[Question], float]) -> Callable[..., Iterator[tuple[int, Prediction]]]:
    def ask(questions: Sequence[Question]) -> Iterator[tuple[int, Prediction]]:
        for place, each in enumerate(questions):
            yield place, Prediction("lora", "LoRA", peak_reserved_bytes=int(size(each)))

    return ask


@pytest.mark.parametrize(
    ("peak", "said"), [(5, "fits"), (9.5, "fits"), (9.9, "tight"), (10.1, "does not fit")]
)
def test_the_verdict_leaves_room_for_the_error_of_a_prediction(peak: float, said: str) -> None:
    found = fit(int(peak * GB), CARD)
    assert found.verdict == said
    assert found.margin_bytes == 10 * GB - int(peak * GB)
    with_context = Card("y", "Y", 10 * GB)  # CUDA's own memory is not available for tensors
    assert fit(int(9.8 * GB), with_context).verdict == "does not fit"


@pytest.mark.parametrize(
    ("peak", "scoring", "said"),
    [
        (6, None, "fits"),  # 7.2 to 9 GB
        (8, None, "tight"),  # 9.6 to 12 GB
        (9, None, "does not fit"),  # 10.8 GB at least
        (6, 7, "fits"),
        (6, 9, "tight"),
        (6, 11, "does not fit"),
    ],
)
def test_a_run_fits_where_its_training_and_its_scoring_do(
    peak: int, scoring: int | None, said: str
) -> None:
    answer = Prediction(
        "lora", "LoRA", peak_reserved_bytes=peak * GB,
        scoring_bytes=None if scoring is None else scoring * GB,
    )  # fmt: skip
    assert verdict(answer, Band(1.2, 1.5), CARD) == said


def test_every_change_makes_the_step_smaller_and_keeps_the_examples_of_a_step() -> None:
    asked = question()
    found = changes(asked)
    assert [[change.label for change in kind] for kind in found] == [
        ["Gradient checkpointing"],
        [
            "Batch 4, accumulated 2 times",
            "Batch 2, accumulated 4 times",
            "Batch 1, accumulated 8 times",
        ],
        ["Base in 4 bits"],
        ["At most 512 tokens", "At most 256 tokens", "At most 128 tokens"],
    ]
    for change in found[1]:
        step = change.question.step
        assert step.batch * step.accumulation == 8
    assert found[2][0].question.variant.base == "nf4"


@pytest.mark.parametrize("method", ["full", "qlora"])
def test_a_base_that_learns_or_is_packed_is_not_packed_again(method: str) -> None:
    labels = [change.label for kind in changes(question(method)) for change in kind]
    assert "Base in 4 bits" not in labels
    assert "Gradient checkpointing" in labels


def test_the_first_of_each_kind_that_fits_is_offered_three_at_most() -> None:
    found = fitting(
        question(), CARD, asking(lambda q: q.step.batch * q.step.length / 1024 * 3 * GB)
    )
    assert [change.label for change, _ in found] == [
        "Batch 2, accumulated 4 times",
        "At most 256 tokens",
    ]
    everything = fitting(question(), CARD, asking(lambda q: 1))
    assert [change.label for change, _ in everything] == [
        "Gradient checkpointing",
        "Batch 4, accumulated 2 times",
        "Base in 4 bits",
    ]
    assert fitting(question(), CARD, asking(lambda q: 99 * GB)) == []


def test_where_none_is_enough_alone_they_are_tried_together() -> None:
    def size(asked: Question) -> float:
        step = asked.step
        saved = (0.6 if step.checkpointing else 1) * (0.3 if step.packing else 1)
        return 120 * GB * saved * (0.5 + step.batch / 16) * step.length / 1024

    ((change, answer),) = fitting(question(completion_tokens=900), CARD, asking(size))
    step = change.question.step
    assert step.checkpointing
    assert step.packing == "nf4-double"
    assert change.question.variant.base == "nf4"
    assert (step.batch, step.accumulation) == (1, 8)
    assert (step.length, step.completion_tokens) == (512, 511)
    assert change.label == (
        "Gradient checkpointing, batch 1, accumulated 8 times, base in 4 bits, at most 512 tokens"
    )
    assert answer.peak_reserved_bytes is not None
    assert fit(answer.peak_reserved_bytes, CARD).verdict != "does not fit"


def test_the_table_of_cards_names_each_once_with_a_plausible_memory() -> None:
    ids = [card.id for card in cards()]
    assert len(ids) == len(set(ids)) >= 20
    assert {card.kind for card in cards()} == {"consumer", "workstation", "data centre"}
    for card in cards():
        assert 4 * GB < card.memory_bytes < 300 * GB
        assert card.year is not None
        assert 2016 <= card.year <= 2026


def test_a_card_goes_by_id_or_label_and_an_unknown_one_is_told_the_nearest() -> None:
    assert find_card("RTX-4090") == find_card("GeForce RTX 4090")
    with pytest.raises(FtlabError, match="Did you mean 'rtx-4090'"):
        find_card("rtx-409")


def test_this_machine_is_its_first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Device("cuda:0", "NVIDIA H100", 80 * GB)
    monkeypatch.setattr("ftlab.basics.cards.list_devices", lambda: (gpu,))
    assert find_card("here") == card_of(gpu)
    monkeypatch.setattr("ftlab.basics.cards.list_devices", lambda: ())
    with pytest.raises(FtlabError, match="has no GPU"):
        find_card("here")


def model(billions: float, name: str = "") -> KnownModel:
    label = name or f"owner/{billions:g}B"
    return KnownModel(label, label, int(billions * GB), {"billions": billions})


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


def test_the_numbers_of_the_claims_follow_from_the_shapes_in_the_catalogue() -> None:
    gpt3, llama = known_model("GPT-3 175B"), known_model("LLaMA 65B")
    assert gpt3 is not None
    assert llama is not None
    assert gpt3_parameters() == gpt3.parameters
    assert 174e9 < gpt3_parameters() < 176e9
    assert lora_on_gpt3() == 18_874_368
    assert 9_000 < gpt3_parameters() / lora_on_gpt3() < 10_000
    assert full_training_bytes(llama.parameters) > 780e9


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


def over(question: Question) -> int:
    return question.step.shard


def test_more_like_cards_are_offered_beside_the_other_changes() -> None:
    ask = asking(lambda each: (36 if each.step.batch == 8 else 4) * GB / over(each))
    found = fitting(question(), CARD, ask, counts=(2, 4, 8))
    assert [change.label for change, _ in found] == [
        "Batch 4, accumulated 2 times", "Over 4 cards",
    ]  # fmt: skip
    assert over(found[-1][0].question) == 4
    assert "needs so many like cards" in found[-1][0].costs


def test_where_cards_alone_are_not_enough_gradient_checkpointing_is_added() -> None:
    ask = asking(lambda each: (60 if each.step.checkpointing else 200) * GB / over(each))
    asked = question("full")
    ((change, _),) = fitting(asked, CARD, ask, counts=(2, 4, 8))
    assert change.question.step.checkpointing
    assert change.label == "Over 8 cards with gradient checkpointing"


@pytest.mark.parametrize(
    ("method", "step"),
    [("qlora", {}), ("pissa", {}), ("lora", {"batch": 1}), ("lora", {"optimizer": "adamw_8bit"})],
)
def test_no_cards_are_offered_for_what_cannot_be_divided(
    method: str, step: dict[str, object]
) -> None:
    assert over_cards(question(method, **step), (2, 4)) == []


def test_a_divided_step_is_offered_nothing_that_its_cards_cannot_do() -> None:
    asked = question(shard=4)
    labels = [change.label for kind in changes(asked) for change in kind]
    assert "Batch 4, accumulated 2 times" in labels
    assert not any(label in labels for label in ("Base in 4 bits", "Batch 2, accumulated 4 times"))
    assert [change.label for change in over_cards(asked, (2, 4, 8))][:1] == ["Over 8 cards"]
