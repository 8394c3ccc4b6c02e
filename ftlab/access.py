"""Who may do what through the page: its operator everything, a stranger as little as can be.

On loopback the visitor is the operator. Behind a login, visitors name local folders only where the
operator lists them. A public demo trains nothing, takes nothing in, and asks nobody for anything.

`Access` answers for what a visitor names. What would be written is refused again where it is
written: a demo's runs folder is closed (`ftlab.runs.closed`), its uploads by the server's gate.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ftlab.errors import FtlabError
from ftlab.models.reference import BUNDLED_ID
from ftlab.tasks.files import EXTENSIONS
from ftlab.tasks.reference import TaskReference
from ftlab.tasks.registry import TASKS
from ftlab.words import shown_name

_LONGEST_PATH = 4_096  # characters; no system opens a longer one
_BUNDLED = ("bundled", BUNDLED_ID, BUNDLED_ID.split("/")[1])
_DRIVE = re.compile(r"[A-Za-z]:")
_SHOWN_CHARACTERS = 120

DEMO_CLOSED = (
    "This is a public demo: it trains nothing, keeps nothing and takes no files; to do that, "
    "duplicate the Space and set its secret FTLAB_AUTH to user:password."
)
DEMO_ASKS_NOBODY = (
    "This public demo asks the Hugging Face Hub for nothing; choose a model of the list, paste its "
    "config.json in Plan, or duplicate the Space."
)


@dataclass(frozen=True)
class Access:
    """What visitors of one app may do.

    `folders` are those in which a local model or file may be named; `None`: anywhere. `uploads` is
    where the app keeps what visitors uploaded, which they may name as well. `space` is the id of
    the Hugging Face Space that serves a demo, "" elsewhere. `logs_in`: they come with a password.
    `answer_seconds` is how long the panes of one prompt may write (`None`: to their end).
    """

    may_train: bool = True
    may_upload: bool = True
    may_ask_hub: bool = True
    folders: tuple[Path, ...] | None = None
    uploads: Path | None = None
    space: str = ""
    logs_in: bool = False
    answer_seconds: float | None = None

    @property
    def is_demo(self) -> bool:
        return not self.may_train

    def check_training(self) -> None:
        """Before anything is launched, ended, changed or removed. Raises `FtlabError`."""
        if not self.may_train:
            raise FtlabError(DEMO_CLOSED)

    def check_upload(self) -> None:
        """Before a file of a visitor's is read. Raises `FtlabError`."""
        if not self.may_upload:
            raise FtlabError(DEMO_CLOSED)

    def check_model(self, name: str) -> None:
        """Raises `FtlabError` if a visitor may not name that model; nothing of it is opened."""
        if not isinstance(name, str):
            raise FtlabError("The model's name is no text; give one as in 'bundled'.")
        if name.strip() in _BUNDLED:
            return
        if self.folders is not None and is_path(name):
            self._check_path(name)
        elif not self.may_ask_hub:
            raise FtlabError(DEMO_ASKS_NOBODY)

    def check_task(self, task: TaskReference) -> None:
        """Raises `FtlabError` if a visitor may not name that data; nothing of it is opened."""
        if task.kind == "hub" and not self.may_ask_hub:
            raise FtlabError(DEMO_ASKS_NOBODY)
        if task.kind == "file" and task.id and self.folders is not None:
            self._check_path(task.id)

    def check_task_text(self, text: str) -> None:
        """`check_task` on a task as the command line and the API write it, before it is read."""
        if not isinstance(text, str):
            raise FtlabError("The task is no text; name one as in 'sql'.")
        if text in TASKS:
            return
        if text.startswith("hub:"):
            self.check_task(TaskReference("hub", text.removeprefix("hub:")))
        elif is_path(text) or Path(text).suffix.lower() in EXTENSIONS:
            self.check_task(TaskReference("file", text))

    def _check_path(self, text: str) -> None:
        """Whether the path, with all links followed, lies in a folder that may be named."""
        listed = tuple(self.folders or ())
        allowed = listed if self.uploads is None else (*listed, self.uploads)
        if lies_within(text, allowed):
            return
        shown = shown_name(text, _SHOWN_CHARACTERS)
        if not listed:
            raise FtlabError(
                f"'{shown}' is a path of the machine that serves this page, and none may be named "
                "here; the operator can list folders with --allow-folder."
            )
        names = ", ".join(f"'{folder}'" for folder in listed)
        raise FtlabError(
            f"'{shown}' does not lie in a folder that may be named here; name one within {names}."
        )


EVERYTHING = Access()
"""On loopback, where the visitor is the operator."""


DEMO_ANSWER_SECONDS = 5.0
"""Two cores write some hundred tokens in it."""


def demo_access(space: str = "") -> Access:
    """A public demo's: what ships with ftlab may be looked at and tried."""
    return Access(False, False, False, folders=(), space=space, answer_seconds=DEMO_ANSWER_SECONDS)


def is_path(text: str) -> bool:
    """Whether a name means something of this machine's disk, in any system's way of writing it.

    What names an existing folder is a path however it is written, as `parse_model` takes it.
    """
    name = text.strip()
    if not name:
        return False
    if name[0] in "/.~\\" or _DRIVE.match(name) or "\\" in name or "\x00" in name:
        return True
    if ".." in name.split("/") or name.lower().startswith("file:"):
        return True
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long for a file's name
        return False


def lies_within(text: str, folders: Iterable[Path]) -> bool:
    """Whether the path leads into one of the folders once every link and `..` is followed.

    A home folder by its "~", a NUL, links in a circle, and what is no path of this system never do.
    """
    name = text.strip()
    if not name or name[0] == "~" or "\x00" in name or "\\" in name or _DRIVE.match(name):
        return False
    if len(str(name)) > _LONGEST_PATH:  # following one of a million parts takes a minute
        return False
    try:
        try:
            real = Path(os.path.realpath(name, strict=True))
        except FileNotFoundError:
            real = Path(os.path.realpath(name))
        return any(real.is_relative_to(os.path.realpath(folder)) for folder in folders)
    except (OSError, ValueError):
        return False
