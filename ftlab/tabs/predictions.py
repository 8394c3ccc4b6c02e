"""Requests predictions for a page, as long as the page is open."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from ftlab.basics.visitor_turns import Visitor
from ftlab.prediction.client import NobodyWaits, Predictor
from ftlab.prediction.fit import Ask
from ftlab.prediction.question import Prediction, Question

SECONDS_BETWEEN_SIGNS = 1.0
"""Longest time without a yield: gradio stops the handler of a closed page only at a yield."""

_Item = TypeVar("_Item")


def while_there(
    predictor: Predictor,
    visitor: Visitor,
    make: Callable[[Ask], Iterable[_Item]],
    is_wanted: Callable[[], bool] = lambda: True,
) -> Iterator[_Item | None]:
    """Yields the items of `make(ask)`, and `None` while it waits for the next one.

    `make` gets the function that requests predictions. When this generator is closed, or
    `is_wanted` returns False, open requests are cancelled. Raises what `make` raises.
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
        except BaseException as raised:  # raised again in the consumer
            error = raised
        made.put(_End(error))

    context = contextvars.copy_context()  # gradio finds the page for a warning in it
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
    """Marks the end of the items, with the error if there was one."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
