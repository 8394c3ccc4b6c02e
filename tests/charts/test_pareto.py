import math

import pytest

from ftlab.charts.facts import by_variant, left_out
from ftlab.charts.pareto import pareto_figure, pareto_finding, pareto_front
from ftlab.charts.spec import Facts
from ftlab.methods.registry import look_of
from ftlab.records.metrics import METRICS
from ftlab.records.store import RunStore
from tests.fakes import make_run, make_sweep

MEMORY = METRICS["net_peak_memory_bytes"]
SCORE = METRICS["score_after"]
LOSS = METRICS["eval_loss_after"]
SPEED = METRICS["tokens_per_second"]


def table_of(folder, **runs):
    """One run a method (and seed) with (net peak in MB, score); `None`: not measured."""
    for method, seeds in runs.items():
        for seed, (memory, score) in enumerate(seeds if isinstance(seeds, list) else [seeds]):
            size = None if memory is None else memory * 1_000_000
            measures = {"net_peak_memory_bytes": size, "score_after": score}
            make_run(folder, method, seed=seed, measures=measures)
    return RunStore(folder).table()


def over(table, x=MEMORY, y=SCORE):
    return Facts(table, chosen={"x": x.key, "y": y.key})


def front(table, x=MEMORY, y=SCORE):
    groups = by_variant(left_out(table, x.key, y.key)[0], x.key, y.key)
    return [group.method for group in pareto_front(groups, x, y)]


def test_the_front_is_what_none_beats_on_both_in_the_order_of_x(tmp_path):
    table = table_of(
        tmp_path, full=(2000, 0.7), lora=(900, 0.6), qlora=(500, 0.5), prompt_tuning=(600, 0.4)
    )
    assert front(table) == ["qlora", "lora", "full"]


def test_less_is_better_in_both_where_both_measures_say_so(tmp_path):
    make_run(tmp_path, "full", measures={"net_peak_memory_bytes": 100, "eval_loss_after": 1.0})
    make_run(tmp_path, "lora", measures={"net_peak_memory_bytes": 50, "eval_loss_after": 2.0})
    make_run(tmp_path, "qlora", measures={"net_peak_memory_bytes": 70, "eval_loss_after": 2.5})
    assert front(RunStore(tmp_path).table(), MEMORY, LOSS) == ["lora", "full"]


def test_more_is_better_in_both_where_both_measures_say_so(tmp_path):
    make_run(tmp_path, "full", measures={"tokens_per_second": 100.0, "score_after": 0.7})
    make_run(tmp_path, "lora", measures={"tokens_per_second": 300.0, "score_after": 0.5})
    make_run(tmp_path, "qlora", measures={"tokens_per_second": 90.0, "score_after": 0.5})
    assert front(RunStore(tmp_path).table(), SPEED, SCORE) == ["full", "lora"]


def test_equal_variants_are_both_on_the_front(tmp_path):
    assert front(table_of(tmp_path, lora=(500, 0.5), qlora=(500, 0.5))) == ["lora", "qlora"]


def test_of_two_that_tie_in_one_measure_the_better_in_the_other_is_the_front(tmp_path):
    assert front(table_of(tmp_path, lora=(500, 0.5), qlora=(500, 0.6))) == ["qlora"]


def test_a_run_without_one_of_the_measures_is_no_part_of_it(tmp_path):
    table = table_of(tmp_path, full=(2000, 0.7), lora=(None, 0.9), qlora=(500, None))
    assert front(table) == ["full"]
    assert [len(trace.x) for trace in pareto_figure(over(table)).data] == [1, 1]


def test_runs_that_are_not_done_are_no_part_of_it(tmp_path):
    make_run(tmp_path, "lora", status="failed", measures={"score_after": 1.0})
    table = table_of(tmp_path, full=(2000, 0.7))
    assert front(table) == ["full"]


def test_a_single_point_is_its_own_front(tmp_path):
    table = table_of(tmp_path, lora=(500, 0.5))
    assert front(table) == ["lora"]
    assert pareto_finding(over(table)) == (
        "LoRA alone has both measures, so there is no front to draw"
    )


def test_one_measure_on_both_axes_is_no_error(tmp_path):
    table = table_of(tmp_path, full=(2000, 0.7), lora=(900, 0.6))
    assert front(table, SCORE, SCORE) == ["full"]
    assert len(pareto_figure(over(table, SCORE, SCORE)).data) == 3


def test_the_front_is_a_dashed_line_through_its_members(tmp_path):
    table = table_of(tmp_path, full=(2000, 0.7), lora=(900, 0.6), qlora=(950, 0.5))
    line = pareto_figure(over(table)).data[0]
    assert (list(line.x), list(line.y), line.line.dash) == ([900e6, 2000e6], [0.6, 0.7], "dash")


def test_a_method_has_its_colour_and_its_marker(tmp_path):
    make_sweep(tmp_path)
    figure = pareto_figure(over(RunStore(tmp_path).table()))
    for trace, method in zip(
        figure.data[1:], ("full", "lora", "qlora", "prompt_tuning"), strict=True
    ):
        assert trace.marker.color == look_of(method).colour
        assert trace.marker.symbol == look_of(method).marker


