"""Learning rates on Experiment: what is shown of a model's, tuning them, what ladders suggest."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.jobs.inputs import Access
from ftlab.jobs.tuning import around
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import Variant
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.tabs.context import AppContext
from ftlab.tabs.experiment import rates
from ftlab.tabs.experiment.method_view import method_facts, method_table
from ftlab.tabs.experiment.queue import QueueWatch
from ftlab.tabs.experiment.rates import suggested_html, tune, tune_further, untuned_html
from ftlab.tasks.reference import TaskReference
from tests.fakes import SWEEP, make_run, make_sweep
from tests.jobs.test_tuning_runs import TUNING, make_rung
from tests.records.test_rates import write_config
from tests.tabs.page_fakes import page_context

ALL = Access()
SQL = TaskReference("bundled", "sql")


def asked(model: str, *variants: Variant, **settings: Any) -> SweepRequest:
    chosen = variants or (Variant("lora"),)
    return SweepRequest(model, SQL, chosen, TrainingSettings(**settings), device="cpu")


@pytest.fixture
def wide(tmp_path: Path) -> str:
    return write_config(tmp_path / "wide", hidden_size=1152)


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppContext:
    monkeypatch.setattr(rates, "start_dispatcher", lambda folder: None)
    return page_context(tmp_path / "runs")


# ---------------------------------------------------------------- what is shown


def test_the_table_shows_every_methods_rate_for_the_chosen_model(wide: str) -> None:
    bundled, other = method_facts(asked("bundled")), method_facts(asked(wide))
    assert (bundled.rates["lora"], other.rates["lora"]) == ("2e-3", "1.2e-3")
    assert (bundled.rates["ia3"], other.rates["ia3"]) == ("0.02", "0.02")
    assert set(other.rates) == set(METHODS)


def test_a_rate_that_is_set_is_shown_with_the_methods_own(wide: str) -> None:
    facts = method_facts(asked(wide, Variant("lora", {}, 5e-4), learning_rate=7e-4))
    assert (facts.rates["lora"], facts.rates["full"]) == ("5e-4", "7e-4")
    assert facts.own["lora"] == "1.2e-3"


def test_a_model_that_is_not_on_this_machine_has_no_rates_yet() -> None:
    facts = method_facts(asked("owner/never-fetched"))
    assert set(facts.rates.values()) == {"–"}
    assert set(facts.own.values()) == {""}
    assert "once it is on this machine" in untuned_html(asked("owner/never-fetched"), ALL)


@pytest.mark.parametrize("method", METHODS)
def test_the_tooltip_of_a_rate_names_its_rule_and_source(method: str) -> None:
    table = method_table(())
    row = table[table.index(f'data-method="{method}"') :]
    hint = re.search(r'<td data-rate title="([^"]*)"', row)
    assert hint is not None
    assert METHODS[method].rate_rule.source in html.unescape(hint[1])


@pytest.mark.parametrize("model", ["bundled", "/no/such/folder", ""])
def test_the_bundled_model_and_a_wrong_name_have_no_hint(model: str) -> None:
    assert untuned_html(asked(model), ALL) == ""


def test_another_model_is_said_to_be_untuned_once_with_the_rule_and_the_button(wide: str) -> None:
    said = untuned_html(asked(wide, Variant("lora"), Variant("full")), ALL)
    assert said.count("not on this model") == 1
    assert "scaled to its size" in said
    assert "LoRA Without Regret" in said
    assert "this one 1,152" in said
    assert "Tune them: 6 runs" in said


@pytest.mark.parametrize(("width", "why"), [(None, "does not say"), (576, "as wide as")])
def test_a_model_without_a_width_or_as_wide_as_the_bundled_keeps_the_rates_and_that_is_said(
    width: int | None, why: str, tmp_path: Path
) -> None:
    config = {} if width is None else {"hidden_size": width}
    said = untuned_html(asked(write_config(tmp_path / "m", **config)), ALL)
    assert ">used unchanged<" in said
    assert why in said


def test_who_may_not_train_has_no_button(wide: str) -> None:
    said = untuned_html(asked(wide), Access(may_train=False))
    assert "not on this model" in said
    assert "<button" not in said


# ---------------------------------------------------------------- tuning


def test_tuning_queues_the_ladders_of_all_variants_as_one_sweep(
    wide: str, context: AppContext
) -> None:
    variants = (Variant("lora"), Variant("full"), Variant("lora", {"r": 4}, 1e-3))
    tune(replace(asked(wide, *variants, steps=7), seeds=(3, 4)), context)
    specs = [run.spec for run in context.store.runs()]
    assert len({spec.sweep_id for spec in specs}) == 1
    assert {spec.settings.eval_split for spec in specs} == {"tuning"}
    assert {(spec.settings.steps, spec.seed) for spec in specs} == {(7, 3)}
    for method, hyperparameters in (("lora", {}), ("full", {}), ("lora", {"r": 4})):
        found = [
            spec.learning_rate
            for spec in specs
            if spec.variant and (spec.method, spec.variant.hyperparameters)
            == (method, hyperparameters)
        ]  # fmt: skip
        own = method_facts(asked(wide)).own[method]
        assert found == list(around(float(own)))


def test_a_variant_that_differs_by_rate_alone_is_tuned_once(wide: str, context: AppContext) -> None:
    tune(asked(wide, Variant("lora"), Variant("lora", {}, 1e-3)), context)
    assert sum(not run.spec.is_base for run in context.store.runs()) == 3


def test_methods_that_are_not_applicable_are_left_out_of_the_ladders(
    tiny_model: Path, context: AppContext
) -> None:
    both = asked(str(tiny_model), Variant("lora"), Variant("bitfit"))
    assert "Tune them: 3 runs" in untuned_html(both, ALL)
    tune(both, context)
    assert {run.spec.method for run in context.store.runs()} == {"base", "lora"}


def test_what_cannot_be_tuned_is_a_sentence_and_queues_nothing(
    wide: str, context: AppContext, tmp_path: Path
) -> None:
    for request, error, part in (
        (asked("owner/never-fetched"), FtlabError, "could not be had"),
        (asked(wide, steps=0), InvalidRequest, "Steps is 0"),
        (replace(asked(wide), variants=()), FtlabError, "No method to tune"),
    ):
        with pytest.raises(error, match=part):
            tune(request, context)
    closed = replace(context, access=Access(may_train=False))
    with pytest.raises(FtlabError, match="public demo"):
        tune(asked(wide), closed)
    assert context.store.runs() == []


# ---------------------------------------------------------------- what the ladders say


def make_ladders(folder: Path, best_at_end: bool = False) -> None:
    make_run(folder, "base", settings=TUNING, measures={"eval_loss_before": 2.5})
    losses = {1e-3: 0.9, 3e-3: 0.5} | ({} if best_at_end else {9e-3: 0.7})
    for rate, loss in losses.items():
        make_rung(folder, rate, loss)


def test_an_ended_ladder_says_its_suggestion_why_and_can_be_used_in_the_form(
    tmp_path: Path,
) -> None:
    make_ladders(tmp_path)
    said = suggested_html(RunStore(tmp_path).runs())
    assert "<b>3e-3</b>" in said
    assert "has the lowest loss" in said
    used = re.search(r'data-rates="([^"]*)"', said)
    assert used is not None
    assert json.loads(html.unescape(used[1])) == {"lora.learning_rate": "0.003"}
    assert "data-further" not in said


def test_nothing_is_suggested_while_a_ladder_goes_and_of_runs_on_held_out_examples(
    tmp_path: Path,
) -> None:
    make_sweep(tmp_path / "usual")
    assert suggested_html(RunStore(tmp_path / "usual").runs()) == ""
    make_ladders(tmp_path / "open")
    make_run(tmp_path / "open", "lora", "queued", learning_rate=0.02, settings=TUNING)
    assert suggested_html(RunStore(tmp_path / "open").runs()) == ""
    assert suggested_html([]) == ""


def test_a_ladder_without_a_loss_says_so_and_offers_nothing_to_use(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", "failed", learning_rate=1e-3, settings=TUNING)
    said = suggested_html(RunStore(tmp_path).runs())
    assert "No rate has all of its runs done" in said
    assert "data-rates" not in said


def test_text_from_a_record_is_text(tmp_path: Path) -> None:
    task = TaskReference("file", "/data/<i>x.csv")
    make_run(tmp_path, learning_rate=1e-3, settings=TUNING, task=task)
    said = suggested_html(RunStore(tmp_path).runs())
    assert "<i>x" not in said
    assert "&lt;i&gt;x" in said


def test_the_queue_shows_the_suggestion_once_the_ladder_has_ended(tmp_path: Path) -> None:
    make_ladders(tmp_path)
    watch = QueueWatch(RunStore(tmp_path))
    assert "Suggested learning rates" in watch.look(SWEEP).queue
    make_run(tmp_path, "lora", "queued", learning_rate=0.02, settings=TUNING)
    assert "Suggested learning rates" not in watch.look(SWEEP).queue


def test_a_ladder_whose_best_rate_is_at_its_end_goes_on_as_the_same_sweep(
    context: AppContext,
) -> None:
    make_ladders(context.runs_folder, best_at_end=True)
    assert "Try 1 rate beyond the ends" in suggested_html(context.store.runs())
    (added,) = tune_further(SWEEP, context)
    assert (added.sweep_id, added.learning_rate) == (SWEEP, 9e-3)
    assert added.settings.eval_split == "tuning"
    with pytest.raises(FtlabError, match="still going"):
        tune_further(SWEEP, context)


def test_a_ladder_that_cannot_be_extended_is_a_sentence(context: AppContext) -> None:
    make_ladders(context.runs_folder)
    make_run(context.runs_folder, sweep_id="20250101-000000-aaaa")
    for sweep_id, part in (
        (SWEEP, "none to add"),
        ("20250101-000000-aaaa", "no ladder"),
        ("unknown", "no ladder"),
    ):
        with pytest.raises(FtlabError, match=part):
            tune_further(sweep_id, context)
