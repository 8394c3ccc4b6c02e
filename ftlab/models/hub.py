"""The Hugging Face Hub, and what it may answer instead of a file."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ftlab.basics.errors import FtlabError
from ftlab.models.reference import BUNDLED_ID

TIMEOUT_SECONDS = 5
"""A short one, or a Hub out of reach is waited for by the minute."""

_TRUE = ("1", "on", "yes", "true")  # what huggingface_hub takes for true in its variables


def is_offline() -> bool:
    """Whether the machine was told to leave the Hub alone."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").lower() in _TRUE for name in names)


def ask_hub() -> bool:
    """Whether the Hub answers a question about a small file that everybody may read."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(BUNDLED_ID, "config.json"), timeout=TIMEOUT_SECONDS)
    except Exception:  # the errors of its transport are another library's in each release
        return False
    return True


class HubReach:
    """Whether the Hub can be reached: asked once, by the first who wants to know.

    The question is asked in a thread of its own, so that nobody waits longer than he will.
    """

    def __init__(self, ask: Callable[[], bool] = ask_hub) -> None:
        self._ask = ask
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None
        self._reached = False

    def is_reached(self, wait_seconds: float = TIMEOUT_SECONDS + 1) -> bool:
        """The answer, waited for so long at most; never asked where the machine is offline."""
        if is_offline():
            return False
        with self._turn:
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="hub-reach", daemon=True)
                self._thread.start()
        self._thread.join(wait_seconds)
        return self._reached

    def _look(self) -> None:
        self._reached = self._ask()


@contextmanager
def hub_answers(name: str, what: str, otherwise: str) -> Iterator[None]:
    """Says in a sentence why something of the model of that id cannot be had.

    `what` is asked for ("The config of 'a/b'"); `otherwise` is what to do where the Hub is out of
    reach. Raises `FtlabError`.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        raise FtlabError(
            f"The model '{name}' is gated: accept its licence on the Hub and set HF_TOKEN."
        ) from None
    except RepositoryNotFoundError:
        raise FtlabError(
            f"The Hub has no model '{name}' (or it is private: set HF_TOKEN)."
        ) from None
    except FtlabError:
        raise
    except Exception as error:  # the errors of its transport are another library's in each release
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise FtlabError(f"{what} could not be had: the Hub has no such file of it.") from None
        raise FtlabError(
            f"{what} could not be had: it is not in the local cache and the Hugging Face Hub could "
            f"not be reached ({type(error).__name__}). {otherwise}"
        ) from None
