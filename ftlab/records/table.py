"""Runs as a pandas table: one row per run, whatever its origin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ftlab.records.metrics import METRICS
from ftlab.records.result import MEMORY_PARTS

if TYPE_CHECKING:
    import pandas as pd

Origin = Literal["measured", "opened", "recorded", "imported"]
"""Measured by this app in its runs folder; on another machine, opened from a packed sweep; shipped
with ftlab; or published by third parties."""

ORIGINS: tuple[Origin, ...] = ("measured", "opened", "recorded", "imported")


def origin_label(origin: str) -> str:
    return "from another machine" if origin == "opened" else origin


_NAMES = (
    "run_id", "sweep_id", "origin", "model", "task", "method", "variant", "hyperparameters",
    "seed", "status",
)  # fmt: skip
_NUMBERS = (
    *(key for metric in METRICS.values() for key in (metric.key, *metric.interval_keys)),
    "steps_done", "learning_rate", "before_model_bytes", "load_peak_bytes", "evaluate_peak_bytes",
    "save_peak_bytes", "total_seconds", "predicted_total_seconds", "step_seconds",
    "predicted_net_peak_bytes",
    *(f"anatomy_{part}_bytes" for part in MEMORY_PARTS),
    *(f"predicted_{part}_bytes" for part in MEMORY_PARTS),
)  # fmt: skip
_FACTS = (
    "peak_memory_kind", "adapter_dtype", "metric", "dtype_policy", "device", "machine", "steps",
    "batch_size", "disturbed", "archived", "tags", "note", "created_at", "run_dir", "reason",
    "conditions", "base_precision", "owner",
)  # fmt: skip

ROW_KEYS = (*_NAMES, *_NUMBERS, *_FACTS)
"""The columns of the table: texts, numbers (floats, NaN: not measured), and further facts.

`conditions` is what must be equal for runs to be compared, as read by
`ftlab.records.comparability`; `None` for an imported result, which is never compared.
`base_precision` is the precision of the frozen base, "" if the dtype policy determines it.

The peak of a phase is the size of the whole process (or the bytes that torch allocated, see
`peak_memory_kind`), so the net peak is this value minus `before_model_bytes`.
"""


class HasRow(Protocol):
    def row(self) -> dict[str, Any]:
        """One flat row with the keys of `ROW_KEYS`; `None`: not measured."""


def to_table(runs: Iterable[HasRow]) -> pd.DataFrame:
    """The runs as a DataFrame: own runs first, newest sweep first, then in queue order."""
    import pandas as pd

    rows = sorted((run.row() for run in runs), key=lambda row: str(row["run_id"]))
    rows.sort(key=lambda row: str(row["sweep_id"]), reverse=True)
    rows.sort(key=lambda row: ORIGINS.index(row["origin"]))
    table = pd.DataFrame({key: [row[key] for row in rows] for key in ROW_KEYS})
    return table.astype(dict.fromkeys(_NUMBERS, float))
