"""The next token: as transformers' own `generate` chooses it, and a row's own draw."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ftlab.playground.decoding import TokenChooser, divergence
from ftlab.playground.engine import Engine
from ftlab.playground.requests import GenerateRequest
from tests.playground.asking import texts
from tests.playground.kinds import chat_ids, generated, load_plain, spelt

CPU = torch.device("cpu")
GREEDY = GenerateRequest(("base",), "x")


def chooser(**options: float) -> TokenChooser:
    return TokenChooser(replace(GREEDY, **options), CPU)  # type: ignore[arg-type]


def drawn(logits: Tensor, times: int = 400, **options: float) -> list[int]:
    one = chooser(**options)
    return [one.choose(logits, [0]) for _ in range(times)]


def test_without_temperature_the_likeliest_token_is_taken() -> None:
    assert chooser(seed=9).choose(torch.tensor([0.0, 3.0, 1.0]), [1]) == 1
    assert chooser().choose(torch.tensor([5.0, 0.0, 4.9]), [2]) == 0
    assert chooser().is_plain
    assert not chooser(temperature=1.0).is_plain
    assert not chooser(repetition_penalty=1.5).is_plain


@pytest.mark.parametrize("penalty", [1.1, 1.7])
def test_a_greedy_answer_with_a_repetition_penalty_is_generates_own(
    penalty: float, engine: Engine, ask: GenerateRequest, tiny_model: Path
) -> None:
    (found,) = texts(engine, replace(ask, repetition_penalty=penalty, max_new_tokens=20))
    ids = chat_ids(tiny_model, ask.prompt)
    plain = generated(load_plain(tiny_model, None), ids, 20, repetition_penalty=penalty)
    assert found == spelt(tiny_model, plain)
    assert found != texts(engine, replace(ask, max_new_tokens=20))[0]


def test_a_penalty_counts_the_prompts_tokens_and_those_of_the_answer() -> None:
    logits = torch.tensor([4.0, 3.9, 3.8])
    one = chooser(repetition_penalty=1.5)
    assert one.choose(logits, [2]) == 0
    assert one.choose(logits, [2, 0]) == 1


@pytest.mark.parametrize(("top_p", "support"), [(0.01, {0}), (0.6, {0, 1}), (0.85, {0, 1, 2})])
def test_top_p_draws_from_the_likeliest_alone(top_p: float, support: set[int]) -> None:
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
    assert set(drawn(logits, temperature=1.0, top_p=top_p)) == support


def test_draws_come_as_often_as_their_probability() -> None:
    probabilities = torch.tensor([0.6, 0.3, 0.1])
    times = 4000
    found = torch.bincount(torch.tensor(drawn(probabilities.log(), times, temperature=1.0)))
    torch.testing.assert_close(found / times, probabilities, rtol=0, atol=0.03)


def test_a_temperature_sharpens_or_flattens() -> None:
    logits = torch.tensor([0.6, 0.4]).log()
    cold = drawn(logits, 2000, temperature=0.25).count(0) / 2000
    assert cold == pytest.approx(0.6**4 / (0.6**4 + 0.4**4), abs=0.04)


def test_a_seed_gives_the_same_draws_and_another_gives_others() -> None:
    logits = torch.zeros(50)
    first = drawn(logits, 20, temperature=1.0, seed=3)
    assert first == drawn(logits, 20, temperature=1.0, seed=3)
    assert first != drawn(logits, 20, temperature=1.0, seed=4)


def test_rows_draw_apart_whatever_their_order() -> None:
    logits = torch.randn(3, 50)
    seeds = (5, 6, 7)
    rows = list(zip(seeds, logits, strict=True))
    forwards = [chooser(temperature=1.0, seed=seed).choose(row, [0]) for seed, row in rows]
    others = [chooser(temperature=1.0, seed=seed) for seed in seeds]
    backwards = [one.choose(row, [0]) for one, (_, row) in [*zip(others, rows, strict=True)][::-1]]
    assert forwards == backwards[::-1]


def test_a_sampled_answer_is_drawn_as_generate_draws(
    engine: Engine, ask: GenerateRequest, tiny_model: Path
) -> None:
    """One row alone and one generator: transformers' draw, token by token."""
    (found,) = texts(engine, replace(ask, temperature=0.9, top_p=0.8, seed=11))
    ids = chat_ids(tiny_model, ask.prompt)
    torch.manual_seed(11)
    plain = generated(
        load_plain(tiny_model, None), ids, 12, do_sample=True, temperature=0.9, top_p=0.8, top_k=0
    )
    assert found == spelt(tiny_model, plain)


def test_divergence_is_the_sum_over_the_vocabulary_in_nats() -> None:
    own, base = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])
    wanted = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert divergence(own.log(), base.log() + 7) == pytest.approx(wanted, rel=1e-6)
    assert divergence(own.log(), own.log()) == 0.0


def test_a_token_that_is_ruled_out_adds_nothing_to_the_divergence() -> None:
    own = torch.tensor([1.0, 2.0, -torch.inf])
    assert divergence(own, own) == 0.0
    assert divergence(torch.tensor([0.0, -torch.inf]), torch.zeros(2)) == pytest.approx(math.log(2))


def test_what_is_no_number_is_no_divergence_of_zero() -> None:
    assert math.isnan(divergence(torch.tensor([float("nan"), 0.0]), torch.zeros(2)))
