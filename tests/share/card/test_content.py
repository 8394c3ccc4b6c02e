"""What stands on the savings card, from the runs alone."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest

from ftlab.records.published import import_files
from ftlab.records.store import RunStore, sweep_data
from ftlab.share.card_content import card_of, card_variants
from tests.fakes import SWEEP, make_run, make_sweep
from tests.share.fakes import data_of, scored

DATA = Path(__file__).parents[2] / "data"


def test_the_sentence_has_the_form_that_was_asked_for(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    card = card_of(data_of(tmp_path), "QLoRA")
    assert card.sentence == (
        "QLoRA trained this model with 41 % less memory than full fine-tuning, "
        "scored 0.70 against 0.73, and its file to deliver is 27 times smaller."
    )
    assert (card.verdict, card.judgement) == (
        "partial",
        "Saves memory and file size; no saving in training time",
    )
    assert "each run once: how far repeats differ is not known" in card.facts[1]
    lora = card_of(data_of(tmp_path), "LoRA")
    assert (lora.verdict, lora.judgement) == ("saving", "Saves memory, training time and file size")


def test_the_best_variant_is_on_it_unless_another_is_named(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    data = data_of(tmp_path)
    assert card_variants(data) == ["LoRA", "QLoRA", "Prompt tuning"]
    assert card_of(data).variant == "LoRA"
    assert card_of(data, "Prompt tuning").variant == "Prompt tuning"
    assert card_of(data, "gone").variant == "LoRA"


def test_of_two_variants_with_one_score_the_smaller_net_peak_is_the_best(tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("full", "lora", "qlora"), measures={"score_after": 0.7})
    make_run(
        tmp_path, "prompt_tuning", measures={"score_after": 0.7, "net_peak_memory_bytes": 10**9}
    )
    assert card_of(data_of(tmp_path)).variant == "Prompt tuning"


def test_a_tile_that_costs_more_and_a_time_saved_that_one_seed_does_not_show_are_said_in_words(
    tmp_path: Path,
) -> None:
    make_run(tmp_path, "full", measures={"train_seconds": 100.0})
    make_run(tmp_path, "qlora", measures={"train_seconds": 146.0})
    tile = card_of(data_of(tmp_path), "QLoRA").tiles[2]
    assert (tile.value, tile.mood, tile.note) == ("46 % more", "bad", "more than full")
    make_run(tmp_path, "lora", measures={"train_seconds": 90.0})
    card = card_of(data_of(tmp_path), "LoRA")
    tile = card.tiles[2]
    assert (tile.value, tile.mood, tile.note) == ("10 % less", "even", "no difference shown")
    assert card.judgement == "Saves memory and file size; no saving in training time"
    assert card.doubts == (
        "Training time: no difference shown (1 run each; two runs of one spec differ by up to 35 % "
        "in the recorded sweeps).",
    )


def test_tiles_give_ratio_and_absolute_values_and_bars_are_of_one_scale_a_pair(
    tmp_path: Path,
) -> None:
    make_sweep(tmp_path)
    card = card_of(data_of(tmp_path), "QLoRA")
    assert [tile.value for tile in card.tiles] == [
        "1.78 %",
        "41 % less",
        "14 % less",
        "9.8 MB",
        "0.70",
    ]
    assert card.tiles[1].detail == "0.59x net peak: 1.38 GB, full 2.34 GB"
    assert card.tiles[3].detail == "27x smaller"
    assert card.tiles[4].label == "SQL score, full 0.73"
    assert card.pairs[0].title == "Memory while training"
    own, full = card.pairs[0].bars
    assert (own.name, own.method, own.text) == ("QLoRA", "qlora", "1.38 GB")
    assert own.length == pytest.approx(1380 / 2340)
    assert (full.name, full.length) == ("Full", 1)


@pytest.mark.parametrize(
    ("measures", "verdict", "judgement", "words"),
    [
        (
            {"net_peak_memory_bytes": 2_600_000_000},
            "partial",
            "Saves training time and file size; no saving in memory",
            "with 11 % more memory than full fine-tuning",
        ),
        (
            {
                "net_peak_memory_bytes": 2_600_000_000,
                "adapter_bytes": 300_000_000,
                "train_seconds": 140.0,
            },
            "none",
            "No saving shown",
            "11 % more memory than full fine-tuning, scored 0.71 against 0.73, and its file to "
            "deliver is 11 % larger.",
        ),
        (
            {"net_peak_memory_bytes": 2_341_000_000},
            "partial",
            "Saves training time and file size; no saving in memory",
            "with about the memory of full fine-tuning (no difference shown)",
        ),
        (
            {"net_peak_memory_bytes": None},
            "partial",
            "Saves training time and file size; memory not measured for both",
            "beside full fine-tuning (memory not measured for both)",
        ),
    ],
)
def test_where_there_is_no_saving_the_card_says_so(
    tmp_path: Path, measures: dict[str, Any], verdict: str, judgement: str, words: str
) -> None:
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", measures=measures)
    card = card_of(data_of(tmp_path))
    assert (card.verdict, card.judgement) == (verdict, judgement)
    assert words in card.sentence


def test_memory_that_was_not_measured_for_full_fine_tuning_is_no_claim(tmp_path: Path) -> None:
    keys = ("net_peak_memory_bytes", "adapter_bytes", "train_seconds")
    make_run(tmp_path, "full", measures=dict.fromkeys(keys))
    make_run(tmp_path, "lora")
    card = card_of(data_of(tmp_path))
    assert card.verdict == "none"
    assert [tile.mood for tile in card.tiles[1:4]] == ["plain"] * 3


@pytest.mark.parametrize(
    ("full", "lora", "verdict", "words", "note"),
    [
        ([1.0, 0.0], [0.0, 1.0], "saving", "scored 0.50 against 0.50 (no difference shown)",
         "no difference shown"),
        ([1.0, 1.0], [1.0, 0.0], "partial", "scored lower (0.50 against 1.00)", "lower"),
    ],
    ids=["within the interval", "lower"],
)  # fmt: skip
def test_only_a_score_outside_the_interval_counts_as_lower(
    tmp_path: Path, full: list[float], lora: list[float], verdict: str, words: str, note: str
) -> None:
    for method, scores in (("full", full), ("lora", lora)):
        measures = {"score_after": sum(scores) / 2}
        make_run(tmp_path, method, measures=measures, samples=scored(scores * 20))
    card = card_of(data_of(tmp_path))
    assert words in card.sentence
    assert (card.verdict, card.tiles[4].note) == (verdict, note)
    assert (card.tiles[4].mood == "bad") == (note == "lower")
    assert card.judgement.endswith("; score lower than full fine-tuning’s") == (note == "lower")
    ends = re.fullmatch(
        r"(.)\d\.\d\d to (.)\d\.\d\d with 95 %, on 40 examples", card.tiles[4].detail
    )
    assert ends is not None
    assert ends.groups() == (("−", "−") if note == "lower" else ("−", "+")), "LoRA less full"


def test_without_a_score_the_held_out_loss_is_compared(tmp_path: Path) -> None:
    make_run(tmp_path, "full", measures={"score_after": None}, samples=scored([1.0] * 40))
    make_run(
        tmp_path,
        "lora",
        measures={"score_after": None},
        samples=scored([1.0] * 40, [1.5] * 40),
    )
    card = card_of(data_of(tmp_path))
    assert "had a higher loss (1.310 against 1.220)" in card.sentence
    assert card.judgement.endswith("test loss higher than full fine-tuning’s")


def test_without_full_fine_tuning_it_says_what_is_missing(tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("lora", "qlora"))
    card = card_of(data_of(tmp_path))
    assert card.verdict == "incomplete"
    assert card.sentence.startswith("A full fine-tuning run is needed to compare LoRA and QLoRA")
    assert [tile.value for tile in card.tiles] == [
        "1.78 %", "1.29 GB", "1 min 00 s", "9.8 MB", "0.71",
    ]  # fmt: skip
    assert card.pairs == ()


def test_of_a_sweep_with_nothing_done_it_has_no_numbers(tmp_path: Path) -> None:
    make_sweep(tmp_path, status="failed")
    card = card_of(data_of(tmp_path))
    assert (card.verdict, card.tiles, card.method) == ("incomplete", (), "")
    assert "No run of this sweep got to its end" in card.sentence


def test_it_says_where_and_how_the_numbers_were_measured(tmp_path: Path) -> None:
    make_sweep(tmp_path, seeds=(0, 1), measures={"disturbed": True})
    card = card_of(data_of(tmp_path))
    assert card.facts == (
        "AMD EPYC 7B13 · SmolLM2-135M-Instruct (bundled) · SQL · dtype policy bf16 · 30 steps",
        "means of 2 repeats (seeds) · memory: CPU resident · the computer was busy during 8 "
        "runs: times are too long · "
        "sweep 20261125-120000-ab12",
    )
    assert card.origin_text == "measured 25 Nov 2026"


def test_a_model_folder_is_named_without_its_path(tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs", model="/srv/secret/mine")
    assert "secret" not in "".join(card_of(data_of(tmp_path / "runs")).facts)


def test_a_recorded_sweep_is_said_to_be_recorded(tmp_path: Path) -> None:
    make_sweep(tmp_path / "sweep")
    store = RunStore(tmp_path / "none", recorded=tmp_path)
    card = card_of(sweep_data(store, store.shipped()[0].spec.sweep_id))
    assert card.origin == "recorded"
    assert card.origin_text == "recorded 25 Nov 2026"


def test_imported_results_make_a_card_that_says_so(tmp_path: Path) -> None:
    import_files(sorted(DATA.glob("*llama*.json")), tmp_path)
    store = RunStore(tmp_path)
    data = sweep_data(store, store.published()[0].sweep_id)
    card = card_of(data)
    assert card.origin == card.origin_text == "imported"
    assert "measured by others" in card.facts[1]


def test_long_names_do_not_push_the_numbers_off_the_card(tmp_path: Path) -> None:
    for rank in range(1, 31):
        make_run(tmp_path, "lora", hyperparameters={"r": rank, "targets": "x" * 300})
    assert len(card_of(data_of(tmp_path)).sentence) <= 240
    make_run(tmp_path, "full")
    sentence = card_of(data_of(tmp_path)).sentence
    assert sentence.endswith("its file to deliver is 27 times smaller.")
    assert len(sentence) < 200


def test_a_card_never_changes(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    with pytest.raises(dataclasses.FrozenInstanceError):
        card_of(data_of(tmp_path)).sentence = "better"  # type: ignore[misc]


def test_without_a_score_or_loss_the_card_gives_no_plain_tick(tmp_path):
    nothing = {"score_after": None, "eval_loss_after": None}
    make_sweep(tmp_path, measures=nothing)
    card = card_of(sweep_data(RunStore(tmp_path), SWEEP), "LoRA")
    assert card.verdict == "partial"
    assert "no score or loss measured for both" in card.judgement
    assert "its score was not measured" in card.sentence


def test_means_over_unlike_seeds_are_no_plain_saving(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "lora", sweep_id=SWEEP, seed=1, measures={"score_after": 0.9})
    card = card_of(sweep_data(RunStore(tmp_path), SWEEP), "LoRA")
    assert card.verdict == "partial"
    assert card.judgement.startswith("Not a fair comparison (seeds); saves memory")
    assert card.unlike == "Not a fair comparison: seeds (0 of Full fine-tuning; 0, 1 of LoRA)."
    assert "seeds differ by variant" in card.facts[1]


@pytest.mark.parametrize(
    ("lora", "what"),
    [
        ({"measures": {"disturbed": True}}, "other work on the machine"),
        ({"environment": {"device": "H100"}}, "machine"),
    ],
)
def test_no_saving_is_claimed_of_runs_that_are_unlike_without_saying_so(
    tmp_path: Path, lora: dict[str, Any], what: str
) -> None:
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", **lora)
    card = card_of(data_of(tmp_path))
    assert (card.verdict, card.judgement) == (
        "partial",
        f"Not a fair comparison ({what}); saves memory, training time and file size",
    )


def test_the_card_compares_its_own_two_methods_and_no_third(tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "qlora", measures={"disturbed": True})
    data = data_of(tmp_path)
    assert (card_of(data, "LoRA").verdict, card_of(data, "LoRA").unlike) == ("saving", "")
    assert card_of(data, "QLoRA").verdict == "partial"


def test_where_no_difference_in_score_is_shown_the_card_says_what_would_show_it(
    tmp_path: Path,
) -> None:
    half = [1.0, 0.0] * 20
    better = [1.0, 1.0, *half[2:]]
    for method, scores in (("full", half), ("lora", better)):
        measures = {"train_seconds": 60.0, "total_seconds": 100.0, "score_after": sum(scores) / 40}
        make_run(tmp_path, method, measures=measures, samples=scored(scores))
    said = card_of(data_of(tmp_path)).doubts[-1]
    found = re.fullmatch(
        r"This sweep can show a difference in score of about 0\.\d\d\. If the true one is 0\.03 "
        r"as here, ([\d,]+) examples and 1 seed \(about ([\d,]+) min\) or ([\d,]+) examples and 3 "
        r"seeds \(about ([\d,]+) min\) would show it in 80 of 100 sweeps\.",
        said,
    )
    assert found, said
    one, minutes, three, minutes_of_three = (int(part.replace(",", "")) for part in found.groups())
    # Two runs a seed: a minute of training each, and 40 s for the 40 examples.
    assert minutes == math.ceil(2 * (60 + 40 * one / 40) / 60)
    assert minutes_of_three == math.ceil(3 * 2 * (60 + 40 * three / 40) / 60)
    make_run(tmp_path, "oft", measures={"score_after": 0.5}, samples=scored(half))
    same = card_of(data_of(tmp_path), "OFT").doubts[-1]
    assert same.startswith("This sweep can show a difference in score of about")
    assert "If the true one" not in same, "nothing shows a difference of nothing"
