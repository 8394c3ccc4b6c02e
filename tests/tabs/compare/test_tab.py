from types import SimpleNamespace

import gradio as gr
import pytest

from ftlab.charts.loss import CHARTS as LOSS
from ftlab.charts.savings import bars_sentence
from ftlab.charts.spec import charts
from ftlab.playground.client import PlaygroundClient
from ftlab.records.published import PublishedRun
from ftlab.records.store import RunStore, SweepData, sweep_data
from ftlab.share.card_content import card_of
from ftlab.share.report import sweep_report
from ftlab.share.report_sections import fairness_html
from ftlab.tabs.compare import tab as compare
from ftlab.tabs.compare.serving import notes_html, title_html
from ftlab.tabs.compare.view import (
    advice,
    further,
    headline,
    read_picture,
    runs_fold,
    unfinished,
    view,
)
from ftlab.tabs.context import AppContext, Asked, Links, taken
from tests.fakes import SWEEP, make_run, make_sweep
from tests.share.fakes import scored

OLD = "20261101-093000-cd34"


def data_of(folder, sweep=SWEEP):
    return sweep_data(RunStore(folder), sweep)


def view_of(folder, adapter=None):
    return view(data_of(folder), adapter, {})


def picture_of(name, data):
    return read_picture(next(chart for chart in charts() if chart.id == name), data, {})


def loss_of(folder):
    return picture_of("loss", data_of(folder))


def imported(folder):
    """The sweep of a folder as if others had published it."""
    data = data_of(folder)
    table = data.table.assign(origin="imported")
    runs = tuple(
        PublishedRun(row["run_id"], SWEEP, row, losses=((1, 2.0), (2, 1.0)))
        for row in table.to_dict("records")
    )
    return SweepData(SWEEP, "imported", table, published=runs)


