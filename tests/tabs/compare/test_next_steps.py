"""The next steps of a sweep: what is offered, what is said to be missing, and where each leads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ftlab.records.store import RunStore
from ftlab.tabs.compare.next_steps import NextButtons, NextSteps, next_steps, steps_of_run
from ftlab.tabs.context import COMPARE, PLAYGROUND, Links, tabs, taken
from tests.fakes import SWEEP, make_run, make_sweep
from tests.tabs.page_fakes import page_context


def steps(folder: Path, **kw: Any) -> NextSteps:
    return next_steps(RunStore(folder).runs(), **kw)


def test_a_finished_sweep_is_compared_reported_and_asked_with_its_base(tmp_path: Path) -> None:
    runs = make_sweep(tmp_path, ("full", "lora"))
    asked = tuple(run.run_id for run in runs if "base" not in run.run_id)
    assert steps(tmp_path) == NextSteps(SWEEP, ("base", *asked), "")
    lora = asked[1]
    assert steps(tmp_path, first=lora).panes == ("base", lora, asked[0])


def test_what_failed_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    make_run(tmp_path, "full", "failed")
    lora = make_run(tmp_path, "lora").run_id
    make_run(tmp_path, "qlora", "out_of_memory")
    found = steps(tmp_path)
    assert (found.sweep, found.panes) == (SWEEP, ("base", lora))
    assert found.words == (
        "1 of 3 runs done; left out: Full fine-tuning and QLoRA. "
        "Without full fine-tuning Compare shows no savings."
    )


def test_a_sweep_without_a_finished_run_offers_nothing_and_says_so(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("full", "lora"), status="failed")
    found = steps(tmp_path)
    assert (found.sweep, found.panes) == ("", ())
    assert found.words == "No run is done, so there is nothing to compare or to report."


def test_each_variant_is_asked_before_a_further_seed_of_one(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("full", "lora", "qlora"), seeds=(0, 1, 2))
    found = steps(tmp_path)
    seeds = {run.run_id: run.spec.seed for run in RunStore(tmp_path).runs()}
    assert [seeds[name] for name in found.panes[1:]] == [0, 0, 0, 1, 1]
    assert found.words == "The Playground has room for 5 of them."


def test_recorded_and_imported_sweeps_can_be_compared_but_not_asked(tmp_path: Path) -> None:
    run = make_sweep(tmp_path / "recorded" / "one", ("full", "lora"))[-1]
    store = RunStore(tmp_path / "runs", tmp_path / "recorded")
    found = steps_of_run(store, run.run_id, SWEEP)
    assert (found.sweep, found.panes) == (SWEEP, ())
    assert "None of these runs has weights here to ask" in found.words
    assert steps_of_run(store, "gone", "gone") == NextSteps()


@pytest.fixture
def buttons(tmp_path: Path) -> tuple[NextButtons, dict[str, Callable[..., Any]]]:
    """The buttons, and their handlers by name."""
    with gr.Blocks() as page, gr.Tabs() as row, gr.Tab("here"):
        links = Links.between(row)
        made = NextButtons("here", "Compare these", "Ask them")
        made.wire(page_context(tmp_path), links)
    return made, {fn.fn.__name__: fn.fn for fn in page.fns.values() if hasattr(fn.fn, "__name__")}


def test_only_what_is_possible_is_shown(
    buttons: tuple[NextButtons, dict[str, Callable[..., Any]]],
) -> None:
    made, _ = buttons
    assert len(made.show(NextSteps())) == len(made.outputs)
    nothing = made.show(NextSteps())
    assert nothing[2].visible is False
    failed = made.show(NextSteps(words="No run is done."))
    assert failed[2].visible is True
    assert [part.visible for part in failed[4:]] == [False] * 4
    done = made.show(NextSteps("s", ("base", "a")))
    assert done[:2] == ["s", "base,a"]
    assert [part.visible for part in done[4:]] == [True] * 4


def test_each_step_leads_to_its_tab(
    buttons: tuple[NextButtons, dict[str, Callable[..., Any]]],
) -> None:
    _, handlers = buttons
    assert {COMPARE, PLAYGROUND} <= {spec.id for spec in tabs()}
    value, tab = handlers["compare_runs"](SWEEP)
    assert (taken(value), tab.selected) == (SWEEP, COMPARE)
    value, tab = handlers["ask_runs"]("base,a")
    assert (taken(value), tab.selected) == ("base,a", PLAYGROUND)
