"""Sentences of several runs, each once, with who says it."""

from __future__ import annotations

from pathlib import Path

from ftlab.records.store import RunStore, notes_of_runs
from tests.fakes import make_run


def test_what_all_runs_say_is_said_once_and_by_nobody(tmp_path: Path) -> None:
    for method in ("base", "full", "lora"):
        make_run(tmp_path, method, notes=["Weights are rounded."])
    assert notes_of_runs(RunStore(tmp_path).runs()) == ["Weights are rounded."]


def test_what_only_some_runs_say_begins_with_their_names(tmp_path: Path) -> None:
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", notes=["The score fell."])
    assert notes_of_runs(RunStore(tmp_path).runs()) == ["LoRA: The score fell."]


def test_a_sentence_of_one_seed_names_it_and_one_of_all_seeds_does_not(tmp_path: Path) -> None:
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", seed=0, notes=["Common."])
    make_run(tmp_path, "lora", seed=1, notes=["Common.", "The score fell."])
    assert notes_of_runs(RunStore(tmp_path).runs()) == [
        "LoRA: Common.",
        "LoRA seed 1: The score fell.",
    ]


def test_what_base_runs_alone_say_needs_no_name(tmp_path: Path) -> None:
    make_run(tmp_path, "base", notes=["Only here."])
    make_run(tmp_path, "lora")
    assert notes_of_runs(RunStore(tmp_path).runs()) == ["Only here."]
