"""A run's settings back in the form: read_form(form_values(specs)) is the request again."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ftlab.jobs.launch import plan_sweep
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import Variant, read_variants
from ftlab.models.reference import BUNDLED_ID
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.settings.schema import fields_of
from ftlab.settings.training import TrainingSettings
from ftlab.tabs.experiment.fields import METHOD_SETTINGS
from ftlab.tabs.experiment.request import alike, form_values, read_form
from ftlab.tabs.experiment.tab import fitting, taken_over, updates
from ftlab.tasks.files import ColumnMapping
from ftlab.tasks.reference import TaskReference

SQL = TaskReference("bundled", "sql")
PLAIN = SweepRequest("bundled", SQL, (Variant("full"), Variant("lora")), device="cpu")


def planned(request: SweepRequest) -> list[RunSpec]:
    return plan_sweep(request)


def model_folder(folder: Path) -> str:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return str(folder)


def task_file(folder: Path) -> TaskReference:
    path = folder / "mine.csv"
    path.write_text("q,a,s\n" + "".join(f"q{i},a{i},s{i}\n" for i in range(20)))
    return TaskReference("file", str(path), ColumnMapping("q", "a", None, "s"), "exact_match")


def there_and_back(request: SweepRequest) -> SweepRequest:
    return read_form(form_values(planned(request))).checked()


REQUESTS = [
    PLAIN,
    replace(PLAIN, variants=tuple(Variant(method) for method in METHODS), seeds=(0, 1, 7)),
    replace(PLAIN, variants=(Variant("lora", {"r": 4}, 5e-4),)),
    replace(PLAIN, variants=(Variant("oft", base="nf4"), Variant("oft", {"block": 16}))),
    replace(
        PLAIN,
        variants=(
            Variant("lora"),
            *read_variants('{"peft_type": "C3A", "block_size": 64, "learning_rate": 0.5}'),
            *read_variants('{"peft_type": "LORA", "r": 3, "base": "int8"}'),
        ),
    ),
    replace(
        PLAIN,
        variants=(
            Variant("lora"),
            Variant("lora", {"r": 4, "alpha": 8}),
            Variant("lora", {}, 3.3e-5),
        ),
    ),
    replace(
        PLAIN,
        settings=TrainingSettings(
            steps=3, batch_size=2, accumulation=4, max_length=99, learning_rate=1.25e-4,
            schedule="linear", warmup_steps=0, weight_decay=0.1, max_grad_norm=0.5,
            optimizer="adamw_8bit", gradient_checkpointing=True, eval_examples=5,
            checkpoint_every=20, eval_every=2,
        ),
        dtype_policy="fp32",
    ),
    replace(PLAIN, model="owner/name"),
    replace(
        PLAIN,
        task=TaskReference(
            "hub", "owner/name", ColumnMapping(messages="chat"), "chrf", "small", "test"
        ),
    ),
    replace(PLAIN, task=TaskReference("bundled", "medical")),
]  # fmt: skip


OTHERS = {"whole": 17, "real": 0.25, "switch": True, "choice": None, "names": ()}
ON_THE_FORM = [
    name
    for name, described in fields_of(TrainingSettings).items()
    if described.setting.place != "command line"
]


@pytest.mark.parametrize("name", ON_THE_FORM)
def test_each_setting_comes_back(name: str) -> None:
    described = fields_of(TrainingSettings)[name]
    choices = described.setting.choices or {}
    other = [*choices][-1] if described.kind == "choice" else OTHERS[described.kind]
    request = replace(PLAIN, settings=replace(PLAIN.settings, **{name: other}))
    assert there_and_back(request) == request


@pytest.mark.parametrize("request_", REQUESTS)
def test_the_form_asks_for_the_same_again(request_: SweepRequest) -> None:
    assert there_and_back(request_) == request_


def test_a_model_folder_and_a_file_come_back_too(tmp_path: Path) -> None:
    request = replace(PLAIN, model=model_folder(tmp_path / "m"), task=task_file(tmp_path))
    assert there_and_back(request) == request


def test_the_bundled_models_public_id_is_the_bundled_model() -> None:
    assert planned(PLAIN)[0].model == BUNDLED_ID
    assert form_values(planned(PLAIN))["model"] == "bundled"


def test_one_run_of_a_sweep_ticks_its_method_alone_and_resets_the_others() -> None:
    spec = planned(replace(PLAIN, variants=(Variant("full"), Variant("lora", {"r": 4}))))[-1]
    values = form_values([spec])
    assert values["methods"] == ["lora"]
    assert values["lora.r"] == 4
    assert values["qlora.r"] == METHODS["qlora"].defaults()["r"]
    assert values["extra"] == ""


def test_runs_with_other_settings_are_left_aside_and_that_is_said() -> None:
    specs = planned(PLAIN)[1:] + planned(replace(PLAIN, dtype_policy="fp32"))[1:]
    assert alike(specs) == specs[:2]
    assert "2 runs with other settings left aside" in taken_over(specs)


def test_a_device_that_is_not_here_becomes_auto_and_that_is_said() -> None:
    values = form_values(planned(PLAIN)) | {"device": "cuda:7"}
    fit, missing = fitting(values)
    assert fit["device"] == "auto"
    assert "no device cuda:7" in missing[0]
    assert fitting(form_values(planned(PLAIN)))[1] == []


def test_a_tracker_that_is_not_installed_is_left_out_and_that_is_said() -> None:
    values = form_values(planned(PLAIN)) | {"settings.report_to": ["nonesuch"]}
    fit, missing = fitting(values)
    assert fit["settings.report_to"] == []
    assert "nonesuch is not installed" in missing[0]


def shown(values: dict[str, Any], *names: str) -> list[Any]:
    return updates(values, list(names))


def test_the_ticks_are_drawn_anew_even_where_the_table_is_the_same() -> None:
    values = form_values(planned(PLAIN))
    first, second = shown(values)[0], shown(values)[0]
    assert first != second
    assert first.count(" checked") == 2


def test_the_settings_of_methods_go_into_the_table_and_what_the_server_knows_of_it() -> None:
    variants = (Variant("lora", {"r": 4}, 5e-4), Variant("dora", base="nf4"))
    values = form_values(planned(replace(PLAIN, variants=variants)))
    table, *_, settings = shown(values, METHOD_SETTINGS)
    assert (settings["lora.r"], settings["dora.base"]) == (4, "nf4")
    assert "seeds" not in settings
    assert re.search(r'data-name="lora.r"[^>]* value="4"', table)
    assert re.search(r'data-name="lora.learning_rate"[^>]* value="0.0005"', table)
    assert '<option value="nf4" selected>' in table


def test_the_blocks_of_a_file_are_shown_with_its_columns(tmp_path: Path) -> None:
    values = form_values(planned(replace(PLAIN, task=task_file(tmp_path))))
    _, file, hub, mapping, prompt, metric = shown(values, "map.prompt", "metric")
    assert (file["visible"], hub["visible"], mapping["visible"]) == (True, False, True)
    assert prompt["value"] == "q"
    assert ("s", "s") in prompt["choices"]
    assert metric["value"] == "exact_match"


def test_columns_of_a_file_that_is_gone_keep_their_names(tmp_path: Path) -> None:
    task = task_file(tmp_path)
    values = form_values(planned(replace(PLAIN, task=task)))
    Path(task.id).unlink()
    assert shown(values, "map.completion")[-1]["value"] == "a"


def test_a_field_that_the_runs_say_nothing_about_is_left_alone() -> None:
    assert shown(form_values(planned(PLAIN)), "something new")[-1] == gr.skip()
