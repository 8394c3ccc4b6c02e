"""Names, notes and reasons from files are text in a terminal: nothing of them is obeyed."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from ftlab.__main__ import main
from ftlab.commands.tables import PlainConsole, json_text
from tests.fakes import make_run
from tests.security.test_inert import hostile_run

TEXTS = [
    "a\x1b[31mb\x1b[2J", "\x1b]0;title\x07", "\x9b31mred", "a\rb", "a\x08\x08b", "\u202egnp.exe",
    "\u2066a\u2069", "a\u2028b", "a\x00b", "[bold]x[/bold]", "[/x]", "[link=file:///etc]x[/link]",
    ":smile:", "\u200bx",
]  # fmt: skip


def said(*arguments: str) -> str:
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        assert main(list(arguments)) == 0
    return out.getvalue()


@pytest.mark.hostile("text in a terminal")
@pytest.mark.parametrize("text", TEXTS, ids=ascii)
@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_what_a_run_holds_is_text_where_runs_are_listed(
    form: str, text: str, tmp_path: Path
) -> None:
    hostile_run(tmp_path, "lora", text)
    make_run(tmp_path, "full", status="failed", reason=text)
    make_run(tmp_path, "dora", notes=[text])
    broken = make_run(tmp_path, "vera")
    broken.spec_file.write_text(json.dumps({text: text}))
    shown = said("runs", "--runs-dir", str(tmp_path), f"--format={form}")
    assert all(char.isprintable() or char in "\n\t" for char in shown.replace("\r\n", "\n"))
    if form == "table":
        assert text not in (":smile:", "[/x]") or text in shown  # as it was written


def test_json_for_a_terminal_says_what_it_was_given() -> None:
    for text in TEXTS:
        assert json.loads(json_text({text: [text, "é", "𝄞"]})) == {text: [text, "é", "𝄞"]}
    assert "é" in json_text("é")


def test_a_console_takes_no_markup() -> None:
    out = io.StringIO()
    PlainConsole(file=out, width=80).print("[bold]x[/bold] \x1b[31m")
    assert out.getvalue() == "[bold]x[/bold] ?[31m\n"
