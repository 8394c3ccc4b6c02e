import pytest

from ftlab.charts.points import quality_measure
from ftlab.charts.score_time import score_time_figure, score_time_finding
from ftlab.charts.spec import Facts
from tests.charts.whole_sweep import table_of, texts, trace_of
from tests.fakes import make_run, make_sweep

MEASURES = ("train_seconds", "score_after")


def test_points_are_score_over_training_time(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    figure = score_time_figure(Facts(table_of(tmp_path)))
    lora = trace_of(figure, "LoRA")
    assert (list(lora.x), list(lora.y)) == ([60.4], [0.71])
    assert figure.layout.xaxis.title.text == "training time (lower is better)"
    assert figure.layout.yaxis.title.text == "SQL score (0 to 1, higher is better)"


def test_the_untouched_model_is_a_line_within_the_axis(tmp_path):
    make_sweep(tmp_path, methods=("full", "qlora"))
    figure = score_time_figure(Facts(table_of(tmp_path)))
    line = trace_of(figure, "untouched model")
    assert set(line.y) == {0.31}
    low, high = figure.layout.yaxis.range
    assert low < 0.31 < high
    assert "untouched model 0.31" in texts(figure)


def test_a_base_in_another_precision_has_its_own_line_where_it_differs(tmp_path):
    make_run(tmp_path, "lora", measures={"score_before": 0.30})
    make_run(tmp_path, "qlora", measures={"score_before": 0.20})
    figure = score_time_figure(Facts(table_of(tmp_path)))
    assert set(trace_of(figure, "untouched model").y) == {0.30}
    assert set(trace_of(figure, "untouched model in nf4").y) == {0.20}


def test_without_an_untouched_score_there_is_no_line(tmp_path):
    make_run(tmp_path, "lora", measures={"score_before": None})
    (line,) = score_time_figure(Facts(table_of(tmp_path))).data
    assert line.name == "LoRA"


def test_without_a_score_the_held_out_loss_is_drawn(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"), measures={"score_after": None})
    table = table_of(tmp_path)
    assert quality_measure(table).key == "eval_loss_after"
    figure = score_time_figure(Facts(table))
    assert list(trace_of(figure, "LoRA").y) == [1.31]
    assert set(trace_of(figure, "untouched model").y) == {3.08}
    assert score_time_finding(Facts(table)).startswith(
        "Full fine-tuning has the best test loss, 1.220 in 1 min 36 s"
    )


def test_times_that_lie_far_apart_are_on_a_log_axis(tmp_path):
    table = table_of(tmp_path, *MEASURES, full=(4000.0, 0.7), lora=(30.0, 0.6))
    assert score_time_figure(Facts(table)).layout.xaxis.type == "log"


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        (
            {"full": [(30, 0.5), (31, 0.6)], "lora": [(20, 0.45), (21, 0.55)]},
            "LoRA has a SQL score of 0.50 in 20 s; no better one is shown for Full fine-tuning "
            "(0.55 in 30 s): their repeats overlap",
        ),
        (
            {"full": [(30, 0.7), (31, 0.8)], "lora": [(20, 0.3), (21, 0.4)]},
            "Full fine-tuning has the best SQL score, 0.75 in 30 s; "
            "LoRA trains faster, 0.35 in 20 s",
        ),
        (
            {"full": [(30, 0.5), (31, 0.6)], "lora": [(20, 0.7), (21, 0.8)]},
            "LoRA has the best SQL score, 0.75 in 20 s, and trains fastest",
        ),
        (
            {"full": [(30, 0.7)], "lora": [(20, 0.6)]},
            "Full fine-tuning has the best SQL score, 0.70 in 30 s; LoRA trains faster, "
            "0.60 in 20 s (each was run once: how far repeats differ is not known)",
        ),
        (
            {"full": [(30, 0.7)], "lora": [(29, 0.6)]},
            "Full fine-tuning has the best SQL score, 0.70 in 30 s, and none is shown to train "
            "faster",
        ),
        ({"lora": [(20, 0.6)]}, "LoRA reaches a SQL score of 0.60 in 20 s"),
    ],
)
def test_the_finding_claims_no_more_than_the_seeds_show(tmp_path, runs, sentence):
    assert score_time_finding(Facts(table_of(tmp_path, *MEASURES, **runs))) == sentence
