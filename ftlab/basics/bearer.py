"""A secret that programs send with each request: `Authorization: Bearer …`."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

from ftlab.basics.errors import FtlabError

MIN_CHARACTERS = 16
"""Shortest secret; `python -c "import secrets; print(secrets.token_urlsafe())"` makes one."""


@dataclass(frozen=True)
class BearerToken:
    """The secret of the environment's `variable`, which is not in the repr; "": none is needed."""

    variable: str
    secret: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.secret)

    def refusal(self, authorization: str) -> str:
        """Why a request with that header is not let in; "" if it is."""
        if not self.secret:
            return ""
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return f"Send the token: Authorization: Bearer, and what {self.variable} holds here."
        if not hmac.compare_digest(given.strip().encode(), self.secret.encode()):
            return f"That is not the token that {self.variable} holds here; it may have changed."
        return ""


@dataclass(frozen=True)
class NamedTokens:
    """Several secrets of one variable, by the name of the person to whom each belongs.

    "" is the operator's; without any secret none is needed.
    """

    variable: str
    tokens: Mapping[str, BearerToken] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.tokens)

    def refusal(self, authorization: str) -> str:
        """Why a request with that header is not let in; "" if it is."""
        refused = [token.refusal(authorization) for token in self.tokens.values()]
        return refused[0] if refused and all(refused) else ""

    def name(self, authorization: str) -> str:
        """To whom the token belongs that the header has."""
        fits = (name for name, one in self.tokens.items() if not one.refusal(authorization))
        return next(fits, "")


def read_tokens(variable: str, environment: MutableMapping[str, str]) -> NamedTokens:
    """As `read_token`, of a variable that holds `TOKEN` or `NAME:TOKEN`, with commas between."""
    tokens: dict[str, BearerToken] = {}
    for part in environment.pop(variable, "").split(","):
        if part.strip():
            name, colon, secret = part.strip().rpartition(":")
            if not secret.strip() or (colon and not name.strip()):
                raise FtlabError(
                    f"{variable} has '{name}:' without a token, or a token without its name; give "
                    "NAME:TOKEN, or TOKEN alone for the operator's."
                )
            if name in tokens:
                whose = f"'{name}'" if name else "nobody by name"
                raise FtlabError(f"{variable} has two tokens of {whose}; give each person one.")
            tokens[name] = read_token(variable, {variable: secret})
    if len({token.secret for token in tokens.values()}) < len(tokens):
        raise FtlabError(f"{variable} gives two people the same token; give each one of their own.")
    return NamedTokens(variable, tokens)


def read_token(variable: str, environment: MutableMapping[str, str]) -> BearerToken:
    """The token of that variable, which is removed, so that no child process inherits it.

    Raises `FtlabError` for one that could be guessed, or that no header can hold.
    """
    secret = environment.pop(variable, "").strip()
    if secret and len(secret) < MIN_CHARACTERS:
        raise FtlabError(
            f"The token in {variable} has {len(secret)} characters; give at least {MIN_CHARACTERS}."
        )
    if not secret.isascii() or not secret.isprintable():
        raise FtlabError(f"The token in {variable} must be printable ASCII, for a header holds it.")
    return BearerToken(variable, secret)
