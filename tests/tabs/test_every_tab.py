"""The tabs: their order, how a new one is found, and that what can be pressed does something."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio.blocks import BlockFunction

from ftlab.basics.files import assets_folder
from ftlab.tabs.app import build_app
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

FIELDS = (
    gr.Checkbox, gr.CheckboxGroup, gr.Dropdown, gr.File, gr.Number, gr.Radio, gr.Slider, gr.Textbox,
)  # fmt: skip
USUAL_SCRIPT = inspect.signature(gr.HTML).parameters["js_on_load"].default
RING = re.compile(r"\btrigger\('(\w+)'")
HANDED_ON = re.compile(r"\.(\w+)\(element, trigger\b")


@dataclass(frozen=True)
class Part:
    """A component of the page, and what its events are."""

    block: Any
    rings: frozenset[str]
    """The events that something listens to."""
    read: list[BlockFunction]
    written: list[BlockFunction]

    def __str__(self) -> str:
        block = self.block
        words = getattr(block, "label", None) or getattr(block, "value", None)
        script = getattr(block, "js_on_load", "")
        return f"{type(block).__name__} {block.elem_id or ''} {words!s:.60} {script}".strip()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> gr.Blocks:
    return build_app(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def parts(page: gr.Blocks) -> list[Part]:
    rings, read, written = defaultdict(set), defaultdict(list), defaultdict(list)
    for event in page.fns.values():
        for number, name in event.targets:
            rings[number].add(name)
        for block in event.inputs:
            read[block._id].append(event)
        for block in event.outputs:
            written[block._id].append(event)
    return [
        Part(block, frozenset(rings[number]), read[number], written[number])
        for number, block in page.blocks.items()
    ]


def dead(parts: list[Part]) -> list[str]:
    return [str(part) for part in parts]


def test_each_button_that_can_be_pressed_does_something(parts: list[Part]) -> None:
    """A button for a file, which has no event of its own, gets the file from an event."""
    buttons = [part for part in parts if isinstance(part.block, gr.Button | gr.UploadButton)]
    files = [part for part in parts if isinstance(part.block, gr.DownloadButton)]
    carriers = [
        part for part in files if "ft-carrier" in (part.block.elem_classes or ()) and not part.rings
    ]
    assert min(len(buttons) // 6, len(files), len(carriers)) > 10
    names: dict[type, str] = {gr.Button: "click", gr.UploadButton: "upload"}
    assert dead([part for part in buttons if names[type(part.block)] not in part.rings]) == []
    assert dead([part for part in files if not part.written]) == []
    saved = [part for part in carriers if any(event.js for event in part.read)]
    assert dead([part for part in carriers if part not in saved]) == [], "no script saves its file"


def test_each_timer_rings_for_something_and_is_started(parts: list[Part]) -> None:
    timers = [part for part in parts if isinstance(part.block, gr.Timer)]
    assert timers
    assert dead([part for part in timers if "tick" not in part.rings]) == []
    stopped = [part for part in timers if not part.block.active]
    assert dead([part for part in stopped if not part.written]) == []


def test_what_a_script_rings_is_what_is_listened_to(parts: list[Part]) -> None:
    """gradio itself rings `change` when a value is set, and `click` where there is no script."""
    scripts = "".join(path.read_text(encoding="utf-8") for path in assets_folder().glob("*.js"))
    texts = [part for part in parts if isinstance(part.block, gr.HTML)]
    wrong, count = [], 0
    for part in texts:
        script = part.block.js_on_load or ""
        if script == USUAL_SCRIPT:
            rung = part.rings & {"click"}
        else:
            handed = "".join(function_of(scripts, name) for name in HANDED_ON.findall(script))
            rung = frozenset(RING.findall(script + handed))
            count += len(rung)
        if part.rings - {"change"} != rung:
            wrong.append(f"{part}: rings {sorted(rung)}, listened to are {sorted(part.rings)}")
    assert wrong == []
    assert count > 15


def function_of(scripts: str, name: str) -> str:
    """The text of a function that is given `trigger`."""
    (found,) = re.findall(rf"^  function {name}\(element, trigger.*?^  }}$", scripts, re.M | re.S)
    return str(found)


def test_each_field_is_listened_to_or_read_when_a_button_is_pressed(
    page: gr.Blocks, parts: list[Part]
) -> None:
    fields = [part for part in parts if isinstance(part.block, FIELDS)]
    fields = [part for part in fields if part.block.visible and part.block.interactive is not False]
    buttons = {part.block._id for part in parts if isinstance(part.block, gr.Button)}
    assert len(fields) > 100

    def is_pressed(event: BlockFunction) -> bool:
        while event.trigger_after is not None:
            event = page.fns[event.trigger_after]
        return any(number in buttons for number, _ in event.targets)

    unread = [part for part in fields if not part.rings and not any(map(is_pressed, part.read))]
    assert dead(unread) == []


def test_each_place_for_a_figure_or_a_text_is_filled(parts: list[Part]) -> None:
    places = [part for part in parts if isinstance(part.block, gr.Plot | gr.HTML)]
    empty = [
        part
        for part in places
        if not part.block.value and getattr(part.block, "js_on_load", "") in ("", USUAL_SCRIPT)
    ]
    assert len(empty) > 60
    assert dead([part for part in empty if not part.written]) == []


def test_each_state_that_is_listened_to_is_set(parts: list[Part]) -> None:
    states = [part for part in parts if isinstance(part.block, gr.State)]
    assert len([part for part in states if part.rings]) > 10
    assert dead([part for part in states if part.rings and not part.written]) == []
    assert dead([part for part in states if part.read and not part.written]) == []


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
