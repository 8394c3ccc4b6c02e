"""The learning rate of a run if the user sets none: planned, recorded, and requested again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.locks import FileLock
from ftlab.basics.words import rate_name
from ftlab.charts.facts import settings_text
from ftlab.jobs.launch import plan_sweep, requests_of
from ftlab.methods import registry
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import Variant
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec, SweepRequest, dump_spec, load_spec
from ftlab.records.store import RunStore, read_run
from ftlab.settings.training import TrainingSettings
from ftlab.share.model_card import spec_rows
from ftlab.tabs.experiment.request import form_values, read_form
from ftlab.tasks.reference import TaskReference, parse_task
from ftlab.training.run import RunRecord, execute
from tests.fakes import make_run
from tests.tiny import make_tiny_model

SQL = TaskReference("bundled", "sql")
TUNED = METHODS["lora"].learning_rate
WIDTH = 1152  # twice the bundled model's: 2e-3 / 2^0.781 = 1.16e-3
SCALED = 1.2e-3
NEVER_FETCHED = "owner/never-fetched"


def write_config(folder: Path, **config: Any) -> str:
    """A folder that passes for a model: its config, and a file of weights that nobody opens."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | config))
    (folder / "model.safetensors").write_bytes(b"")
    return str(folder)


@pytest.fixture
def wide(tmp_path: Path) -> str:
    return write_config(tmp_path / "wide", hidden_size=WIDTH)


def lora_on(
    model: str, variant: Variant | None = None, settings: TrainingSettings | None = None
) -> RunSpec:
    settings = settings or TrainingSettings()
    request = SweepRequest(model, SQL, (variant or Variant("lora"),), settings, device="cpu")
    return plan_sweep(request)[-1]


@pytest.mark.parametrize(
    ("model", "variant", "rate"),
    [
        ("wide", "lora", SCALED),
        ("bundled", "lora", TUNED),
        ("meta-llama/Llama-3.1-8B", "lora", 4.3e-4),
        ("Qwen/Qwen2.5-7B", "ia3", 2e-2),
        ("no width", "lora", TUNED),
        ("width beyond all bounds", "lora", TUNED),
        ("width in words", "lora", TUNED),
    ],
)
def test_a_method_has_its_own_rate_for_the_width_of_the_model(
    model: str, variant: str, rate: float, tmp_path: Path
) -> None:
    configs: dict[str, dict[str, Any]] = {
        "wide": {"hidden_size": WIDTH}, "no width": {},
        "width beyond all bounds": {"hidden_size": 10**400},
        "width in words": {"hidden_size": "wide"},
    }  # fmt: skip
    if model in configs:
        model = write_config(tmp_path / "m", **configs[model])
    assert lora_on(model, Variant(variant)).learning_rate == rate


def test_a_rate_that_the_user_sets_is_never_scaled(wide: str) -> None:
    own = lora_on(wide, Variant("lora", {}, 5e-4))
    sweeps = lora_on(wide, settings=TrainingSettings(learning_rate=7e-4))
    assert (own.learning_rate, sweeps.learning_rate) == (5e-4, 7e-4)
    for spec in (own, sweeps):
        assert "default_rate" not in json.loads(dump_spec(spec))


