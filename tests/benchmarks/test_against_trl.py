"""Both sides of the comparison with TRL train the same thing, and are held to their limits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from ftlab.jobs.ready import StillImporting
from ftlab.methods.registry import METHODS
from ftlab.methods.spec import RunPlan
from ftlab.methods.variant import Variant
from ftlab.models.loading import load_base_model
from ftlab.models.resolve import resolve_model
from ftlab.records.result import PhaseMeasure, RunResult
from ftlab.records.run import RunDirectory
from ftlab.settings.training import TrainingSettings
from ftlab.training.model import apply_method
from tests.benchmarks import against_trl, worker
from tests.benchmarks.against_trl import LIMITS, Timing, job_for_trl, run_ftlab, verdict
from tests.fakes import plausible_measures

SETTINGS = TrainingSettings(steps=1, batch_size=2)
OURS = Timing("ftlab", "lora", 4.0, 1500, 500, 2.5, 1.0, 16_384)
TRL = replace(OURS, side="trl", seconds=10.0, net_peak_bytes=1000)


def test_a_run_waits_while_the_process_that_forks_workers_imports(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    class Worker:
        def wait(self) -> None:
            RunDirectory(asked[-1]).write_result(RunResult("done"))

    def start(directory: RunDirectory, device: str) -> Worker:
        asked.append(directory.path)
        if len(asked) < 3:
            raise StillImporting
        return Worker()

    monkeypatch.setattr(worker, "start_worker", start)
    result = worker.run_worker("lora", SETTINGS, tmp_path, model=str(tiny_model))
    assert (result.status, len(asked), len(set(asked))) == ("done", 3, 1)


@pytest.mark.model
@pytest.mark.parametrize("method", [m for m in LIMITS if METHODS[m].is_adapter])
def test_trl_gets_the_adapter_that_a_run_of_ftlab_has(
    method: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as trl_side sets it when it is imported
    from tests.benchmarks import trl_side

    job = job_for_trl(method, SETTINGS, tiny_model, autocast=True)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = Dataset.from_list(job["rows"][:2])
    theirs = trl_side.make_trainer(job, tokenizer, rows, str(tmp_path)).model
    source = resolve_model(str(tiny_model))
    base = load_base_model(source, "bf16", METHODS[method].base_precision, torch.device("cpu"))
    plan = RunPlan(SETTINGS.steps, str(source.folder))
    ours = apply_method(base, Variant(method), "bf16", False, plan)
    assert _config(theirs) == _config(ours)
    assert _learns(theirs) == _learns(ours) != {}


@pytest.mark.model
def test_full_fine_tuning_gets_no_adapter(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from tests.benchmarks import trl_side

    assert trl_side.peft_config(job_for_trl("full", SETTINGS, tiny_model, autocast=True)) is None


def test_the_seconds_of_ftlab_are_those_of_the_whole_training_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measures = replace(plausible_measures("lora"), train_seconds=3.0)
    phases = {
        "load": PhaseMeasure(2.0, 1, 600_000_000),
        "train": PhaseMeasure(12.5, 1, 700_000_000),
    }
    result = RunResult("done", measures=measures, phases=phases)
    monkeypatch.setattr(against_trl, "run_worker", lambda *given, **named: result)
    timing = run_ftlab("lora", SETTINGS, tmp_path, "bundled")
    assert timing.seconds == 12.5
    assert timing.peak_rss_bytes == 700_000_000


def test_what_keeps_its_limits_is_shown_as_shares_of_trl(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert verdict([OURS, TRL])
    assert capsys.readouterr().out == (
        "lora           time 0.40x of 0.50x;  net peak 0.50x of 0.75x;  first loss off by 0.00%;  "
        "trains 16,384 parameters, TRL 16,384\n"
    )


@pytest.mark.parametrize(
    ("theirs", "missed"),
    [
        (replace(TRL, seconds=5.0), "time 0.80x of 0.50x MISSED"),
        (replace(TRL, net_peak_bytes=600), "net peak 0.83x of 0.75x MISSED"),
        (replace(TRL, first_loss=2.6), "first loss off by 3.85% MISSED"),
        (replace(TRL, trainable_params=8192), "trains 16,384 parameters, TRL 8,192 MISSED"),
    ],
)
def test_a_missed_figure_is_said(
    theirs: Timing, missed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not verdict([OURS, theirs])
    assert missed in capsys.readouterr().out


def test_a_method_without_limits_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        against_trl.main(["--methods", "lora,vera"])
    assert "'vera' is none of: full, lora, qlora, prompt_tuning" in capsys.readouterr().err


def _config(model: Any) -> dict[str, Any]:
    """What PEFT was asked for, but for the name under which the base is known."""
    found: dict[str, Any] = model.peft_config["default"].to_dict()
    return {name: value for name, value in found.items() if not name.endswith("name_or_path")}


def _learns(model: Any) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
