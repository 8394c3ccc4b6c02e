import math

import pytest

from ftlab.charts.facts import by_variant, left_out
from ftlab.charts.pareto import measure_choices, pareto_figure, pareto_finding, pareto_front
from ftlab.charts.spec import Facts
from ftlab.methods.registry import look_of
from ftlab.records.metrics import METRICS
from tests.charts.whole_sweep import table_of, texts
from tests.fakes import FOUR, make_run, make_sweep

MEMORY = METRICS["net_peak_memory_bytes"]
SCORE = METRICS["score_after"]
LOSS = METRICS["eval_loss_after"]
SPEED = METRICS["tokens_per_second"]


MB = 1_000_000
MEASURES = ("net_peak_memory_bytes", "score_after")


def over(table, x=MEMORY, y=SCORE):
    return Facts(table, chosen={"x": x.key, "y": y.key})


def front(table, x=MEMORY, y=SCORE):
    groups = by_variant(left_out(table, x.key, y.key)[0], x.key, y.key)
    return [group.method for group in pareto_front(groups, x, y)]


@pytest.mark.parametrize(
    ("x", "y", "runs", "expected"),
    [
        (
            MEMORY, SCORE,
            {"full": (2000, 0.7), "lora": (900, 0.6), "qlora": (500, 0.5), "ia3": (600, 0.4)},
            ["qlora", "lora", "full"],
        ),
        (MEMORY, LOSS, {"full": (100, 1.0), "lora": (50, 2.0), "ia3": (70, 2.5)}, ["lora", "full"]),
        (SPEED, SCORE, {"full": (100, 0.7), "lora": (300, 0.5), "ia3": (9, 0.5)}, ["full", "lora"]),
        (MEMORY, SCORE, {"lora": (500, 0.5), "qlora": (500, 0.5)}, ["lora", "qlora"]),
        (MEMORY, SCORE, {"lora": (500, 0.5), "qlora": (500, 0.6)}, ["qlora"]),
        (
            MEMORY, SCORE, {"full": (2000, 0.7), "lora": (None, 0.9), "qlora": (500, None)},
            ["full"],
        ),
        (MEMORY, SCORE, {"lora": (500, 0.5)}, ["lora"]),
    ],
    ids=[
        "less and higher is better", "lower is better in both", "higher is better in both",
        "equal variants", "equal in one", "a measure is missing", "a single variant",
    ],
)  # fmt: skip
def test_the_front_is_what_none_beats_on_both_in_the_order_of_x(tmp_path, x, y, runs, expected):
    make_run(tmp_path, "lora", status="failed", measures={"score_after": 1.0})
    table = table_of(tmp_path, x.key, y.key, **runs)
    assert front(table, x, y) == expected
    known = [run for run in runs.values() if None not in run]
    assert [len(trace.x) for trace in pareto_figure(over(table, x, y)).data] == [
        len(expected), *[1] * len(known),
    ]  # fmt: skip


def test_one_measure_on_both_axes_is_no_error(tmp_path):
    table = table_of(tmp_path, *MEASURES, full=(2000, 0.7), lora=(900, 0.6))
    assert front(table, SCORE, SCORE) == ["full"]
    assert len(pareto_figure(over(table, SCORE, SCORE)).data) == 3


def test_the_front_is_a_dashed_line_through_its_members(tmp_path):
    runs = {"full": (2000 * MB, 0.7), "lora": (900 * MB, 0.6), "qlora": (950 * MB, 0.5)}
    line = pareto_figure(over(table_of(tmp_path, *MEASURES, **runs))).data[0]
    assert (list(line.x), list(line.y)) == ([900 * MB, 2000 * MB], [0.6, 0.7])
    assert line.line.dash == "dash"


def test_a_method_has_its_colour_and_its_marker(tmp_path):
    make_sweep(tmp_path)
    figure = pareto_figure(over(table_of(tmp_path)))
    looks = [(look_of(method).colour, look_of(method).marker) for method in FOUR]
    assert [(trace.marker.color, trace.marker.symbol) for trace in figure.data[1:]] == looks


