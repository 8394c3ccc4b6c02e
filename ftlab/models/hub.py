"""The Hugging Face Hub, and what it may answer instead of a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ftlab.errors import FtlabError

TIMEOUT_SECONDS = 5
"""A short one, or a Hub out of reach is waited for by the minute."""


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
