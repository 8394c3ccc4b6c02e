import math

import pytest

from ftlab.charts.savings import (
    adapters,
    compare,
    less_or_more,
    nothing_to_compare,
    savings_figure,
    savings_finding,
    times,
    variant_means,
)
from ftlab.methods.registry import METHODS
from ftlab.records.metrics import HEADLINES, METRICS
from tests.charts.whole_sweep import table_of, texts
from tests.fakes import SWEEP, make_run, make_sweep

TRAIN = METRICS["train_seconds"]


def test_each_variant_is_compared_with_full_fine_tuning(tmp_path):
    make_sweep(tmp_path)
    bars = savings_figure(table_of(tmp_path), METRICS["net_peak_memory_bytes"]).data[0]
    assert list(bars.x)[:2] == pytest.approx([1, 1_287 / 2_340])


def test_seeds_are_averaged_and_counted_with_their_spread(tmp_path):
    table = table_of(tmp_path, "train_seconds", full=100.0, lora=[40.0, 60.0])
    bars = savings_figure(table, TRAIN).data[0]
    assert list(bars.x) == [1, 0.5]
    assert "50 s" in bars.text[1]
    assert "mean of 2 runs, 40 s to 1 min 00 s" in bars.hovertext[1]


def test_runs_without_the_measure_and_runs_that_are_not_done_are_left_out(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "qlora", measures={"adapter_bytes": None})
    make_run(tmp_path, "prompt_tuning", status="failed")
    table = table_of(tmp_path)
    assert list(savings_figure(table, METRICS["adapter_bytes"]).layout.yaxis.ticktext) == [
        "Full", "LoRA",
    ]  # fmt: skip
    assert texts(savings_figure(table[table["method"] == "qlora"], METRICS["adapter_bytes"])) == [
        "not measured"
    ]


def test_bars_carry_the_ratio_and_the_absolute_value(tmp_path):
    make_sweep(tmp_path)
    bars = savings_figure(table_of(tmp_path), METRICS["trainable_params"]).data[0]
    assert list(bars.text) == ["1.00x  134.5 M", "0.02x  2.4 M", "0.02x  2.4 M", "0.009 %  11.5 k"]


def test_without_full_fine_tuning_bars_are_absolute(tmp_path):
    make_sweep(tmp_path, methods=("lora", "qlora"))
    bars = savings_figure(table_of(tmp_path), TRAIN).data[0]
    assert list(bars.text) == ["1 min 00 s", "1 min 23 s"]
    assert list(bars.x) == [60.4, 82.7]


def test_two_variants_whose_short_names_are_alike_keep_a_bar_each(tmp_path):
    make_run(tmp_path, "lora", hyperparameters={"targets": "attention (q, k, v, o)"})
    make_run(tmp_path, "lora", hyperparameters={"targets": "attention (q, k, v, p)"})
    figure = savings_figure(table_of(tmp_path), TRAIN)
    assert len(figure.data[0].y) == 2


@pytest.mark.parametrize(
    ("runs", "missing"),
    [
        (
            {"lora": "done", "qlora": "done", "full": "failed"},
            "A full fine-tuning run is needed to compare LoRA and QLoRA with; none is done in this "
            "sweep.",
        ),
        (
            {"lora": "done", "qlora": "done", "prompt_tuning": "done"},
            "A full fine-tuning run is needed to compare LoRA, QLoRA and Prompt tuning with; none "
            "is done in this sweep.",
        ),
        (
            {"full": "done", "lora": "out_of_memory"},
            "Only full fine-tuning is done in this sweep; run another method to compare with it.",
        ),
        (
            {"full": "failed", "lora": "failed"},
            "No run of this sweep got to its end, so there is nothing to compare.",
        ),
        (
            {"full": "failed", "lora": "queued"},
            "No run of this sweep is done yet, so there is nothing to compare.",
        ),
        ({"full": "done", "lora": "done"}, ""),
    ],
    ids=[
        "failed full fine-tuning",
        "no full fine-tuning",
        "no adapter",
        "all failed",
        "none done yet",
        "nothing missing",
    ],
)
def test_what_is_missing_for_a_comparison_is_said(tmp_path, runs, missing):
    for method, status in runs.items():
        make_run(tmp_path, method, status)
    assert nothing_to_compare(table_of(tmp_path)) == missing


@pytest.mark.parametrize("value", [None, 0])
def test_a_full_run_without_numbers_divides_nothing(tmp_path, value):
    keys = ("net_peak_memory_bytes", "adapter_bytes", "train_seconds", "score_after")
    make_run(tmp_path, "full", measures=dict.fromkeys(keys, value))
    make_run(tmp_path, "lora")
    table = table_of(tmp_path)
    found = compare(table)
    assert found is not None
    assert math.isnan(found.ratio("net_peak_memory_bytes"))
    for key in HEADLINES:
        assert "inf" not in savings_figure(table, METRICS[key]).to_json()


