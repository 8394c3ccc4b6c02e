from ftlab.charts.learning_rate import CHARTS
from ftlab.records.store import RunStore, sweep_data
from ftlab.settings.training import TrainingSettings
from ftlab.tabs.compare.view import read_picture
from tests.fakes import SWEEP, make_run, make_sweep

TUNING = TrainingSettings(eval_split="tuning", eval_answers=False)


def shown(data):
    """The picture of the ladders; `None` where the sweep is none."""
    (chart,) = CHARTS
    return read_picture(chart, data, {})


LOSSES = {1e-3: 0.9, 3e-3: 0.5, 9e-3: 0.7}


def make_ladder(folder, settings=TUNING, method="lora", losses=LOSSES):
    for rate, loss in losses.items():
        measures = {"eval_loss_after": loss, "score_after": None, "score_before": None}
        samples = [{"index": i, "loss_after": loss} for i in range(4)]
        make_run(
            folder, method, learning_rate=rate, settings=settings, measures=measures,
            samples=samples,
        )  # fmt: skip
    return sweep_data(RunStore(folder), SWEEP)


def test_a_ladder_is_shown_with_its_suggestion(tmp_path):
    picture = shown(make_ladder(tmp_path))
    assert "LoRA: suggested learning rate 3e-3" in picture.heading
    assert picture.figure.layout.yaxis.title.text.startswith("tuning loss")


def test_rates_that_were_compared_on_held_out_examples_are_shown_with_a_warning(tmp_path):
    picture = shown(make_ladder(tmp_path, TrainingSettings()))
    assert "LoRA: lowest test loss at 3e-3" in picture.heading
    assert "Choose a rate on the tuning split" in picture.heading
    assert "suggested" not in [note.text for note in picture.figure.layout.annotations]


def test_a_sweep_that_is_no_ladder_has_no_such_sheet(tmp_path):
    make_sweep(tmp_path)
    assert shown(sweep_data(RunStore(tmp_path), SWEEP)) is None


def test_ladders_of_several_variants_stand_in_one_figure_each_with_its_own_suggestion(tmp_path):
    make_ladder(tmp_path)
    picture = shown(make_ladder(tmp_path, method="qlora", losses={1e-3: 0.6, 3e-3: 0.8}))
    heading, figure = picture.heading, picture.figure
    assert "Suggested learning rates" in heading
    assert "LoRA</b> 3e-3" in heading
    assert "QLoRA</b> 1e-3" in heading
    curves = {trace.name: list(trace.x) for trace in figure.data if trace.name in ("LoRA", "QLoRA")}
    assert curves == {"LoRA": [1e-3, 3e-3, 9e-3], "QLoRA": [1e-3, 3e-3]}
    marks = [note.text for note in figure.layout.annotations]
    assert marks.count("suggested") == 2


def test_a_sweep_in_which_one_variant_alone_has_several_rates_has_no_such_sheet(tmp_path):
    make_ladder(tmp_path)
    make_run(tmp_path, "full")
    assert shown(sweep_data(RunStore(tmp_path), SWEEP)) is None
