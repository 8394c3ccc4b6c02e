"""Errors that are shown to users.

The message of an `FtlabError` is one sentence with the value, the rule and the fix. The page, the
command line and the API show only that sentence. Every other exception is a bug and is logged with
its traceback.
"""

from __future__ import annotations

from dataclasses import dataclass


class FtlabError(Exception):
    """An error that the user can fix; `str(error)` is the sentence to show."""


@dataclass(frozen=True)
class FieldError:
    """One invalid field of a request: `field` is its dotted name, `message` the text to show."""

    field: str
    message: str


class InvalidRequest(FtlabError):
    """A request with at least one invalid field; `errors` lists all of them."""

    def __init__(self, errors: list[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__(" ".join(error.message for error in errors))


class Diverged(FtlabError):
    """A training diverged: its loss is not a number, or far above its first value."""


class NotEnoughMemory(FtlabError):
    """The device has too little free memory to start a run."""


class NotApplicable(FtlabError):
    """A method that does not work with the model or the installed library versions."""


def one_line(error: BaseException) -> str:
    """The error as one line without a traceback, for a record or a status line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, FtlabError) else f"{type(error).__name__}: {text}"
