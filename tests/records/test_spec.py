"""What a run's spec has, and what it omits for versions that do not know it."""

from __future__ import annotations

import argparse
import json

import pytest

from ftlab.commands import sweep
from ftlab.jobs.launch import plan_sweep
from ftlab.methods.variant import Variant
from ftlab.records.spec import SweepRequest, dump_spec, load_spec
from ftlab.settings.schema import errors_in
from ftlab.settings.training import PREFIX, TrainingSettings
from ftlab.tasks.reference import TaskReference


def written(settings: TrainingSettings) -> bytes:
    task = TaskReference("bundled", "sql")
    request = SweepRequest("bundled", task, (Variant("lora"),), settings, device="cpu")
    return dump_spec(plan_sweep(request)[-1])


@pytest.mark.parametrize("every", [0, 5])
def test_a_later_setting_is_written_only_if_it_is_not_its_default_and_reads_back(
    every: int,
) -> None:
    spec = written(TrainingSettings(eval_every=every))
    assert ("eval_every" in json.loads(spec)["settings"]) == bool(every)
    assert load_spec(spec).settings.eval_every == every


@pytest.mark.parametrize("every", [-1, 1_000_001])
def test_a_number_of_steps_that_makes_no_sense_is_refused_with_the_rule(every: int) -> None:
    (error,) = errors_in(TrainingSettings(eval_every=every), PREFIX)
    assert error.field == "settings.eval_every"
    assert "Steps between evaluations" in error.message
    assert "between 0 and 1,000,000" in error.message


def test_the_command_line_has_an_option_for_it() -> None:
    parser = argparse.ArgumentParser()
    sweep.add_arguments(parser)
    options = parser.parse_args(["--methods", "lora", "--eval-every", "5", "--device", "cpu"])
    assert sweep.request_from(options).settings.eval_every == 5