def test_seeds_are_small_points_and_their_mean_has_bars_from_least_to_most(tmp_path):
    table = table_of(tmp_path, lora=[(800, 0.4), (900, 0.6), (1000, 0.8)])
    _, seeds, mean = pareto_figure(over(table)).data
    assert list(seeds.x) == [800e6, 900e6, 1000e6]
    assert list(mean.x) == [900e6]
    assert list(mean.error_x.array) == [100e6]
    assert list(mean.error_x.arrayminus) == [100e6]
    assert list(mean.error_y.array) == pytest.approx([0.2])
    assert seeds.marker.size < mean.marker.size


def test_the_hover_has_both_measures_and_the_settings(tmp_path):
    table = table_of(tmp_path, lora=[(800, 0.4), (900, 0.6)])
    (hover,) = pareto_figure(over(table)).data[-1].hovertext
    for words in ("850 MB", "800 MB to 900 MB", "SQL score 0.50", "batch 4", "2 seeds: 0, 1"):
        assert words in hover


def test_axes_say_which_way_is_better_and_what_kind_of_memory(tmp_path):
    make_sweep(tmp_path)
    layout = pareto_figure(over(RunStore(tmp_path).table())).layout
    assert layout.xaxis.title.text == (
        "net peak memory, train phase, CPU resident<br>(less is better)"
    )
    assert layout.yaxis.title.text == "SQL score (0 to 1, more is better)"


def test_an_axis_is_logarithmic_where_the_range_demands_it(tmp_path):
    make_sweep(tmp_path)
    layout = pareto_figure(
        over(RunStore(tmp_path).table(), METRICS["trainable_params"], SCORE)
    ).layout
    assert (layout.xaxis.type, layout.yaxis.type) == ("log", "linear")
    low, high = layout.xaxis.range
    assert low < math.log10(11_520) < math.log10(134_515_008) < high


def test_points_are_named_where_their_logarithm_lies(tmp_path):
    make_sweep(tmp_path, methods=("full", "prompt_tuning"))
    figure = pareto_figure(over(RunStore(tmp_path).table(), METRICS["trainable_params"], SCORE))
    places = {note.text: note.x for note in figure.layout.annotations}
    assert places["Prompt"] == pytest.approx(math.log10(11_520))


def test_the_front_is_named_first_and_of_many_variants_nothing_else_is(tmp_path):
    for rank in range(1, 35):
        size = 10**9 - rank * 10**7
        measures = {"net_peak_memory_bytes": size, "score_after": 0.9 if rank == 34 else 0.5}
        make_run(tmp_path, "lora", hyperparameters={"r": rank}, measures=measures)
    figure = pareto_figure(over(RunStore(tmp_path).table()))
    names = [note.text for note in figure.layout.annotations]
    assert names == ["LoRA r=34", "measured 25 Nov 2026"]


def test_the_finding_names_the_front_and_who_is_beaten_in_every_seed(tmp_path):
    table = table_of(
        tmp_path,
        full=[(2000, 0.7), (2010, 0.71)],
        lora=[(900, 0.5), (910, 0.51)],
        qlora=[(950, 0.3), (960, 0.31)],
    )
    assert pareto_finding(over(table)) == (
        "LoRA and Full fine-tuning are the front; QLoRA is beaten in every seed"
    )


def test_what_rests_on_the_mean_alone_is_said_to(tmp_path):
    table = table_of(
        tmp_path,
        full=[(2000, 0.7), (2010, 0.8)],
        lora=[(900, 0.4), (910, 0.6)],
        qlora=[(950, 0.3), (960, 0.5)],
    )
    assert pareto_finding(over(table)) == (
        "LoRA and Full fine-tuning are the front; QLoRA is beaten by the mean alone"
    )


def test_a_front_whose_seeds_overlap_is_said_to(tmp_path):
    table = table_of(tmp_path, full=[(2000, 0.5), (2010, 0.8)], lora=[(900, 0.4), (910, 0.6)])
    assert pareto_finding(over(table)) == (
        "LoRA and Full fine-tuning are the front, though no difference in SQL score "
        "is shown between them"
    )


def test_one_seed_says_that_no_spread_is_known(tmp_path):
    table = table_of(tmp_path, full=(2000, 0.7), lora=(900, 0.6), qlora=(950, 0.5))
    assert pareto_finding(over(table)) == (
        "LoRA and Full fine-tuning are the front; QLoRA is beaten (one seed: no spread is known)"
    )


def test_one_that_beats_all_is_the_front_alone(tmp_path):
    table = table_of(tmp_path, lora=[(500, 0.7), (510, 0.72)], qlora=[(600, 0.5), (610, 0.52)])
    assert pareto_finding(over(table)) == (
        "LoRA alone is the front: none has a better net peak memory or SQL score; "
        "QLoRA is beaten in every seed"
    )
