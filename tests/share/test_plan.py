"""A plan as a card and as a report: every number is predicted, and is said to be."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

import pytest

from ftlab.__main__ import build_parser
from ftlab.basics.cards import find_card
from ftlab.commands.options import read_options
from ftlab.commands.predict import variants_of
from ftlab.methods.variant import Variant, parse_variant
from ftlab.models.dimensions import known_model
from ftlab.prediction.fit import fitting
from ftlab.prediction.question import USUAL_CAPABILITY, Question, Step, Target, ask_about
from ftlab.share.card import card_png, card_svg
from ftlab.share.plan import Planned, command_of, plan_card, plan_report
from tests.prediction.fakes import SizedPredictor
from tests.share.fakes import HOSTILE

STEP = Step(length=896)
SIZES = {"full": 80, "lora": 23.5, "qlora": 18, "prompt_tuning": 22}


def planned(
    *variants: str, model: str = "Llama 3.1 8B", step: Step = STEP, sizes: bool = True
) -> Planned:
    """A plan on a card with 25.26 GB for tensors; "lora" is tight, "full" does not fit."""
    known = known_model("Llama-3.1-8B")
    assert known is not None
    gpu = find_card("rtx-4090")
    asked = ask_about(known.config, [parse_variant(one) for one in variants or SIZES], step)
    predictor = SizedPredictor(lambda q: size(q) if sizes else None)
    answers = tuple(answer for _, answer in predictor.ask(asked))
    peak = answers[0].peak_reserved_bytes or 0
    changes = fitting(asked[0], gpu, predictor.ask) if peak > gpu.usable_bytes else []
    return Planned(model, known.id, gpu, step, tuple(asked), answers, tuple(changes))


def size(question: Question) -> float:
    whole: float = SIZES[question.variant.method]
    return whole / 4 if question.step.checkpointing else whole


def test_the_first_line_says_whether_the_card_is_enough() -> None:
    assert plan_card(planned("lora", "full")).sentence == (
        "Predicted: one GeForce RTX 4090 is just enough to fine-tune Llama 3.1 8B with LoRA, which "
        "takes 24.50 GB at the peak; full fine-tuning would take 81.00 GB."
    )
    card = plan_card(planned("full", "lora", "qlora"))
    assert "is not enough for full fine-tuning of Llama 3.1 8B" in card.sentence
    assert card.judgement == "Predicted: does not fit; QLoRA fits, LoRA is tight"
    assert (card.verdict, card.tiles[1].value) == ("none", "55.74 GB")
    assert card.tiles[1].label == "too much for the card, predicted"
    assert [round(bar.length, 3) for bar in card.pairs[0].bars] == [1.0, round(24.5 / 81, 3)]
    left = plan_card(planned("qlora", "lora", "full"))
    assert (left.tiles[1].value, left.tiles[1].label) == ("6.26 GB", "left on the card, predicted")
    assert left.tiles[0].detail == "Full: predicted 81.00 GB", "beside full, wherever it stands"
    assert "is enough to fine-tune" in plan_card(planned("qlora")).sentence


def test_the_first_line_says_over_how_many_cards_it_is() -> None:
    sentence = plan_card(planned("full", step=replace(STEP, shard=4, batch=4))).sentence
    assert sentence == (
        "Predicted: 4 GeForce RTX 4090 are not enough for full fine-tuning of Llama 3.1 8B, which "
        "takes 81.00 GB at the peak of each."
    )


@pytest.mark.parametrize("first", SIZES)
def test_each_number_on_the_card_says_that_it_is_predicted(first: str) -> None:
    card = plan_card(planned(first, *(name for name in SIZES if name != first)))
    for tile in card.tiles:
        assert "predicted" in tile.label
        assert not re.search(r"\d", tile.detail) or re.search("predicted|for tensors", tile.detail)
    assert card.pairs
    for pair in card.pairs:
        assert pair.title.startswith("Predicted")
        assert all(bar.text.startswith("≈ ") for bar in pair.bars)
    for words in (card.sentence, card.judgement, card.origin_text):
        assert re.match("predicted", words, re.I)
    assert b"ftlab, predicted" in card_png(card)


def test_each_number_of_the_report_says_that_it_is_predicted() -> None:
    page = plan_report(planned("full", "lora", "qlora"), "3 runs here took 0.98 to 1.02 times")
    (table,) = re.findall(r'<table class="plan stack">.*?</table>', page, re.S)
    cells = re.findall(r'<td class="num" data-label="([^"]*)">(.*?)</td>', table)
    assert len(cells) == 3 * 5
    for label, cell in cells:
        assert "redicted" in label
        assert cell.startswith(('<span class="pred">', '<span class="chip'))
    assert len(re.findall(r"<h3>.*?: predicted peak ", page)) == 3
    assert page.count('<p class="meta">Predicted: <span') == 3
    assert "nothing was measured" in page
    assert "Runs on the machine of this report: 3 runs here" in page
    assert "<script" not in page


def test_the_card_of_the_report_is_the_card() -> None:
    plan = planned("lora", "full")
    page = plan_report(plan)
    assert card_svg(plan_card(plan)) in page
    assert f"<h1>{plan_card(plan).sentence}</h1>" in page
    assert page.count("Llama 3.1 8B") > 3


def test_changes_that_would_make_it_fit_are_listed() -> None:
    assert "What would make Full fine-tuning fit" in plan_report(planned("full", "lora"))
    assert 'Gradient checkpointing: predicted peak <span class="pred">21.00 GB' in plan_report(
        planned("full", "lora")
    )
    assert "What would make" not in plan_report(planned("qlora"))


@pytest.mark.hostile("names of models")
@pytest.mark.parametrize("name", [HOSTILE, "x" * 5_000, "\x00\u202e\ud800", '"><svg/onload=x>'])
def test_a_hostile_name_is_only_text(name: str) -> None:
    plan = replace(planned("lora", "full", model=name), name=name)
    card = plan_card(plan)
    for page in (plan_report(plan), card_svg(card)):
        assert "<script" not in page
        assert "<img" not in page
        assert "<svg/onload" not in page
    assert len(card.sentence) < 300
    assert card_png(card).startswith(b"\x89PNG")


def test_what_cannot_be_predicted_is_said_and_never_a_number() -> None:
    plan = planned("lora", "full", sizes=False)
    card = plan_card(plan)
    assert card.verdict == "incomplete"
    assert card.sentence.startswith("LoRA on Llama 3.1 8B: the memory needed cannot be predicted.")
    assert [tile.value for tile in card.tiles[:2]] == ["–", "–"]
    assert [pair.title for pair in card.pairs] == ["Predicted file to deliver"]
    page = plan_report(plan)
    assert "no prediction" in page
    assert "It &lt;i&gt;cannot&lt;/i&gt; be." in page
    assert "made of" not in page


@pytest.mark.parametrize(
    ("variants", "step"),
    [
        (("lora", "full"), Step(length=896, checkpointing=True)),
        (("lora:r=4", "qlora"), Step(batch=2, accumulation=3, completion_tokens=40)),
        (
            ("qlora",),
            Step(weights="fp16", optimizer="adamw_8bit", attention="eager", adapters="base"),
        ),
        (("lora:base=nf4",), Step(packing="nf4")),
    ],
)
def test_the_command_of_the_report_asks_the_same(variants: tuple[str, ...], step: Step) -> None:
    step = replace(step, capability=USUAL_CAPABILITY)
    plan = planned(*variants, step=step)
    words = shlex.split(command_of(plan).replace("\\\n", ""))
    options = build_parser().parse_args(words[3:])
    target = Target(**read_options(options, Target))
    again = Step(**read_options(options, Step), capability=USUAL_CAPABILITY)
    known = known_model(target.model)
    assert known is not None
    asked: list[Variant] = variants_of(options)
    assert tuple(ask_about(known.config, asked, again)) == plan.asked
    assert target.card == plan.gpu
