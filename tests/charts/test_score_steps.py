import json
from pathlib import Path

from ftlab.charts.score_steps import quality_points, score_steps_figure, score_steps_finding
from ftlab.charts.spec import Facts
from ftlab.records.store import RunStore, sweep_data
from ftlab.settings.training import TrainingSettings
from tests.fakes import SWEEP, make_run

OFTEN = TrainingSettings(eval_every=10)


def run(folder: Path, method: str, scores: dict[int, float | None], seed: int = 0, **made):
    directory = make_run(folder, method, seed=seed, settings=OFTEN, **made)
    with directory.metrics_file.open("a") as file:
        for step, score in scores.items():
            event = {"event": "evaluation", "step": step, "loss": 3 - step / 20, "score": score}
            file.write(json.dumps(event) + "\n")


def facts_of(folder: Path, quality: str = "score") -> Facts:
    data = sweep_data(RunStore(folder), SWEEP)
    return Facts(data.table, quality_points(data), {"quality": quality})


def test_a_line_goes_from_the_untouched_model_to_the_last_step(tmp_path):
    run(tmp_path, "lora", {0: 0.0, 10: 0.4, 30: 0.6})
    figure = score_steps_figure(facts_of(tmp_path))
    (line,) = figure.data
    assert (list(line.x), list(line.y)) == ([0, 10, 30], [0.0, 0.4, 0.6])
    low, high = figure.layout.yaxis.range
    assert low < 0 < 0.6 < high, "a curve that begins at nothing is not cut off"
    assert figure.layout.yaxis.title.text == "score (0 to 1, higher is better)"


def test_the_loss_is_the_same_figure_of_the_other_number(tmp_path):
    run(tmp_path, "lora", {0: 0.0, 10: 0.4})
    figure = score_steps_figure(facts_of(tmp_path, "loss"))
    assert list(figure.data[0].y) == [3.0, 2.5]
    assert figure.layout.yaxis.title.text == "test loss (lower is better)"


def test_seeds_are_their_mean_in_their_range(tmp_path):
    run(tmp_path, "lora", {0: 0.0, 10: 0.4}, seed=0)
    run(tmp_path, "lora", {0: 0.0, 10: 0.6}, seed=1)
    band, line = score_steps_figure(facts_of(tmp_path)).data
    assert list(line.y) == [0.0, 0.5]
    assert max(value for value in band.y if value is not None) == 0.6


def test_the_finding_is_the_best_point_and_where_it_ended(tmp_path):
    run(tmp_path, "full", {0: 0.0, 10: 0.7, 30: 0.5})
    run(tmp_path, "lora", {0: 0.0, 10: 0.3, 30: 0.6})
    run(tmp_path, "ia3", {0: 0.0, 10: 0.9, 50: 0.95}, status="failed")
    assert score_steps_finding(facts_of(tmp_path)) == (
        "Best score between the steps: Full fine-tuning, 0.70 after step 10 of 30, 0.50 at the end"
    )
    loss = score_steps_finding(facts_of(tmp_path, "loss"))
    assert loss.endswith("1.50 after step 30 of 30")


def test_runs_without_evaluations_and_scores_that_are_none_are_left_out(tmp_path):
    make_run(tmp_path, "full")
    run(tmp_path, "lora", {0: None, 10: None})
    facts = facts_of(tmp_path)
    assert set(facts.read["method"]) == {"lora"}
    assert score_steps_finding(facts) == "No score was measured between the steps"
    assert score_steps_figure(facts).data == ()
    assert len(score_steps_figure(facts_of(tmp_path, "loss")).data) == 1
