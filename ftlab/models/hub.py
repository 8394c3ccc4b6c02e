"""Access to the Hugging Face Hub: reachability, and error messages for failed requests."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ftlab.basics.errors import FtlabError
from ftlab.models.reference import BUNDLED_ID

TIMEOUT_SECONDS = 5
"""A short timeout; otherwise an unreachable Hub blocks for minutes."""

_TRUE = ("1", "on", "yes", "true")  # the values that huggingface_hub treats as true


def is_offline() -> bool:
    """Whether environment variables disable access to the Hub."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").lower() in _TRUE for name in names)


def ask_hub() -> bool:
    """Whether the Hub answers a metadata request for a small public file."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(BUNDLED_ID, "config.json"), timeout=TIMEOUT_SECONDS)
    except Exception:  # the transport library, and so its error types, vary by release
        return False
    return True


class HubReach:
    """Whether the Hub can be reached; checked once, in a thread, so that no caller waits long."""

    def __init__(self, ask: Callable[[], bool] = ask_hub) -> None:
        self._ask = ask
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None
        self._reached = False

    def is_reached(self, wait_seconds: float = TIMEOUT_SECONDS + 1) -> bool:
        """The result, or `False` after the timeout; no request is made in offline mode."""
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
def hub_answers(
    name: str,
    part: str = "model",
    otherwise: str = "Use the bundled model, a local folder, or a machine with a way to the Hub.",
) -> Iterator[None]:
    """Converts Hub errors for the model with that id into `FtlabError` with a readable message.

    `part` is what was requested ("model", "config of"); `otherwise` is the advice to show if the
    Hub cannot be reached.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    what = f"The {part} '{name}'"
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
    except Exception as error:  # the transport library, and so its error types, vary by release
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise FtlabError(f"{what} could not be had: the Hub has no such file of it.") from None
        raise FtlabError(
            f"{what} could not be had: it is not in the local cache and the Hugging Face Hub could "
            f"not be reached ({type(error).__name__}). {otherwise}"
        ) from None
