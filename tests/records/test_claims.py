"""Claims of papers: estimates with their intervals, verdicts, and which runs are still missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ftlab.basics.errors import FtlabError
from ftlab.jobs.launch import checked
from ftlab.methods.limits import match_parameters
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import Variant, parse_variant
from ftlab.models.dimensions import shape_of_model
from ftlab.records.claims import (
    Arm,
    Claim,
    ClaimsProtocol,
    Estimate,
    Estimated,
    Found,
    StudySweep,
    Tried,
    best_log_rate,
    difference,
    gap_ratio,
    largest_difference,
    rate_ratio,
    read_claims,
    read_protocol,
    relative_difference,
    tried_claims,
    write_claims,
)
from ftlab.records.result import RunResult
from ftlab.records.store import RunStore
from tests.fakes import make_run

PROTOCOL = read_protocol()
EXAMPLES = 40


def losses(mean: float, seeds: int = 2, noise: float = 0.05, seed: int = 0) -> np.ndarray:
    """(seeds, examples) around a mean; the same examples are hard for all."""
    hard = np.random.default_rng(7).normal(0, 0.3, EXAMPLES)
    return mean + hard + np.random.default_rng(seed).normal(0, noise, (seeds, EXAMPLES))


# ---- estimates


def test_the_best_rate_is_the_lowest_point_of_the_parabola_and_stays_in_the_ladder() -> None:
    rates = np.log([1e-4, 1e-3, 1e-2, 1e-1])
    top = math.log(4e-3)
    assert best_log_rate(rates, (rates - top) ** 2) == pytest.approx(top)
    assert best_log_rate(rates, -rates) == rates[-1]
    assert best_log_rate(rates, rates) == rates[0]
    assert best_log_rate(rates, np.array([1.0, 0.5, 0.5, 0.5])) == pytest.approx(
        (rates[1] + rates[2]) / 2, abs=1.2
    )


def ladder(best: float, seed: int = 0) -> tuple[list[float], list[np.ndarray]]:
    rates = [best / 10, best / 3, best, best * 3, best * 10]
    means = [0.8 + 0.1 * math.log(rate / best) ** 2 for rate in rates]
    return rates, [losses(mean, seed=seed + at) for at, mean in enumerate(means)]


def test_the_ratio_of_two_best_rates_is_found_with_its_interval() -> None:
    found = rate_ratio(ladder(2e-3), ladder(2e-4, seed=9), draws=300)
    assert found.low < 10 < found.high
    assert found.mean == pytest.approx(10, rel=0.2)
    assert found == rate_ratio(ladder(2e-3), ladder(2e-4, seed=9), draws=300)


def test_what_is_left_of_a_gap_is_a_ratio() -> None:
    first, last = (losses(1.4, seed=1), losses(0.4, seed=2)), (losses(0.6, seed=3), losses(0.2))
    found = gap_ratio(last, first, 300)
    assert found.mean == pytest.approx(0.4, abs=0.05)
    assert found.low < 0.4 < found.high


def test_a_difference_of_losses_is_paired_and_a_share_of_the_second() -> None:
    found = difference(losses(1.2, seed=1), losses(1.0, seed=2))
    assert found.low < 0.2 < found.high
    share = relative_difference(losses(1.2, seed=1), losses(1.0, seed=2))
    assert share.mean == pytest.approx(found.mean / losses(1.0, seed=2).mean())


def test_the_largest_difference_is_above_zero_only_if_two_are_shown_to_differ() -> None:
    rng = np.random.default_rng(1)
    alike = [(rng.random((3, 400)) < 0.5).astype(float) for _ in range(3)]
    found = largest_difference(alike)
    assert found.low == 0
    assert 0 < found.mean < found.high
    apart = [*alike, (rng.random((3, 400)) < 0.9).astype(float)]
    assert largest_difference(apart).low > 0.2


def _coverage(
    truth: float, draw: Callable[[np.random.Generator], tuple[float, float]], times: int = 150
) -> float:
    rng = np.random.default_rng(3)
    ends: Iterator[tuple[float, float]] = (draw(rng) for _ in range(times))
    return sum(low <= truth <= high for low, high in ends) / times


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "common"), [(32, 0.0), (500, 0.2)], ids=["few", "many, seeds change both alike"]
)
def test_intervals_of_a_gap_ratio_hold_as_often_as_they_promise(count: int, common: float) -> None:
    def once(rng: np.random.Generator) -> tuple[float, float]:
        hard = rng.normal(0, 0.4, count)

        def arms(*means: float) -> tuple[np.ndarray, ...]:
            alike = 1.5 + hard + rng.normal(0, common, (3, 1))
            own = [rng.normal(0, 0.15, (3, count)) + rng.normal(0, 0.02, (3, 1)) for _ in means]
            return tuple(alike + mean + noise for mean, noise in zip(means, own, strict=True))

        last, first = arms(0.2, 0.0), arms(0.6, 0.1)
        found = gap_ratio((last[0], last[1]), (first[0], first[1]), 1_500)
        return found.low, found.high

    assert _coverage(0.4, once) > 0.9


# ---- verdicts


@pytest.mark.parametrize(
    ("low", "high", "band", "verdict"),
    [
        (6, 12, (5, 20), "seen"),
        (3, 12, (5, 20), "cannot be seen at this size"),
        (1, 4, (5, 20), "not seen"),
        (21, 40, (5, 20), "not seen"),
        (0.1, 0.3, (0, None), "seen"),
        (-0.1, 0.3, (0, None), "cannot be seen at this size"),
        (-0.3, -0.1, (None, 0), "seen"),
        (0.1, 0.3, (None, 0), "not seen"),
    ],
)
def test_a_verdict_follows_from_the_interval_and_the_band_alone(
    low: float, high: float, band: tuple[float | None, float | None], verdict: str
) -> None:
    found = Estimated("x", "loss", (low + high) / 2, low, high, band)
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("band", "words"),
    [((5, 20), "5 to 20"), ((0, None), "0 or more"), ((None, 0.02), "0.02 or less")],
)
def test_a_band_is_said_in_words(band: tuple[float | None, float | None], words: str) -> None:
    assert Estimated("x", "loss", 1, 0, 2, band).agreeing == words


def test_a_claim_of_two_parts_is_seen_only_if_both_are() -> None:
    seen = Estimated("x", "loss", 1, 0.5, 2, (0, None))
    open_, against = replace(seen, low=-1), replace(seen, low=-3, high=-1)
    assert Tried("c", (seen, seen)).verdict == "seen"
    assert Tried("c", (seen, open_)).verdict == "cannot be seen at this size"
    assert Tried("c", (open_, against)).verdict == "not seen"


# ---- runs


def small() -> ClaimsProtocol:
    """One ladder of LoRA, and a comparison of its best rate with full fine-tuning."""
    rates = StudySweep("rates", 4, EXAMPLES, "tuning", False, (0,),
                       (Arm("lora", "lora", (1e-3, 3e-3, 9e-3)),))  # fmt: skip
    scores = StudySweep("scores", 4, EXAMPLES, "held_out", True, (0, 1),
                        (Arm("lora", "lora", best_of="lora"), Arm("full", "full")))  # fmt: skip
    estimates = (
        Estimate("more loss", "loss", ("scores",), ("lora", "full"), (0, None)),
        Estimate("forgets", "forgetting", ("scores",), ("lora", "full"), (None, 0)),
        Estimate("apart", "largest score difference", ("scores",), ("lora", "full"), (0, 0.02)),
    )
    claim = Claim("less", "LoRA learns less", "It does.", "A paper", "https://a.b", estimates)
    return ClaimsProtocol((), "sql", 100, (rates, scores), (claim,))


LORA_AT_BEST = Variant("lora", learning_rate=3e-3)


def run_sweep(folder: Path, protocol: ClaimsProtocol, id: str, *seeds: int) -> None:
    sweep = protocol.sweep(id)
    asked = protocol.request(sweep)
    found = Found(protocol, RunStore(folder).runs())
    for arm in sweep.arms:
        for variant in found.variants(arm):
            for seed in seeds or sweep.seeds:
                rate = variant.learning_rate or 0.0
                mean = 1.0 if arm.id == "full" else 1.2 + 50 * abs(rate - 3e-3)
                rows = [
                    {"index": i, "prompt": f"q{i}", "reference": "a", "loss_after": mean + i / 100,
                     "score_after": float(i % 2), "completion_tokens": 3}
                    for i in range(EXAMPLES)
                ]  # fmt: skip
                run = make_run(
                    folder, variant.method, seed=seed, learning_rate=variant.learning_rate,
                    settings=asked.settings, model=asked.model, task=asked.task, samples=rows,
                )  # fmt: skip
                result = run.result()
                assert result is not None
                passages = tuple(2.0 + 0.1 * (arm.id == "full") + i / 50 for i in range(12))
                run.result_file.unlink()
                run.write_result(replace(result, general_losses=passages))


def test_what_is_missing_is_named_by_seed_and_later_sweeps_wait_for_their_ladder(
    tmp_path: Path,
) -> None:
    protocol = small()
    rates, scores = protocol.sweeps
    nothing = Found(protocol, [])
    assert [len(variants) for variants in nothing.missing(rates).values()] == [3]
    with pytest.raises(FtlabError, match="ladder 'lora' is not done"):
        nothing.missing(scores)
    run_sweep(tmp_path, protocol, "rates")
    run_sweep(tmp_path, protocol, "scores", 0)
    found = Found(protocol, RunStore(tmp_path).runs())
    assert found.missing(rates) == {}
    assert found.best_rate("lora") == 3e-3
    missing = found.missing(scores)
    assert list(missing) == [(1,)]
    assert [variant.method for variant in missing[1,]] == ["lora", "full"]


def test_a_rate_at_which_a_run_diverged_is_no_candidate_and_is_not_tried_again(
    tmp_path: Path,
) -> None:
    protocol = small()
    run_sweep(tmp_path, protocol, "rates")
    best = next(run for run in RunStore(tmp_path).runs() if run.spec.variant == LORA_AT_BEST)
    best.directory.result_file.unlink()
    best.directory.write_result(RunResult("diverged", "The loss rose."))
    found = Found(protocol, RunStore(tmp_path).runs())
    assert found.missing(protocol.sweep("rates")) == {}
    assert found.diverged == ("LoRA lr=0.003",)
    assert found.best_rate("lora") == 1e-3
    rungs = found.ladder(protocol.sweep("rates"), protocol.arm("lora"))
    assert rungs is not None
    assert rungs[0] == [1e-3, 9e-3]


def test_a_claim_is_judged_once_all_its_runs_are_there(tmp_path: Path) -> None:
    protocol = small()
    run_sweep(tmp_path, protocol, "rates")
    early = tried_claims(protocol, RunStore(tmp_path).runs())
    assert not early.is_complete
    assert early.rates == {"lora": 3e-3}
    run_sweep(tmp_path, protocol, "scores")
    record = tried_claims(protocol, RunStore(tmp_path).runs())
    assert record.is_complete
    (tried,) = record.tried
    loss, forgetting, score = tried.estimates
    assert loss.value == pytest.approx(0.2 / (1.0 + (EXAMPLES - 1) / 200))
    assert forgetting.value == pytest.approx(-0.1)
    assert score.value == 0
    write_claims(record, tmp_path / "found.json")
    assert read_claims(tmp_path / "found.json") == record


# ---- the shipped protocol


def test_every_claim_has_its_runs_and_every_run_is_for_a_claim() -> None:
    used = set()
    for claim in PROTOCOL.claims:
        for one in claim.estimates:
            for id in one.sweeps:
                known = {arm.id for arm in PROTOCOL.sweep(id).arms}
                assert set(one.arms) <= known, claim.id
                used |= {(id, arm) for arm in one.arms}
    ladders = {arm.best_of for sweep in PROTOCOL.sweeps for arm in sweep.arms}
    for sweep in PROTOCOL.sweeps:
        for arm in sweep.arms:
            assert (sweep.id, arm.id) in used or arm.id in ladders
    assert len(PROTOCOL.claims) == 7


def test_every_run_can_be_asked_for_and_ladders_hold_the_default_rate() -> None:
    for sweep in PROTOCOL.sweeps:
        for arm in sweep.arms:
            variant = parse_variant(arm.variant)
            checked(replace(PROTOCOL.request(sweep), variants=(variant,)))
            assert not arm.rates or METHODS[variant.method].learning_rate in arm.rates


def test_attention_alone_has_as_many_parameters_as_all_layers(tiny_model: Path) -> None:
    shape = shape_of_model("bundled") or shape_of_model(str(tiny_model))
    assert shape is not None
    every, alone = parse_variant("lora"), parse_variant(PROTOCOL.arm("attention").variant)
    if shape_of_model("bundled") is None:
        pytest.skip("the bundled model is not on this machine")
    (own,) = match_parameters([every], shape, 2_442_240)
    (match,) = match_parameters(
        [parse_variant("lora:targets=attention")], shape, own.parameters or 0
    )
    assert match.variant == alone
