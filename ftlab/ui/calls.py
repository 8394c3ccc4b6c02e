"""What a request may ask of the page's handlers, judged before any of them is called.

The page itself always sends a handler that it has, its session, and for each input a value of the
kind that the component gives. Whatever else arrives was written by somebody: it is answered with
one sentence and never reaches a handler.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.routes import API_PREFIX

WRONG_CALL = "This request is not one that the page makes; reload the page and try again."
UNKNOWN_NAME = "This app has no endpoint of that name; its API page lists those that it has."
NO_SUCH_PART = "There is no such part of this page."

_LARGEST = 2**63  # what JSON that gradio writes can hold
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_ROUTES = (
    "queue", "run", "api", "call", "component_server", "cancel", "reset", "stream",
)  # fmt: skip
_UNUSED = ("component_server", "stream")  # no component here has functions or streams of its own


class WrongCall(gr.Error):
    """A request that the page does not make. `reason` is for the log and holds nothing of it."""

    def __init__(self, reason: str) -> None:
        super().__init__(WRONG_CALL, print_exception=False)
        self.reason = reason


@dataclass(frozen=True)
class PageCalls:
    """What one page can be asked for.

    `handlers` are the numbers of its events that have a handler, `endpoints` the parameters of what
    programs call by name, the required ones with `True`, and `parts` the ids of its components.
    """

    handlers: frozenset[int]
    endpoints: Mapping[str, Mapping[str, bool]]
    parts: frozenset[int]

    def wrong_call(self, path: str, body: Any) -> str:
        """Why a POST with that JSON value is no call of the page's; "" if it is one.

        Looks at what names the handler, not at its inputs; paths that call none are all right.
        """
        route, name = _route(path)
        if route in _UNUSED:
            return NO_SUCH_PART
        if (route, name) == ("queue", "join"):
            return self._wrong_event(body, needs_session=True)
        if route in ("run", "api"):
            named = not isinstance(body, Mapping) or body.get("fn_index") is None
            if named and name not in self.endpoints:
                return UNKNOWN_NAME
            return self._wrong_event(body, needs_session=False)
        if route == "call":
            return self._wrong_named(name, body)
        if route == "cancel":
            right = _has(body, session_hash=_is_id, fn_index=_is_int, event_id=_is_id)
            return "" if right else WRONG_CALL
        if route == "reset":
            return "" if _has(body, event_id=_is_id) else WRONG_CALL
        return ""

    def _wrong_event(self, body: Any, needs_session: bool) -> str:
        if not isinstance(body, Mapping):
            return WRONG_CALL
        number, part = body.get("fn_index"), body.get("trigger_id")
        if (needs_session or number is not None) and not (
            _is_int(number) and number in self.handlers
        ):
            return WRONG_CALL
        if part is not None and not (_is_int(part) and part in self.parts):
            return WRONG_CALL
        given = _has(
            body,
            session_hash=_is_id if needs_session else _none_or(_is_id),
            event_id=_none_or(_is_id),
            data=_is_list,
            simple_format=_none_or(_is_bool),
            oauth_token=_none_or(_is_text),
        )
        # Several calls in one body are for handlers that take batches, which this page has none of.
        return "" if given and body.get("batched") in (None, False) else WRONG_CALL

    def _wrong_named(self, name: str, body: Any) -> str:
        version, _, rest = name.partition("/")
        name = rest if version == "v2" else name
        if name not in self.endpoints:
            return UNKNOWN_NAME
        if not isinstance(body, Mapping):
            return WRONG_CALL
        if version != "v2":
            right = _has(
                body,
                data=_is_list,
                session_hash=_none_or(_is_id),
                oauth_token=_none_or(_is_text),
            )
            return "" if right else WRONG_CALL
        parameters = self.endpoints[name]
        if any(key not in parameters for key in body):
            return f"'/{name}' takes {', '.join(parameters)}, and nothing else."
        missing = [key for key, required in parameters.items() if required and key not in body]
        return f"'/{name}' needs a value for '{missing[0]}'." if missing else ""


def _route(path: str) -> tuple[str, str]:
    """Which of gradio's routes that is, and what comes after it; "" for another path."""
    if not path.startswith(f"{API_PREFIX}/"):
        return "", ""
    route, _, name = path.removeprefix(f"{API_PREFIX}/").strip("/").partition("/")
    return route, name


