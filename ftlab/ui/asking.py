"""Asks for predictions on behalf of a page, as long as somebody looks at it."""

from __future__ import annotations

import contextvars
import ipaddress
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import gradio as gr

from ftlab.prediction.client import Predictor
from ftlab.prediction.fit import Ask
from ftlab.prediction.question import Prediction, Question
from ftlab.prediction.turns import NobodyWaits, Visitor

SECONDS_BETWEEN_SIGNS = 1.0
"""A silent wait is broken that often: gradio closes the handler of a page that has gone only where
it gives something."""

_IPV6_NETWORK = 64  # bits: what one subscriber is given has 2^64 addresses at least

_Item = TypeVar("_Item")


def visitor_of(request: gr.Request) -> Visitor:
    """The visitor by login, else by address, and by page."""
    client = request.client
    name = request.username or network_of(client.host if client else "")
    return Visitor(str(name), str(request.session_hash))


def network_of(address: str) -> str:
    """The address, or of IPv6 the network that it is one of so many addresses of."""
    try:
        if ipaddress.ip_address(address).version == 4:
            return address
        return str(ipaddress.IPv6Network((address, _IPV6_NETWORK), strict=False))
    except ValueError:
        return address


def while_there(
    predictor: Predictor,
    visitor: Visitor,
    make: Callable[[Ask], Iterable[_Item]],
    is_wanted: Callable[[], bool] = lambda: True,
) -> Iterator[_Item | None]:
    """What `make` gives with the asking function that it is handed, and `None` while it is silent.

    Once this is closed, or is wanted no longer, what was asked is ended and no more is asked.
    Raises what `make` raises.
    """
    left = threading.Event()
    made: queue.SimpleQueue[_Item | _End] = queue.SimpleQueue()

    def has_left() -> bool:
        return left.is_set() or not is_wanted()

    def ask(questions: Sequence[Question]) -> Iterator[tuple[int, Prediction]]:
        return predictor.ask(questions, visitor, has_left)

    def produce() -> None:
        error: BaseException | None = None
        try:
            for item in make(ask):
                made.put(item)
                if has_left():
                    break
        except NobodyWaits:
            pass
        except BaseException as raised:  # it is raised again where it is waited for
            error = raised
        made.put(_End(error))

    context = contextvars.copy_context()  # in which gradio knows whose page a warning is for
    threading.Thread(target=context.run, args=(produce,), daemon=True).start()
    try:
        while is_wanted():
            try:
                item = made.get(timeout=SECONDS_BETWEEN_SIGNS)
            except queue.Empty:
                yield None
                continue
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            if is_wanted():
                yield item
    finally:
        left.set()


class _End:
    """Nothing more is made, perhaps because of an error."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
