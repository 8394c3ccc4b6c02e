"""Which sweep the Compare tab shows, and how sweeps are named in its list."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from ftlab.runs.result import OPEN
from ftlab.ui.html import plural
from ftlab.ui.results.names import sweep_label
from ftlab.words import join_names

_ORIGIN_WORDS = {"recorded": "Recorded", "imported": "Imported"}


def sweep_options(table: pd.DataFrame) -> list[tuple[str, str]]:
    """(label, sweep id) of every sweep: own ones, then recorded, then imported, newest first.

    `table` is in that order, as `to_table` makes it.
    """
    options = []
    for sweep, rows in _sweeps(table):
        done = int((rows["status"] == "done").sum())
        names = join_names(list(dict.fromkeys(rows["variant"])))
        short = names if len(names) <= 60 else plural(rows["variant"].nunique(), "variant")
        label = sweep_label(sweep, rows["task"].iloc[0], short, f"{done} of {len(rows)} done")
        origin = _ORIGIN_WORDS.get(rows["origin"].iloc[0])
        options.append((f"{origin}: {label}" if origin else label, sweep))
    return options


def default_sweep(table: pd.DataFrame) -> str | None:
    """The newest own sweep that ended with a run done, else the newest own with one done.

    Without either a recorded sweep, so that the page is not empty at first: the one of the fewest
    variants, as the easiest to read. Else any sweep.
    """
    for origin in ("measured", "recorded"):
        rows = table[table["origin"] == origin]
        done = [sweep for sweep, own in _sweeps(rows) if (own["status"] == "done").any()]
        ended = [
            sweep
            for sweep, own in _sweeps(rows)
            if sweep in done and not own["status"].isin(OPEN).any()
        ]
        if ended or done:
            found = ended or done
            return min(found, key=_variants(rows)) if origin == "recorded" else found[0]
    return None if table.empty else str(table["sweep_id"].iloc[0])


def _variants(rows: pd.DataFrame) -> Callable[[str], int]:
    """How many variants a sweep of those rows holds."""
    counts = rows.groupby("sweep_id")["variant"].nunique()
    return lambda sweep: int(counts[sweep])


def _sweeps(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(str(sweep), rows) for sweep, rows in table.groupby("sweep_id", sort=False)]
