"""What is kept of each open page: its own states, and no copy of what it shows."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest
from gradio.state_holder import SessionState

from ftlab.tabs.sessions import Sessions, StatesOnly
from tests.asynchronous import run


@pytest.fixture(scope="module")
def page() -> gr.Blocks:
    """A handler that adds what is typed to a list, and shows it with its number."""
    with gr.Blocks() as page:
        said, text, label = gr.State([]), gr.Textbox("first"), gr.Textbox()

        def add(said: list[str], text: str) -> tuple[list[str], Any, str]:
            return [*said, text], gr.Textbox(value="", label=f"{len(said) + 1} said"), text

        gr.Button().click(add, [said, text], [said, text, label])
    page.state_session_capacity = 2
    return page


def press(page: gr.Blocks, session: SessionState, text: str) -> list[Any]:
    (function,) = page.fns.values()
    answer = run(page.process_api(function, [None, text], state=session))
    return list(answer["data"])


def test_each_page_has_states_of_its_own_and_the_oldest_page_is_forgotten(page: gr.Blocks) -> None:
    sessions = Sessions()
    sessions.set_blocks(page)
    said = page.fns[0].inputs[0]._id
    for session, text in (("a", "one"), ("b", "two"), ("a", "three")):
        press(page, sessions[session], text)
    assert (sessions["b"][said], sessions["a"][said]) == (["two"], ["one", "three"])
    assert sessions["c"][said] == []
    assert "b" not in sessions


def test_the_browser_gets_what_it_would_get_from_gradios_own_session(page: gr.Blocks) -> None:
    own, gradios = StatesOnly(page), SessionState(page)
    for text in ("one", "two"):
        assert press(page, own, text) == press(page, gradios, text)


def test_nothing_of_what_is_shown_or_typed_is_kept(page: gr.Blocks) -> None:
    session = StatesOnly(page)
    press(page, session, "typed")
    assert list(session.components) == []
