import math

import pandas as pd
import pytest

from ftlab.basics.words import join_names
from ftlab.charts.savings import (
    COLUMNS,
    compare,
    nothing_to_compare,
    savings_figure,
    savings_finding,
    savings_rows,
    times,
)
from ftlab.methods.registry import METHODS
from ftlab.records.metrics import HEADLINES, METRICS
from ftlab.records.store import RunStore
from tests.fakes import SWEEP, make_run, make_sweep


def table_of(folder):
    return RunStore(folder).table()


def test_each_variant_is_set_against_full_fine_tuning(tmp_path):
    make_sweep(tmp_path)
    rows = savings_rows(table_of(tmp_path), "net_peak_memory_bytes").set_index("variant")
    assert rows.loc["Full fine-tuning", "relative"] == 1
    assert rows.loc["LoRA", "relative"] == pytest.approx(1_287 / 2_340)
    assert list(rows.reset_index().columns) == COLUMNS


def test_seeds_are_averaged_and_counted_with_their_spread(tmp_path):
    make_run(tmp_path, "full", measures={"train_seconds": 100.0})
    for seed, seconds in enumerate((40.0, 60.0)):
        make_run(tmp_path, "lora", seed=seed, measures={"train_seconds": seconds})
    row = savings_rows(table_of(tmp_path), "train_seconds").set_index("variant").loc["LoRA"]
    assert (row["value"], row["relative"], row["count"]) == (50, 0.5, 2)
    assert (row["low"], row["high"]) == (40, 60)


def test_the_spread_of_the_seeds_is_in_the_hover(tmp_path):
    make_run(tmp_path, "full")
    for seed, seconds in enumerate((40.0, 58.0)):
        make_run(tmp_path, "lora", seed=seed, measures={"train_seconds": seconds})
    hover = savings_figure(table_of(tmp_path), METRICS["train_seconds"]).data[0].hovertext[1]
    assert "mean of 2 runs, 40 s to 58 s" in hover


def test_runs_without_the_measure_and_runs_that_are_not_done_are_left_out(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "qlora", measures={"adapter_bytes": None})
    make_run(tmp_path, "prompt_tuning", status="failed")
    rows = savings_rows(table_of(tmp_path), "adapter_bytes")
    assert list(rows["variant"]) == ["Full fine-tuning", "LoRA"]


def test_bars_carry_the_ratio_and_the_absolute_value(tmp_path):
    make_sweep(tmp_path)
    bars = savings_figure(table_of(tmp_path), METRICS["trainable_params"]).data[0]
    assert list(bars.text) == ["1.00x  134.5 M", "0.02x  2.4 M", "0.02x  2.4 M", "0.009 %  11.5 k"]


def test_without_full_fine_tuning_bars_are_absolute(tmp_path):
    make_sweep(tmp_path, methods=("lora", "qlora"))
    bars = savings_figure(table_of(tmp_path), METRICS["train_seconds"]).data[0]
    assert list(bars.text) == ["1 min 00 s", "1 min 23 s"]
    assert list(bars.x) == [60.4, 82.7]


def test_two_variants_whose_short_names_are_alike_keep_a_bar_each(tmp_path):
    make_run(tmp_path, "lora", hyperparameters={"targets": "attention (q, k, v, o)"})
    make_run(tmp_path, "lora", hyperparameters={"targets": "attention (q, k, v, p)"})
    figure = savings_figure(table_of(tmp_path), METRICS["train_seconds"])
    assert len(figure.data[0].y) == 2


def test_without_full_fine_tuning_it_says_what_is_missing(tmp_path):
    make_sweep(tmp_path, methods=("lora", "qlora"))
    make_run(tmp_path, "full", status="failed")
    assert nothing_to_compare(table_of(tmp_path)) == (
        "A full fine-tuning run is needed to hold LoRA and QLoRA against; "
        "none is done in this sweep."
    )


def test_full_fine_tuning_alone_asks_for_another_method(tmp_path):
    make_sweep(tmp_path, methods=("full",))
    make_run(tmp_path, "lora", status="out_of_memory")
    assert nothing_to_compare(table_of(tmp_path)).startswith("Only full fine-tuning is done")


def test_a_sweep_in_which_all_failed_has_nothing_to_compare(tmp_path):
    make_sweep(tmp_path, status="failed")
    assert nothing_to_compare(table_of(tmp_path)).startswith("No run of this sweep got to its end")
    make_run(tmp_path, status="queued")
    assert nothing_to_compare(table_of(tmp_path)).startswith("No run of this sweep is done yet")


def test_where_both_are_done_nothing_is_missing(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    assert nothing_to_compare(table_of(tmp_path)) == ""


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
    rows = savings_rows(table_of(tmp_path), "train_seconds").set_index("variant")
    assert rows.loc["LoRA", "relative"] == 0.5


def test_ratios_are_short_and_never_nothing():
    assert [times(value) for value in (1.0, 0.553, 0.0049, math.nan)] == [
        "1.00x",
        "0.55x",
        "0.49 %",
        "–",
    ]


def test_names_are_joined_as_people_do():
    assert join_names(["a"]) == "a"
    assert join_names(["a", "b", "c"]) == "a, b and c"


def test_an_empty_table_is_fine():
    empty = pd.DataFrame(columns=["status", "variant", "method", *METRICS])
    assert savings_rows(empty, "train_seconds").empty


def test_the_axis_says_what_the_bars_are_relative_to_and_which_way_is_better(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    table = table_of(tmp_path)
    layout = savings_figure(table, METRICS["train_seconds"]).layout
    assert layout.xaxis.title.text == "times full fine-tuning, less is better"
    layout = savings_figure(table[table["method"] == "lora"], METRICS["tokens_per_second"]).layout
    assert layout.xaxis.title.text == "more is better"


def test_the_title_of_bars_names_those_that_no_seed_sets_apart(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"), seeds=(0, 1))
    for seed, seconds in ((0, 10.0), (1, 20.0)):
        make_run(tmp_path, "qlora", sweep_id=SWEEP, seed=seed, measures={"train_seconds": seconds})
        make_run(
            tmp_path, "prompt_tuning", sweep_id=SWEEP, seed=seed,
            measures={"train_seconds": seconds + 1},
        )  # fmt: skip
    table = RunStore(tmp_path).table()
    assert savings_finding(table, METRICS["train_seconds"]) == (
        "Training time: QLoRA and Prompt tuning least, no difference shown"
    )


def test_the_title_of_bars_without_full_fine_tuning_gives_the_value(tmp_path):
    make_run(tmp_path, "lora")
    table = RunStore(tmp_path).table()
    assert savings_finding(table, METRICS["adapter_bytes"]) == "File to ship: LoRA least, 9.8 MB"


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
    make_run(tmp_path, "full", measures={"train_seconds": 60.0})
    make_run(tmp_path, "lora", measures={"train_seconds": 58.0})
    table, metric = table_of(tmp_path), METRICS["train_seconds"]
    bars = savings_figure(table, metric).data[0]
    assert list(bars.text) == ["1.00x  1 min 00 s", "≈ 0.97x  58 s"]
    assert "no difference shown (1 run each" in bars.hovertext[1]
    assert savings_finding(table, metric) == (
        "Training time: LoRA and Full fine-tuning least, no difference shown"
    )
