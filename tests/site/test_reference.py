"""The site's reference names everything that the code offers, and nothing of this machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ftlab.__main__ import COMMANDS
from ftlab.charts.spec import charts
from ftlab.methods.registry import METHODS
from ftlab.records.metrics import METRICS
from ftlab.settings.schema import fields_of
from ftlab.tasks.registry import TASKS
from tests.site.reference import GROUPS, PAGES, main


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("reference")
    assert main([str(folder)]) == 0
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def test_every_page_is_written(pages: dict[str, str]) -> None:
    assert pages.keys() == PAGES.keys()


def test_every_setting_of_the_schema_is_there_with_its_option(pages: dict[str, str]) -> None:
    for heading, (settings, _) in GROUPS.items():
        for field in fields_of(settings).values():
            (row,) = (
                line
                for line in pages["settings.md"]
                .split(f"## {heading}\n")[1]
                .split("\n## ")[0]
                .splitlines()
                if line.startswith(f"| `--{field.option}` |")
            )
            assert f"**{field.setting.label}**" in row


def test_every_option_that_it_names_is_one_of_a_command(pages: dict[str, str]) -> None:
    options = re.findall(r"^\| `(--[a-z-]+)` \|", pages["settings.md"], re.MULTILINE)
    assert len(options) > 30
    for option in options:
        assert re.search(rf"(?<![\w-]){option}\b", pages["command-line.md"]), option


def test_bounds_defaults_and_fairness_are_those_of_the_schema(pages: dict[str, str]) -> None:
    assert (
        "| `--steps` | 30 steps | from 1 to 1,000,000 | ✓ | **Steps**: optimizer steps |"
        in pages["settings.md"]
    )


def test_every_method_is_there_with_its_hyperparameters(pages: dict[str, str]) -> None:
    for method in METHODS.values():
        part = pages["hyperparameters.md"].split(f"\n## {method.label}\n")[1].split("\n## ")[0]
        assert f"`{method.id}`" in part
        for one in method.hyperparameters:
            assert f"| `{one.name}` |" in part


def test_every_metric_task_and_chart_is_there(pages: dict[str, str]) -> None:
    for key in METRICS:
        assert f"| `{key}` |" in pages["metrics.md"]
    for id in (*TASKS, *(chart.id for chart in charts())):
        assert f"| `{id}` |" in pages["tasks-and-charts.md"]


def test_every_command_is_there_with_what_help_prints(pages: dict[str, str]) -> None:
    text = pages["command-line.md"]
    for command in COMMANDS:
        part = text.split(f"\n## {command.NAME}\n")[1].split("\n## ")[0]
        assert f"usage: python -m ftlab {command.NAME}" in part
    assert "  --eval-examples" in text
    assert "\n## describe\n" in text


@pytest.mark.parametrize("call", ["launch_sweep", "runs", "predict", "race", "status", "compare"])
def test_calls_and_tools_are_there_with_their_arguments(pages: dict[str, str], call: str) -> None:
    assert f"\n### {call}\n" in pages["api.md"]
    assert "| `eval_examples` | kept out of training; those are scored | `64` |" in pages["api.md"]
    assert "| `wait_seconds` | Waits so long for the end" in pages["api.md"]


def test_no_page_names_a_folder_of_this_machine(pages: dict[str, str]) -> None:
    for text in pages.values():
        assert str(Path.cwd()) not in text
        assert f"{Path.home()}/" not in text
