"""Asks for predictions on behalf of a page, as long as somebody looks at it."""

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
"""A silent wait is broken that often: gradio closes the handler of a page that has gone only where
it gives something."""

_Item = TypeVar("_Item")


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
