"""The tabs: their order, and how a new one is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlab.tabs.context import tabs
from tests.package_copy import ask, copy_package

NEW_TAB = """
import gradio as gr
from ftlab.tabs.context import TabSpec


def build(context, links):
    gr.Markdown("what the new tab shows", elem_id="new-tab")


TAB = TabSpec("Afterwards", 99, build)
"""
PAGE = """
import json, sys
from pathlib import Path
from ftlab.tabs.app import build_app

config = build_app(Path(sys.argv[1])).get_config_file()
parts = [part["props"] for part in config["components"]]
print(json.dumps({
    "tabs": [part["label"] for part in parts if part.get("id") in ("learn", "afterwards")],
    "shows": [part.get("value") for part in parts if part.get("elem_id") == "new-tab"],
}))
"""


def test_the_tabs_stand_in_the_order_of_the_work() -> None:
    names = ["Experiment", "Results", "Compare", "Playground", "Plan", "Learn"]
    assert [tab.name for tab in tabs()] == names


@pytest.mark.slow
def test_a_new_package_is_a_tab_of_the_page(tmp_path: Path) -> None:
    package = copy_package(tmp_path) / "tabs" / "afterwards"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tab.py").write_text(NEW_TAB, encoding="utf-8")
    page = ask(tmp_path, PAGE, str(tmp_path / "runs"))
    assert page["shows"] == ["what the new tab shows"]
    assert page["tabs"] == ["Learn", "Afterwards"]
