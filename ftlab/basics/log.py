"""The app's log: JSON lines in rotating files, with secrets redacted and repeats counted.

Any part of ftlab calls `note` (or `note_error`). Events are written only while an `app_log` is
open, which is the case in the app's process. If the log cannot be written, this is reported once on
stderr, and the app continues.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from ftlab.basics.recent import Recent

HIDDEN = "[hidden]"
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9_-]{6,}")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{6,}")
_SECRET_NAME = re.compile(
    r"(?i)token(?!izers)|secret|passw|credential|(api|access|private)_?key|auth"
)
_SHORTEST = 6
"""Characters; shorter values ("1", "true") are not redacted, as they occur in ordinary text."""


def is_secret_name(name: str) -> bool:
    """Whether the name of an environment variable looks like that of a secret."""
    return bool(_SECRET_NAME.search(name))


def secrets_of(environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The values of variables with a name like a secret, longest first.

    For "user:password", the password alone is included too.
    """
    given = os.environ if environment is None else environment
    found = set()
    for name, value in given.items():
        if is_secret_name(name):
            found |= {value.strip(), value.strip().partition(":")[2]}
    return tuple(sorted((v for v in found if len(v) >= _SHORTEST), key=len, reverse=True))


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Replaces Hugging Face tokens, HTTP credentials and the secrets in the text."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return _BEARER.sub(rf"\1 {HIDDEN}", _TOKEN.sub(HIDDEN, text))


def without_inputs(text: str, inputs: Any) -> str:
    """Replaces in the text the user's input of an event: nested lists and objects of texts."""
    for given in sorted(set(_texts(inputs)), key=len, reverse=True):
        for form in {given, repr(given)[1:-1]}:
            text = text.replace(form, "[given]")
    return text


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        if len(value) >= _SHORTEST:
            yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


FILE_NAME = "app.log"
FILE_BYTES = 2_000_000
OLD_FILES = 4  # besides the current one, so 10 MB in total
_LOGGER = "ftlab.app"
_LONGEST_MESSAGE = 500  # characters
_DEEPEST_STACK = 40  # frames, the innermost ones

logging.getLogger(_LOGGER).addHandler(logging.NullHandler())  # silence where no log is open


def note(event: str, **facts: Any) -> None:
    """Logs an event, as in `note("runs deleted", runs=["…"])`; facts are never user input."""
    logging.getLogger(_LOGGER).info(event, extra={"facts": facts})


def note_refusal(event: str, **facts: Any) -> None:
    """Logs a rejected request."""
    logging.getLogger(_LOGGER).warning(event, extra={"facts": facts})


def note_error(event: str, error: BaseException, inputs: Any = None, **facts: Any) -> None:
    """Logs an unexpected error with its stack; `inputs`, the user's, are removed from it."""
    frames = traceback.extract_tb(error.__traceback__)[-_DEEPEST_STACK:]
    told = {
        "error": type(error).__name__,
        "message": without_inputs(str(error), inputs)[:_LONGEST_MESSAGE],
        # without source text or values
        "stack": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
    logging.getLogger(_LOGGER).error(event, extra={"facts": facts | told})


@contextmanager
def app_log(folder: Path) -> Iterator[None]:
    """Writes events to `app.log` in the folder while the context is open."""
    logger = logging.getLogger(_LOGGER)
    handler = _open(folder)
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
        handler.close()


class JsonLines(logging.Formatter):
    """Formats a record as one JSON line without secrets: time (UTC), level, pid, event, facts."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        row = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "pid": record.process,
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        text = json.dumps(row, ensure_ascii=False, default=str)
        # as escaped in a JSON string: quotes, backslashes
        return redact(text, [json.dumps(x, ensure_ascii=False)[1:-1] for x in secrets_of()])


class QuietFile(RotatingFileHandler):
    """A rotating file that reports a write error once, and again only after a successful write."""

    _broken = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not self._broken:
            _say(f"{self.baseFilename} cannot be written ({error}); the app goes on without it.")
        self._broken = True
        if self.stream is not None:
            # Unwritten data stays in the file's buffer, so every later write would fail too.
            stream, self.stream = self.stream, None
            with suppress(OSError):
                stream.close()

    def flush(self) -> None:
        super().flush()
        if self.stream is not None:
            self._broken = False


def _open(folder: Path) -> logging.Handler:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # With delay=True the file is opened at the first line, where `handleError` gets the error.
        handler = QuietFile(
            folder / FILE_NAME, maxBytes=FILE_BYTES, backupCount=OLD_FILES,
            encoding="utf-8", delay=True,
        )  # fmt: skip
    except OSError as error:
        _say(f"There will be no log in {folder} ({error.strerror}); the app goes on without it.")
        return logging.NullHandler()
    handler.setFormatter(JsonLines())
    return handler


def _say(sentence: str) -> None:
    print(f"ftlab: {sentence}", file=sys.stderr)


ERROR_SECONDS = 300.0
REFUSAL_SECONDS = 60.0
"""After an event is logged, repeats of the same kind are only counted for this long."""

_MOST_KINDS = 10_000


class Repeats:
    """Rate limiter per kind of event. Thread-safe."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._lock = threading.Lock()
        self._kinds: Recent[tuple[str, ...], tuple[float, int]] = Recent(_MOST_KINDS)

    def since_last(self, *kind: str) -> dict[str, int] | None:
        """The number `repeated` since the kind was last logged, if any; `None`: only counted."""
        with self._lock:
            now = self._clock()
            since, count = self._kinds.get(kind, (now - self._seconds, 0))
            is_told = now - since >= self._seconds
            self._kinds[kind] = (now, 0) if is_told else (since, count + 1)
        told = {"repeated": count} if count else {}
        return told if is_told else None


class RepeatedErrors(Repeats):
    """Logs the first error of a kind with its stack, and counts the next ones as `repeated`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(ERROR_SECONDS, clock)

    def note(
        self, event: str, error: BaseException, inputs: Any = None, *, place: str, **facts: Any
    ) -> None:
        """As `note_error`; `place` is the part of the app: a handler, a kind of request."""
        counted = self.since_last(event, place, type(error).__name__)
        if counted is not None:
            note_error(event, error, inputs, **facts, **counted)


class RepeatedRefusals(Repeats):
    """Logs the first refusal of a kind per client, and counts the next ones as `repeated`."""

    def __init__(self) -> None:
        super().__init__(REFUSAL_SECONDS)

    def note(self, event: str, *, client: str, status: int, **facts: Any) -> None:
        """As `note_refusal`, for a response with that HTTP status."""
        counted = self.since_last(event, client, str(status))
        if counted is not None:
            note_refusal(event, status=status, client=client, **facts, **counted)
