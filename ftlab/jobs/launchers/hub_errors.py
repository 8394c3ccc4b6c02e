"""What the Hub refuses, in a sentence and without the token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.log import redact

TOKEN = "HF_TOKEN"
_TOKENS = "https://huggingface.co/settings/tokens"


class HubError(FtlabError):
    """`code` is the HTTP status; `None` if no answer came. `is_refusal`: the Hub has said no, so
    nothing was done. Otherwise nobody knows."""

    def __init__(self, sentence: str, code: int | None) -> None:
        super().__init__(sentence)
        self.code = code
        self.is_refusal = code is not None and 400 <= code < 500


@contextmanager
def hub_errors(
    doing: str, token: str, sentences: Mapping[int, str] | None = None
) -> Iterator[None]:
    """Raises `HubError` for any error of huggingface_hub; `doing` is what was asked, as a verb.

    `sentences`, by HTTP status, replace the usual ones, which speak of the environment's token.
    """
    try:
        yield
    except FtlabError:
        raise
    except Exception as error:
        code = getattr(getattr(error, "response", None), "status_code", None)
        known = sentences or {
            401: f"The Hub refuses the token (401): set {TOKEN} to a valid one.",
            402: "There is no credit for this job (402): add some at "
            "https://huggingface.co/settings/billing, or choose a cheaper flavor.",
            403: f"This token may not {doing} (403): it needs the rights to write repositories and "
            f"to start jobs; see {_TOKENS}.",
            404: f"The Hub cannot {doing}: it has no such job or repository (404).",
        }
        said = redact(one_line(error), [token])[:300]
        sentence = known.get(code or 0) or f"The Hub does not {doing} now: {said}"
        raise HubError(sentence, code) from None


def owner_of(api: Any, token: str) -> str:
    """The name of the token's user. Raises `FtlabError` for a token that may only read."""
    with hub_errors("tell whose token it is", token):
        user = api.whoami()
    kind = (user.get("auth") or {}).get("accessToken") or {}
    if kind.get("role") == "read":
        raise FtlabError(f"This token may only read: set {TOKEN} to one that may write.")
    return str(user["name"])
