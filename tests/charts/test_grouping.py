import math

import pytest

from ftlab.charts.grouping import by_variant, left_out, left_out_line, separated
from ftlab.runs.store import RunStore
from tests.fakes import make_run, make_sweep


def table_of(folder):
    return RunStore(folder).table()


def groups_of(folder):
    return {group.variant: group for group in by_variant(table_of(folder))}


def test_runs_that_lack_a_measure_are_left_out_and_counted(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "qlora", measures={"score_after": None})
    make_run(tmp_path, "prompt_tuning", status="failed")
    rows, count = left_out(table_of(tmp_path), "score_after")
    assert (rows["method"].tolist(), count) == (["full", "lora"], 2)


def test_a_measure_that_is_not_finite_is_not_measured(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    table = table_of(tmp_path)
    table.loc[0, "eval_loss_after"] = math.inf
    assert left_out(table, "eval_loss_after")[1] == 1


def test_a_line_says_how_many_are_left_out_and_why(tmp_path):
    make_sweep(tmp_path, methods=("full",))
    make_run(tmp_path, "lora", measures={"score_after": None})
    assert left_out_line(table_of(tmp_path), "score_after") == "1 run left out: not measured."
    make_run(tmp_path, "qlora", status="failed")
    make_run(tmp_path, "qlora", status="out_of_memory")
    assert left_out_line(table_of(tmp_path), "score_after") == (
        "3 runs left out: 1 failed, 1 out of memory, 1 not measured."
    )
    assert left_out_line(table_of(tmp_path), "train_seconds") == (
        "2 runs left out: 1 failed, 1 out of memory."
    )


def test_one_reason_for_all_is_said_once(tmp_path):
    make_sweep(tmp_path, methods=("full",))
    make_run(tmp_path, "lora", status="queued")
    make_run(tmp_path, "qlora", status="queued")
    assert left_out_line(table_of(tmp_path), "score_after") == "2 runs left out: queued."


def test_nothing_is_said_where_nothing_is_left_out(tmp_path):
    make_sweep(tmp_path)
    assert left_out_line(table_of(tmp_path), "score_after") == ""
    assert left_out_line(table_of(tmp_path).iloc[:0], "score_after") == ""


def test_the_runs_of_a_variant_are_one_group_with_their_mean_and_range(tmp_path):
    for seed, seconds in enumerate((40.0, 60.0, 80.0)):
        make_run(tmp_path, "lora", seed=seed, measures={"train_seconds": seconds})
    (group,) = by_variant(table_of(tmp_path))
    found = group.mean("train_seconds"), group.low("train_seconds"), group.high("train_seconds")
    assert found == (60, 40, 80)
    assert len(group.run_ids.split()) == 3


def test_a_variant_without_the_measure_has_no_mean(tmp_path):
    make_run(tmp_path, "lora", measures={"score_after": None})
    (group,) = by_variant(table_of(tmp_path))
    assert math.isnan(group.mean("score_after"))


@pytest.mark.parametrize(
    ("ours", "theirs", "apart"),
    [((0.1, 0.2), (0.3, 0.4), True), ((0.1, 0.3), (0.2, 0.4), False), ((0.1,), (0.3, 0.4), None)],
)
def test_variants_differ_only_if_every_seed_of_one_is_on_the_same_side(
    tmp_path, ours, theirs, apart
):
    for method, scores in (("lora", ours), ("qlora", theirs)):
        for seed, score in enumerate(scores):
            make_run(tmp_path, method, seed=seed, measures={"score_after": score})
    groups = groups_of(tmp_path)
    assert separated(groups["LoRA"], groups["QLoRA"], "score_after") is apart


def test_of_what_is_counted_one_run_is_enough(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora", "qlora"))
    groups = groups_of(tmp_path)
    full, lora, qlora = (groups[name] for name in ("Full fine-tuning", "LoRA", "QLoRA"))
    assert separated(full, lora, "trainable_params") is True
    assert separated(lora, qlora, "trainable_params") is False