def test_the_rate_is_in_the_record_and_stays_when_the_registry_changes(
    wide: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = dump_spec(lora_on(wide))
    assert json.loads(written)["default_rate"] == SCALED
    changed = replace(METHODS["lora"], learning_rate=0.5)
    monkeypatch.setitem(registry._BY_ID, "lora", changed)
    assert Variant("lora").spec.learning_rate == 0.5
    assert load_spec(written).learning_rate == SCALED


def test_a_base_run_has_no_rate() -> None:
    base = plan_sweep(SweepRequest("bundled", SQL, (Variant("lora"),), device="cpu"))[0]
    assert base.learning_rate is None
    assert "default_rate" not in json.loads(dump_spec(base))


def test_a_record_of_an_earlier_version_says_the_rate_that_it_was_trained_with(wide: str) -> None:
    fields = json.loads(dump_spec(lora_on(wide)))
    del fields["default_rate"]
    old = load_spec(json.dumps(fields).encode())
    assert old.learning_rate == TUNED
    assert "default_rate" not in json.loads(dump_spec(old))


def test_a_hub_model_that_is_not_here_leaves_its_rate_to_the_worker() -> None:
    spec = lora_on(NEVER_FETCHED)
    assert spec.learning_rate is None
    assert load_spec(dump_spec(spec)) == spec


def test_the_worker_decides_the_rate_trains_with_it_and_records_it(
    tmp_path: Path, task_file: Path
) -> None:
    model = make_tiny_model(tmp_path / "model", width=128)
    settings = TrainingSettings(
        steps=2, batch_size=2, max_length=128, warmup_steps=0, schedule="constant",
        eval_examples=2, eval_answers=False,
    )  # fmt: skip
    request = SweepRequest(
        str(model), parse_task(str(task_file)), (Variant("lora"),), settings, "fp32", "cpu"
    )
    planned = plan_sweep(request)[-1]
    undecided = replace(lora_on(NEVER_FETCHED), run_id=planned.run_id)
    queued = replace(planned, default_rate=undecided.default_rate)  # as if it was not here then
    assert queued.learning_rate is None
    directory, events = RunDirectory(tmp_path / "runs" / queued.run_id), []
    directory.write_spec(queued)
    lock, other = FileLock(directory.lock_file), FileLock(directory.lock_file)
    assert lock.try_acquire()
    execute(queued, directory, RunRecord(), events.append)
    assert not other.try_acquire(), "writing the spec released the lock"
    assert directory.spec() == planned
    assert planned.learning_rate == 6.5e-3  # 2e-3 * (576 / 128)^0.781
    steps = [event["learning_rate"] for event in events if event.get("event") == "step"]
    assert steps == [planned.learning_rate] * 2
    assert RunStore(tmp_path / "runs").table()["learning_rate"].tolist() == [6.5e-3]


def test_a_run_of_this_version_is_requested_again_as_it_was_planned(wide: str) -> None:
    for spec in (lora_on(wide), lora_on(NEVER_FETCHED)):
        (again,) = requests_of([spec])
        assert again.variants == (Variant("lora"),)


@pytest.mark.parametrize("ask", ["again", "clone"])
@pytest.mark.parametrize(("default", "rate"), [(None, TUNED), (3e-3, 3e-3)])
def test_a_run_with_the_rate_of_another_version_is_requested_again_with_that_rate(
    wide: str, ask: str, default: float | None, rate: float
) -> None:
    old = replace(lora_on(wide), default_rate=default)
    (request,) = requests_of([old]) if ask == "again" else (read_form(form_values([old])).request,)
    assert plan_sweep(request)[-1].learning_rate == rate


def test_a_model_that_is_no_longer_here_keeps_the_rate_that_was_decided() -> None:
    done = replace(lora_on(NEVER_FETCHED), default_rate=7.4e-4)
    (again,) = requests_of([done])
    assert again.variants == (Variant("lora", {}, 7.4e-4),)


def test_the_settings_of_a_run_tell_whether_its_rate_was_tuned_on_its_model(wide: str) -> None:
    def said(spec: RunSpec) -> str:
        return str(dict(spec_rows(spec))["Learning rate"])

    assert said(lora_on(wide)) == (
        "1.2e-3, the method's own for this size, not tuned on this model"
    )
    assert said(lora_on("bundled")) == "2e-3"
    assert said(lora_on(wide, Variant("lora", {}, 5e-4))) == "5e-4"
    assert "once the model is fetched" in said(lora_on(NEVER_FETCHED))


def test_a_queued_run_without_a_rate_is_shown_beside_others_with_a_dash(tmp_path: Path) -> None:
    spec = lora_on(NEVER_FETCHED)
    directory = RunDirectory(tmp_path / spec.run_id)
    directory.write_spec(spec)
    make_run(tmp_path, learning_rate=1e-3)
    assert read_run(directory).row()["learning_rate"] is None
    table = RunStore(tmp_path).table()
    rates = dict(zip(table["run_id"], table["learning_rate"], strict=True))
    assert rate_name(rates[spec.run_id]) == "–"
    for row in table.to_dict("records"):
        assert "nan" not in settings_text([row])
