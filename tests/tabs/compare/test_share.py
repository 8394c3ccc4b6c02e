"""The sheet that shows the card and makes the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from ftlab.basics.errors import FtlabError
from ftlab.playground.client import PlaygroundClient
from ftlab.records.store import RunStore
from ftlab.share.card_content import card_of
from ftlab.tabs.compare import share as compare_share
from ftlab.tabs.context import AppContext
from tests.fakes import SWEEP, make_run, make_sweep
from tests.share.fakes import HOSTILE, data_of


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppContext:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    runs = tmp_path / "runs"
    return AppContext(runs, RunStore(runs), PlaygroundClient(runs))


def shown(context: AppContext) -> dict[str, Any]:
    """What the sheet shows of the sweep, by name."""
    with gr.Blocks():
        section = compare_share.build(context)
    updates = section.show(data_of(context.runs_folder))
    assert len(updates) == len(section.outputs)
    names = ("sweep", "title", "variant", "png", "svg", "report", "picture")
    return dict(zip(names, updates, strict=True))


def test_the_card_of_the_best_variant_is_shown_with_a_choice_of_all(context: AppContext) -> None:
    make_sweep(context.runs_folder)
    now = shown(context)
    assert now["sweep"] == SWEEP
    assert now["variant"].value == "LoRA"
    assert [value for _, value in now["variant"].choices] == ["LoRA", "QLoRA", "Prompt tuning"]
    assert now["picture"].count("<svg") == 2
    assert "LoRA trained this model with" in now["picture"]


def test_of_a_sweep_with_nothing_done_no_file_can_be_made(context: AppContext) -> None:
    make_sweep(context.runs_folder, status="failed")
    now = shown(context)
    assert [now[name].interactive for name in ("png", "svg", "report")] == [False] * 3
    assert "No run of this sweep got to its end" in now["picture"]
    assert now["variant"].visible is False


def test_opening_the_tab_writes_no_file(context: AppContext, tmp_path: Path) -> None:
    make_sweep(context.runs_folder)
    shown(context)
    assert not (tmp_path / "gradio").exists()


@pytest.mark.parametrize("kind", ["png", "svg", "html"])
def test_a_file_is_made_when_it_is_asked_for(
    context: AppContext, tmp_path: Path, kind: str
) -> None:
    make_sweep(context.runs_folder)
    path = compare_share.share_file(context, kind, SWEEP, "QLoRA")
    name = "report" if kind == "html" else "card"
    assert path.name == f"ftlab-{name}-{SWEEP}-QLoRA.{kind}"
    assert path.is_relative_to(tmp_path / "gradio")
    if kind == "png":
        assert Image.open(path).size == (1600, 900)
    else:
        assert "QLoRA trained this model" in path.read_text(encoding="utf-8")


def test_asking_again_replaces_the_file(context: AppContext) -> None:
    make_sweep(context.runs_folder)
    first = compare_share.share_file(context, "svg", SWEEP, "LoRA")
    assert compare_share.share_file(context, "svg", SWEEP, "LoRA") == first
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_a_name_from_a_record_is_no_path(context: AppContext, tmp_path: Path) -> None:
    make_run(context.runs_folder, "full")
    make_run(context.runs_folder, "lora", hyperparameters={"targets": "../../" + "x" * 300})
    path = compare_share.share_file(context, "svg", SWEEP, None)
    assert path.parent.parent == tmp_path / "gradio" / "ftlab"
    assert len(path.name) < 140


def test_a_sweep_that_is_gone_is_said_to_be_gone(context: AppContext) -> None:
    with pytest.raises(FtlabError, match="There is no sweep"):
        compare_share.share_file(context, "png", SWEEP, None)


def test_the_error_on_the_page_is_escaped() -> None:
    error = compare_share._shown_error(FtlabError(f"There is no {HOSTILE}."))
    assert "<script" not in error.message
    assert "&lt;script&gt;" in error.message


def test_names_on_the_card_are_only_text(context: AppContext) -> None:
    make_run(context.runs_folder, "full")
    make_run(context.runs_folder, "lora", hyperparameters={"targets": HOSTILE})
    picture = compare_share.picture_html(card_of(data_of(context.runs_folder)))
    assert "<script" not in picture
    assert "<img" not in picture
