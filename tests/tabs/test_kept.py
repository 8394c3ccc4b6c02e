"""Inputs that the browser keeps: how a tab writes them, and how they come back to it."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ftlab.basics.errors import FtlabError
from ftlab.tabs import address, app, context, kept
from ftlab.tabs.context import READY, KeptInputs, TabSpec, tabs
from ftlab.tabs.kept import MOST_CHARACTERS, kept_html, read_kept
from tests.tabs.page_fakes import page_context

DECLARED = [(spec, one) for spec in tabs() for one in spec.kept]
ONE = KeptInputs("one", 3)
VALUES = {"text": '<b> & "quoted" ü', "number": 0.5, "list": ["a"], "nothing": None, "on": False}
TEXT = json.dumps({"version": 3, "values": {"a": 1}})


def stored(line: str) -> str:
    """What `assets/kept.js` puts into the browser's storage."""
    found = re.search(r'data-values="([^"]*)"', line)
    assert found is not None
    return html.unescape(found.group(1))


def test_what_a_line_says_comes_back_as_it_was() -> None:
    line = kept_html(ONE, VALUES)
    assert 'data-kept="one"' in line
    assert read_kept(ONE, stored(line)) == VALUES
    assert "Start from the defaults" in line


def test_with_nothing_to_keep_the_browser_forgets_and_there_is_no_button() -> None:
    line = kept_html(ONE, {})
    assert stored(line) == ""
    assert "button" not in line


def test_inputs_that_are_too_long_are_not_kept_and_that_is_said() -> None:
    line = kept_html(ONE, {"text": "x" * MOST_CHARACTERS})
    assert stored(line) == ""
    assert "too long" in line
    assert "Start from the defaults" in line


def test_a_name_belongs_to_one_tab_alone() -> None:
    names = [one.name for _, one in DECLARED]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("text", ["", json.dumps({"version": 3, "values": {}})])
def test_nothing_kept_is_no_error(text: str) -> None:
    assert read_kept(ONE, text) == {}


def giving(page: gr.Blocks) -> list[Any]:
    """The events that give back what was kept, one for each of `KeptInputs`."""
    return [fn for fn in page.fns.values() if fn.name == "give_back"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> gr.Blocks:
    return app.build_page(page_context(tmp_path_factory.mktemp("runs")))


def test_each_tab_that_declares_inputs_listens_to_them(page: gr.Blocks) -> None:
    assert len(giving(page)) == len(DECLARED)
    for given, _ready in (event.outputs for event in giving(page)):
        assert any((given._id, "change") in fn.targets for fn in page.fns.values())


def test_inputs_of_another_tab_come_back_beside_those_of_one_with_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that names what a tab shows wins over what the browser kept of that tab."""
    one = TabSpec("One", 0, lambda *_: None, ("what",), kept=(ONE,))
    two = replace(one, name="Two", address=("which",), kept=(replace(ONE, name="two"),))
    with monkeypatch.context() as patch:
        for module in (address, context, app):
            patch.setattr(module, "tabs", lambda: [one, two])
        first, second = (event.fn for event in giving(app.build_page(page_context(tmp_path))))
        back, skip = [{"a": 1}, gr.skip()], [gr.skip(), READY]
        for asked, answers in (
            ("", (back, back)),
            ("?tab=one", (back, back)),
            ("?tab=one&what=x", (skip, back)),
            ("?tab=two&which=x", (back, skip)),
            ("?tab=nope", (back, back)),
        ):
            assert (first(asked, TEXT), second(asked, TEXT)) == answers
        assert second("", "") == skip


def deep(depth: int) -> str:
    return '{"version": 3, "values": ' + '{"a": ' * depth + "1" + "}" * depth + "}"


HOSTILE = (
    "x", "{", "null", "[]", "7", '"text"', "true", "NaN", "[" * 20_000, "{}", deep(8_000),
    '{"version": 3}',
    '{"version": 3, "values": null}',
    '{"version": 3, "values": []}',
    '{"version": 3, "values": "lora"}',
    '{"version": 3, "values": {"a": NaN}}',
    '{"version": 3, "values": {"a": Infinity}}',
    '{"version": 3, "values": {"a": 1e999}}',
    '{"version": 3, "values": {"a": "\\ud800"}}',
    '{"version": 3, "values": {"\\udfff": 1}}',
    '{"version": 3, "values": {"a": ' + "9" * 5_000 + "}}",
    '{"version": 3, "values": {"a": 99999999999999999999}}',
    '{"values": {"a": 1}}',
    '{"version": 2, "values": {"a": 1}}',
    '{"version": 4, "values": {"a": 1}}',
    '{"version": "3", "values": {"a": 1}}',
    '{"version": null, "values": {"a": 1}}',
    '{"version": [3], "values": {"a": 1}}',
    '{"version": {"3": 3}, "values": {"a": 1}}',
    '{"version": 3, "values": {"a": "' + "x" * MOST_CHARACTERS + '"}}',
    "\x00", "\u202e{}", "ftlab", "<script>alert(1)</script>", "__proto__",
)  # fmt: skip


@pytest.mark.hostile("kept forms")
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:40]))
def test_what_cannot_be_read_is_a_sentence_and_changes_nothing(
    text: str, page: gr.Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FtlabError, match="as at the first visit"):
        read_kept(ONE, text)
    warned: list[str] = []
    monkeypatch.setattr(kept, "warn", lambda sentence, **_: warned.append(sentence))
    for event in giving(page):
        assert event.fn("", text) == [gr.skip(), READY]
    assert len(warned) == len(DECLARED)
