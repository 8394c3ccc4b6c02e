"""Every file and every command of the tutorial with one's own CSV works as it stands there.

They run in order in an empty folder, as a reader would type them, with the smallest training: the
placeholders SWEEP, RUN, BASE and ADAPTER become what the commands before them printed.
"""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ftlab.models.bundled import ensure_bundled
from tests.documents import ROOT
from tests.tutorial import CSV_TUTORIAL, Block, blocks

TEXT = CSV_TUTORIAL.read_text(encoding="utf-8")
_SMALLEST = " --steps 1 --batch-size 1 --eval-examples 2 --device cpu"
_METHODS = "full,lora,qlora,prompt_tuning"


def typed(command: str, folder: Path) -> str:
    """Types one command in the folder; returns what it printed. Fails where its status is not 0."""
    parts = shlex.split(command)
    assert parts[0] == "python", command
    found = subprocess.run(
        [sys.executable, *parts[1:]],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, f"{command}\n{found.stdout}\n{found.stderr}"
    return found.stdout


def test_the_first_script_makes_the_rows_that_the_page_shows(tmp_path: Path) -> None:
    first = blocks(TEXT)[0]
    (tmp_path / first.file).write_text(first.text, encoding="utf-8")
    typed(f"python {first.file}", tmp_path)
    with (tmp_path / "tickets.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 401
    for row in rows[:3]:
        assert f"| {row[0]} | {row[1]} |" in TEXT


def test_files_and_commands_are_told_apart() -> None:
    text = 'a\n```python title="a.py"\nprint(1)\n```\n```sh\npython a.py\n```\n```text\nb\n```\n'
    assert blocks(text) == [Block("a.py", "print(1)\n"), Block("", "python a.py\n")]
    assert [block.commands for block in blocks(text)] == [[], ["python a.py"]]


@pytest.mark.slow
@pytest.mark.model
def test_every_command_of_the_tutorial_runs_in_order(tmp_path: Path) -> None:
    ensure_bundled()
    known: dict[str, str] = {}
    ran = []
    for block in blocks(TEXT):
        if block.file:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
        for command in block.commands:
            given = re.sub(r"\b(SWEEP|RUN|BASE|ADAPTER)\b", "{\\1}", command).format(**known)
            if " sweep " in given:  # one method is enough for what comes after it
                assert _METHODS in given
                given = given.replace(_METHODS, "lora") + _SMALLEST
            printed = typed(given, tmp_path)
            ran.append(command)
            if " sweep " in given:
                run = re.search(r"\d{8}-\d{6}-\w{4}-\d\d-lora", printed)
                assert run is not None, printed
                known |= {"RUN": run[0], "SWEEP": run[0].removesuffix("-lora")[:-3]}
            if named := re.search(r" in (/\S+)$", printed.strip()):  # of `python -m ftlab model`
                known["BASE"] = named[1]
            for folder in tmp_path.glob("ftlab-lora-*"):
                known["ADAPTER"] = folder.name
    assert len(ran) == 9
    assert (tmp_path / "report.html").stat().st_size > 100_000
    assert (tmp_path / "card.png").read_bytes().startswith(b"\x89PNG")
