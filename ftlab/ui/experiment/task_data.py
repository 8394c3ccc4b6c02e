"""Data and tokenizers as the page reads them, without torch; what was read lately is kept."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from ftlab.errors import FtlabError
from ftlab.models.reference import parse_model
from ftlab.models.resolve import local_folder
from ftlab.tasks.custom import guess_mapping, to_task_data
from ftlab.tasks.files import columns_of, load_hub_rows
from ftlab.tasks.formatting import FileTokenizer, PromptFormatter
from ftlab.tasks.metrics import get_text_metric
from ftlab.tasks.reference import TaskReference, load
from ftlab.tasks.spec import TaskData, TaskSpec

Rows = list[dict[str, Any]]


def formatter_of(model: str) -> PromptFormatter | None:
    """The formatter of a model that is on this machine; `None` where its tokens are not known."""
    try:
        folder = local_folder(parse_model(model))
        return None if folder is None else _formatter(folder)
    except FtlabError:
        return None


@lru_cache(maxsize=4)
def _formatter(folder: Path) -> PromptFormatter:
    return PromptFormatter(FileTokenizer(folder))


_LOADED: dict[str, tuple[TaskSpec, TaskData]] = {}
_LOADED_AT_MOST = 4
_HUB_ROWS: dict[tuple[str, str | None, str | None], Rows] = {}
_HUB_ROWS_AT_MOST = 2
_HUB_DATA: dict[str, tuple[Rows, TaskData]] = {}


def read_hub_rows(reference: TaskReference) -> Rows:
    """Asks the Hub for the rows and keeps them for `kept_hub_rows`.

    Raises `FtlabError` if they cannot be had.
    """
    _keep_torch_out()
    rows = load_hub_rows(reference.id, reference.config, reference.split)
    _keep(_HUB_ROWS, _hub_key(reference), rows, _HUB_ROWS_AT_MOST)
    return rows


def kept_hub_rows(reference: TaskReference) -> Rows | None:
    """The rows of a data set that was read lately, whatever its columns are mapped to."""
    return _HUB_ROWS.get(_hub_key(reference))


def _hub_key(reference: TaskReference) -> tuple[str, str | None, str | None]:
    return reference.id, reference.config, reference.split


def load_data(reference: TaskReference) -> tuple[str, str, TaskData]:
    """Summary, metric and data; what was read lately is not read again for every model.

    Raises `FtlabError` if the data cannot be read.
    """
    if reference.kind == "hub":
        rows = kept_hub_rows(reference) or read_hub_rows(reference)
        # A data set that was read again is another list of rows.
        known = _HUB_DATA.get(repr(reference))
        if known is None or known[0] is not rows:
            mapping = reference.mapping or guess_mapping(columns_of(rows), rows)
            known = rows, to_task_data(rows, mapping, reference.seed)
            _keep(_HUB_DATA, repr(reference), known, _LOADED_AT_MOST)
        return reference.label, get_text_metric(reference.metric).label, known[1]
    key = data_stamp(reference)
    loaded = _LOADED.get(key) or load(reference)
    _keep(_LOADED, key, loaded, _LOADED_AT_MOST)
    task, data = loaded
    return task.summary, task.metric.label, data


def _keep(kept: dict[Any, Any], key: Any, value: Any, at_most: int) -> None:
    """Keeps the value as the newest, and of all values only the newest ones."""
    kept.pop(key, None)
    kept[key] = value
    for old in list(kept)[:-at_most]:
        kept.pop(old, None)


def _keep_torch_out() -> None:
    """`datasets` imports torch to stream, for torch's own loaders, which nothing here uses.

    Not by its variable USE_TORCH: the workers would inherit that and find no torch.
    """
    import datasets

    datasets.config.TORCH_AVAILABLE = False


def data_stamp(reference: TaskReference) -> str:
    """Tells a reference from others, and the data behind it from what they were before."""
    try:
        stamp = Path(reference.id).stat().st_mtime_ns if reference.kind == "file" else 0
    except OSError:
        stamp = 0
    return f"{reference!r} {stamp}"
