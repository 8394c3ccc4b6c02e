"""The store: a view on a folder of run directories, as objects and as a pandas table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlab.errors import FtlabError, one_line
from ftlab.methods.registry import get_method
from ftlab.runs.directory import RunDirectory, run_directories
from ftlab.runs.result import OPEN, RunResult, Status
from ftlab.runs.spec import RunSpec

if TYPE_CHECKING:
    import pandas as pd

ROW_KEYS = (
    "run_id", "sweep_id", "model", "task", "method", "variant", "seed", "status",
    "trainable_params", "total_params", "trainable_share", "peak_memory_bytes",
    "net_peak_memory_bytes", "peak_memory_kind", "train_seconds", "tokens_per_second",
    "adapter_bytes", "adapter_dtype", "eval_loss_before", "eval_loss_after", "score_before",
    "score_after", "learning_rate", "dtype_policy", "device", "steps", "batch_size", "disturbed",
    "created_at", "run_dir", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One run as it is now. `result` is `None` until it ended, and for an interrupted run."""

    directory: RunDirectory
    spec: RunSpec
    status: Status
    result: RunResult | None

    @property
    def run_id(self) -> str:
        return self.spec.run_id

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def reason(self) -> str:
        if self.result is not None:
            return self.result.reason
        if self.status == "interrupted":
            return "The worker ended without a result; its log has the last lines."
        return ""

    def row(self) -> dict[str, Any]:
        """The run as one flat row with the keys of `ROW_KEYS`."""
        measures = asdict(self.result.measures) if self.result else {}
        trainable, total = measures.get("trainable_params"), measures.get("total_params")
        spec = self.spec
        values = measures | {
            "run_id": spec.run_id,
            "sweep_id": spec.sweep_id,
            "model": spec.model,
            "task": spec.task.label,
            "method": spec.method,
            "variant": spec.label,
            "seed": spec.seed,
            "status": self.status,
            "trainable_share": trainable / total if trainable is not None and total else None,
            "peak_memory_kind": self.result.memory_kind if self.result else "",
            "learning_rate": spec.learning_rate,
            "dtype_policy": spec.dtype_policy,
            "device": spec.device,
            "steps": spec.settings.steps,
            "batch_size": spec.settings.batch_size,
            "created_at": spec.created_at,
            "run_dir": str(self.directory.path),
            "reason": self.reason,
        }
        return {key: values.get(key) for key in ROW_KEYS}


@dataclass(frozen=True)
class UnreadableRun:
    """A folder that looks like a run but cannot be read, and why."""

    run_id: str
    reason: str


class RunStore:
    """All runs of a folder. Ended runs are read once; open ones anew each time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ended: dict[str, Run] = {}
        self.unreadable: tuple[UnreadableRun, ...] = ()

    def runs(self) -> list[Run]:
        """Every readable run, oldest first; `unreadable` then names the others."""
        runs, unreadable = [], []
        known: dict[str, Run] = {}
        for directory in run_directories(self.folder):
            try:
                run = self._ended.get(directory.run_id) or read_run(directory)
            except (FtlabError, OSError) as error:
                unreadable.append(UnreadableRun(directory.run_id, one_line(error)))
                continue
            if run.result is not None:
                known[run.run_id] = run
            runs.append(run)
        self._ended = known
        self.unreadable = tuple(unreadable)
        return runs

    def sweep(self, sweep_id: str) -> list[Run]:
        return [run for run in self.runs() if run.spec.sweep_id == sweep_id]

    def table(self, with_base: bool = False) -> pd.DataFrame:
        """One row a run, with the columns of `ROW_KEYS`, newest sweep first."""
        return to_table([run for run in self.runs() if with_base or not run.spec.is_base])


def read_run(directory: RunDirectory) -> Run:
    """One run from its folder; raises `FtlabError` if a file of it cannot be read."""
    spec = directory.spec()
    if spec.variant is not None:
        get_method(spec.variant.method)  # a record of a method that is no longer known
    status = directory.status()
    return Run(directory, spec, status, None if status in OPEN else directory.result())


def to_table(runs: list[Run]) -> pd.DataFrame:
    """The runs as a DataFrame: newest sweep first, within it in the order of the queue."""
    import pandas as pd

    table = pd.DataFrame([run.row() for run in runs], columns=list(ROW_KEYS))
    numbers = [
        "trainable_params", "total_params", "trainable_share", "peak_memory_bytes",
        "net_peak_memory_bytes", "train_seconds", "tokens_per_second", "adapter_bytes",
        "eval_loss_before", "eval_loss_after", "score_before", "score_after", "learning_rate",
    ]  # fmt: skip
    table[numbers] = table[numbers].astype(float)
    return table.sort_values(["sweep_id", "run_id"], ascending=[False, True], ignore_index=True)
