"""How long a step takes: its counted work against published times and real operations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from ftlab.basics.cards import Card, Sheet, cards, find_card
from ftlab.methods.variant import Variant
from ftlab.models.loading import load_base_model
from ftlab.models.packed import packed_layers
from ftlab.models.resolve import resolve_model
from ftlab.prediction.duration import (
    FITTED,
    Rates,
    ScoringWork,
    StepWork,
    Work,
    cost,
    format_cost,
    rates_of,
    seconds_of_steps,
)
from ftlab.prediction.question import Prediction, Step, Target, ask_about
from ftlab.prediction.rows import prediction_row
from ftlab.prediction.simulation.fake import logical_size
from ftlab.prediction.simulation.step import predict
from ftlab.prediction.simulation.work import WorkLog
from ftlab.tasks.formatting import Scoring
from tests.benchmarks.step_times import (
    SHARE,
    SPEARMAN,
    close_share,
    fit,
    rank_order,
    read_counts,
)
from tests.prediction.published import MEAN_LENGTH, peft_rows


def test_three_rates_explain_the_published_step_times_of_34_methods() -> None:
    steps = read_counts()
    assert len(steps) == 34
    rates = fit(steps)
    assert close_share(steps, rates) >= SHARE
    assert rank_order(steps, rates) >= SPEARMAN


def test_the_rates_of_cards_are_those_that_the_published_times_give() -> None:
    rates = fit(read_counts())
    assert (FITTED.narrow, FITTED.wide, FITTED.bytes, FITTED.call_seconds) == pytest.approx(
        (rates.narrow, rates.wide, rates.bytes, rates.call_seconds), rel=0.05
    )
    card = rates_of(find_card("l40s"))
    assert card is not None
    assert (card.narrow, card.wide, card.bytes, card.call_seconds) == pytest.approx(
        (FITTED.narrow, FITTED.wide, FITTED.bytes, FITTED.call_seconds), rel=0.001
    )


@pytest.mark.slow
def test_what_is_counted_now_is_what_was_kept() -> None:
    name = "ia3/llama-3.2-3B-default"
    (kept,) = (step for step in read_counts() if step.name == name)
    (row,) = (row for row in peft_rows(MEAN_LENGTH) if row.name == name)
    work = predict(row.question).work
    assert work is not None
    now = work.batch + work.update
    assert now.narrow == pytest.approx(kept.work.narrow, rel=0.01)
    assert now.bytes == pytest.approx(kept.work.bytes, rel=0.01)
    assert now.calls == pytest.approx(kept.work.calls, rel=0.01)


def test_a_product_counts_two_operations_a_pair_and_the_bytes_it_reads_and_writes() -> None:
    left, right = torch.ones(4, 8, dtype=torch.bfloat16), torch.ones(8, 16, dtype=torch.bfloat16)
    with WorkLog() as log:
        left @ right
    assert log.take() == Work(2 * 4 * 8 * 16, 0, 2 * (4 * 8 + 8 * 16 + 4 * 16), 1)
    assert log.take() == Work()


def test_products_of_32_bit_numbers_are_counted_apart() -> None:
    left, right = torch.ones(4, 8), torch.ones(8, 16)
    with WorkLog() as log:
        left @ right
    work = log.take()
    assert (work.narrow, work.wide) == (0, 2 * 4 * 8 * 16)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "device"), [("qlora", "cpu"), ("lora_int8", "cuda")])
def test_a_packed_base_has_as_many_products_as_a_plain_one(
    method: str, device: Literal["cpu", "cuda"], tiny_model: Path
) -> None:
    config = resolve_model(str(tiny_model)).config()
    step = Step(64, 2, 16, device=device, scoring=Scoring(4, prompt=20, new_tokens=8))
    counted = []
    for question in ask_about(config, [Variant("lora"), Variant(method)], step):
        found = predict(question)
        assert found.work is not None
        assert found.scoring_work is not None
        parts = (found.work.batch, found.scoring_work.prompts, found.scoring_work.token)
        counted.append([part.narrow + part.wide for part in parts])
    plain, packed = counted
    assert packed == plain


def test_each_number_of_a_4_bit_base_is_unpacked_forward_and_backward(tiny_model: Path) -> None:
    source = resolve_model(str(tiny_model))
    model = load_base_model(source, "bf16", "nf4", torch.device("cpu"))
    numbers = [logical_size(layer.weight) for layer in packed_layers(model)]
    (question,) = ask_about(source.config(), [Variant("qlora")], Step(64, 2, 16, device="cpu"))
    work = predict(question).work
    assert work is not None
    first = sum(numbers[:3])  # q, k and v of the first layer: their input needs no gradient
    assert work.batch.unpacked == 2 * sum(numbers) - first
    rates = Rates(1, 1, 1, 1, overlaps=False, unpacked=2)
    assert rates.seconds(Work(unpacked=4)) == 2
    assert replace(rates, unpacked=0).seconds(Work(unpacked=4)) == 0


@pytest.mark.parametrize(("device", "unpacks"), [("cpu", False), ("cuda", True)])
def test_answers_unpack_a_4_bit_base_for_each_token_on_a_gpu_and_not_on_a_cpu(
    device: Literal["cpu", "cuda"], unpacks: bool, tiny_model: Path
) -> None:
    config = resolve_model(str(tiny_model)).config()
    step = Step(64, 2, 16, device=device, scoring=Scoring(4, prompt=20, new_tokens=8))
    (question,) = ask_about(config, [Variant("qlora")], step)
    found = predict(question)
    assert found.scoring_work is not None
    assert found.work is not None
    assert found.work.batch.unpacked > 0
    assert (found.scoring_work.token.unpacked > 0) is unpacks
    assert (found.scoring_work.prompts.unpacked > 0) is unpacks


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "prompt_tuning"])
def test_the_work_of_more_answers_at_once_is_found_from_that_of_a_few(
    method: str, tiny_model: Path
) -> None:
    def counted(rows: int) -> ScoringWork:
        scoring = Scoring(rows, prompt=20, new_tokens=8)
        step = Step(64, 2, 16, device="cpu", scoring=scoring)
        config = resolve_model(str(tiny_model)).config()
        (question,) = ask_about(config, [Variant(method)], step)
        work = predict(question).scoring_work
        assert work is not None
        return work

    few, many = counted(4), counted(32)
    found, token = few.passes(1, 32, 32), many.token + many.output
    assert (found.narrow, found.wide) == pytest.approx((token.narrow, token.wide), rel=0.01)
    whole, prompts = few.passes(1, 32 * many.prompt, 32), many.prompts + many.output
    assert (whole.narrow, whole.wide) == pytest.approx((prompts.narrow, prompts.wide), rel=0.01)


def test_a_view_moves_nothing_but_is_a_call() -> None:
    numbers = torch.ones(4, 8)
    with WorkLog() as log:
        numbers.view(8, 4)
    assert log.take() == Work(calls=1)


def test_a_lookup_reads_the_rows_it_returns_and_not_the_whole_table() -> None:
    table, places = torch.ones(1_000, 8), torch.tensor([1, 2])
    with WorkLog() as log:
        torch.nn.functional.embedding(places, table)
    assert log.take().bytes == 2 * 2 * 8 * 4


def test_shorter_batches_have_less_to_multiply_and_as_many_calls() -> None:
    work = StepWork(Work(100, 10, 1_000, 50), Work(bytes=7, calls=3), tokens=20)
    assert work.step(tokens=10, accumulation=2) == Work(100, 10, 1_007, 103)


def test_on_a_gpu_the_host_calls_ahead_and_on_a_cpu_it_does_not() -> None:
    work = Work(narrow=3, calls=4)
    assert Rates(1, 1, 1, 1, overlaps=False).seconds(work) == 7
    assert Rates(1, 1, 1, 1, overlaps=True).seconds(work) == 5


def test_a_card_has_as_much_of_its_data_sheet_as_the_one_that_was_fitted() -> None:
    sheet = find_card("l40s").sheet
    assert sheet is not None
    other = Card("x", "X", 1, sheet=Sheet(2 * sheet.narrow, 3 * sheet.wide, 5 * sheet.bytes))
    found = rates_of(other)
    assert found is not None
    assert (found.narrow, found.wide, found.bytes, found.call_seconds) == pytest.approx(
        (2 * FITTED.narrow, 3 * FITTED.wide, 5 * FITTED.bytes, FITTED.call_seconds), rel=0.001
    )
    assert found.overlaps
    assert rates_of(Card("x", "X", 1)) is None


def test_a_thousand_steps_take_and_cost_what_their_batches_and_updates_do() -> None:
    card = replace(find_card("l40s"), memory_bytes=10**10, context_bytes=10**9)
    rates = rates_of(card)
    assert rates is not None
    # Two batches of 1.5 s on the device, and an update of 4 s on the host.
    work = StepWork(Work(narrow=1.5 * rates.narrow), Work(calls=4 / rates.call_seconds), tokens=8)
    assert seconds_of_steps(work, card, accumulation=2) == pytest.approx(5_000)
    assert seconds_of_steps(None, card) is None
    found = Prediction("lora", "LoRA", peak_reserved_bytes=7 * 10**9, work=work)
    row = prediction_row(found, Target(card=card, price=2.5), Step(8, accumulation=2), 1e-3)
    assert (row["verdict"], row["margin_bytes"], row["learning_rate"]) == ("fits", 2 * 10**9, 1e-3)
    assert row["seconds_1000_steps"] == pytest.approx(5_000)
    assert row["cost_1000_steps"] == pytest.approx(2.5 * 5_000 / 3_600)
    assert "verdict" not in prediction_row(found, Target(), Step(8), None)


def test_a_cost_is_by_the_hour_and_written_in_few_digits() -> None:
    assert cost(1_800, 2.5) == 1.25
    assert cost(None, 2.5) is cost(1_800, None) is None
    written = [format_cost(value) for value in (None, 1_234.4, 12.345, 0.1, 0.01234)]
    assert written == ["–", "1,234", "12.35", "0.10", "0.012"]


def test_every_card_of_the_table_has_rates_and_a_newer_one_of_a_kind_is_faster() -> None:
    assert all(rates_of(card) for card in cards())
    work = Work(1e13, 1e11, 5e10, 5_000)
    seconds = [
        rates.seconds(work) for card in ("t4", "l4", "l40s", "h100") if (rates := _rates(card))
    ]
    assert seconds == sorted(seconds, reverse=True)


def _rates(card: str) -> Rates | None:
    return rates_of(find_card(card))
