"""Errors that are meant for people.

A `FtlabError` carries one sentence that names the value, the rule and the way out. Page, command
line and API show that sentence alone; everything else is a bug and goes to the log with its
traceback.
"""

from __future__ import annotations

from dataclasses import dataclass


class FtlabError(Exception):
    """Something a person can put right; `str(error)` is the sentence to show."""


@dataclass(frozen=True)
class FieldError:
    """One wrong field of a request: `field` is its dotted name, `message` the sentence to show."""

    field: str
    message: str


class InvalidRequest(FtlabError):
    """A request with at least one wrong field; `errors` lists them all."""

    def __init__(self, errors: list[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__(" ".join(error.message for error in errors))


class Diverged(FtlabError):
    """A training that went astray: its loss is no number, or far above where it began."""


class NotEnoughMemory(FtlabError):
    """A device on which too little is free for a run to begin."""


class NotApplicable(FtlabError):
    """A method that a model, or the installed versions, cannot be trained with."""


def one_line(error: BaseException) -> str:
    """The error as one line without a traceback, for a record or a status line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, FtlabError) else f"{type(error).__name__}: {text}"
