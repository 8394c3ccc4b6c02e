"""The README says what is true: its commands parse, its files and targets exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from ftlab.__main__ import build_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
_COMMAND = re.compile(r"^(?:\.venv/bin/)?python -m ftlab (.+?)(?:\s+#.*)?$", re.MULTILINE)
COMMANDS = _COMMAND.findall(README)


@pytest.mark.parametrize("command", sorted({*COMMANDS, *_COMMAND.findall(GUIDE)}))
def test_a_command_of_readme_and_guide_is_understood(command: str) -> None:
    build_parser().parse_args(shlex.split(command))


def test_the_readme_has_commands_and_they_come_first() -> None:
    assert len(COMMANDS) >= 5
    body = README.split("---", 2)[2]
    assert body.index("make run") < body.index("make test") < body.index("## What it shows")


def test_the_front_matter_is_that_of_a_space_of_this_app() -> None:
    front = yaml.safe_load(README.split("---")[1])
    assert front["sdk"] == "gradio"
    assert (ROOT / front["app_file"]).is_file()
    pinned = re.search(r"gradio>=([\d.]+)", (ROOT / "requirements.txt").read_text())
    assert pinned is not None
    assert front["sdk_version"].startswith(pinned.group(1))


@pytest.mark.parametrize(
    "target",
    ["help", "run", "test", "check", "wheel-test", "bench", "recorded", "pictures", "clean"],
)
def test_make_help_lists_every_target(target: str) -> None:
    assert re.search(rf"^{target}:.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_picture_is_there() -> None:
    pictures = re.findall(r'(?:src|srcset)="([^"]+)"', README)
    assert len(pictures) >= 6
    for picture in pictures:
        assert (ROOT / picture).is_file(), picture


def test_the_measured_table_was_made_by_the_program() -> None:
    table = README.split("<!-- quality table")[1].split("<!-- end of quality table")[0]
    for label in ("Full fine-tuning", "LoRA", "QLoRA", "Prompt tuning"):
        assert f"| {label} |" in table
