"""Values of the form or the API to a request, and a run's settings back to values of the form."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.jobs.launch import plan_sweep
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import Variant, read_variants
from ftlab.models.reference import BUNDLED_ID
from ftlab.records.spec import SweepRequest
from ftlab.settings.schema import Field, fields_of
from ftlab.settings.training import PREFIX, TrainingSettings
from ftlab.tabs.api import api_request
from ftlab.tabs.experiment.fields import METHOD_SETTINGS
from ftlab.tabs.experiment.method_view import has_config, peft_html
from ftlab.tabs.experiment.request import (
    Reading,
    alike,
    form_values,
    one_sentence,
    read_form,
    read_model,
    read_request,
)
from ftlab.tabs.experiment.tab import asked_for, fitting, taken_over, updates
from ftlab.tasks.files import ColumnMapping
from ftlab.tasks.reference import TaskReference

SQL = TaskReference("bundled", "sql")
C3A = '{"peft_type": "C3A", "block_size": 32}'
ON_THE_FORM = {
    name: described
    for name, described in fields_of(TrainingSettings).items()
    if described.setting.is_on_form
}
NUMBERS = [
    name
    for name, described in ON_THE_FORM.items()
    if described.kind in ("whole", "real") and not described.setting.empty
]


def read(methods: list[str] | None = None, model: str | Path = "bundled", **values: Any) -> Reading:
    named = {name.replace("__", "."): value for name, value in values.items()}
    return read_request(str(model), SQL, ["lora"] if methods is None else methods, named)


def test_an_untouched_form_is_a_valid_request() -> None:
    reading = read_form({"methods": list(METHODS), "task": "sql"})
    assert reading.errors == ()
    assert [variant.method for variant in reading.checked().variants] == list(METHODS)


WRONG = {
    **{PREFIX + name: [None, "", "many", math.nan, math.inf, -1, True] for name in NUMBERS},
    "settings.checkpoint_every": ["often", "1.5", "-1", "nan", "1e9"],
    "seeds": ["", None, "a", "1,1", "-1", "1.5", "nan", str(2**32)],
    "lora.learning_rate": ["x", 0, -1, 99, "nan"],
    "lora.r": [None, 0, 9999, 2.5, "x"],
    "extra": ["lorra", "lora:q=4", "lora:r=x", "lora:r=0", "lora:r"],
    "match": ["much", "0", "-3", "<b>"],
    "peft_json": ["{", "[1]", '{"peft_type": "NONESUCH"}'],
    "device": ["tpu", " "],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in WRONG.items() for value in values]
)
def test_a_wrong_value_is_reported_at_its_field(field: str, value: Any, tiny_model: Path) -> None:
    errors = read(model=tiny_model, **{field: value}).errors
    assert {error.field for error in errors} == {field}
    assert all(error.message.endswith((".", "?")) for error in errors)


@pytest.mark.parametrize("name", [name for name in NUMBERS if ON_THE_FORM[name].kind == "whole"])
def test_half_a_step_is_refused(name: str) -> None:
    assert "whole number" in read(**{PREFIX + name: 2.5}).errors[0].message


LORA = (Variant("lora"),)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"seeds": "0,1,2"}, {"seeds": (0, 1, 2)}),
        ({"seeds": " 3 4 "}, {"seeds": (3, 4)}),
        ({"seeds": 7}, {"seeds": (7,)}),
        ({"lora.learning_rate": None, "settings.learning_rate": " "}, {"variants": LORA}),
        ({"lora.learning_rate": "", "settings.learning_rate": None}, {"variants": LORA}),
        ({"lora.r": 4, "lora.alpha": 16}, {"variants": (Variant("lora", {"r": 4}),)}),
        ({"dora.r": 0}, {"variants": LORA}),  # not ticked, so not checked
        ({"match": "  "}, {"variants": LORA}),
        ({"device": ""}, {"device": "auto"}),
        ({"device": None}, {"device": "auto"}),
        (
            {"extra": "lora:r=4\n\n lora:r=32,alpha=64 "},
            {
                "variants": (
                    *LORA,
                    Variant("lora", {"r": 4}),
                    Variant("lora", {"r": 32, "alpha": 64}),
                )
            },
        ),
        ({"peft_json": C3A}, {"variants": (*LORA, *read_variants(C3A))}),
    ],
)
def test_values_are_read_as_typed(values: dict[str, Any], wanted: dict[str, Any]) -> None:
    request = read(**values).checked()
    assert {name: getattr(request, name) for name in wanted} == wanted
    assert request.settings == TrainingSettings()


@pytest.mark.parametrize(
    ("given", "every"), [(None, None), ("", None), (" ", None), ("0", 0), ("50", 50), (50, 50)]
)
def test_without_a_number_of_steps_checkpoints_are_automatic(given: Any, every: int | None) -> None:
    assert read(settings__checkpoint_every=given).checked().settings.checkpoint_every == every


def test_a_variant_that_is_there_twice_is_refused() -> None:
    assert "twice" in read(extra="lora").errors[0].message


def test_no_method_is_one_sentence() -> None:
    with pytest.raises(InvalidRequest, match="No method is chosen"):
        read([]).checked()


def test_all_wrong_fields_are_told_at_once() -> None:
    errors = read(settings__steps=0, seeds="a", lora__r=0, device="tpu").errors
    assert {error.field for error in errors} == {"settings.steps", "seeds", "lora.r", "device"}
    assert one_sentence(errors).endswith("(3 more fields to correct.)")


@pytest.mark.parametrize(
    ("values", "model"),
    [
        (("bundled", "ignored"), "bundled"),
        (("folder", " models/mine "), "./models/mine"),
        (("folder", "/models/mine"), "/models/mine"),
        (("hub", "owner/name"), "owner/name"),
        (("Qwen/Qwen2.5-0.5B", "left over"), "Qwen/Qwen2.5-0.5B"),
        ((" gpt2 ", "left over"), "gpt2"),
        (("/models/mine", "left over"), "/models/mine"),
        *(((typed, "left over"), "") for typed in ("", None, ["gpt2"], {"a": 1})),
    ],
)
def test_the_models_name(values: tuple[Any, str], model: str) -> None:
    assert read_model(dict(zip(("model", "model_name"), values, strict=True))) == model


@pytest.mark.parametrize(
    ("values", "field", "words"),
    [
        *(
            ({"model": typed}, "model", words)
            for typed, words in (
                ("hub", "No model is named"),
                ("", "No model is named"),
                (["gpt2"], "No model is named"),
                ("no model", "'no model' names no model"),
                ("/nowhere/at/all", "There is no model folder '/nowhere/at/all'"),
                ("../../nowhere/at/all", "There is no model folder"),
                ("a" * 5_000, "give a shorter one"),
                ("owner/name\x00", "NUL character"),
            )
        ),
        ({"task": "file"}, "task.id", "No file is chosen"),
        ({"task": "file", "file_error": "bad.csv is empty."}, "task.id", "bad.csv is empty."),
        ({"task": "hub"}, "task.id", "No data set is named"),
        ({"task": "hub", "hub.id": "../x"}, "task.id", "no data set id"),
    ],
)
def test_a_missing_or_wrong_name_is_reported_at_its_field(
    values: dict[str, Any], field: str, words: str
) -> None:
    (error,) = read_form({"methods": ["lora"], "task": "sql"} | values).errors
    assert error.field == field
    assert words in error.message


# ---------------------------------------------------------------- matched parameters, PeftConfigs


def test_every_variant_of_the_form_is_matched_to_the_budget(tiny_model: Path) -> None:
    reading = read(["lora", "vera", "ia3"], tiny_model, extra="dora", match="10k")
    assert reading.errors == ()
    assert reading.budget == 10_000
    assert [match.variant for match in reading.matches] == list(reading.request.variants)
    lora, _, ia3, dora = reading.matches
    assert lora.variant.values()["r"] != Variant("lora").values()["r"]
    assert ia3.reason
    assert not lora.reason
    assert dora.variant.method == "dora"


def test_a_model_that_is_not_on_this_machine_cannot_be_matched() -> None:
    errors = read(model="owner/never-fetched", match="1M").errors
    assert [error.field for error in errors] == ["match"]


def test_the_api_matches_too(tiny_model: Path) -> None:
    request = api_request(str(tiny_model), SQL, ["lora"], "0", {}, {"match": "10k"}).checked()
    assert request.variants == read(model=tiny_model, match="10k").request.variants


@pytest.mark.parametrize("name", ["eval_split", "eval_answers", "memory_limit", "seeds", "matsch"])
def test_the_api_refuses_settings_that_it_does_not_use(name: str) -> None:
    with pytest.raises(FtlabError, match=f"no setting '{name}'"):
        api_request("bundled", SQL, ["lora"], "0", {}, {name: "tuning"}).checked()


@pytest.mark.parametrize("text", WRONG["peft_json"])
def test_peft_is_not_asked_about_a_config_that_cannot_be_read(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ftlab.tabs.experiment.method_view.check_variants", lambda *_: pytest.fail("PEFT was asked")
    )
    assert not has_config({"peft_json": text})
    assert peft_html({"peft_json": text}) == ""


# ---------------------------------------------------------------- a run's settings in the form

PLAIN = SweepRequest("bundled", SQL, (Variant("full"), Variant("lora")), device="cpu")


def task_file(folder: Path) -> TaskReference:
    path = folder / "mine.csv"
    path.write_text("q,a,s\n" + "".join(f"q{i},a{i},s{i}\n" for i in range(20)))
    return TaskReference("file", str(path), ColumnMapping("q", "a", None, "s"), "exact_match")


def values_of(request: SweepRequest) -> dict[str, Any]:
    return form_values(plan_sweep(request))


def with_variants(*variants: Variant, **more: Any) -> SweepRequest:
    return replace(PLAIN, variants=variants, **more)


def another(described: Field) -> Any:
    """A value of the setting that is not its default."""
    if described.kind == "choice":
        return list(described.setting.choices or ())[-1]
    return {"whole": 17, "real": 0.25, "switch": True, "names": ()}[described.kind]


REQUESTS = [
    PLAIN,
    with_variants(*map(Variant, METHODS), seeds=(0, 1, 7)),
    with_variants(Variant("lora", {"r": 4}, 5e-4)),
    with_variants(Variant("oft", base="nf4"), Variant("oft", {"block": 16})),
    with_variants(
        Variant("lora"),
        *read_variants('{"peft_type": "C3A", "block_size": 64, "learning_rate": 0.5}'),
        *read_variants('{"peft_type": "LORA", "r": 3, "base": "int8"}'),
    ),
    with_variants(
        Variant("lora"), Variant("lora", {"r": 4, "alpha": 8}), Variant("lora", {}, 3.3e-5)
    ),
    *(
        # With rows enough to divide a batch over as many GPUs.
        replace(PLAIN, settings=TrainingSettings(**{"batch_size": 32, name: another(described)}))
        for name, described in ON_THE_FORM.items()
    ),
    replace(PLAIN, dtype_policy="fp32"),
    replace(PLAIN, model="owner/name"),
    replace(
        PLAIN,
        task=TaskReference(
            "hub", "owner/name", ColumnMapping(messages="chat"), "chrf", "small", "test"
        ),
    ),
    replace(PLAIN, task=TaskReference("bundled", "medical")),
]


@pytest.mark.parametrize("wanted", REQUESTS)
def test_the_form_asks_for_the_same_again(wanted: SweepRequest) -> None:
    assert read_form(values_of(wanted)).checked() == wanted


def test_a_model_folder_and_a_file_come_back_too(tmp_path: Path, tiny_model: Path) -> None:
    wanted = replace(PLAIN, model=str(tiny_model), task=task_file(tmp_path))
    assert read_form(values_of(wanted)).checked() == wanted


def test_the_bundled_models_public_id_is_the_bundled_model() -> None:
    assert plan_sweep(PLAIN)[0].model == BUNDLED_ID
    assert values_of(PLAIN)["model"] == "bundled"


def test_one_run_of_a_sweep_ticks_its_method_alone_and_resets_the_others() -> None:
    spec = plan_sweep(with_variants(Variant("full"), Variant("lora", {"r": 4})))[-1]
    values = form_values([spec])
    assert values["methods"] == ["lora"]
    assert values["lora.r"] == 4
    assert values["qlora.r"] == METHODS["qlora"].defaults()["r"]
    assert values["extra"] == ""


def test_runs_with_other_settings_are_left_aside_and_that_is_said() -> None:
    specs = plan_sweep(PLAIN)[1:] + plan_sweep(replace(PLAIN, dtype_policy="fp32"))[1:]
    assert alike(specs) == specs[:2]
    assert "2 runs with other settings are left out" in taken_over(specs)


def test_a_request_of_another_tab_fills_the_form_but_for_the_model(tiny_model: Path) -> None:
    mine = values_of(replace(PLAIN, model=str(tiny_model)))
    rates = tuple(Variant("lora", learning_rate=rate) for rate in (1e-3, 3e-3))
    values = asked_for(with_variants(*rates), mine)
    assert read_form(values).checked() == replace(with_variants(*rates), model=str(tiny_model))


@pytest.mark.parametrize(
    ("changes", "wanted", "words"),
    [
        ({}, {}, None),
        ({"device": "cuda:7"}, {"device": "auto"}, "no device cuda:7"),
        (
            {"settings.report_to": ["nonesuch"]},
            {"settings.report_to": []},
            "nonesuch is not installed",
        ),
    ],
)
def test_what_this_machine_does_not_have_is_replaced_and_reported(
    changes: dict[str, Any], wanted: dict[str, Any], words: str | None
) -> None:
    values = values_of(PLAIN)
    fit, missing = fitting(values | changes)
    assert fit == values | wanted
    assert (not missing) if words is None else words in missing[0]


def shown(values: dict[str, Any], *names: str) -> list[Any]:
    return updates(values, list(names))


def test_the_ticks_are_drawn_again_even_if_the_table_is_the_same() -> None:
    first, second = shown(values_of(PLAIN))[0], shown(values_of(PLAIN))[0]
    assert first != second
    assert first.count(" checked") == 2


def test_the_settings_of_methods_go_into_the_table_and_into_the_servers_state() -> None:
    values = values_of(with_variants(Variant("lora", {"r": 4}, 5e-4), Variant("dora", base="nf4")))
    table, *_, settings = shown(values, METHOD_SETTINGS)
    assert (settings["lora.r"], settings["dora.base"]) == (4, "nf4")
    assert "seeds" not in settings
    assert re.search(r'data-name="lora.r"[^>]* value="4"', table)
    assert re.search(r'data-name="lora.learning_rate"[^>]* value="0.0005"', table)
    assert '<option value="nf4" selected>' in table


def test_the_blocks_of_a_file_are_shown_with_its_columns(tmp_path: Path) -> None:
    values = values_of(replace(PLAIN, task=task_file(tmp_path)))
    _, file, hub, mapping, upload, _, prompt, metric = shown(values, "map.prompt", "metric")
    assert (file["visible"], hub["visible"], mapping["visible"]) == (True, False, True)
    assert prompt["value"] == "q"
    assert upload["label"] == "Task file: mine.csv"
    assert ("s", "s") in prompt["choices"]
    assert metric["value"] == "exact_match"
    Path(str(values["file"])).unlink()  # the columns keep their names
    assert shown(values, "map.completion")[-1]["value"] == "a"


def test_a_field_without_a_value_in_the_runs_is_left_alone() -> None:
    assert shown(values_of(PLAIN), "something new")[-1] == gr.skip()
