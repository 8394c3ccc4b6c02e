"""What a base run measured is kept by all that it depends on, and used for nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.jobs.launch import plan_sweep
from ftlab.methods.variant import parse_variant
from ftlab.records import kept_bases
from ftlab.records.kept_bases import MEASURED_IN, keep, kept_file, take
from ftlab.records.result import Measures, RunResult
from ftlab.records.run import RunDirectory, write_json_lines
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import TaskReference, parse_task
from tests.tiny import make_tiny_model

ROWS = [{"index": 0, "loss_before": 1.25, "tokens": 3}]


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSpec:
    monkeypatch.setenv("FTLAB_KEPT", str(tmp_path / "kept"))
    request = SweepRequest(
        model=str(make_tiny_model(tmp_path / "tiny")),
        task=TaskReference("bundled", "sql"),
        variants=(parse_variant("qlora"),),
        settings=TrainingSettings(eval_examples=8, max_length=128),
        dtype_policy="fp32",
        device="cpu",
    )
    return plan_sweep(request)[0]


def measured(spec: RunSpec, folder: Path) -> RunDirectory:
    """A base run that was done."""
    directory = RunDirectory(folder / spec.run_id)
    directory.write_spec(spec)
    write_json_lines(directory.samples_file, ROWS)
    measures = Measures(eval_loss_before=0.1 + 0.2, score_before=1 / 3)
    directory.write_result(
        RunResult("done", measures=measures, notes=("A note.",), finished_at=1e9)
    )
    return directory


def queued(spec: RunSpec, folder: Path) -> RunDirectory:
    later = replace(spec, run_id=f"{spec.run_id}-2")
    directory = RunDirectory(folder / later.run_id)
    directory.write_spec(later)
    return directory


def test_a_later_base_run_gets_the_same_numbers_and_says_where_they_are_from(
    spec: RunSpec, tmp_path: Path
) -> None:
    first, later = measured(spec, tmp_path), queued(spec, tmp_path)
    file = kept_file(spec, tmp_path)
    assert file is not None
    assert take(file, later) is None, "nothing is kept yet"
    own = first.result()
    assert own is not None
    keep(file, first, own)
    found = take(file, later)
    assert found is not None
    assert found.measures == own.measures, "bit for bit"
    assert later.samples() == first.samples() == ROWS
    assert found.environment[MEASURED_IN] == first.run_id
    assert f"those of run {first.run_id} of 09 Sep 2001" in found.notes[0]
    assert found.notes[1:] == ("A note.",)
    assert found.finished_at > own.finished_at
    assert kept_file(replace(spec, seed=7, run_id="another"), tmp_path) == file
    assert file.stat().st_mode & 0o077 == 0, "for the user alone"


def other_data(spec: RunSpec) -> RunSpec:
    return replace(spec, task=TaskReference("bundled", "medical"))


def with_settings(**settings: Any) -> Callable[[RunSpec], RunSpec]:
    return lambda spec: replace(spec, settings=replace(spec.settings, **settings))


def other_model(spec: RunSpec) -> RunSpec:
    config = Path(spec.model) / "tokenizer_config.json"
    config.write_text(config.read_text() + "\n")
    return spec


ANEW: list[Callable[[RunSpec], RunSpec]] = [
    with_settings(eval_examples=9), with_settings(max_length=64),
    with_settings(eval_split="tuning"), with_settings(eval_answers=False),
    lambda spec: replace(spec, base_precision=None),
    lambda spec: replace(spec, dtype_policy="bf16"),
    lambda spec: replace(spec, memory_limit=10**9),
]  # fmt: skip


def test_each_setting_of_loading_and_scoring_measures_anew(
    spec: RunSpec, tmp_path: Path, task_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for what in ("installed_versions", "hash_of_code", "_model_files", "cpu_count"):
        monkeypatch.setattr(kept_bases, what, lambda *given: "the same")
    own = replace(spec, task=parse_task(str(task_file)))
    asked = [kept_file(own, tmp_path), *(kept_file(change(own), tmp_path) for change in ANEW)]
    for what in ("_model_files", "cpu_count"):
        monkeypatch.setattr(kept_bases, what, lambda *given: "another")
        asked.append(kept_file(own, tmp_path))
    assert None not in asked
    assert len(set(asked)) == 1 + len(ANEW) + 2, "all differ"


@pytest.mark.slow
def test_whatever_the_numbers_depend_on_measures_anew(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    changes = [other_data, *ANEW]
    file = kept_file(spec, tmp_path)
    asked = [file, *(kept_file(change(spec), tmp_path) for change in changes)]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    asked.append(kept_file(spec, tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    asked.append(kept_file(other_model(spec), tmp_path))
    assert file is not None
    assert len(set(asked)) == len(changes) + 3, "all differ"


@pytest.mark.parametrize("what", ["installed_versions", "hash_of_code", "_device"])
def test_other_packages_other_code_or_another_device_measure_anew(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    file = kept_file(spec, tmp_path)
    monkeypatch.setattr(kept_bases, what, lambda *given: "another")
    assert kept_file(spec, tmp_path) != file


def test_numbers_on_a_persons_own_data_stay_in_the_runs_folder(
    spec: RunSpec, tmp_path: Path, task_file: Path
) -> None:
    runs = tmp_path / "runs"
    shared, own = (
        kept_file(spec, runs),
        kept_file(replace(spec, task=parse_task(str(task_file))), runs),
    )
    assert shared is not None
    assert own is not None
    assert shared.parent == tmp_path / "kept" / "bases"
    assert own.parent == runs / ".ftlab" / "bases"


def test_numbers_on_a_persons_own_data_are_of_use_to_that_person_alone(
    spec: RunSpec, tmp_path: Path, task_file: Path
) -> None:
    own = replace(spec, task=parse_task(str(task_file)), owner="ada")
    assert kept_file(replace(own, run_id="another"), tmp_path) == kept_file(own, tmp_path)
    assert kept_file(replace(own, owner="bob"), tmp_path) != kept_file(own, tmp_path)
    assert kept_file(replace(spec, owner="bob"), tmp_path) == kept_file(spec, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-20],
        lambda data: data.replace(b"1.25", b"1.26"),
        lambda data: b"",
        lambda data: b"\xff\xfe\n{}",
    ],
    ids=["torn", "changed", "empty", "no text"],
)
def test_a_damaged_file_is_not_used_and_the_log_says_so(
    spec: RunSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    damage: Callable[[bytes], bytes],
) -> None:  # fmt: skip
    first, later = measured(spec, tmp_path), queued(spec, tmp_path)
    file = kept_file(spec, tmp_path)
    assert file is not None
    keep(file, first, first.result())  # type: ignore[arg-type]
    file.write_bytes(damage(file.read_bytes()))
    assert take(file, later) is None
    assert "measured anew" in capsys.readouterr().out
    assert not later.samples_file.exists()


def test_a_folder_that_cannot_be_written_keeps_nothing(spec: RunSpec, tmp_path: Path) -> None:
    first = measured(spec, tmp_path)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "bases").write_text("a file")
    file = kept_file(spec, tmp_path)
    assert file is not None
    keep(file, first, first.result())  # type: ignore[arg-type]
    assert take(file, queued(spec, tmp_path)) is None


def test_the_oldest_files_are_deleted(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_bases, "_MOST_KEPT", 2)
    first = measured(spec, tmp_path)
    names = ["a.json", "b.json", "c.json"]
    for age, name in enumerate(names):
        keep(tmp_path / "kept" / "bases" / name, first, first.result())  # type: ignore[arg-type]
        os.utime(tmp_path / "kept" / "bases" / name, (age, age)) if name != "c.json" else None
    assert sorted(path.name for path in (tmp_path / "kept" / "bases").iterdir()) == names[1:]
