"""One sweep, whoever measured it, as figures, page and report take it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftlab.errors import FtlabError
from ftlab.runs.published import PublishedRun
from ftlab.runs.store import Run, RunStore
from ftlab.runs.table import Origin, to_table

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SweepData:
    """`table` has one row a run with the columns of `ROW_KEYS`, base runs left out.

    `runs` are the run directories, base runs among them; an imported sweep has `published` instead.
    """

    sweep_id: str
    origin: Origin
    table: pd.DataFrame
    runs: tuple[Run, ...] = ()
    published: tuple[PublishedRun, ...] = ()

    @property
    def own_runs(self) -> list[Run]:
        """The runs without the base runs."""
        return [run for run in self.runs if not run.spec.is_base]

    @property
    def base_runs(self) -> list[Run]:
        return [run for run in self.runs if run.spec.is_base]


def sweep_data(store: RunStore, sweep_id: str) -> SweepData:
    """The sweep of that id; raises `FtlabError` if there is none."""
    runs = store.sweep(sweep_id)
    if runs:
        own = [run for run in runs if not run.spec.is_base]
        return SweepData(sweep_id, runs[0].origin, to_table(own), runs=tuple(runs))
    published = [run for run in store.published() if run.sweep_id == sweep_id]
    if not published:
        raise FtlabError(
            f"There is no sweep '{sweep_id}' in {store.folder}; "
            "`python -m ftlab runs` lists the runs there are."
        )
    return SweepData(sweep_id, "imported", to_table(published), published=tuple(published))