def test_of_two_full_variants_the_better_one_is_the_reference(tmp_path):
    make_run(tmp_path, "full", measures={"score_after": 0.2, "train_seconds": 10.0})
    make_run(
        tmp_path, "full", learning_rate=1e-5, measures={"score_after": 0.8, "train_seconds": 20.0}
    )
    make_run(tmp_path, "lora", measures={"train_seconds": 10.0})
    assert list(savings_figure(table_of(tmp_path), TRAIN).data[0].x) == [0.5, 1, 0.5]


@pytest.mark.parametrize(
    ("ratio", "text"), [(1.0, "1.00x"), (0.553, "0.55x"), (0.0049, "0.49 %"), (math.nan, "–")]
)
def test_ratios_are_short_and_never_zero(ratio, text):
    assert times(ratio) == text


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (0.39, "61 % less"), (1.2, "20 % more"), (1.004, "as much"), (0.002, "0.2 % of full"),
        (3.14, "3.1x"), (math.nan, "–"),
    ],
)  # fmt: skip
def test_a_ratio_in_words_says_which_way_it_goes(ratio, text):
    assert less_or_more(ratio).replace("0.20 %", "0.2 %") == text


def test_the_best_adapter_has_the_highest_score_and_of_as_high_ones_the_least_memory(tmp_path):
    keys = ("score_after", "net_peak_memory_bytes")
    runs = {"lora": (0.7, 900), "ia3": (0.6, 100), "full": (0.9, 2000), "qlora": (0.7, 800)}
    table = table_of(tmp_path, *keys, **runs)
    assert list(adapters(variant_means(table))["method"]) == ["qlora", "lora", "ia3"]
    best, named = compare(table), compare(table, "LoRA")
    assert (best.adapter["method"], best.ratio("net_peak_memory_bytes")) == ("qlora", 0.4)
    assert (named.adapter["method"], named.ratio("net_peak_memory_bytes")) == ("lora", 0.45)


def test_the_title_of_bars_names_the_least_and_how_much_less_it_is(tmp_path):
    table = table_of(tmp_path, "adapter_bytes", full=1000, lora=400, qlora=900)
    found = savings_finding(table, METRICS["adapter_bytes"])
    assert found == "File to deliver: LoRA least, 60 % less"


def test_the_axis_says_what_the_bars_are_relative_to_and_which_way_is_better(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    table = table_of(tmp_path)
    layout = savings_figure(table, TRAIN).layout
    assert layout.xaxis.title.text == "times full fine-tuning, lower is better"
    layout = savings_figure(table[table["method"] == "lora"], METRICS["tokens_per_second"]).layout
    assert layout.xaxis.title.text == "higher is better"


def test_the_title_of_bars_names_those_that_no_seed_sets_apart(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"), seeds=(0, 1))
    for seed, seconds in ((0, 10.0), (1, 20.0)):
        make_run(tmp_path, "qlora", sweep_id=SWEEP, seed=seed, measures={"train_seconds": seconds})
        make_run(
            tmp_path, "prompt_tuning", sweep_id=SWEEP, seed=seed,
            measures={"train_seconds": seconds + 1},
        )  # fmt: skip
    table = table_of(tmp_path)
    assert savings_finding(table, TRAIN) == (
        "Training time: QLoRA and Prompt tuning least, no difference shown"
    )


def test_the_title_of_bars_without_full_fine_tuning_gives_the_value(tmp_path):
    make_run(tmp_path, "lora")
    table = table_of(tmp_path)
    assert savings_finding(table, METRICS["adapter_bytes"]) == "File to deliver: LoRA least, 9.8 MB"


def test_the_more_bars_there_are_the_thinner_they_are(tmp_path):
    heights = []
    for count in (3, 10, len(METHODS)):
        make_sweep(tmp_path / str(count), list(METHODS)[:count])
        figure = savings_figure(table_of(tmp_path / str(count)), METRICS["adapter_bytes"])
        heights.append(figure.layout.height / len(figure.data[0].x))
    assert heights == sorted(heights, reverse=True)
    assert len(set(heights)) == 3
    assert heights[-1] > 20


def test_bars_and_their_title_claim_no_difference_that_is_not_shown(tmp_path):
    table, metric = table_of(tmp_path, "train_seconds", full=60.0, lora=58.0), TRAIN
    bars = savings_figure(table, metric).data[0]
    assert list(bars.text) == ["1.00x  1 min 00 s", "≈ 0.97x  58 s"]
    assert "no difference shown (1 run each" in bars.hovertext[1]
    assert savings_finding(table, metric) == (
        "Training time: LoRA and Full fine-tuning least, no difference shown"
    )
