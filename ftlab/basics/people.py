"""Who asks: the person on whose behalf code runs, and what that person may see and change.

Things that people make have an owner: the name that its maker logged in with, "" for the operator
of the machine, who has no login. The server says who asks, for each request and each event of a
page (`ftlab/tabs/gate.py`, `ftlab/tabs/serve.py`). Commands and workers run for the operator. The
functions that read, write and remove things ask here, so that no caller has to pass it on.

Another thread knows it only if it runs in a copy of the context (`contextvars.copy_context`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from ftlab.basics.errors import FtlabError
from ftlab.basics.words import plural

MOST_QUEUED = 200
"""Runs that one person may have queued or running, unless the operator says otherwise."""

LONGEST_NAME = 64


@dataclass(frozen=True)
class Person:
    """`name` is "" for the operator. `most_queued`: open runs; `None`: no limit."""

    name: str = ""
    sees_all: bool = True
    changes_all: bool = True
    most_queued: int | None = None

    @property
    def view(self) -> str:
        """The same for all who see the same: the key of what was made for them."""
        return "" if self.sees_all else f"of {self.name}"

    def sees(self, owner: str) -> bool:
        return self.sees_all or (owner == self.name != "")

    def may_change(self, owner: str) -> bool:
        return self.changes_all or (owner == self.name != "")

    def check_change(self, owner: str, what: str) -> None:
        """Raises `FtlabError` unless the person may end, change or remove `what` of that owner."""
        if not self.may_change(owner):
            whose = f"belongs to {owner}" if owner else "was made without a login"
            raise FtlabError(f"{what} {whose}; only its owner or an admin may do that.")

    def check_room(self, now: int, more: int) -> None:
        """Raises `FtlabError` if `more` runs beside the `now` open ones are too many."""
        most = self.most_queued
        if most is None or now + more <= most:
            return
        if not now:
            raise FtlabError(
                f"That would be {plural(more, 'run')}, and {most} is the most of one person here; "
                "queue fewer."
            )
        raise FtlabError(
            f"{plural(now, 'run')} of yours wait or run already; with {more} more it would be more "
            f"than {most}, the most of one person here. Wait until some have ended, end some, or "
            "queue fewer."
        )


OPERATOR = Person()
NOBODY = Person("", sees_all=False, changes_all=False, most_queued=0)
"""Where people log in, code that answers none of them."""

_ASKING: ContextVar[Person] = ContextVar("asking", default=OPERATOR)


def asking() -> Person:
    """The person on whose behalf the calling code runs."""
    return _ASKING.get()


@contextmanager
def asked_by(person: Person) -> Iterator[None]:
    """The code within runs on behalf of that person."""
    token = _ASKING.set(person)
    try:
        yield
    finally:
        _ASKING.reset(token)


def is_name(text: str) -> bool:
    """Whether somebody may log in with that name: it is shown, compared and stored in records."""
    return text == text.strip() and 0 < len(text) <= LONGEST_NAME and text.isprintable()


@dataclass(frozen=True)
class People:
    """The people of one app. Where nobody logs in (`logs_in` is false), all are the operator.

    `is_private`: each sees what is one's own; else all see all. Admins see and change everything.
    """

    logs_in: bool = False
    is_private: bool = False
    admins: frozenset[str] = field(default_factory=frozenset)
    most_queued: int | None = MOST_QUEUED

    def person(self, name: str | None) -> Person:
        """The person of that login; `None` for a request without one."""
        if not self.logs_in:
            return OPERATOR
        if not name:
            return NOBODY
        if name in self.admins:
            return Person(name)
        return Person(name, not self.is_private, False, self.most_queued)

    def agent(self, name: str) -> Person:
        """The person whose token an agent sent; a token without a name is the operator's."""
        return self.person(name) if name else OPERATOR
