"""One check of a request, with a sentence for every wrong field."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.basics.errors import InvalidRequest
from ftlab.jobs.launch import checked, enqueue_sweep, not_applicable, validate
from ftlab.methods.variant import Variant
from ftlab.records.spec import SweepRequest
from ftlab.settings.training import TrainingSettings
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
        ({"seeds": (1, 1)}, "seeds", "Seed 1 is given twice; give each seed once"),
        ({"seeds": (0, 0, 0)}, "seeds", "Seed 0 is given 3 times; give each seed once"),
        ({"seeds": (0, 1, 0, 1)}, "seeds", "Seeds 0 and 1 are given more than once"),
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
