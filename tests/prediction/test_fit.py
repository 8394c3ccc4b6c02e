"""Whether a step fits a card, and what would make it fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from ftlab.basics.cards import Card, card_of, cards, find_card
from ftlab.basics.devices import Device
from ftlab.basics.errors import FtlabError
from ftlab.methods.variant import parse_variant
from ftlab.prediction.fit import changes, fit, fitting
from ftlab.prediction.question import Prediction, Question, Step, ask_about

GB = 1_000_000_000
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
    ("peak", "verdict"), [(5, "fits"), (9.5, "fits"), (9.9, "tight"), (10.1, "does not fit")]
)
def test_the_verdict_leaves_room_for_the_error_of_a_prediction(peak: float, verdict: str) -> None:
    found = fit(int(peak * GB), CARD)
    assert found.verdict == verdict
    assert found.margin_bytes == 10 * GB - int(peak * GB)


def test_what_cuda_takes_itself_is_not_there_for_tensors() -> None:
    assert fit(int(9.8 * GB), Card("y", "Y", 10 * GB)).verdict == "does not fit"


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


def test_where_none_is_enough_alone_they_are_tried_together() -> None:
    def size(asked: Question) -> float:
        step = asked.step
        saved = (0.6 if step.checkpointing else 1) * (0.3 if step.packing else 1)
        return 60 * GB * saved * (0.5 + step.batch / 16)

    ((change, answer),) = fitting(question(), CARD, asking(size))
    assert change.question.step.checkpointing
    assert change.question.step.packing == "nf4-double"
    assert change.label.startswith("Gradient checkpointing, batch 1")
    assert answer.peak_reserved_bytes is not None
    assert fit(answer.peak_reserved_bytes, CARD).verdict != "does not fit"


def test_nothing_is_offered_where_nothing_helps() -> None:
    assert fitting(question(), CARD, asking(lambda q: 99 * GB)) == []


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
