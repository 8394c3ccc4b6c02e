import json

import pytest

from ftlab.charts.memory import (
    memory_breakdown_figure,
    memory_breakdown_finding,
    phases_figure,
    phases_finding,
)
from ftlab.charts.spec import Facts
from ftlab.methods.registry import look_of
from ftlab.records.result import MEMORY_PARTS
from tests.charts.whole_sweep import table_of
from tests.fakes import make_run, make_sweep

MB = 1_000_000


def set_phase(directory, phase, net_megabytes):
    """Writes another peak of a phase into a run's result; `None`: not measured."""
    result = json.loads(directory.result_file.read_text())
    peak = None if net_megabytes is None else (500 + net_megabytes) * MB
    result["phases"][phase]["peak_bytes"] = peak
    directory.result_file.write_text(json.dumps(result))


def with_anatomy(table, **megabytes):
    """The table with an anatomy of its peaks, in MB by part."""
    parts = {f"anatomy_{part}_bytes": float(megabytes.get(part, 0)) * MB for part in MEMORY_PARTS}
    return table.assign(**parts)


def test_each_phase_is_a_bar_of_its_own_place_pattern_and_label(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    bars = phases_figure(Facts(table_of(tmp_path))).data
    assert [bar.name for bar in bars] == ["load", "train", "evaluate", "save"]
    assert len({bar.marker.pattern.shape for bar in bars}) == 4
    assert len({y for bar in bars for y in bar.y}) == 8
    assert list(bars[1].text) == ["train 2.34 GB", "train 1.29 GB"]
    assert list(bars[0].marker.color) == [look_of("full").colour, look_of("lora").colour]
    above_the_process = [280 * MB, 1_287 * MB, 600 * MB, 340 * MB]
    assert [bar.x[1] for bar in bars] == above_the_process


def test_seeds_are_their_mean_with_the_range_in_the_hover(tmp_path):
    peaks = [((500 + net) * MB, net * MB) for net in (1000, 1200)]
    table = table_of(tmp_path, "peak_memory_bytes", "net_peak_memory_bytes", lora=peaks)
    train = phases_figure(Facts(table)).data[1]
    assert train.x[0] == 1100 * MB
    assert "1.00 GB to 1.20 GB" in train.hovertext[0]
    assert len(train.customdata[0].split()) == 2


def test_a_phase_that_was_not_measured_is_a_dash_and_no_bar(tmp_path):
    set_phase(make_run(tmp_path, "lora"), "save", None)
    save = phases_figure(Facts(table_of(tmp_path))).data[3]
    assert (save.x[0], save.text[0]) == (None, "save –")


def test_the_axis_names_the_kind_of_memory_and_the_direction(tmp_path):
    make_run(tmp_path, "lora", device="cuda")
    title = phases_figure(Facts(table_of(tmp_path))).layout.xaxis.title.text
    assert title == "memory of a phase (CUDA allocated), lower is better"


def test_runs_without_peaks_by_phase_are_no_bars(tmp_path):
    make_run(tmp_path, "lora", measures={"before_model_bytes": None})
    make_run(tmp_path, "qlora", status="out_of_memory")
    table = table_of(tmp_path)
    assert len(phases_figure(Facts(table)).data) == 0
    assert phases_finding(Facts(table)) == "No run has its memory by phase"


@pytest.mark.parametrize(
    ("other", "seeds", "finding"),
    [
        ("lora", {0: "train"}, "Training sets the peak of every variant, in every run"),
        (
            "lora", {0: "evaluate"},
            "Training sets the peak of Full fine-tuning; evaluation sets the peak of LoRA",
        ),
        (
            "lora", {0: "train", 1: "evaluate"},
            "Training sets the peak of Full fine-tuning; for LoRA it differs between runs",
        ),
        (
            "full", {1: "evaluate"},
            "For Full fine-tuning it differs between runs",
        ),
    ],
    ids=["all the same", "two phases", "differs between seeds", "one variant"],
)  # fmt: skip
def test_the_phase_that_sets_the_peak_is_named(tmp_path, other, seeds, finding):
    make_sweep(tmp_path, methods=("full",))
    low = phases_figure(Facts(table_of(tmp_path))).layout.height
    for seed, phase in seeds.items():
        run = make_run(tmp_path, other, seed=seed)
        if phase == "evaluate":
            set_phase(run, "evaluate", 5000)
    facts = Facts(table_of(tmp_path))
    assert phases_finding(facts) == finding
    assert (phases_figure(facts).layout.height > low) == (other == "lora"), "a row more"


def test_the_parts_of_a_peak_are_stacked_in_their_order_below_a_tick_of_the_process(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    table = with_anatomy(table_of(tmp_path), weights=300, optimizer=600)
    figure = memory_breakdown_figure(Facts(table))
    *parts, tick = figure.data
    assert [bar.name for bar in parts] == list(MEMORY_PARTS)
    assert figure.layout.barmode == "stack"
    assert list(parts[0].x) == [300 * MB, 300 * MB]
    assert list(parts[2].text) == ["optimizer", "optimizer"]
    assert (tick.name, list(tick.x)) == ("measured", list(table["net_peak_memory_bytes"]))
    assert tick.marker.symbol == "line-ns"


def test_a_prediction_is_a_narrow_stack_below_the_measured_one(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    table = with_anatomy(table_of(tmp_path), weights=300)
    for part in MEMORY_PARTS:
        table.loc[1, f"predicted_{part}_bytes"] = 80 * MB
    figure = memory_breakdown_figure(Facts(table)).data
    bars = figure[len(MEMORY_PARTS) : -1]
    assert [bar.name for bar in bars] == [f"predicted {part}" for part in MEMORY_PARTS]
    for bar in bars:
        assert list(bar.x) == [80 * MB]
        assert 1 < bar.y[0] < 1.5
        assert bar.width < figure[0].width


@pytest.mark.parametrize(
    ("predicted", "words"),
    [(None, ""), ((1.05, 1.01), "within 5.00 % of"), ((1.05, 0.8), "within 20.0 % of")],
)
def test_the_finding_names_the_largest_part_and_how_far_the_prediction_was_off(
    tmp_path, predicted, words
):
    make_sweep(tmp_path, methods=("full", "lora"))
    table = with_anatomy(table_of(tmp_path), weights=400, optimizer=600)
    table.loc[1, "anatomy_weights_bytes"] = 1400 * MB
    for row, times in enumerate(predicted or ()):
        for part in MEMORY_PARTS:
            expected = times * table.loc[row, f"anatomy_{part}_bytes"]
            table.loc[row, f"predicted_{part}_bytes"] = expected
    found = memory_breakdown_finding(Facts(table))
    assert found.startswith(
        "The largest part of the peak: optimizer for Full fine-tuning (60.0 %); weights for LoRA "
        "(70.0 %)"
    )
    assert words in found
    assert ("predictions" in found) == bool(predicted)
