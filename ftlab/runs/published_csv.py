"""Result rows of `method_comparison` as CSV, turned into the documents that they come from.

The columns are those of `peft_metamathqa.csv`: one row a result file, with its configurations as
JSON in two of them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ftlab.errors import FtlabError

COLUMNS = (
    "name", "peft_type", "model_id", "dtype", "batch_size", "max_steps", "optimizer_kwargs",
    "num_trainable_params", "num_total_params", "file_size", "accelerator_memory_max",
    "train_time", "test_accuracy", "accelerator", "peft_config",
)  # fmt: skip
MOST_ROWS = 2000


def documents_of(data: bytes, name: str) -> list[tuple[str, bytes]]:
    """(name of the row, its document as JSON) for each row.

    Raises `FtlabError` for a file that has other columns or cannot be read as CSV. A cell that is
    no number stays text, so that reading the document says which one is wrong.
    """
    try:
        text = data.decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text))
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise FtlabError(
                f"{name} has no column '{missing[0]}'; it needs: {', '.join(COLUMNS)}."
            )
        return list(_documents(reader, name))
    except UnicodeDecodeError:
        raise FtlabError(f"{name} is not UTF-8 text; save it as UTF-8.") from None
    except csv.Error as error:
        raise FtlabError(f"{name} cannot be read as CSV: {error}.") from None


def _documents(reader: csv.DictReader[str], name: str) -> Iterator[tuple[str, bytes]]:
    for number, row in enumerate(reader, start=2):
        if number > MOST_ROWS + 1:
            raise FtlabError(f"{name} has more than {MOST_ROWS:,} rows; split it.")
        yield f"{name}, row {number}", json.dumps(_document(row)).encode()


def _document(row: Mapping[str, str | None]) -> dict[str, Any]:
    def cell(column: str) -> Any:
        return _value(row.get(column))

    adapter = row.get("peft_type") != "full-finetuning"
    steps = cell("max_steps")
    return {
        "run_info": {
            "experiment_name": row["name"],
            "total_time": cell("total_time"),
            "peft_config": cell("peft_config") or {"peft_type": row["peft_type"]}
            if adapter
            else None,
            "train_config": {
                "model_id": row["model_id"],
                "dtype": row["dtype"],
                "batch_size": cell("batch_size"),
                "max_steps": steps,
                "max_seq_length": cell("max_seq_length"),
                "optimizer_type": row.get("optimizer_type") or "AdamW",
                "optimizer_kwargs": cell("optimizer_kwargs") or {},
                "autocast_adapter_dtype": {"True": True, "False": False}.get(
                    row.get("autocast_adapter_dtype") or ""
                ),
            },
        },
        "train_info": {
            "status": "success",
            "train_time": cell("train_time"),
            "accelerator_memory_max": cell("accelerator_memory_max"),
            "file_size": cell("file_size"),
            "num_trainable_params": cell("num_trainable_params"),
            "num_total_params": cell("num_total_params"),
            "metrics": [
                {
                    "step": steps,
                    "test accuracy": cell("test_accuracy"),
                    "forgetting": cell("forgetting"),
                }
            ],
        },
        "meta_info": {
            "system_info": {"accelerator": row["accelerator"]},
            "package_info": {
                f"{package}-version": row.get(f"{package}_version")
                for package in ("peft", "transformers", "torch")
            },
        },
    }


def _value(text: str | None) -> Any:
    """A number or a JSON object; the text itself where it is neither; `None` for an empty cell."""
    if not text or not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
