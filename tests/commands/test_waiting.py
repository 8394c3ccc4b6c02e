"""What a command waits for is said on stderr, on a terminal and without one."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from ftlab.commands import waiting
from ftlab.commands.waiting import shown_progress, shown_status
from tests.hub_server import PADDING, Hub, publish, serving
from tests.waiting import wait_until

GIGABYTE = 10**9


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    said = io.StringIO()
    return Console(file=said, width=100, force_terminal=terminal), said


def test_a_terminal_has_a_bar_that_is_gone_at_the_end() -> None:
    out, said = console(terminal=True)
    with shown_progress(out) as progress:
        progress(0, 3 * GIGABYTE)
        progress(GIGABYTE, 3 * GIGABYTE)
        shown = said.getvalue()
        progress(3 * GIGABYTE, 3 * GIGABYTE)
    assert "Downloading the base model" in shown
    assert "1.0 of 3.0 GB" in shown
    assert said.getvalue().endswith("\x1b[2K"), "the line was not cleared"


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_is_said_where_nothing_is_downloaded(terminal: bool) -> None:
    out, said = console(terminal)
    with shown_progress(out):
        pass
    assert said.getvalue() == ""


def test_without_a_terminal_a_line_comes_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
    out, said = console(terminal=False)
    with shown_progress(out) as progress:
        for second in range(61):
            now[0] = 100.0 + second
            progress(second * GIGABYTE, 60 * GIGABYTE)
    assert said.getvalue().splitlines() == [
        f"Downloading the base model: {part}.0 of 60.0 GB" for part in (0, 20, 40, 60)
    ]


WORDS = ["Starting …", "Downloading: 0.1 of 3.1 GB …", "Downloading: 0.2 of 3.1 GB …", "[b]x"]


def test_a_status_is_a_line_of_a_terminal() -> None:
    out, said = console(terminal=True)
    with shown_status(out) as tell:
        for words in WORDS:
            tell(words)
            wait_until(lambda: words in said.getvalue())  # noqa: B023 - drawn some times a second


def test_without_a_terminal_each_status_is_said_once_however_far_it_comes() -> None:
    out, said = console(terminal=False)
    with shown_status(out) as tell:
        for words in WORDS:
            tell(words)
    assert said.getvalue().splitlines() == [WORDS[0], WORDS[1], WORDS[3]]


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tiny_model: Path, tmp_path: Path) -> Iterator[Command]:
    """Runs a command that knows a Hub with the tiny model."""
    published = publish(tiny_model, tmp_path / "model")
    with serving(Hub({"tiny/llama": published}, bytes_a_second=PADDING)) as hub:

        def command(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "ftlab", *words],
                env=os.environ | hub.environment(tmp_path / "hf"),
                capture_output=True,
                text=True,
                check=False,
            )

        yield command


@pytest.mark.slow
def test_the_model_command_fetches_from_the_hub_and_says_how_far_it_is(command: Command) -> None:
    done = command("model", "tiny/llama", "--json")
    found = json.loads(done.stdout)
    assert found["id"] == "tiny/llama"
    assert found["shape"].startswith("llama, 2 layers")
    lines = done.stderr.splitlines()
    assert lines[0] == "Fetching tiny/llama from the Hugging Face Hub …"
    assert lines[1] == "Downloading the base model: 0.0 of 4.4 MB"
    assert lines[-1] == "Downloading the base model: 4.4 of 4.4 MB"


@pytest.mark.slow
def test_generate_says_that_its_base_is_downloaded(command: Command, tmp_path: Path) -> None:
    done = command(
        "generate", "--model", "tiny/llama", "--runs", "base", "--prompt", "hello",
        "--max-new-tokens", "4", "--runs-dir", str(tmp_path / "runs"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "── Base" in done.stdout
    assert "Downloading the base model: 0.0 of 4.4 MB …" in done.stderr.splitlines()


@pytest.mark.slow
def test_a_sweep_in_a_log_says_that_its_base_is_downloaded(
    command: Command, tmp_path: Path, task_file: Path
) -> None:
    done = command(
        "sweep", "--model", "tiny/llama", "--task", str(task_file), "--methods", "lora",
        "--steps", "1", "--batch-size", "1", "--eval-examples", "1", "--device", "cpu",
        "--runs-dir", str(tmp_path / "runs"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "download" in line]
    assert len(said) == 1
    assert said[0].startswith("LoRA: downloading the base model, ")
    assert said[0].endswith(" of 4.4 MB")
