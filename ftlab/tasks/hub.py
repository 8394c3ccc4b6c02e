"""Rows of a data set of the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftlab.errors import FtlabError, one_line
from ftlab.models.reference import is_owned_hub_id

MAX_HUB_ROWS = 20_000


def load_hub_rows(
    dataset_id: str, config: str | None, split: str | None, limit: int = MAX_HUB_ROWS
) -> list[dict[str, Any]]:
    """The first `limit` rows of a split ("train" where None); no code of the data set runs.

    An id without an owner is refused: `datasets` has file readers under such names, one of them for
    pickles.

    Raises FtlabError where the id is malformed or the data set cannot be reached or read.
    """
    if not is_owned_hub_id(dataset_id):
        raise FtlabError(f"'{dataset_id[:120]}' is no data set id; write it as owner/name.")
    if Path(dataset_id).exists():
        # `datasets` would read this folder instead.
        raise FtlabError(f"'{dataset_id}' is a folder here too; rename it.")
    from datasets import load_dataset
    from huggingface_hub import HfApi

    split = split or "train"
    tried = f"data set '{dataset_id}'" + (f", config '{config}'" if config else "")
    try:
        # Without a connection this fails at once, load_dataset after 20 seconds of retries.
        HfApi().dataset_info(dataset_id, timeout=10)
        stream = load_dataset(dataset_id, config, split=split, streaming=True)
        rows = [dict(row) for row in stream.take(limit)]
    except Exception as error:  # `datasets` raises whatever its HTTP and file layers raise
        raise FtlabError(
            f"Could not read {tried}, split '{split}', from the Hub ({one_line(error)[:160]}); "
            "check the names and the connection, or download it and use the file."
        ) from error
    if not rows:
        raise FtlabError(f"{tried}, split '{split}', has no rows; choose another split.")
    return rows
