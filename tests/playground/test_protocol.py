"""What a request may ask, said in sentences, and messages that survive the way."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.playground.protocol import (
    FromWorker,
    GenerateRequest,
    PaneUpdate,
    ToWorker,
    base_model,
    parse_from_worker,
    parse_to_worker,
    to_line,
    validate_generate,
)
from ftlab.runs.result import Status
from tests.fakes import make_run

ASK = GenerateRequest(("base",), "How many singers are over 30?")


def sentences(request: GenerateRequest, folder: Path) -> dict[str, str]:
    return {error.field: error.message for error in validate_generate(request, folder)}


def test_base_and_a_finished_run_are_a_valid_request(tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora")
    assert validate_generate(replace(ASK, panes=("base", run.run_id)), tmp_path) == []


@pytest.mark.parametrize(
    ("change", "field", "part"),
    [
        ({"panes": ()}, "panes", "0 panes are chosen; choose 1 to 4"),
        ({"panes": ("base",) * 5}, "panes", "5 panes are chosen; choose 1 to 4"),
        ({"panes": ("no-such-run",)}, "panes", "There is no run 'no-such-run'"),
        ({"panes": ("../../etc",)}, "panes", "There is no run '../../etc'"),
        ({"prompt": "  \n"}, "prompt", "The prompt is empty"),
        ({"prompt": "x" * 100_001}, "prompt", "100,001 characters; at most 100,000"),
        ({"max_new_tokens": 0}, "max_new_tokens", "0 is no whole number between 1 and 1024"),
        ({"max_new_tokens": 2000}, "max_new_tokens", "2000 is no whole number"),
        ({"max_new_tokens": 1.5}, "max_new_tokens", "1.5 is no whole number"),
        ({"temperature": 2.5}, "temperature", "2.5 is no number between 0 and 2"),
        ({"temperature": float("nan")}, "temperature", "nan is no number"),
        ({"temperature": None}, "temperature", "None is no number"),
        ({"seed": -1}, "seed", "-1 is no whole number between 0 and 4294967295"),
        ({"model": "/no/such/folder"}, "model", "There is no model folder '/no/such/folder'"),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(
    change: dict[str, object], field: str, part: str, tmp_path: Path
) -> None:
    found = sentences(replace(ASK, **change), tmp_path)  # type: ignore[arg-type]
    assert list(found) == [field]
    assert part in found[field]


@pytest.mark.parametrize("status", ["queued", "running", "failed", "cancelled", "interrupted"])
def test_only_a_run_that_is_done_can_answer(status: Status, tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora", status)
    found = sentences(replace(ASK, panes=(run.run_id,)), tmp_path)
    assert found["panes"].startswith(f"Run '{run.run_id}' is {status}, so it has no adapter")


def test_a_base_run_is_refused_with_the_way_out(tmp_path: Path) -> None:
    run = make_run(tmp_path, "base")
    assert (
        "choose 'base' instead" in sentences(replace(ASK, panes=(run.run_id,)), tmp_path)["panes"]
    )


def test_runs_on_different_base_models_are_refused_with_both_names(tmp_path: Path) -> None:
    first = make_run(tmp_path, "lora", model="bundled")
    second = make_run(tmp_path, "lora", model="someone/other")
    found = sentences(replace(ASK, panes=(first.run_id, second.run_id)), tmp_path)
    assert "someone/other" in found["panes"]
    assert "bundled" in found["panes"]


def test_one_model_written_in_two_ways_is_one_model(tmp_path: Path) -> None:
    first = make_run(tmp_path, "lora", model="bundled")
    second = make_run(tmp_path, "qlora", model="HuggingFaceTB/SmolLM2-135M-Instruct")
    request = replace(ASK, panes=(first.run_id, second.run_id))
    assert validate_generate(request, tmp_path) == []


def test_the_base_model_is_the_runs_own(tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora", model="someone/other")
    assert base_model(replace(ASK, panes=("base", run.run_id)), tmp_path) == "someone/other"
    assert base_model(ASK, tmp_path) == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_messages_come_back_as_they_were_sent() -> None:
    ask = ToWorker(3, replace(ASK, prompt="ünï\n\u2028 \ud800", panes=("base", "r-1")))
    answer = FromWorker(3, PaneUpdate(1, "text", "line\nline", tokens=4, tokens_per_second=1.5))
    for message in (ask, ToWorker(3)):
        assert parse_to_worker(to_line(message)) == message
    for said in (answer, FromWorker(3)):
        assert parse_from_worker(to_line(said)) == said
    assert to_line(ask).count("\n") == 1


def test_a_line_that_is_no_message_is_refused() -> None:
    with pytest.raises(ValueError, match="not a message"):
        parse_to_worker('["generate"]')


def test_client_and_protocol_import_neither_torch_nor_gradio() -> None:
    code = (
        "import sys, ftlab.playground.client; "
        "print([m for m in ('torch', 'transformers', 'peft', 'gradio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
