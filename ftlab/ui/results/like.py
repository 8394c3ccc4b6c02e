"""What the table of runs says of runs that stand beside each other: whether they compare."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from ftlab.report.fairness import IMPORTED, likeness_chip
from ftlab.runs.comparable import likeness_of_rows
from ftlab.runs.store import RunStore
from ftlab.ui.html import chip, escape


def like_chip(rows: pd.DataFrame) -> str:
    """The verdict on the rows that are done; empty where there are not two variants to compare.

    Runs of one variant get it too if they are unlike: their mean then means little.
    """
    return _chip_and_values(rows)[0]


def like_line(rows: pd.DataFrame) -> str:
    """The verdict as a line above the table, with the values that differ; empty as `like_chip`."""
    mark, values = _chip_and_values(rows)
    if values:
        mark = chip("not like for like", "warn")
    return f'<p class="like-line">{mark}<small>{escape(values)}</small></p>' if mark else ""


def ticked_chip(store: RunStore, run_ids: Collection[str]) -> str:
    """The verdict on the runs that are ticked."""
    if len(run_ids) < 2:
        return ""
    table = store.table()
    return like_chip(table[table["run_id"].isin(list(run_ids))])


def _chip_and_values(rows: pd.DataFrame) -> tuple[str, str]:
    done = rows[rows["status"] == "done"]
    if len(done) > 1 and (done["origin"] == "imported").all():
        return chip("not compared", "mute", IMPORTED), ""
    found = likeness_of_rows(done)
    return ("", "") if found.kind == "mute" else (likeness_chip(found), found.values)
