"""What a run's spec says, and what it leaves unsaid for versions that do not know it."""

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
    request = SweepRequest(
        model="bundled",
        task=TaskReference("bundled", "sql"),
        variants=(Variant("lora"),),
        settings=settings,
        device="cpu",
    )
    return dump_spec(plan_sweep(request)[-1])


def test_no_evaluation_between_the_steps_is_left_unsaid() -> None:
    assert "eval_every" not in json.loads(written(TrainingSettings()))["settings"]
    assert load_spec(written(TrainingSettings())).settings.eval_every == 0


def test_evaluations_between_the_steps_read_back() -> None:
    assert load_spec(written(TrainingSettings(eval_every=5))).settings.eval_every == 5


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
