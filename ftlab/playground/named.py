"""Whether a visitor may have panes answer on the base model that is named. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftlab.access import Access
from ftlab.errors import FieldError, FtlabError, InvalidRequest
from ftlab.playground.panes import line_up
from ftlab.playground.validation import MAX_PANES


def check_named(panes: Sequence[str], model: str | None, runs_folder: Path, access: Access) -> None:
    """Raises `InvalidRequest` for a base that `access` does not let a visitor name.

    The base of a run in one of the panes was named by whoever launched it, and is open to all.
    """
    if access.folders is None and access.may_ask_hub:
        return
    lineup = line_up(panes[:MAX_PANES], None, runs_folder)
    wanted = model or lineup.model
    if any(source.sweep_id and source.model == wanted for source in lineup.found.values()):
        return
    try:
        access.check_model(wanted)
    except FtlabError as error:
        raise InvalidRequest([FieldError("model", str(error))]) from None
