"""Addresses of the page: what they open, what is ignored, and what is refused in a sentence."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import gradio as gr
import pytest

from ftlab.basics.errors import FtlabError
from ftlab.tabs import address, app
from ftlab.tabs.address import address_of, read_address
from ftlab.tabs.context import Asked, Links, tabs, taken
from tests.tabs.page_fakes import page_context

PARAMETERS = [(spec.id, name) for spec in tabs() for name in spec.address]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> gr.Blocks:
    return app.build_page(page_context(tmp_path_factory.mktemp("runs")))


def follow_of(page: gr.Blocks) -> Any:
    """The handler that gets the address of the browser."""
    (follow,) = (fn for fn in page.fns.values() if fn.name == "follow" and not fn.inputs)
    return follow.fn


@pytest.mark.parametrize(("tab", "name"), PARAMETERS)
def test_each_parameter_of_a_tab_reaches_it_with_its_value(tab: str, name: str) -> None:
    spec, values = read_address("?" + urlencode({"tab": tab, name: "a b&c=ü", "other": "1"}))
    assert spec.id == tab
    assert values == {each: "a b&c=ü" if each == name else "" for each in spec.address}


def test_a_parameter_belongs_to_one_tab_alone() -> None:
    names = [name for _, name in PARAMETERS]
    assert len(set(names)) == len(names)


def test_an_address_without_a_tab_is_the_first_one() -> None:
    assert read_address("?__theme=dark")[0] is tabs()[0]


def test_what_is_asked_for_is_taken_once() -> None:
    asked = Asked("one")
    assert [taken(asked), taken(asked), taken(None)] == ["one", None, None]
    assert taken(Asked("")) == "", "the tab as it is without the parameter"


@pytest.mark.parametrize("tab", ["compare", "playground"])
def test_of_two_handlers_of_one_link_the_second_changes_nothing(
    tab: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both the tab's `select` and the state's `change` call it, with the same old inputs."""
    monkeypatch.setattr("ftlab.tabs.context._AT_ONCE_SECONDS", 600)  # on a busy machine too
    with gr.Blocks() as page:
        links = Links.between(gr.Tabs())
        (spec,) = (spec for spec in tabs() if spec.id == tab)
        spec.build(page_context(tmp_path), links)
    (enter,) = (fn for fn in page.fns.values() if links.asked[spec.address[0]] in fn.inputs)
    asked = Asked("")
    given = [getattr(part, "value", None) for part in enter.inputs]
    given[enter.inputs.index(links.asked[spec.address[0]])] = asked
    assert any(update != gr.skip() for update in enter.fn(*given))
    answer = enter.fn(*given)
    assert len(answer) == len(enter.outputs)
    assert all(update == gr.skip() for update in answer)


def test_a_tab_takes_each_of_its_parameters_and_resets_none_that_was_asked_for_meanwhile(
    tmp_path: Path,
) -> None:
    with gr.Blocks() as page:
        links = Links.between(gr.Tabs())
        for spec in tabs():
            spec.build(page_context(tmp_path), links)
    for _, name in PARAMETERS:
        asked = links.asked[name]
        (listening,) = (fn for fn in page.fns.values() if asked in fn.inputs)
        assert any(event == "change" for _, event in listening.targets), name
        assert asked not in listening.outputs, name


def test_what_an_address_says_is_passed_on_and_other_tabs_are_left_alone(page: gr.Blocks) -> None:
    row, *asked = follow_of(page)(SimpleNamespace(address="tab=results&run=one"))
    assert row.selected == "results"
    assert dict(zip([name for _, name in PARAMETERS], map(taken, asked), strict=True)) == {
        name: {"run": "one", "search": ""}.get(name) for _, name in PARAMETERS
    }


@pytest.mark.hostile("addresses")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "no text"),
        (7, "no text"),
        (["tab=plan"], "no text"),
        ({"tab": "plan"}, "no text"),
        ("tab=plan&" + "x" * 4_000, "no text of at most 4,000"),
        ("&".join(f"a{n}=1" for n in range(99)), "more than 50 parameters"),
        ("tab=nope", "There is no tab 'nope'"),
        ("tab=%00", "There is no tab"),
        ("tab=../../etc/passwd", "There is no tab"),
        ("tab=<script>alert(1)</script>", "There is no tab"),
        ("tab=" + "ü" * 900, "There is no tab"),
        ("tab=Compare", "There is no tab"),
        ("tab=compare&sweep=" + "s" * 301, "'sweep' of the address has 301 characters"),
        ("tab=results&search=" + "w" * 3_000, "'search' of the address has 3,000 characters"),
    ],
)  # fmt: skip
def test_a_wrong_address_is_a_sentence_and_at_most_opens_its_tab(
    given: Any, said: str, page: gr.Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FtlabError, match=re.escape(said)):
        read_address(given)
    warned: list[str] = []
    monkeypatch.setattr(address, "warn", warned.append)
    row, *asked = follow_of(page)(SimpleNamespace(address=given))
    assert all(update == gr.skip() for update in asked)
    # A tab that is there is opened without the rest: the browser waits for it.
    tab = next((spec.id for spec in tabs() if str(given).startswith(f"tab={spec.id}&")), None)
    assert (row == gr.skip()) if tab is None else (row.selected == tab)
    assert len(warned) == 1


@pytest.mark.hostile("addresses")
@pytest.mark.parametrize(
    "value",
    [
        "",
        "..",
        "../../x",
        "/etc/passwd",
        "%2e%2e",
        "a\x00b",
        "<b>",
        '" onload="x',
        "'",
        "ä" * 300,
        "\u202e",
    ],
)
def test_a_value_is_only_text_and_no_markup_of_the_page(value: str) -> None:
    assert read_address("?" + urlencode({"tab": "learn", "lesson": value}))[1] == {"lesson": value}
    named = address_of(lesson=value)
    assert re.fullmatch(r'data-address="[^"<>]*"', named)
