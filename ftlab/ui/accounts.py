"""Who may log in: names with passwords, from a file or the environment, never a command line."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

from ftlab.errors import FtlabError

VARIABLE = "FTLAB_AUTH"
MIN_CHARACTERS = 8
"""Of a password: at the rate that `visitors.Attempts` allows, fewer could be guessed."""

_MAX_BYTES = 64 * 1024
_EXAMPLE = "one line each, as in ada:a-long-password"


@dataclass(frozen=True)
class Accounts:
    """Passwords by user, neither shown nor passed on."""

    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return bool(self.passwords)

    async def check(self, user: str, password: str) -> bool:
        """Whether that is the user's password; takes as long for a user that there is not."""
        known = self.passwords.get(user)
        wanted = secrets.token_hex() if known is None else known
        return hmac.compare_digest(_digest(wanted), _digest(password)) and known is not None


def read_accounts(file: Path | None, environment: MutableMapping[str, str]) -> Accounts:
    """The accounts of the file, or of `FTLAB_AUTH`, which is taken out of the environment.

    Taken out, so that no process that the app starts inherits a password. Raises `FtlabError`
    where a line is none, or the file can be read by others of the machine.
    """
    text = environment.pop(VARIABLE, "")
    if file is None:
        return _parse(text, VARIABLE)
    return _parse(_read(file), f"'{file}'", must_have=True)


def _digest(password: str) -> bytes:
    """Of one length for all, so that the comparison tells nothing of a password's length."""
    return hashlib.sha256(password.encode("utf-8", "surrogatepass")).digest()


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            data = stream.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        if ":" in file.name:  # said without it: what was meant is a password
            raise FtlabError(
                "--auth names no file that can be read; it takes a file, never user:password, "
                f"which others could read off the command line. Give {_EXAMPLE}."
            ) from None
        reason = getattr(error, "strerror", None) or error
        raise FtlabError(
            f"The accounts in '{file}' cannot be read ({reason}); name a file with {_EXAMPLE}."
        ) from None
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise FtlabError(
            f"The accounts in '{file}' can be read or changed by others of this machine (mode "
            f"{stat.S_IMODE(mode):o}), who could then log in; run: chmod 600 '{file}'."
        )
    if len(data) > _MAX_BYTES:
        raise FtlabError(f"'{file}' has more than {_MAX_BYTES:,} bytes; give {_EXAMPLE}.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise FtlabError(f"'{file}' is no text in UTF-8; give {_EXAMPLE}.") from None


def _parse(text: str, where: str, must_have: bool = False) -> Accounts:
    """Lines of `user:password`; blank ones, and those that begin with "#", say nothing."""
    passwords: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, password = line.partition(":")
        user = user.strip()
        if not colon or not user:
            raise FtlabError(f"Line {number} of {where} is no user:password; give {_EXAMPLE}.")
        if len(password) < MIN_CHARACTERS:
            raise FtlabError(
                f"The password in line {number} of {where} has {len(password)} characters; give "
                f"at least {MIN_CHARACTERS}."
            )
        if user in passwords:
            raise FtlabError(f"Line {number} of {where} names a user again; give each one line.")
        passwords[user] = password
    if must_have and not passwords:
        raise FtlabError(f"{where} names nobody; give {_EXAMPLE}.")
    return Accounts(passwords)
