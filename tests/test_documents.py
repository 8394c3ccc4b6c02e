"""What documents tell people to type exists: commands with their options, and make's targets; the
facts of the README are true."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex

import pytest
import yaml

from ftlab.__main__ import COMMANDS, build_parser
from ftlab.maintain.__main__ import PROGRAM
from tests.documents import ROOT, Command, commands, documents, make_targets, with_variables

PARSERS = {"ftlab": build_parser(), "ftlab.maintain": PROGRAM.parser()}
TEXTS = documents() | {
    f"ftlab {each.NAME} --help": each.DESCRIPTION for each in (*COMMANDS, *PROGRAM.commands)
}
NAMED = list(commands(TEXTS))
OF_FTLAB = [each for each in NAMED if each.module in PARSERS and each.rest]


@pytest.mark.parametrize("command", OF_FTLAB, ids=lambda c: f"{c.document}: {c}")
def test_a_command_of_ftlab_has_the_options_that_a_document_gives_it(command: Command) -> None:
    parsers = _subparsers(PARSERS[command.module])
    name = command.rest.split()[0]
    if name.startswith("-") or not re.fullmatch(r"[a-z]+", name):
        return  # `python -m ftlab --help`, or a sentence about them all
    assert name in parsers, f"{command.document} names {command}"
    known = parsers[name]._option_string_actions
    assert [option for option in command.options if option not in known] == []


@pytest.mark.parametrize(
    "command", [c for c in OF_FTLAB if c.document == "Makefile"], ids=lambda c: str(c)
)
def test_make_gives_ftlab_arguments_that_it_takes(command: Command) -> None:
    PARSERS[command.module].parse_args(shlex.split(command.rest))


def test_every_module_that_a_document_runs_is_there() -> None:
    for command in NAMED:
        assert importlib.util.find_spec(command.module), f"{command.document} names {command}"


@pytest.mark.parametrize(("document", "target"), sorted(make_targets(TEXTS)))
def test_make_knows_the_targets_that_documents_name(document: str, target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_commands_are_found_in_sentences_code_and_makefiles() -> None:
    text = (
        "Made by `python -m tests.benchmarks.some --write a.md`, and\n"
        "`python -m\n  tests.benchmarks.wrapped`; `tests/gpu/check.py` is a script and\n"
        "`tests/conftest.py` none. We make it lean: `make bench`.\n\n"
        "    make run   # set up\n"
        "    .venv/bin/python -m ftlab model     # 93 MB\n"
    )
    makefile = "BIN := .venv/bin\nrun:\n\t$(BIN)/python -m tests.some.other --a 1 > build/b\n"
    found = commands({"a.md": text, "Makefile": with_variables(makefile)})
    assert [(each.module, each.rest) for each in found] == [
        ("tests.benchmarks.some", "--write a.md"),
        ("tests.benchmarks.wrapped", ""),
        ("ftlab", "model"),
        ("tests.gpu.check", ""),
        ("tests.some.other", "--a 1"),
    ]
    assert make_targets({"a.md": text}) == {("a.md", "bench"), ("a.md", "run")}


def test_commands_of_every_kind_of_document_are_found() -> None:
    ours = {(each.document, each.module) for each in NAMED}
    for pair in (
        ("README.md", "tests.benchmarks.against_trl"),
        ("docs/performance.md", "tests.benchmarks.profile_step"),
        ("docs/performance.md", "tests.gpu.check"),
        ("Makefile", "tests.benchmarks.quality"),
        ("tests/benchmarks/startup.py", "tests.benchmarks.startup"),
        ("ftlab sweep --help", "ftlab"),
    ):
        assert pair in ours


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (action,) = (
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    return dict(action.choices)


README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
_COMMAND = re.compile(r"^(?:\.venv/bin/)?python -m ftlab (.+?)(?:\s+#.*)?$", re.MULTILINE)
README_COMMANDS = _COMMAND.findall(README)


@pytest.mark.parametrize("command", sorted({*README_COMMANDS, *_COMMAND.findall(GUIDE)}))
def test_a_command_of_readme_and_guide_is_understood(command: str) -> None:
    build_parser().parse_args(shlex.split(command))


def test_the_readme_has_commands_and_they_come_first() -> None:
    assert len(README_COMMANDS) >= 5
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
    [
        "help",
        "run",
        "test",
        "test-all",
        "dist",
        "lock",
        "bench",
        "recorded",
        "pictures",
        "docs",
        "clean",
    ],
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
