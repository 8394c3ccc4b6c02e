"""From a request to queued runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.jobs.launch import enqueue_again, enqueue_sweep, plan_sweep
from ftlab.methods import limits
from ftlab.methods.variant import Variant, parse_variant
from ftlab.models.reference import BUNDLED_ID
from ftlab.records import run as run_record
from ftlab.records.result import RunResult
from ftlab.records.run import RunDirectory, run_directories
from ftlab.records.spec import RunSpec, SweepRequest, dump_spec, load_spec
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.files import ColumnMapping
from ftlab.tasks.reference import TaskReference

REQUEST = SweepRequest(
    model="bundled",
    task=TaskReference("bundled", "sql"),
    variants=(Variant("lora"), parse_variant("lora:r=32"), Variant("qlora")),
    settings=TrainingSettings(steps=5),
    device="cpu",
    seeds=(0, 1),
)


def test_every_variant_runs_once_a_seed_after_one_base_run_a_precision() -> None:
    specs = plan_sweep(REQUEST)
    assert [(spec.label, spec.seed) for spec in specs] == [
        ("Base bf16", 0),
        ("Base nf4", 0),
        ("LoRA", 0),
        ("LoRA r=32", 0),
        ("QLoRA", 0),
        ("LoRA", 1),
        ("LoRA r=32", 1),
        ("QLoRA", 1),
    ]


def test_each_run_names_the_base_run_of_its_own_precision() -> None:
    specs = {spec.run_id: spec for spec in plan_sweep(REQUEST)}
    for spec in specs.values():
        if not spec.is_base:
            base = specs[spec.base_run_id or ""]
            assert base.is_base
            assert base.base_precision == spec.base_precision


def test_run_ids_sort_in_the_order_of_the_queue() -> None:
    ids = [spec.run_id for spec in plan_sweep(REQUEST)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_a_spec_survives_the_way_through_json() -> None:
    task = TaskReference("file", "/data/x.csv", mapping=ColumnMapping("q", "a", None, None))
    for spec in plan_sweep(replace(REQUEST, task=task)):
        assert load_spec(dump_spec(spec)) == spec


@pytest.mark.parametrize("field", ["created_at", "eval_examples", "mapping", "hyperparameters"])
def test_a_spec_with_an_unknown_field_at_any_depth_is_refused_by_name(field: str) -> None:
    text = dump_spec(plan_sweep(REQUEST)[-1])
    wrong = text.replace(f'"{field}"'.encode(), b'"of_the_future"')
    assert wrong != text
    with pytest.raises(FtlabError, match=rf"{field}|of_the_future"):
        load_spec(wrong)


def test_queued_runs_are_on_disk_before_the_function_returns(tmp_path: Path) -> None:
    specs = enqueue_sweep(REQUEST, tmp_path / "runs")
    found = run_directories(tmp_path / "runs")
    assert [run.run_id for run in found] == [spec.run_id for spec in specs]
    assert {run.status() for run in found} == {"queued"}


def test_an_unwritable_runs_folder_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file stands where the folder should be")
    with pytest.raises(FtlabError, match="cannot be written"):
        enqueue_sweep(REQUEST, tmp_path / "runs")


def test_the_learning_rate_is_the_variants_else_the_sweeps_else_the_methods(tmp_path: Path) -> None:
    def rate(variant: Variant, sweep: float | None) -> float | None:
        request = replace(
            REQUEST, variants=(variant,), settings=TrainingSettings(learning_rate=sweep)
        )
        spec: RunSpec = plan_sweep(request)[-1]
        return spec.learning_rate

    assert rate(Variant("lora"), None) == Variant("lora").spec.learning_rate
    assert rate(Variant("lora"), 0.5) == 0.5
    assert rate(Variant("lora", {}, 0.25), 0.5) == 0.25


def test_a_finished_result_is_never_overwritten(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "x-run")
    run.write_spec(plan_sweep(REQUEST)[0])
    run.write_result(RunResult("done"))
    run.write_result(RunResult("failed", "too late"))
    assert run.status() == "done"


def test_a_model_beside_the_caller_is_recorded_by_its_whole_path(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model.parent)
    specs = plan_sweep(replace(REQUEST, model=f"./{tiny_model.name}"))
    assert {spec.model for spec in specs} == {str(tiny_model.resolve())}


def test_the_bundled_model_has_one_name_in_every_record() -> None:
    assert {spec.model for spec in plan_sweep(REQUEST)} == {BUNDLED_ID}


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("empty.csv", b"", "empty"),
        ("broken.json", b'[{"prompt": "a",\n "completion" "b"}]', "line 2"),
        ("broken.jsonl", b'{"prompt": "a", "completion": "b"}\n{"prompt": \n', "line 2"),
        ("missing.csv", b"foo,bar\n1,2\n3,4\n5,6\n", "columns: foo, bar"),
        ("one.csv", b"prompt,completion\na,b\n", "at least 3"),
        ("hollow.csv", b"prompt,completion\na,\nb,\nc,\n", "completion"),
        ("latin.csv", "prompt,completion\nä,b\n".encode("latin-1"), "UTF-8"),
    ],
)
def test_what_is_wrong_inside_a_file_is_said_before_anything_is_queued_again(
    name: str, content: bytes, part: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    request = replace(REQUEST, task=TaskReference("file", str(file)))
    with pytest.raises(InvalidRequest) as caught:
        enqueue_again(plan_sweep(request), tmp_path / "runs")
    (error,) = caught.value.errors
    assert error.field == "task.id"
    assert part in error.message
    assert not (tmp_path / "runs").exists()


def test_a_sweep_that_cannot_be_written_whole_leaves_nothing_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = RunDirectory.write_spec
    written: list[str] = []

    def until_full(self: RunDirectory, spec: RunSpec, result: RunResult | None = None) -> None:
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(spec.run_id)
        whole(self, spec, result)

    monkeypatch.setattr(RunDirectory, "write_spec", until_full)
    with pytest.raises(FtlabError, match="No space left on device"):
        enqueue_sweep(REQUEST, tmp_path)
    assert run_directories(tmp_path) == []


def test_a_method_that_does_not_go_with_the_model_is_a_row_that_says_why(
    tiny_model: Path, tmp_path: Path
) -> None:
    request = replace(
        REQUEST, model=str(tiny_model), variants=(Variant("lora"), Variant("bitfit")), seeds=(0, 1)
    )
    specs = enqueue_sweep(request, tmp_path)
    rows = [(spec.label, spec.seed, RunDirectory(tmp_path / spec.run_id)) for spec in specs]
    assert [(label, seed, run.status()) for label, seed, run in rows] == [
        ("Base bf16", 0, "queued"),
        ("LoRA", 0, "queued"),
        ("BitFit", 0, "not_applicable"),
        ("LoRA", 1, "queued"),
        ("BitFit", 1, "not_applicable"),
    ]
    result = rows[2][2].result()
    assert result is not None
    assert result.reason == (
        "BitFit: this model has no biases, so there is nothing that BitFit could train."
    )
    assert result.finished_at == specs[2].created_at


def test_no_base_run_is_made_for_the_sake_of_a_row_that_never_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "find_spec", lambda name: None)  # bitsandbytes is not installed
    specs = plan_sweep(replace(REQUEST, variants=(Variant("lora"), Variant("qlora")), seeds=(0,)))
    assert [spec.label for spec in specs] == ["Base bf16", "LoRA", "QLoRA"]
    assert specs[-1].base_run_id is None


def test_a_dispatcher_never_sees_such_a_run_without_its_result(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    whole = run_record.write_atomically

    def look(path: Path, data: bytes) -> None:
        whole(path, data)
        if path.name == "spec.json" and path.parent.name.endswith("bitfit"):
            seen.append((path.parent / "result.json").exists())

    monkeypatch.setattr(run_record, "write_atomically", look)
    variants = (Variant("lora"), Variant("bitfit"))
    enqueue_sweep(replace(REQUEST, model=str(tiny_model), variants=variants), tmp_path)
    assert seen == [True, True]