def page_calls(page: gr.Blocks) -> PageCalls:
    """What that page, which is built, can be asked for."""
    endpoints = page.get_api_info()["named_endpoints"]
    return PageCalls(
        frozenset(number for number, function in page.fns.items() if function.fn is not None),
        {
            name.strip("/"): {
                part["parameter_name"]: not part["parameter_has_default"]
                for part in endpoint["parameters"]
            }
            for name, endpoint in endpoints.items()
        },
        frozenset((page._id, *page.blocks)),  # the page itself is what is loaded
    )


def check_inputs(parts: Sequence[Any], values: Sequence[Any]) -> None:
    """Raises `WrongCall` for values that those components of the page do not give.

    Which choices a list offers, and which files were uploaded, gradio's components know themselves.
    """
    if len(values) < len(parts):
        raise WrongCall(f"{len(values)} inputs instead of {len(parts)}")
    for part, value in zip(parts, values, strict=False):
        if isinstance(part, gr.State):  # gradio takes the server's own, whatever is sent
            continue
        if not _is_plain(value):
            raise WrongCall(f"{type(part).__name__}: no value of JSON that is kept")
        for kind, fits in _GIVEN:
            if isinstance(part, kind) and not fits(part, value):
                raise WrongCall(f"{type(part).__name__}: {type(value).__name__}")


def names_of_event(data: Any) -> Mapping[str, Any]:
    """The names with values that an event tells of itself; a ticked box tells a value alone.

    Raises `WrongCall` for what no event of the page tells.
    """
    if not _is_plain(data):
        raise WrongCall(f"event: {type(data).__name__}")
    return data if isinstance(data, Mapping) else {}


def _is_plain(value: Any) -> bool:
    """Whether all of it is text that can be written, and numbers that JSON has."""
    open_values = [value]
    while open_values:
        item = open_values.pop()
        if isinstance(item, str):
            if not (item.isascii() or _is_writable(item)):
                return False
        elif isinstance(item, int):
            if not -_LARGEST <= item < _LARGEST:
                return False
        elif isinstance(item, float):
            if not math.isfinite(item):
                return False
        elif isinstance(item, Mapping):
            open_values += [*item, *item.values()]
        elif isinstance(item, list):
            open_values += item
    return True


def _is_writable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half of a pair of UTF-16
        return False
    return True


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _is_choice(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _are_choices(value: Any) -> bool:
    return isinstance(value, list) and all(_is_choice(part) for part in value)


def _none_or(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _has(body: Any, **fits: Callable[[Any], bool]) -> bool:
    return isinstance(body, Mapping) and all(fit(body.get(name)) for name, fit in fits.items())


def _dropdown(part: Any, value: Any) -> bool:
    return _is_choice(value) or (bool(part.multiselect) and _are_choices(value))


_GIVEN: tuple[tuple[type, Callable[[Any, Any], bool]], ...] = (
    (gr.Textbox, lambda part, value: value is None or _is_text(value)),
    (gr.Number, lambda part, value: value is None or _is_number(value)),
    (gr.Slider, lambda part, value: _is_number(value)),
    (gr.Checkbox, lambda part, value: _is_bool(value)),
    (gr.Dropdown, _dropdown),
    (gr.Radio, lambda part, value: _is_choice(value)),
    (gr.CheckboxGroup, lambda part, value: _are_choices(value)),
)
"""By class of component, whether a value is of the kind that it gives."""
