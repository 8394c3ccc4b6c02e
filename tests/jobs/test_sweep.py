"""From a request to queued runs: its check, its plan, and runs asked for again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.jobs import launch
from ftlab.jobs.launch import (
    check_space,
    checked,
    enqueue_again,
    enqueue_sweep,
    needed_bytes,
    not_applicable,
    plan_sweep,
    requests_of,
    validate,
)
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
    assert [(spec.label, spec.seed, spec.base_precision) for spec in specs] == [
        ("Base bf16", 0, None), ("Base nf4", 0, "nf4"), ("LoRA", 0, None), ("LoRA r=32", 0, None),
        ("QLoRA", 0, "nf4"), ("LoRA", 1, None), ("LoRA r=32", 1, None), ("QLoRA", 1, "nf4"),
    ]  # fmt: skip
    bases = {spec.base_precision: spec.run_id for spec in specs if spec.is_base}
    assert all(spec.base_run_id == bases[spec.base_precision] for spec in specs[2:])
    ids = [spec.run_id for spec in specs]
    assert ids == sorted(set(ids)), "they sort in the order of the queue"


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


def test_the_model_of_a_record_has_one_name_or_its_whole_path(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {spec.model for spec in plan_sweep(REQUEST)} == {BUNDLED_ID}
    monkeypatch.chdir(tiny_model.parent)
    specs = plan_sweep(replace(REQUEST, model=f"./{tiny_model.name}"))
    assert {spec.model for spec in specs} == {str(tiny_model.resolve())}


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

    def until_full(self: RunDirectory, spec: RunSpec, *more: Any) -> None:
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(spec.run_id)
        whole(self, spec, *more)

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


GOOD = SweepRequest(
    model="bundled", task=TaskReference("bundled", "sql"), variants=(Variant("lora"),), device="cpu"
)


def settings(**values: Any) -> dict[str, Any]:
    return {"settings": TrainingSettings(**values)}


@pytest.mark.parametrize(
    ("change", "field", "part"),
    [
        (settings(steps=0), "settings.steps", "Steps is 0; it must lie between 1 and"),
        (settings(batch_size=-1), "settings.batch_size", "Batch size is -1"),
        (settings(max_length=3), "settings.max_length", "Maximum length is 3"),
        (settings(learning_rate=-1e-3), "settings.learning_rate", "-0.001; it must be above 0"),
        (settings(learning_rate=float("nan")), "settings.learning_rate", "Learning rate is nan"),
        (settings(weight_decay=-1), "settings.weight_decay", "Weight decay is -1"),
        (settings(eval_examples=0), "settings.eval_examples", "Test examples is 0"),
        (settings(optimizer="sgd"), "settings.optimizer", "'sgd' is none of: adamw"),
        (settings(schedule="step"), "settings.schedule", "'step' is none of: cosine"),
        ({"model": "/no/such/folder"}, "model", "no model folder '/no/such/folder'"),
        ({"model": "a/b/c"}, "model", "names no model"),
        ({"variants": ()}, "variants", "No method is chosen"),
        ({"variants": (Variant("lora"), Variant("lora"))}, "variants", "in the sweep twice"),
        ({"device": "cuda:7"}, "device", "There is no device 'cuda:7' on this machine; devices:"),
        ({"dtype_policy": "fp8"}, "dtype_policy", "'fp8' is none of"),
        ({"seeds": ()}, "seeds", "No seed"),
        ({"seeds": (1, 1)}, "seeds", "Seed 1 is given twice; give each seed once"),
        ({"seeds": (0, 0, 0)}, "seeds", "Seed 0 is given 3 times; give each seed once"),
        ({"seeds": (0, 1, 0, 1)}, "seeds", "Seeds 0 and 1 are given more than once"),
        ({"seeds": (-1,)}, "seeds", "Seed -1 must lie"),
        ({"task": TaskReference("bundled", "sqll")}, "task.id", "sqll"),
    ],
)
def test_a_wrong_request_names_value_rule_and_field(
    change: dict[str, Any], field: str, part: str
) -> None:
    assert validate(GOOD) == []
    errors = validate(replace(GOOD, **change))
    assert [error.field for error in errors] == [field]
    assert part in errors[0].message


def test_a_wrong_request_queues_nothing(tmp_path: Path) -> None:
    request = replace(GOOD, device="tpu", settings=TrainingSettings(steps=-3))
    with pytest.raises(InvalidRequest) as caught:
        enqueue_sweep(checked(request), tmp_path)
    assert {error.field for error in caught.value.errors} == {"device", "settings.steps"}
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_the_model_cannot_have_is_wrong_at_its_own_field(tiny_model: Path) -> None:
    request = replace(
        GOOD,
        model=str(tiny_model),
        variants=(Variant("lora", {"r": 65}), Variant("oft", {"block": 48}), Variant("bitfit")),
    )
    errors = validate(request)
    assert [error.field for error in errors] == ["lora.r", "oft.block"]
    assert "choose 64 or less" in errors[0].message


def test_soft_tokens_and_text_must_go_into_the_models_positions(tiny_model: Path) -> None:
    settings = TrainingSettings(max_length=2040)
    request = replace(
        GOOD, model=str(tiny_model), settings=settings, variants=(Variant("prompt_tuning"),)
    )
    (error,) = validate(request)
    assert error.field == "prompt_tuning.tokens"
    assert "choose 8 or fewer" in error.message
    assert validate(replace(request, settings=TrainingSettings(max_length=2028))) == []


def test_what_is_not_applicable_is_an_error_only_where_nothing_else_is_left(
    tiny_model: Path,
) -> None:
    both = replace(GOOD, model=str(tiny_model), variants=(Variant("lora"), Variant("bitfit")))
    assert validate(both) == []
    assert not_applicable(both).keys() == {"BitFit"}
    (error,) = validate(replace(both, variants=(Variant("bitfit"),)))
    assert error.field == "variants"
    assert "no biases" in error.message


def test_a_setting_that_leaves_no_method_is_wrong_at_its_own_field() -> None:
    request = replace(GOOD, settings=TrainingSettings(optimizer="adamw_8bit"))
    assert validate(replace(request, variants=(Variant("lora"), Variant("lora_fa")))) == []
    (error,) = validate(replace(request, variants=(Variant("lora_fa"),)))
    assert error.field == "settings.optimizer"


def test_a_wrong_value_is_said_once_and_not_held_against_the_model(tiny_model: Path) -> None:
    request = replace(GOOD, model=str(tiny_model), variants=(Variant("lora", {"r": 600}),))
    (error,) = validate(request)
    assert "it must lie between 1 and 512" in error.message


def test_of_a_model_that_is_not_here_yet_the_rest_is_checked() -> None:
    request = replace(GOOD, model="someone/not-here", variants=(Variant("lora", {"r": 512}),))
    assert validate(request) == []


def test_a_run_needs_room_for_its_weights_three_checkpoints_and_a_line_a_step_and_answer(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = TrainingSettings(steps=100, eval_examples=10, checkpoint_every=50)
    request = replace(
        GOOD, model=str(tiny_model), settings=rows, variants=(Variant("full"), Variant("lora"))
    )
    specs = plan_sweep(request)
    records = 100 * 400 + 10 * 16_000 + 10_000_000
    whole, rank_8 = 94_528, 16_384  # numbers of the tiny model, and of its LoRA
    full = 2 * whole + 20_000_000 + 3 * 3 * 2 * whole  # in 16 bits, with the tokenizer
    lora = 3 * 4 * rank_8 + 3 * 3 * 4 * rank_8
    assert [needed_bytes(spec) - records for spec in specs] == [0, full, lora]
    together = 3 * records + full + lora
    monkeypatch.setattr(launch, "free_disk_bytes", lambda folder: together)
    check_space(specs, tmp_path)
    monkeypatch.setattr(launch, "free_disk_bytes", lambda folder: together - 1)
    with pytest.raises(FtlabError, match="free some space"):
        check_space(specs, tmp_path)


def test_the_smaller_of_the_two_memory_limits_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    def limit(asked: int | None) -> int | None:
        found: int | None = plan_sweep(replace(GOOD, memory_limit=asked))[-1].memory_limit
        return found

    assert [limit(None), limit(7_000_000_000)] == [None, 7_000_000_000]
    monkeypatch.setenv("FTLAB_MEMORY_LIMIT", "3GB")
    assert [limit(None), limit(7_000_000_000), limit(2_000_000_000)] == [
        3_000_000_000, 3_000_000_000, 2_000_000_000,
    ]  # fmt: skip


SQL = TaskReference("bundled", "sql")
DONE = SweepRequest(
    "bundled",
    SQL,
    (Variant("full"), Variant("lora", {"r": 4}, 1e-3), Variant("qlora")),
    TrainingSettings(steps=7, learning_rate=2e-4),
    "fp32",
    "cpu",
    (0, 3),
    4_000_000_000,
)


def own(request: SweepRequest) -> list[RunSpec]:
    return [spec for spec in plan_sweep(request) if not spec.is_base]


def test_all_runs_of_a_sweep_give_its_request_back() -> None:
    (again,) = requests_of(own(DONE))
    assert replace(again, model="bundled") == DONE
    variants = (Variant("oft"), Variant("oft", base="nf4"), Variant("oft", base="int8"))
    (again,) = requests_of(own(replace(DONE, variants=variants)))
    assert again.variants == variants


@pytest.mark.parametrize(
    ("places", "requests"),
    [
        ([0, 2], [(["full", "qlora"], (0,))]),  # only the runs that are meant
        ([0, 4], [(["full"], (0,)), (["lora"], (3,))]),  # other seeds are another sweep
        ([0, 0], [(["full"], (0,))]),  # the same run twice
    ],
)
def test_some_runs_are_asked_for_again_in_as_few_sweeps_as_possible(
    places: list[int], requests: list[tuple[list[str], tuple[int, ...]]]
) -> None:
    runs = own(DONE)
    found = requests_of([runs[place] for place in places])
    assert [([v.method for v in again.variants], again.seeds) for again in found] == requests


@pytest.mark.parametrize(
    "other",
    [
        replace(DONE, task=TaskReference("bundled", "medical")),
        replace(DONE, settings=TrainingSettings(steps=8)),
        replace(DONE, dtype_policy="bf16"),
    ],
)
def test_runs_that_differ_in_task_settings_or_dtype_are_not_mixed(other: SweepRequest) -> None:
    assert len(requests_of([own(DONE)[0], own(other)[1]])) == 2


def test_base_runs_follow_from_the_variants(tmp_path: Path) -> None:
    (specs,) = enqueue_again(own(DONE)[2:3], tmp_path)
    assert [spec.method for spec in specs] == ["base", "qlora"]
    assert specs[0].base_precision == "nf4"
    assert all(RunDirectory(tmp_path / spec.run_id).status() == "queued" for spec in specs)


def test_a_base_run_alone_is_nothing_to_run_again(tmp_path: Path) -> None:
    with pytest.raises(FtlabError, match="Nothing to run again"):
        enqueue_again(plan_sweep(DONE)[:1], tmp_path)


def test_a_task_file_that_is_gone_queues_nothing_at_all(tmp_path: Path) -> None:
    gone = replace(own(DONE)[1], task=TaskReference("file", str(tmp_path / "gone.csv")))
    with pytest.raises(FtlabError, match=r"gone\.csv"):
        enqueue_again([own(DONE)[0], gone], tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_model_folder_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    gone = replace(own(DONE)[0], model=str(tmp_path / "gone"))
    with pytest.raises(FtlabError, match="There is no model folder"):
        enqueue_again([gone], tmp_path)