def test_seeds_are_small_points_and_their_mean_has_bars_from_least_to_most(tmp_path):
    table = table_of(tmp_path, *MEASURES, lora=[(800 * MB, 0.4), (900 * MB, 0.6), (1000 * MB, 0.8)])
    _, seeds, mean = pareto_figure(over(table)).data
    assert list(seeds.x) == [800 * MB, 900 * MB, 1000 * MB]
    assert list(mean.x) == [900 * MB]
    assert list(mean.error_x.array) == list(mean.error_x.arrayminus) == [100 * MB]
    assert list(mean.error_y.array) == pytest.approx([0.2])
    assert seeds.marker.size < mean.marker.size
    for words in ("900 MB", "800 MB to 1.00 GB", "SQL score 0.60", "batch 4", "3 seeds: 0, 1, 2"):
        assert words in mean.hovertext[0]


def test_axes_say_which_way_is_better_and_what_kind_of_memory(tmp_path):
    make_sweep(tmp_path)
    layout = pareto_figure(over(table_of(tmp_path))).layout
    assert layout.xaxis.title.text == ("memory while training, CPU resident<br>(lower is better)")
    assert layout.yaxis.title.text == "SQL score (0 to 1, higher is better)"


def test_points_on_a_logarithmic_axis_are_named_where_their_logarithm_is(tmp_path):
    make_sweep(tmp_path, methods=("full", "prompt_tuning"))
    figure = pareto_figure(over(table_of(tmp_path), METRICS["trainable_params"], SCORE))
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", "linear")
    low, high = figure.layout.xaxis.range
    assert low < math.log10(11_520) < math.log10(134_515_008) < high
    places = {note.text: note.x for note in figure.layout.annotations}
    assert places["Prompt"] == pytest.approx(math.log10(11_520))


def test_the_front_is_named_first_and_of_many_variants_nothing_else_is(tmp_path):
    for rank in range(1, 35):
        size = 10**9 - rank * 10**7
        measures = {"net_peak_memory_bytes": size, "score_after": 0.9 if rank == 34 else 0.5}
        make_run(tmp_path, "lora", hyperparameters={"r": rank}, measures=measures)
    figure = pareto_figure(over(table_of(tmp_path)))
    assert texts(figure) == ["LoRA r=34", "measured 25 Nov 2026"]


def test_a_measure_can_be_chosen_that_some_run_has_and_all_where_none_is_done(tmp_path):
    make_run(tmp_path, "lora", "failed", measures={"score_gain": 0.5})
    assert [key for _, key in measure_choices(table_of(tmp_path))] == list(METRICS)
    table = table_of(tmp_path, "score_after", "adapter_bytes", lora=(0.5, None), ia3=(None, None))
    keys = [key for _, key in measure_choices(table)]
    assert "score_after" in keys
    assert not {"score_gain", "adapter_bytes"} & {*keys}


FRONT = (
    "LoRA and Full fine-tuning: no other variant was better in both memory while training and SQL "
    "score"
)


@pytest.mark.parametrize(
    ("runs", "finding"),
    [
        (
            {"lora": (500, 0.5)},
            "LoRA alone has both memory while training and SQL score, so there is nothing to "
            "compare",
        ),
        (
            {
                "full": [(2000, 0.7), (2010, 0.71)], "lora": [(900, 0.5), (910, 0.51)],
                "qlora": [(950, 0.3), (960, 0.31)],
            },
            f"{FRONT}; QLoRA was worse in every seed",
        ),
        (
            {
                "full": [(2000, 0.7), (2010, 0.8)], "lora": [(900, 0.4), (910, 0.6)],
                "qlora": [(950, 0.3), (960, 0.5)],
            },
            f"{FRONT}; QLoRA was worse only on average",
        ),
        (
            {"full": [(2000, 0.5), (2010, 0.8)], "lora": [(900, 0.4), (910, 0.6)]},
            f"{FRONT}; between these two a difference in SQL score is not shown",
        ),
        (
            {"full": (2000, 0.7), "lora": (900, 0.6), "qlora": (950, 0.5)},
            f"{FRONT}; QLoRA was worse (each was run once: how far repeats differ is not known)",
        ),
        (
            {"lora": [(500, 0.7), (510, 0.72)], "qlora": [(600, 0.5), (610, 0.52)]},
            "No other variant was better than LoRA in memory while training or in SQL score; "
            "QLoRA was worse in every seed",
        ),
    ],
    ids=[
        "one variant", "worse in every seed", "worse on average", "overlapping seeds",
        "one seed", "one better than all",
    ],
)  # fmt: skip
def test_the_finding_names_the_front_and_what_the_seeds_show(tmp_path, runs, finding):
    assert pareto_finding(over(table_of(tmp_path, *MEASURES, **runs))) == finding
