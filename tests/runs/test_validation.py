"""One check of a request, with a sentence for every wrong field."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.errors import InvalidRequest
from ftlab.methods.variant import Variant
from ftlab.runs.spec import SweepRequest, TrainingSettings
from ftlab.runs.sweep import enqueue_sweep
from ftlab.runs.validation import validate
from ftlab.tasks.reference import TaskReference

GOOD = SweepRequest(
    model="bundled", task=TaskReference("bundled", "sql"), variants=(Variant("lora"),), device="cpu"
)


def test_the_defaults_are_valid() -> None:
    assert validate(GOOD) == []


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"steps": 0}, "Steps is 0; it must lie between 1 and"),
        ({"batch_size": -1}, "Batch size is -1"),
        ({"max_length": 3}, "Maximum length is 3"),
        ({"learning_rate": -1e-3}, "Learning rate is -0.001; it must be above 0"),
        ({"learning_rate": float("nan")}, "Learning rate is nan"),
        ({"weight_decay": -1}, "Weight decay is -1"),
        ({"eval_examples": 0}, "Held-out examples is 0"),
        ({"optimizer": "sgd"}, "'sgd' is none of: adamw"),
        ({"schedule": "step"}, "'step' is none of: cosine"),
    ],
)
def test_a_wrong_setting_names_value_rule_and_field(settings: dict, part: str) -> None:
    (error,) = validate(replace(GOOD, settings=TrainingSettings(**settings)))
    assert error.field == f"settings.{next(iter(settings))}"
    assert part in error.message


@pytest.mark.parametrize(
    ("change", "field", "part"),
    [
        ({"model": "/no/such/folder"}, "model", "no model folder '/no/such/folder'"),
        ({"model": "a/b/c"}, "model", "names no model"),
        ({"variants": ()}, "variants", "No method is chosen"),
        ({"variants": (Variant("lora"), Variant("lora"))}, "variants", "in the sweep twice"),
        ({"device": "cuda:7"}, "device", "There is no device 'cuda:7' on this machine; devices:"),
        ({"dtype_policy": "fp8"}, "dtype_policy", "'fp8' is none of"),
        ({"seeds": ()}, "seeds", "No seed"),
        ({"seeds": (1, 1)}, "seeds", "hold one twice"),
        ({"seeds": (-1,)}, "seeds", "Seed -1 must lie"),
        ({"task": TaskReference("bundled", "sqll")}, "task", "sqll"),
    ],
)
def test_a_wrong_request_names_its_field(change: dict, field: str, part: str) -> None:
    errors = validate(replace(GOOD, **change))
    assert [error.field.split(".")[0] for error in errors] == [field]
    assert part in errors[0].message


def test_a_wrong_request_queues_nothing(tmp_path: Path) -> None:
    request = replace(GOOD, device="tpu", settings=TrainingSettings(steps=-3))
    with pytest.raises(InvalidRequest) as caught:
        enqueue_sweep(request, tmp_path)
    assert {error.field for error in caught.value.errors} == {"device", "settings.steps"}
    assert list(tmp_path.iterdir()) == []
