"""Which variant is recommended: the cheapest that no other is shown to beat, or none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftlab.__main__ import main
from ftlab.basics.files import recorded_folder
from ftlab.records.recommendation import CRITERIA, Recommendation, recommend
from ftlab.records.store import RunStore, sweep_data
from tests.fakes import SWEEP, make_run
from tests.share.fakes import data_of, scored

EXAMPLES = 60


def answers(share: float, seed: int = 0, examples: int = EXAMPLES) -> list[float]:
    """Scores of 0 and 1, of which that share are right."""
    return (np.random.default_rng(seed).permutation(examples) < share * examples).astype(
        float
    ).tolist()  # fmt: skip


def make(folder: Path, method: str, scores: Sequence[float], memory: int, **more: Any) -> None:
    measures = {
        "score_after": float(np.mean(scores)),
        "net_peak_memory_bytes": memory,
        "train_seconds": 1e9 / memory,
        "adapter_bytes": memory // 10,
    }
    make_run(folder, method, measures=measures, samples=scored([*scores]), **more)


def found_in(folder: Path, prefer: Any = "memory") -> Recommendation:
    return recommend(data_of(folder).table, prefer)


def verdicts(found: Recommendation) -> dict[str, str]:
    return {standing.method: standing.verdict for standing in found.standings}


def test_of_variants_that_are_not_shown_to_differ_the_cheapest_is_recommended(
    tmp_path: Path,
) -> None:
    make(tmp_path, "full", answers(0.6, 1), memory=3_000)
    make(tmp_path, "lora", answers(0.55, 2), memory=1_000)
    make(tmp_path, "prompt_tuning", answers(0.05, 3), memory=500)
    found = found_in(tmp_path)
    assert found.choice == "LoRA"
    assert verdicts(found) == {
        "lora": "recommended",
        "full": "not shown to differ",
        "prompt_tuning": "shown to be worse",
    }
    assert "that no other is shown to beat, none is shown to need less memory" in found.sentence
    assert any("at 3.00x the memory" in detail for detail in found.details)
    assert any(
        detail == "Shown to score lower than another: Prompt tuning." for detail in found.details
    )


COSTS = {
    "memory": "at 3.00x the memory.",
    "file": "at 3.00x the file size.",
    "time": "at 3.00x the training time.",
    "score": "at 0.33x the memory.",
}


@pytest.mark.parametrize("prefer", sorted(CRITERIA))
def test_what_decides_is_what_the_reader_prefers(prefer: Any, tmp_path: Path) -> None:
    make(tmp_path, "full", answers(0.6, 1), memory=3_000)
    make(tmp_path, "lora", answers(0.55, 2), memory=1_000)
    found = found_in(tmp_path, prefer)
    expected = {"memory": "LoRA", "file": "LoRA"}.get(prefer, "Full fine-tuning")
    assert found.choice == expected
    assert found.prefer == prefer
    assert found.details[1].endswith(f", {COSTS[prefer]}"), "what the other costs beside it"


def test_a_variant_that_is_shown_to_beat_all_is_named_so(tmp_path: Path) -> None:
    make(tmp_path, "full", [1.0] * EXAMPLES, memory=3_000)
    make(tmp_path, "lora", answers(0.3), memory=1_000)
    found = found_in(tmp_path)
    assert found.choice == "Full fine-tuning"
    assert found.sentence.endswith("It is shown to score higher than all other variants.")
    standing = found.standings[1]
    assert standing.against is not None
    assert standing.against.falls
    assert standing.costs["net_peak_memory_bytes"] == pytest.approx(1 / 3)


def test_nothing_is_recommended_where_none_is_shown_to_beat_the_untouched_model(
    tmp_path: Path,
) -> None:
    make(tmp_path, "full", [1.0, *[0.0] * 59], memory=3_000)
    make(tmp_path, "lora", [0.0] * 60, memory=1_000)
    found = found_in(tmp_path)
    assert found.choice is None
    assert found.title == "Which one to use: none is recommended"
    assert "no variant is shown to score higher than the untouched model" in found.sentence
    assert {standing.verdict for standing in found.standings} == {"not shown to help"}
    assert found.details[0].startswith("Full fine-tuning against the untouched model: +0.02")


def test_a_score_that_is_the_same_for_all_leaves_it_to_the_loss(tmp_path: Path) -> None:
    tokens = [9 if number % 7 == 6 else 1 for number in range(EXAMPLES)]
    for method, loss in (("full", 1.2), ("lora", 2.2)):
        losses = [loss + 0.01 * (number % 7) for number in range(EXAMPLES)]
        rows = scored([0.0] * EXAMPLES, losses)
        make_run(tmp_path, method, samples=[row | {"tokens": tokens[row["index"]]} for row in rows])
    found = found_in(tmp_path)
    assert found.measure == "eval_loss_after"
    assert found.choice == "Full fine-tuning"
    assert "It is shown to have a lower test loss than all other variants." in found.sentence
    assert found.details[0] == (
        "Every variant has a score of 0.00 on every example, so it cannot say which is better."
    )
    best, other = found.standings
    by_tokens = np.average([1.2 + 0.01 * (number % 7) for number in range(60)], weights=tokens)
    assert best.score.mean == pytest.approx(by_tokens)
    assert f"{by_tokens:.3f} (" in found.sentence
    assert other.against is not None
    assert other.against.mean == pytest.approx(1.0)  # its loss is higher
    assert other.against.rises
    for interval in (best.score, other.score, other.against):
        assert interval.low < interval.mean < interval.high


def test_a_variant_that_is_not_shown_to_help_is_not_recommended_for_being_cheap(
    tmp_path: Path,
) -> None:
    """Though none is shown to beat it."""
    make(tmp_path, "full", answers(0.2, 1), memory=3_000)
    make(tmp_path, "lora", answers(0.07, 2), memory=1_000)
    found = found_in(tmp_path)
    assert found.choice == "Full fine-tuning"
    assert "It is the only variant that is shown to score higher than the untouched model." in (
        found.sentence
    )
    assert verdicts(found)["lora"] == "not shown to help"


def test_of_those_that_are_not_shown_to_cost_more_the_best_mean_is_recommended(
    tmp_path: Path,
) -> None:
    make(tmp_path, "full", answers(0.6, 1), memory=1_001)
    make(tmp_path, "lora", answers(0.5, 2), memory=1_000)
    found = found_in(tmp_path)
    assert found.choice == "Full fine-tuning"
    assert any(
        detail.endswith("1.00x the memory (no difference shown).") for detail in found.details
    )


def test_a_cost_that_was_not_measured_decides_nothing_and_is_said(tmp_path: Path) -> None:
    for method, share in (("full", 0.6), ("lora", 0.5)):
        measures = {"net_peak_memory_bytes": None, "score_after": share}
        make_run(tmp_path, method, measures=measures, samples=scored(answers(share)))
    found = found_in(tmp_path)
    assert found.choice == "Full fine-tuning"
    assert "it has the best mean" in found.sentence
    assert "was not measured" in found.sentence


def test_training_that_made_it_worse_is_called_so(tmp_path: Path) -> None:
    for method, right in (("full", 1), ("lora", 2)):
        samples = scored([1.0] * right + [0.0] * (EXAMPLES - right))
        make_run(tmp_path, method, samples=[row | {"score_before": 1.0} for row in samples])
    assert "all variants are shown to score lower than the untouched model" in (
        found_in(tmp_path).sentence
    )


def test_runs_without_a_result_are_counted(tmp_path: Path) -> None:
    make(tmp_path, "full", answers(0.9), memory=3_000)
    make(tmp_path, "lora", answers(0.9, 1), memory=1_000)
    for seed in (1, 2):
        make_run(tmp_path, "lora", "diverged", seed=seed)
    make_run(tmp_path, "full", "queued", seed=1)
    found = found_in(tmp_path)
    assert found.details[-1] == "Runs without a result (diverged): 2 of 3 of LoRA."
    assert {one.method: one.unfinished for one in found.standings} == {"full": 0, "lora": 2}


def test_the_examples_that_most_variants_scored_count(tmp_path: Path) -> None:
    make(tmp_path, "full", answers(0.9, examples=20), memory=3_000)
    make(tmp_path, "lora", answers(0.9, 1), memory=1_000)
    make(tmp_path, "dora", answers(0.9, 2), memory=2_000)
    found = found_in(tmp_path)
    assert {one.method for one in found.standings} == {"lora", "dora"}
    assert "1 run of Full fine-tuning left out: other examples were scored." in found.details


def test_an_untouched_model_in_4_bits_is_named_so_and_a_missing_one_is_said(tmp_path: Path) -> None:
    make(tmp_path / "nf4", "qlora", answers(0.9), memory=1_000)
    assert "the untouched model in nf4" in found_in(tmp_path / "nf4").sentence
    for method in ("qlora", "lora"):
        make(tmp_path / "both", method, answers(0.9), memory=1_000)
    assert "the untouched model in nf4" not in found_in(tmp_path / "both").sentence
    for method in ("full", "lora"):
        samples = scored(answers(0.9, len(method)))
        kept = [{k: v for k, v in row.items() if k != "score_before"} for row in samples]
        make_run(tmp_path / "none", method, samples=kept)
    found = found_in(tmp_path / "none")
    assert "The untouched model is not compared: its answers are not known." in found.details


@pytest.mark.slow
def test_noise_on_few_examples_gives_a_sound_result_and_valid_json(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0)
    for number in range(10):
        folder = tmp_path / str(number)
        for method in ("full", "lora"):
            for seed in range(3):
                scores = (drawn.random(12) < 0.5).astype(float).tolist()
                make(folder, method, scores, memory=1_000, seed=seed)
        json.dumps(found_in(folder).as_json(), allow_nan=False)


def test_many_variants_with_long_names_stay_short(tmp_path: Path) -> None:
    for rank in range(1, 31):
        make(
            tmp_path, "lora", answers(0.9, rank), memory=1_000,
            hyperparameters={"r": rank, "targets": "x" * 300},
        )  # fmt: skip
    found = found_in(tmp_path)
    assert len(found.standings) == 30
    assert len(found.details) < 15
    assert max(map(len, (found.title, found.sentence, *found.details))) < 600


def test_the_seeds_of_a_variant_count_together(tmp_path: Path) -> None:
    for seed in range(3):
        make(tmp_path, "full", answers(0.6, seed), memory=3_000, seed=seed)
        make(tmp_path, "lora", answers(0.5, 10 + seed), memory=1_000, seed=seed)
    found = found_in(tmp_path)
    assert {standing.seeds for standing in found.standings} == {3}
    assert "3 seeds" in found.basis
    assert "recorded sweeps" not in found.basis


def test_a_variant_with_other_examples_is_left_out_by_name(tmp_path: Path) -> None:
    make(tmp_path, "full", answers(0.9), memory=3_000)
    make(tmp_path, "lora", answers(0.9, examples=40), memory=1_000)
    found = found_in(tmp_path)
    assert found.choice == "Full fine-tuning"
    assert found.details[-1] == "1 run of LoRA left out: other examples were scored."
    assert "than the untouched model" in found.sentence


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([], "no run has a score of each example"),
        (scored([1.0] * 9), "9 test examples can show no difference; score 10 or more"),
    ],
)
def test_without_enough_examples_a_sentence_says_what_is_missing(
    samples: list[dict[str, Any]], words: str, tmp_path: Path
) -> None:
    for method in ("full", "lora"):
        make_run(tmp_path, method, samples=samples)
    found = found_in(tmp_path)
    assert (found.choice, found.standings) == (None, ())
    assert words in found.sentence


def test_a_sweep_with_nothing_done_has_none(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", "failed")
    assert found_in(tmp_path).sentence == "Nothing is recommended: no run is done."


def test_published_results_have_no_examples_and_so_none() -> None:
    store = RunStore(Path("nowhere"), recorded_folder())
    run = next(iter(store.published()), None)
    if run is not None:
        assert recommend(sweep_data(store, run.sweep_id).table).choice is None


def test_every_recorded_sweep_has_a_recommendation_that_nothing_is_shown_to_beat() -> None:
    store = RunStore(Path("nowhere"), recorded_folder())
    sweeps = {run.spec.sweep_id for run in store.shipped()}
    assert len(sweeps) >= 2
    for sweep in sweeps:
        found = recommend(sweep_data(store, sweep).table)
        assert found.choice is not None
        assert found.untouched is not None
        for standing in found.standings[1:]:
            assert standing.against is not None
            assert not standing.against.rises


def test_the_command_says_it_and_prints_it_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, "full", answers(0.6, 1), memory=3_000)
    make(tmp_path, "lora", answers(0.55, 2), memory=1_000)
    ask = ["recommend", SWEEP, "--runs-dir", str(tmp_path)]
    assert main(ask) == 0
    assert capsys.readouterr().out.startswith("LoRA at ")
    assert main([*ask, "--prefer", "score", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["choice"] == "Full fine-tuning"
    assert found["standings"][1]["against"]["mean"] == pytest.approx(-0.05)
