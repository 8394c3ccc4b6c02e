from pathlib import Path

import pytest

from ftlab.charts.forgetting import forgetting_figure, forgetting_finding, gain_words
from ftlab.charts.spec import Facts
from ftlab.records.differences import PairedDifference
from tests.charts.whole_sweep import table_of
from tests.fakes import make_run


def run(folder: Path, method: str, gain: float, forgot: float, reach: float = 0.1, seed: int = 0):
    own = PairedDifference(gain, gain - reach, gain + reach, 64).measures("score_gain")
    general = PairedDifference(forgot, forgot - 0.01, forgot + 0.01, 64)
    measures = own | general.measures("general_loss_change")
    make_run(folder, method, seed=seed, measures=measures)


def test_the_bars_of_a_single_run_are_its_interval_and_lie_within_the_axis(tmp_path):
    run(tmp_path, "lora", 0.4, 0.05, reach=0.3)
    figure = forgetting_figure(Facts(table_of(tmp_path)))
    (lora,) = figure.data
    assert (list(lora.x), list(lora.y)) == ([0.4], [0.05])
    assert lora.error_x.visible
    assert [*lora.error_x.array, *lora.error_x.arrayminus] == pytest.approx([0.3, 0.3])
    low, high = figure.layout.xaxis.range
    assert low < 0.1 < 0.7 < high
    low, high = figure.layout.yaxis.range
    assert low < 0 < 0.05 < high, "nothing forgotten is on the axis"
    assert "+0.40 (+0.10 to +0.70)" in lora.hovertext[0]


def test_the_bars_of_several_seeds_are_their_range(tmp_path):
    for seed, gain in enumerate((0.4, 0.45, 0.65)):
        run(tmp_path, "lora", gain, 0.05, seed=seed)
    means = forgetting_figure(Facts(table_of(tmp_path))).data[-1]
    assert list(means.x) == [pytest.approx(0.5)]
    assert list(means.error_x.arrayminus) == [pytest.approx(0.1)]
    assert list(means.error_x.array) == [pytest.approx(0.15)], "the longer one points up"


@pytest.mark.parametrize(
    ("runs", "finding"),
    [
        (
            {
                "full": (0.42, 0.35), "lora": (0.38, 0.004), "prompt_tuning": (-0.2, -0.3),
                "qlora": (-0.05, 0.2),
            },
            "Full fine-tuning gains 0.42 in SQL score and raises the loss on unrelated text by "
            "0.35 (forgetting); LoRA gains 0.38 and is not shown to forget (0.00); Prompt tuning "
            "falls below the untouched model (each was run once: how far repeats differ is not "
            "known)",
        ),
        (
            {"lora": (-0.2, -0.3)},
            "LoRA loses 0.20 in SQL score and lowers the loss on unrelated text by 0.30; LoRA "
            "falls below the untouched model (each was run once: how far repeats differ is not "
            "known)",
        ),
    ],
    ids=["gains", "a loss of score"],
)  # fmt: skip
def test_the_finding_is_who_gains_most_who_forgets_least_and_who_falls(tmp_path, runs, finding):
    for method, (gain, forgot) in runs.items():
        run(tmp_path, method, gain, forgot)
    assert forgetting_finding(Facts(table_of(tmp_path))) == finding


def test_runs_of_an_older_version_have_no_figure_and_break_nothing(tmp_path):
    make_run(tmp_path, "lora")
    table = table_of(tmp_path)
    assert forgetting_finding(Facts(table)) == "No run has both a gain and a loss on unrelated text"
    assert forgetting_figure(Facts(table)).data == ()
    assert gain_words(table, "LoRA") == ""


def test_a_gain_is_told_with_its_interval_or_the_range_of_the_seeds(tmp_path):
    run(tmp_path, "full", 0.4, 0.0)
    run(tmp_path, "lora", 0.2, 0.0, seed=0)
    run(tmp_path, "lora", 0.4, 0.0, seed=1)
    table = table_of(tmp_path)
    assert gain_words(table, "Full fine-tuning") == "+0.40 (+0.30 to +0.50)"
    assert gain_words(table, "LoRA") == "+0.30 (+0.20 to +0.40)"
