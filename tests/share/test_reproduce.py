"""The printed command asks for what was run: it is read back by the command's own parser."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.__main__ import build_parser
from ftlab.commands.sweep import request_from
from ftlab.jobs.launch import plan_sweep, requests_of
from ftlab.methods.variant import parse_variant
from ftlab.models.reference import BUNDLED_ID
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.settings.training import TrainingSettings
from ftlab.share.report_sections import command_of
from ftlab.tasks.files import ColumnMapping
from ftlab.tasks.reference import TaskReference
from tests.fakes import make_run, make_sweep
from tests.share.fakes import data_of

SQL = TaskReference("bundled", "sql")
PLAIN = SweepRequest(
    BUNDLED_ID, SQL, tuple(map(parse_variant, ("full", "lora", "qlora"))), device="cpu"
)
REQUESTS = {
    "plain": PLAIN,
    "several seeds": replace(PLAIN, seeds=(3, 1, 2)),
    "variants": replace(
        PLAIN,
        variants=tuple(
            map(
                parse_variant,
                ("lora:r=4,alpha=7", "full", "lora:learning_rate=3e-5", "lora:dropout=0.1"),
            )
        ),
    ),
    "every setting": replace(
        PLAIN,
        settings=TrainingSettings(
            steps=7, batch_size=2, accumulation=3, max_length=99, learning_rate=1.5e-4,
            schedule="linear", warmup_steps=0, weight_decay=0.01, max_grad_norm=0.5,
            optimizer="adamw_8bit", gradient_checkpointing=True, eval_examples=11,
            eval_split="tuning", eval_answers=False, eval_every=5, measure_answering=True,
            checkpoint_every=4, shard=2,
        ),
        dtype_policy="fp32",
    ),
    "a file": replace(
        PLAIN,
        task=TaskReference(
            "file", "/data/it's $HOME `x`.csv",
            ColumnMapping(prompt="the question", completion="a=b"), "rouge_l",
        ),
    ),
    "the hub": replace(
        PLAIN, model="owner/model",
        task=TaskReference(
            "hub", "owner/data", ColumnMapping(messages="chat"), "exact_match", "main", "test",
        ),
    ),
    "a seed below zero": replace(PLAIN, seeds=(-1, 2)),
}  # fmt: skip


def commands_of(specs: list[RunSpec]) -> list[str]:
    return [command_of(request).text for request in requests_of(specs)]


def read_back(command: str) -> SweepRequest:
    python, module, name, *arguments = shlex.split(command)
    assert (python, module, name) == ("python", "-m", "ftlab")
    return request_from(build_parser().parse_args(arguments))


@pytest.mark.parametrize("name", REQUESTS)
def test_the_command_asks_for_the_same_request(name: str) -> None:
    request = REQUESTS[name]
    command = command_of(request)
    assert read_back(command.text) == request
    assert read_back(command.lines.replace("\\\n", " ")) == request
    assert command.note == ""


@pytest.mark.parametrize("name", REQUESTS)
def test_the_specs_of_a_sweep_lead_back_to_its_request(name: str) -> None:
    request = replace(REQUESTS[name], model=BUNDLED_ID)
    assert requests_of(plan_sweep(request)) == [request]


def test_a_folder_of_a_model_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "x.safetensors").write_bytes(b"")
    request = replace(PLAIN, model=str(folder))
    assert read_back(command_of(request).text) == request


def test_runs_on_disk_lead_to_one_command(tmp_path: Path) -> None:
    make_sweep(tmp_path, seeds=(0, 1))
    (command,) = commands_of([run.spec for run in data_of(tmp_path).runs])
    assert command == (
        "python -m ftlab sweep --task sql --methods full,lora,qlora,prompt_tuning --seeds 0,1 "
        "--steps 30 --batch-size 4 --max-length 256 --eval-examples 64 --dtype-policy bf16 "
        "--device cpu"
    )


def test_runs_that_share_too_little_take_several_commands(tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("full", "lora"), seeds=(0, 1))
    make_run(tmp_path, "qlora", seed=0)
    make_run(tmp_path, "qlora", seed=0, settings=TrainingSettings(steps=60))
    lines = commands_of([run.spec for run in data_of(tmp_path).runs])
    assert ["--methods full,lora --seeds 0,1" in line for line in lines] == [True, False, False]
    assert ["--steps 60" in line for line in lines] == [False, False, True]


def test_what_the_command_line_cannot_say_is_said() -> None:
    seeded = replace(PLAIN, task=replace(SQL, seed=3))
    assert "drawn with seed 3" in command_of(seeded).note
    comma = TaskReference("file", "/a.csv", ColumnMapping(prompt="a,b", completion="c"))
    assert "holds a comma" in command_of(replace(PLAIN, task=comma)).note


def test_without_a_run_there_is_no_command() -> None:
    assert commands_of([]) == []
