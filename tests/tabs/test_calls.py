"""What a request may ask of the page's handlers: what the page itself sends, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ftlab.basics.log import ERROR_SECONDS, RepeatedErrors, app_log
from ftlab.tabs.app import build_app
from ftlab.tabs.requests import (
    UNKNOWN_NAME,
    WRONG_CALL,
    PageCalls,
    WrongCall,
    check_inputs,
    names_of_event,
    page_calls,
)

RIGHT = {"data": [], "fn_index": 3, "session_hash": "abc123", "trigger_id": 7, "event_data": None}
CALLS = PageCalls(frozenset({3}), {"runs": {"sweep": False, "text": True}}, frozenset({7}))


def wrong(path: str, body: Any) -> str:
    return CALLS.wrong_call(f"/gradio_api/{path}", body)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("queue/join", RIGHT),
        ("queue/join/", RIGHT | {"trigger_id": None, "simple_format": False}),
        ("run/predict", RIGHT | {"session_hash": None}),
        ("run/runs", {"data": ["", ""]}),
        ("call/runs", {"data": ["", ""]}),
        ("call/v2/runs", {"text": "lora"}),
        ("cancel", {"session_hash": "abc", "fn_index": 3, "event_id": "0f" * 16}),
        ("reset", {"event_id": "0f" * 16}),
        ("upload", None),
    ],
)
def test_what_the_page_and_its_clients_send_is_let_through(path: str, body: Any) -> None:
    assert wrong(path, body) == ""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> gr.Blocks:
    return build_app(tmp_path_factory.mktemp("runs"))


def test_every_event_of_the_page_is_let_through_from_all_that_fires_it(page: gr.Blocks) -> None:
    calls, sent = page_calls(page), 0
    for event in page.get_config_file()["dependencies"]:
        for part, _ in event["targets"] or [(None, "")]:
            if not event["backend_fn"]:
                continue
            body = RIGHT | {"fn_index": event["id"], "trigger_id": part}
            assert calls.wrong_call("/gradio_api/queue/join", body) == "", event["api_name"]
            sent += 1
    assert sent > 80


@pytest.mark.hostile("calls that no page makes")
@pytest.mark.parametrize("number", [-1, 4, 9999, 10**20, "3", 3.0, True, None, [], {}])
def test_a_handler_that_there_is_not_is_a_sentence(number: Any) -> None:
    assert wrong("queue/join", RIGHT | {"fn_index": number}) == WRONG_CALL


@pytest.mark.hostile("calls that no page makes")
@pytest.mark.parametrize("session", [None, 1, [], {}, "", "../x", "a\0", "\ud800", "x" * 10**6])
def test_a_session_that_no_page_has_is_a_sentence(session: Any) -> None:
    assert wrong("queue/join", RIGHT | {"session_hash": session}) == WRONG_CALL


@pytest.mark.hostile("calls that no page makes")
@pytest.mark.parametrize(
    "other",
    [
        {"trigger_id": -1}, {"trigger_id": "7"}, {"trigger_id": True}, {"event_id": 1},
        {"event_id": "x" * 10**5}, {"data": None}, {"data": {}}, {"batched": True},
        {"simple_format": "x"}, {"oauth_token": 1},
    ],
)  # fmt: skip
def test_whatever_else_a_body_holds_is_of_its_kind(other: dict[str, Any]) -> None:
    assert wrong("queue/join", RIGHT | other) == WRONG_CALL


@pytest.mark.hostile("calls that no page makes")
@pytest.mark.parametrize("body", [None, [], "text", 1, {}])
@pytest.mark.parametrize("path", ["queue/join", "run/predict", "call/runs", "cancel", "reset"])
def test_a_body_that_is_no_call_is_a_sentence(path: str, body: Any) -> None:
    assert wrong(path, body) in (WRONG_CALL, UNKNOWN_NAME)


@pytest.mark.hostile("calls that no page makes")
@pytest.mark.parametrize("path", ["call/nothing", "call/v2/nothing", "run/nothing", "api/v2"])
def test_an_endpoint_that_there_is_not_is_a_sentence(path: str) -> None:
    assert wrong(path, {"data": []}) == UNKNOWN_NAME


def test_a_parameter_that_there_is_not_and_one_that_is_missing_are_named() -> None:
    assert wrong("call/v2/runs", {"texts": ""}) == "'/runs' takes sweep, text, and nothing else."
    assert wrong("call/v2/runs", {"sweep": ""}) == "'/runs' needs a value for 'text'."


def test_no_component_of_the_page_has_functions_that_are_called_past_its_events(
    page: gr.Blocks,
) -> None:
    """So that the routes for those can be closed."""
    calls = page_calls(page)
    assert {"launch_sweep", "cancel", "runs", "generate"} <= set(calls.endpoints)
    assert len(calls.handlers) > 100
    assert page.default_config.renderables == [], "whose handlers would differ by session"
    for part in page.blocks.values():
        assert not getattr(part, "server_fns", []), part
    assert all(function.connection == "sse" for function in page.fns.values())
    assert not [function for function in page.fns.values() if function.batch]


NAN, INFINITE = float("nan"), float("inf")
PARTS: list[tuple[gr.Component, list[Any], list[Any]]] = [
    (gr.Textbox(), ["", "ä", None], [1, [], {}, True, "\ud800"]),
    (gr.Number(), [1, 2.5, None], ["1", True, NAN, INFINITE, 10**400, []]),
    (gr.Slider(), [1, 2.5], [None, "1", True, NAN, []]),
    (gr.Checkbox(), [True, False], [None, 0, "true", []]),
    (gr.Dropdown(["a"]), ["a", None], [["a"], {}, "\udfff"]),
    (gr.Dropdown(["a"], multiselect=True), [["a"], [], None], [[["a"]], {}]),
    (gr.Radio(["a"]), ["a", 1, None], [["a"], {}, NAN]),
    (gr.CheckboxGroup(["a"]), [["a"], []], [None, "a", [["a"]], {}]),
    (gr.File(), [None, {"path": "x"}], [{"path": "\ud800"}, [NAN]]),
    (gr.State(), [None, NAN, "\ud800", {}], []),
]


@pytest.mark.hostile("values of wrong types")
@pytest.mark.parametrize(("part", "given", "not_given"), PARTS)
def test_each_component_gives_values_of_its_kind(
    part: gr.Component,
    given: list[Any],
    not_given: list[Any],
    record_property: pytest.RecordProperty,
) -> None:
    for value in given:
        check_inputs([part], [value])
    for value in not_given:
        with pytest.raises(WrongCall, match="reload the page"):
            check_inputs([part], [value])
    record_property("hostile inputs", len(not_given))


@pytest.mark.hostile("values of wrong types")
def test_too_few_values_are_refused() -> None:
    with pytest.raises(WrongCall):
        check_inputs([gr.File()], [])


def test_a_reason_holds_the_kinds_and_nothing_that_was_sent() -> None:
    with pytest.raises(WrongCall) as caught:
        check_inputs([gr.Number()], ["my private prompt"])
    assert caught.value.reason == "Number: str"
    assert "private" not in str(caught.value)


@pytest.mark.hostile("calls that no page makes")
@pytest.mark.parametrize("data", ["\ud800", {"on": "\ud800"}, float("nan"), {"at": 10**30}])
def test_an_event_that_holds_what_no_page_can_tell_is_refused(data: Any) -> None:
    with pytest.raises(WrongCall):
        names_of_event(data)


@pytest.mark.parametrize("data", [None, True, "text", 3, [1, 2]])
def test_an_event_may_tell_a_value_without_a_name(data: Any) -> None:
    """As a box that is ticked does; no handler finds a name in it."""
    assert names_of_event(data) == {}
    told = {"run": "x", "on": [1, {"a": data}]}
    assert names_of_event(told) == told


def test_an_error_that_comes_again_is_counted_until_it_is_written_anew(tmp_path: Path) -> None:
    now = [1000.0]
    errors = RepeatedErrors(clock=lambda: now[0])
    with app_log(tmp_path):
        for _ in range(4):
            errors.note("handler failed", KeyError("a"), place="choose", handler="choose")
        errors.note("handler failed", KeyError("a"), place="press", handler="press")
        errors.note("handler failed", ValueError("a"), place="choose", handler="choose")
        now[0] += ERROR_SECONDS
        errors.note("handler failed", KeyError("a"), place="choose", handler="choose")
    lines = (tmp_path / "app.log").read_text().splitlines()
    assert len(lines) == 4
    assert '"repeated": 3' in lines[-1]
    assert not any("repeated" in line for line in lines[:-1])
