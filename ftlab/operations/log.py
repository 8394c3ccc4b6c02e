"""The app's own log: one JSON object a line, in files that rotate.

Whatever part of ftlab has something to tell calls `note` (or `note_error`); it is written only
while an `app_log` is open, which is in the process of the app. A log that cannot be written is
said once on stderr and stops nothing.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from ftlab.operations.redaction import redact, secrets_of, without_inputs

FILE_NAME = "app.log"
FILE_BYTES = 2_000_000
OLD_FILES = 4  # besides the one that is written, so 10 MB in all
_LOGGER = "ftlab.app"
_LONGEST_MESSAGE = 500  # characters
_DEEPEST_STACK = 40  # frames, the innermost ones

logging.getLogger(_LOGGER).addHandler(logging.NullHandler())  # silence where no log is open


def note(event: str, **facts: Any) -> None:
    """Notes that something was done, as in `note("runs deleted", runs=["…"])`.

    Facts are ids, counts and names of ours: never what a person wrote.
    """
    logging.getLogger(_LOGGER).info(event, extra={"facts": facts})


def note_refusal(event: str, **facts: Any) -> None:
    """Notes that something was asked for and not done."""
    logging.getLogger(_LOGGER).warning(event, extra={"facts": facts})


def note_error(event: str, error: BaseException, inputs: Any = None, **facts: Any) -> None:
    """Notes an error that nobody foresaw, with its stack.

    `inputs` is what a person had sent: it is taken out of the error's message.
    """
    told = {
        "error": type(error).__name__,
        "message": without_inputs(str(error), inputs)[:_LONGEST_MESSAGE],
        "stack": _stack(error),
    }
    logging.getLogger(_LOGGER).error(event, extra={"facts": facts | told})


@contextmanager
def app_log(folder: Path) -> Iterator[None]:
    """Writes what is noted to `app.log` in the folder, until it is left."""
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
    """A record as one line of JSON without secrets: time (UTC), level, pid, event, facts."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        row = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "pid": record.process,
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        return redact(json.dumps(row, ensure_ascii=False, default=str), _in_json(secrets_of()))


class QuietFile(RotatingFileHandler):
    """A rotating file; a disk that is full is said once, and again after it could be written."""

    _broken = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not self._broken:
            _say(f"{self.baseFilename} cannot be written ({error}); the app goes on without it.")
        self._broken = True
        if self.stream is not None:
            # What the disk refused stays in the buffer of the file and would be refused for ever.
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
        # Opened at the first line, where an error is the handler's own affair.
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


def _in_json(secrets: tuple[str, ...]) -> tuple[str, ...]:
    """The secrets as they stand in a line of JSON, where a quote or a backslash is escaped."""
    return tuple(json.dumps(secret, ensure_ascii=False)[1:-1] for secret in secrets)


def _stack(error: BaseException) -> list[str]:
    """File, line and function of each frame; without the source's text or any value."""
    frames = traceback.extract_tb(error.__traceback__)[-_DEEPEST_STACK:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
