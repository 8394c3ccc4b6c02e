"""Runs that really trained, on a tiny random model: each once, and copied to its tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftlab.jobs.launch import plan_sweep
from ftlab.methods.variant import parse_variant
from ftlab.models.libraries import lasting_imports
from ftlab.records.run import RunDirectory, write_json_lines
from ftlab.records.spec import SweepRequest
from ftlab.records.store import Run, read_run
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import parse_task
from tests.tiny import give_merges, make_tiny_model

Train = Callable[..., Run]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads that share a core with anything else fall to a tenth of their speed."""
    with lasting_imports():  # or each phase of each run searches all of torch for garbage
        import ftlab.training.run  # noqa: F401
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ftlab.basics.devices.usable_cores", lambda: frozenset({0}))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def export_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of these tests' own: one of them changes its weights for a moment."""
    return give_merges(make_tiny_model(tmp_path_factory.mktemp("export") / "tiny-llama"))


@pytest.fixture(scope="session")
def export_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("task") / "words.csv"
    words = ["ash", "birch", "cedar", "elm", "fir", "oak", "pine", "rowan", "willow", "yew"]
    lines = [f"Repeat {word} number {i},{word}" for i in range(2) for word in words]
    path.write_text("prompt,completion\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(
    export_model: Path, export_task: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str, bool], Path]:
    """The directory of a run, by variant, dtype policy and checkpointing."""
    folder = tmp_path_factory.mktemp("runs")
    known: dict[tuple[str, str, bool], Path] = {}

    def get(variant: str, policy: Any, checkpointing: bool) -> Path:
        key = (variant, policy, checkpointing)
        if key not in known:
            request = SweepRequest(
                model=str(export_model),
                task=parse_task(str(export_task)),
                variants=(parse_variant(variant),),
                settings=TrainingSettings(
                    steps=3, batch_size=2, accumulation=2, eval_examples=2, max_length=128,
                    gradient_checkpointing=checkpointing,
                ),
                dtype_policy=policy,
                device="cpu",
                seeds=(3,),
            )  # fmt: skip
            spec = plan_sweep(request)[-1]  # its base run is not needed
            known[key] = _do(folder / spec.run_id, spec)
        return known[key]

    return get


@pytest.fixture
def train(trained: Callable[[str, str, bool], Path], tmp_path: Path) -> Train:
    """A finished run in a runs folder of the test's own, as in `train("lora:r=4", "bf16")`."""

    def get(variant: str, policy: str = "fp32", checkpointing: bool = False) -> Run:
        path = trained(variant, policy, checkpointing)
        target = tmp_path / "runs" / path.name
        shutil.copytree(path, target)
        return read_run(RunDirectory(target))

    return get


def _do(path: Path, spec: Any) -> Path:
    from ftlab.training.run import RunRecord, execute

    directory = RunDirectory(path)
    directory.write_spec(spec)
    record = RunRecord()
    events: list[dict[str, Any]] = []
    execute(spec, directory, record, events.append)
    directory.write_result(record.result("done"))
    write_json_lines(directory.metrics_file, [e for e in events if e.get("event") == "step"])
    return path
