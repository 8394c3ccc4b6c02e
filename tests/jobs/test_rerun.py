from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.jobs.launch import enqueue_again, plan_sweep, requests_of
from ftlab.methods.variant import Variant
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import TaskReference

SQL = TaskReference("bundled", "sql")
REQUEST = SweepRequest(
    "bundled",
    SQL,
    (Variant("full"), Variant("lora", {"r": 4}, 1e-3), Variant("qlora")),
    TrainingSettings(steps=7, learning_rate=2e-4),
    "fp32",
    "cpu",
    (0, 3),
)


def own(request: SweepRequest) -> list[RunSpec]:
    return [spec for spec in plan_sweep(request) if not spec.is_base]


def test_all_runs_of_a_sweep_give_its_request_back() -> None:
    (again,) = requests_of(own(REQUEST))
    assert replace(again, model="bundled") == REQUEST


def test_a_variant_on_a_base_in_fewer_bits_is_not_the_one_without() -> None:
    variants = (Variant("oft"), Variant("oft", base="nf4"), Variant("oft", base="int8"))
    (again,) = requests_of(own(replace(REQUEST, variants=variants)))
    assert again.variants == variants


def test_only_the_runs_that_are_meant_are_asked_for() -> None:
    full_0, _, qlora_0, *_ = own(REQUEST)
    (again,) = requests_of([full_0, qlora_0])
    assert [variant.method for variant in again.variants] == ["full", "qlora"]
    assert again.seeds == (0,)


def test_variants_with_other_seeds_are_a_sweep_of_their_own() -> None:
    full_0, _, _, _, lora_3, _ = own(REQUEST)
    first, second = requests_of([full_0, lora_3])
    assert (first.variants[0].method, first.seeds) == ("full", (0,))
    assert (second.variants[0].method, second.seeds) == ("lora", (3,))


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, task=TaskReference("bundled", "medical")),
        replace(REQUEST, settings=TrainingSettings(steps=8)),
        replace(REQUEST, dtype_policy="bf16"),
    ],
)
def test_runs_that_differ_in_task_settings_or_dtype_are_not_mixed(other: SweepRequest) -> None:
    assert len(requests_of([own(REQUEST)[0], own(other)[1]])) == 2


def test_the_same_run_of_two_sweeps_is_asked_for_once() -> None:
    (again,) = requests_of([own(REQUEST)[0], own(REQUEST)[0]])
    assert (len(again.variants), again.seeds) == (1, (0,))


def test_base_runs_follow_from_the_variants(tmp_path: Path) -> None:
    (specs,) = enqueue_again(own(REQUEST)[2:3], tmp_path)
    assert [spec.method for spec in specs] == ["base", "qlora"]
    assert specs[0].base_precision == "nf4"
    assert all(RunDirectory(tmp_path / spec.run_id).status() == "queued" for spec in specs)


def test_a_base_run_alone_is_nothing_to_run_again(tmp_path: Path) -> None:
    with pytest.raises(FtlabError, match="Nothing to run again"):
        enqueue_again(plan_sweep(REQUEST)[:1], tmp_path)


def test_a_task_file_that_is_gone_queues_nothing_at_all(tmp_path: Path) -> None:
    gone = replace(own(REQUEST)[1], task=TaskReference("file", str(tmp_path / "gone.csv")))
    with pytest.raises(FtlabError, match=r"gone\.csv"):
        enqueue_again([own(REQUEST)[0], gone], tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_model_folder_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    gone = replace(own(REQUEST)[0], model=str(tmp_path / "gone"))
    with pytest.raises(FtlabError, match="There is no model folder"):
        enqueue_again([gone], tmp_path)