def test_a_variant_that_lacks_a_seed_is_said_to_differ(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"), seeds=(0, 1))
    make_run(tmp_path, "qlora", seed=0)
    seeds = "seeds (0, 1 of Full fine-tuning and LoRA; 0 of QLoRA)"
    assert seeds in fairness_html(data_of(tmp_path))


def test_runs_that_are_left_out_are_counted_with_their_reason(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "qlora", status="failed", reason="No <b>kernel</b>.")
    text = unfinished(data_of(tmp_path))
    assert "1 run left out" in text
    assert "No &lt;b&gt;kernel&lt;/b&gt;." in text
    make_sweep(tmp_path, sweep_id=OLD)
    assert unfinished(data_of(tmp_path, OLD)) == ""


def test_the_headline_has_five_tiles_with_net_and_whole_peak(tmp_path):
    make_sweep(tmp_path)
    text = headline(data_of(tmp_path))
    assert text.count("<span>of the parameters trained") == 1
    assert "1.29 GB, full 2.34 GB; whole process 1.79 GB, full 2.84 GB" in text
    assert "27x smaller" in text
    assert "memory: CPU resident" in text


def test_page_and_report_say_what_the_card_says(tmp_path):
    make_run(tmp_path, "full", measures={"train_seconds": 60.0})
    make_run(tmp_path, "lora", measures={"train_seconds": 58.0})
    data = data_of(tmp_path)
    card = card_of(data)
    page, report = headline(data), sweep_report(data)
    assert card.sentence.replace(" %", "\u00a0%") in page
    assert "<b>3 % less</b>" in page
    assert "<small>no difference shown</small>" in page
    assert card.doubts[0].startswith("Training time: no difference shown (1 run each; two runs")
    for text in (page, report):
        assert f'<p class="meta">{card.doubts[0]}</p>' in text
    for text in (report, view_of(tmp_path).bars.titles[2]):
        assert "LoRA and Full fine-tuning least, no difference shown" in text


def test_it_says_which_variant_to_use_and_what_the_intervals_are(tmp_path):
    for method, scores in (("full", [1.0] * 30), ("lora", [1.0] * 29 + [0.0])):
        make_run(tmp_path, method, samples=scored(scores))
    words = view_of(tmp_path).advice
    assert "Which one to use: LoRA" in words
    assert "Full fine-tuning is not shown to differ" in words
    assert "hold at once in 95 of 100 sweeps" in words
    assert "Which one to use: Full fine-tuning" in advice(data_of(tmp_path), "score")
    report = sweep_report(data_of(tmp_path))
    assert "<h2>Which one to use: LoRA</h2>" in report
    assert "Otherwise, for the highest score, shown or not: Full fine-tuning" in report


def test_without_full_fine_tuning_there_is_a_sentence_but_no_tiles(tmp_path):
    make_sweep(tmp_path, methods=("lora",))
    text = headline(data_of(tmp_path))
    assert "A full fine-tuning run is needed" in text
    assert "tiles" not in text


def test_a_sweep_in_which_all_failed_is_shown_without_numbers(tmp_path):
    make_sweep(tmp_path, status="failed")
    shown = view_of(tmp_path)
    assert "No run of this sweep got to its end" in shown.headline
    assert "4 runs left out" in shown.unfinished
    assert (shown.adapters, shown.adapter, shown.fairness) == ([], None, "")


def test_the_best_adapter_is_in_the_headline_unless_another_is_named(tmp_path):
    make_sweep(tmp_path)
    assert view_of(tmp_path).adapter == "LoRA"
    assert view_of(tmp_path, "QLoRA").adapter == "QLoRA"
    assert view_of(tmp_path, "gone").adapter == "LoRA"


def test_curves_are_those_of_the_sweep_without_its_base_runs_and_failed_ones_are_pale(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "qlora", status="failed")
    points = loss_of(tmp_path).facts.read
    curves = points.groupby("label", sort=False)["emphasised"].first()
    assert curves.to_dict() == {"Full fine-tuning": True, "LoRA": True, "QLoRA": False}
    assert (points["label"] == "LoRA").sum() == 30


def test_seeds_are_said_to_be_drawn_as_mean_and_range(tmp_path):
    make_sweep(tmp_path, methods=("lora",))
    assert "range of the seeds" not in loss_of(tmp_path).heading
    make_sweep(tmp_path, methods=("lora",), seeds=(1,))
    shown = loss_of(tmp_path)
    assert "mean and range of the seeds" in shown.heading
    assert [line.name for line in shown.figure.data] == ["LoRA, range of the seeds", "LoRA"]


BUNDLED = "SmolLM2-135M-Instruct (bundled)"


@pytest.mark.parametrize(
    ("model", "label", "hidden"),
    [
        ("bundled", BUNDLED, "HuggingFaceTB"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", BUNDLED, "HuggingFaceTB"),
        ("/srv/models/mine", "mine", "/srv"),
    ],
)
def test_a_model_is_named_by_its_label_and_a_folder_without_its_path(
    tmp_path, model, label, hidden
):
    make_sweep(tmp_path / "runs", methods=("full", "lora"), model=model)
    shown = view_of(tmp_path / "runs")
    for html in (shown.fairness, shown.headline):
        assert label in html
        assert hidden not in html


def test_bars_say_what_they_are_relative_to(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    table = RunStore(tmp_path).table()
    assert bars_sentence(table).startswith("Relative to Full fine-tuning = 1")
    assert bars_sentence(table[table["method"] == "lora"]).startswith("Absolute values")


def test_script_in_a_variant_is_only_text(tmp_path):
    script = {"targets": "<script>alert(1)</script>"}
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", hyperparameters=script)
    make_run(tmp_path, "qlora", status="failed", hyperparameters=script)
    data = data_of(tmp_path)
    shown, table = view_of(tmp_path), data.table
    html = shown.headline + shown.fairness + shown.unfinished + runs_fold(data)
    for picture in filter(None, [*shown.pictures, *further(data, {})]):
        html += picture.heading + picture.note
    html += title_html(table, "measured", 100) + notes_html(table, 100)
    assert "<script" not in html
    assert "&lt;script&gt;" in html


class Tab:
    """The tab built on a folder; its handlers are called as gradio would, without a browser."""

    def __init__(self, folder, recorded=None):
        self.context = AppContext(folder, RunStore(folder, recorded), PlaygroundClient(folder))
        with gr.Blocks() as self.page, gr.Tabs() as tabs, gr.Tab("Compare"):
            self.links = Links.between(tabs)
            compare.build(self.context, self.links)

    def call(self, name, *inputs):
        """(component, update) of each output of the handler of that name."""
        found = [fn for fn in self.page.fns.values() if getattr(fn.fn, "__name__", "") == name]
        handler = found[0]
        assert {other.fn for other in found} == {handler.fn}
        given = handler.fn(*inputs)
        updates = given if isinstance(given, (list, tuple)) else [given]
        return list(zip(handler.outputs, updates, strict=True))

    def values(self, **chosen):
        """What the controls of the charts hold, in their order; of some of them what was chosen."""
        usual = {"x": None, "y": None, "loss-x": "step", "smoothing": 1, "quality": "score"}
        return [*(usual | chosen).values()]

    def redraw(self, control, *inputs):
        """The updates as the control of that id is used."""
        (handler,) = (
            fn
            for fn in self.page.fns.values()
            if getattr(fn.fn, "__name__", "") == "redraw"
            and f"compare-{control}" in [component.elem_id for component in fn.inputs]
        )
        return list(zip(handler.outputs, handler.fn(*inputs), strict=True))

    def enter(self, shown=None, by_hand="", seen="", link=None):
        """The updates of the page as the tab is opened; those of its own states left out."""
        asked = None if link is None else Asked(link)
        updates = self.call("enter", asked, by_hand, shown, seen, None, *self.values())
        assert taken(asked) is None, "an address is opened once"
        return updates[1:]

    def update(self, updates, label):
        return next(update for component, update in updates if label(component))


def is_sweep(component):
    return getattr(component, "elem_id", None) == "compare-sweep"


def skipped(update):
    return isinstance(update, dict) and update == gr.skip()


def test_opening_the_tab_without_runs_shows_the_empty_state_alone(tmp_path):
    (_, blank), (_, page), *rest = Tab(tmp_path).enter()
    assert (blank.visible, page.visible) == (True, False)
    assert all(skipped(update) or update in ("", None) for _, update in rest)


def test_first_start_shows_the_recorded_sweep(tmp_path):
    make_sweep(tmp_path / "recorded" / "sample")
    tab = Tab(tmp_path / "own", tmp_path / "recorded")
    updates = tab.enter()
    assert tab.update(updates, is_sweep).value == SWEEP
    assert any("chip recorded" in str(update) for _, update in updates)


@pytest.mark.parametrize(("by_hand", "shown"), [(OLD, OLD), ("", SWEEP)])
def test_a_sweep_chosen_by_hand_stays_else_the_newest_is_shown(tmp_path, by_hand, shown):
    make_sweep(tmp_path, sweep_id=OLD)
    make_sweep(tmp_path)
    tab = Tab(tmp_path)
    assert tab.update(tab.enter(OLD, by_hand), is_sweep).value == shown


def test_a_sweep_that_was_deleted_gives_way_to_the_newest(tmp_path):
    make_sweep(tmp_path)
    tab = Tab(tmp_path)
    assert tab.update(tab.enter(OLD, by_hand=OLD), is_sweep).value == SWEEP


def test_the_sweep_of_an_address_is_shown_and_stays_as_if_chosen_by_hand(tmp_path):
    make_sweep(tmp_path, sweep_id=OLD)
    make_sweep(tmp_path)
    tab = Tab(tmp_path)
    assert tab.update(tab.enter(SWEEP, by_hand=SWEEP, link=OLD), is_sweep).value == OLD
    (_, by_hand), *_ = tab.call("enter", Asked(OLD), "", None, "", None, *tab.values())
    assert by_hand == OLD


def test_an_address_of_a_sweep_that_is_not_here_says_so_and_shows_the_usual_one(
    tmp_path, monkeypatch
):
    make_sweep(tmp_path)
    said = []
    monkeypatch.setattr(compare, "warn", said.append)
    tab = Tab(tmp_path)
    assert tab.update(tab.enter(link=OLD), is_sweep).value == SWEEP
    assert said == [f"There is no sweep '{OLD}' here; another one is shown."]


def test_what_is_on_the_page_already_is_not_sent_again(tmp_path):
    make_sweep(tmp_path)
    tab = Tab(tmp_path)
    digest = tab.enter()[3][1]
    assert all(skipped(update) for _, update in tab.enter(SWEEP, seen=digest)[4:])


def test_what_lies_below_the_first_screen_follows_only_where_it_is_due(tmp_path):
    make_sweep(tmp_path)
    tab = Tab(tmp_path)
    due = tab.enter()[4][1]
    given = tab.call("fill", due, *tab.values(**{"loss-x": "tokens", "smoothing": 3}))
    titles = [getattr(getattr(update, "layout", None), "xaxis", None) for _, update in given]
    assert any(title and "tokens" in str(title.title.text) for title in titles)
    for none_due in (due, None):  # once is enough
        assert all(skipped(update) for _, update in tab.call("fill", none_due, *tab.values()))


def test_a_sweep_that_goes_on_is_always_sent_anew(tmp_path):
    make_sweep(tmp_path, methods=("full",))
    make_run(tmp_path, "lora", status="running")
    tab = Tab(tmp_path)
    digest = tab.enter()[3][1]
    assert not any(skipped(update) for _, update in tab.enter(SWEEP, seen=digest)[4:9])


def test_choosing_a_sweep_that_is_gone_changes_nothing(tmp_path, monkeypatch):
    make_sweep(tmp_path)
    said = []
    monkeypatch.setattr(compare, "warn", said.append)
    tab = Tab(tmp_path)
    updates = tab.call("choose_sweep", OLD, *tab.values())
    assert all(skipped(update) for _, update in updates)
    assert OLD in said[0]


def test_choosing_measures_draws_the_front_of_them(tmp_path):
    make_sweep(tmp_path)
    updates = Tab(tmp_path).redraw("x", SWEEP, None, "trainable_params", "eval_loss_after")
    figure = updates[1][1]
    assert figure.layout.xaxis.title.text.startswith("trainable parameters")
    assert figure.layout.yaxis.title.text.startswith("test loss")


def test_choosing_an_axis_and_smoothing_draws_the_loss_over_it(tmp_path):
    make_sweep(tmp_path)
    points = loss_of(tmp_path).facts.read
    updates = Tab(tmp_path).redraw("smoothing", SWEEP, points, "seconds", 5)
    assert updates[1][1].layout.xaxis.title.text == "seconds of training steps"
    assert "running mean of 5 steps" in updates[0][1]


@pytest.mark.parametrize(
    ("given", "steps"), [(5, 5), ("7", 7), (0, 1), (999, 20), (None, 1), ("x", 1), ("nan", 1)]
)
def test_smoothing_that_is_no_number_of_steps_is_the_nearest_that_is(given, steps):
    (loss,) = LOSS
    assert loss.choices[1].value(given, None) == steps


def test_a_clicked_point_leads_to_its_run_in_results(tmp_path):
    make_sweep(tmp_path)
    tab = Tab(tmp_path)
    (run, run_id), (_, tabs) = tab.call("lead", SimpleNamespace(run="some-run"))
    assert run is tab.links.asked["run"]
    assert (taken(run_id), tabs.selected) == ("some-run", "results")


def test_an_imported_sweep_is_shown_with_its_warning_and_without_what_it_has_not(tmp_path):
    make_sweep(tmp_path, measures={"before_model_bytes": None})
    shown = view(imported(tmp_path), None, {})
    assert (
        "Imported results of others: not measured here and not held to the same conditions"
        in shown.fairness
    )
    assert "fair comparison" not in shown.fairness
    for name in ("memory-by-phase", "memory-anatomy", "loss-by-learning-rate"):
        assert picture_of(name, imported(tmp_path)) is None
    assert "chip imported" in shown.headline
    assert "chip measured" not in shown.headline
    assert list(picture_of("loss", imported(tmp_path)).figure.data[0].y) == [2.0, 1.0]


def test_one_variant_alone_is_not_called_like_for_like(tmp_path):
    make_sweep(tmp_path, methods=("lora",))
    text = fairness_html(data_of(tmp_path))
    assert "only one variant is done" in text
    assert "fair comparison" not in text


def test_runs_on_different_data_are_not_said_to_share_their_examples(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    result = next(tmp_path.glob("*-lora")) / "result.json"
    result.write_text(result.read_text().replace("4c1e99d0a3b7", "ffff"))
    text = fairness_html(data_of(tmp_path))
    assert "not a fair comparison: examples" in text
    assert "in the same order" not in text
