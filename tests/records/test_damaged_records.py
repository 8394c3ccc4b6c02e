"""Records that are damaged, each in a way that once ended in a traceback somewhere on the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.basics.processes import is_alive
from ftlab.methods.dimensions import shape_from
from ftlab.models.reference import parse_model
from ftlab.models.resolve import describe_shape
from ftlab.records.merge import MergeDirectory
from ftlab.records.progress import read_progress
from ftlab.records.result import is_sound
from ftlab.records.run import read_json_lines, write_json_lines
from ftlab.records.store import RunStore, read_run
from ftlab.tabs.experiment.request import read_form
from ftlab.tabs.plan.request import read_plan
from ftlab.tasks.reference import parse_task
from tests.fakes import make_run

STEP = {"event": "step", "step": 1, "loss": 2.0, "seconds": 1.0, "tokens": 7, "elapsed": 1.0}


@pytest.mark.hostile("records")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("total_params", 10**400),
        ("trainable_params", -(2**63)),
        ("net_peak_memory_bytes", 2**64),
        ("train_seconds", float("inf")),
        ("eval_loss_after", float("nan")),
    ],
)
def test_a_number_that_no_table_can_hold_makes_one_run_unreadable_and_no_other(
    tmp_path: Path, field: str, value: float
) -> None:
    whole = make_run(tmp_path, "full")
    directory = make_run(tmp_path)
    result = json.loads(directory.result_file.read_bytes())
    result["measures"][field] = value
    directory.result_file.write_text(json.dumps(result), encoding="utf-8")
    store = RunStore(tmp_path)
    assert list(store.table()["run_id"]) == [whole.run_id]
    assert "result.json cannot be read" in store.unreadable[0].reason


@pytest.mark.hostile("records")
@pytest.mark.parametrize(
    "line",
    [
        STEP | {"step": "two"}, STEP | {"step": None}, STEP | {"loss": None}, STEP | {"loss": [1]},
        STEP | {"step": 2**70}, STEP | {"step": 1.5}, STEP | {"tokens": "7"}, STEP | {"loss": True},
        {"event": "step"}, {"event": "evaluate", "done": 1, "total": 0, "elapsed": 1.0},
        {"event": "evaluate", "done": 1}, {"event": "phase"}, {"event": "evaluation", "loss": 1.0},
        {"event": "evaluate", "done": float("inf"), "total": 4, "elapsed": 1.0},
        {"event": "download", "done": 1, "total": float("inf"), "elapsed": 1.0},
    ],
)  # fmt: skip
def test_a_line_of_metrics_of_another_shape_is_skipped(tmp_path: Path, line: Any) -> None:
    assert not is_sound(line)
    directory = make_run(tmp_path, status="running", steps=4)
    before = read_progress(read_run(directory)).losses
    with directory.metrics_file.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n" + "[" * 100_000 + "\n")
    assert read_progress(read_run(directory)).losses == before


def test_a_loss_that_is_no_number_is_a_sound_event() -> None:
    assert is_sound(STEP | {"loss": float("nan")})


def test_a_line_separator_in_an_answer_does_not_lose_the_answer(tmp_path: Path) -> None:
    rows = [{"answer_after": "a\u2028b\x85c\x0cd"}, {"answer_after": "e"}]
    write_json_lines(tmp_path / "samples.jsonl", rows)
    assert read_json_lines(tmp_path / "samples.jsonl") == rows


@pytest.mark.parametrize("pid", [-1, 0, 2**31, 10**30])
def test_a_process_number_that_cannot_be_is_no_process(pid: int) -> None:
    assert not is_alive(pid, 1.0)


@pytest.mark.parametrize(
    "event",
    [
        {"event": "start"}, {"event": "start", "pid": None, "process_started": 1.0},
        {"event": "end"}, {"event": "end", "status": "won"}, {"event": "phase"},
        {"event": "evaluate"},
    ],
)  # fmt: skip
def test_a_damaged_line_of_a_merge_is_skipped(tmp_path: Path, event: dict[str, Any]) -> None:
    merge = MergeDirectory(make_run(tmp_path))
    merge.folder.mkdir(parents=True, exist_ok=True)
    write_json_lines(merge.events_file, [event])
    assert merge.status() in ("none", "interrupted")
    assert isinstance(merge.progress(), str)


@pytest.mark.parametrize(
    "name", ["~nobody-at-all/x", "x" * 300 + ".csv", "a\x00.csv", "\ud800.csv"]
)
def test_a_path_that_can_be_none_is_a_sentence(name: str) -> None:
    with pytest.raises(FtlabError):
        parse_task(name)
    with pytest.raises(FtlabError):
        parse_model("/" + name)


@pytest.mark.parametrize(
    "config",
    [
        {"num_key_value_heads": {}, "hidden_size": 64}, {"text_config": [1]}, {"head_dim": "8"},
        {"max_position_embeddings": None}, {"n_positions": [1]},
    ],
)  # fmt: skip
def test_a_model_s_config_of_other_types_has_no_such_widths(config: dict[str, Any]) -> None:
    shape_from({"a.weight": (2, 2)}, config)
    describe_shape(config)


@pytest.mark.parametrize("methods", [True, 1, "lora", {"lora": 1}, [["lora"]], [None]])
def test_invalid_methods_of_a_form_are_an_error_of_their_field(methods: Any) -> None:
    reading = read_form({"task": "sql", "methods": methods})
    named = [variant.method for variant in reading.request.variants]
    assert named == ["lora"] or any(error.field == "variants" for error in reading.errors)


@pytest.mark.parametrize(
    ("field", "value"),
    [("config", 7), ("model", ["a"]), ("weights", "fp8"), ("optimizer", None), ("length", True)],
)
def test_a_field_of_the_plan_that_is_none_of_its_choices_is_a_sentence(
    field: str, value: Any
) -> None:
    values: dict[str, Any] = {
        "config": "", "model": "bundled", "card": "rtx-4090", "method": "lora", "length": 128,
        "batch": 1, "completion_tokens": 0, "weights": "bf16", "checkpointing": False,
        "optimizer": "adamw", "accumulation": 1,
    }  # fmt: skip
    with pytest.raises(FtlabError):
        read_plan({f"plan_{name}": given for name, given in (values | {field: value}).items()})
