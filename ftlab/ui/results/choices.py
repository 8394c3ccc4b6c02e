"""The tick boxes of filters and columns as HTML. No components.

The browser holds the ticks; assets/results.js sends them. A new `data-set` makes it take over those
that are drawn, as after Clear.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pandas as pd

from ftlab.ui.html import escape
from ftlab.ui.results.columns import COLUMNS, GROUPS
from ftlab.ui.results.filter import FACETS, facet_values

_FEW = 2  # a facet with fewer values filters nothing


def facets_html(table: pd.DataFrame, chosen: Mapping[str, Collection[str]], version: int) -> str:
    """One group of tick boxes a facet, each value with the number of its runs."""
    groups = "".join(
        _facet(table, key, label, chosen.get(key, ())) for key, label in FACETS.items()
    )
    return f'<div class="facets" data-set="{version}">{groups}</div>'


def columns_html(chosen: Collection[str], version: str) -> str:
    """One group of tick boxes a kind of column."""
    groups = []
    for group in GROUPS:
        boxes = "".join(
            _box("columns", column.key, column.label, column.key in chosen)
            for column in COLUMNS.values()
            if column.group == group
        )
        groups.append(_fieldset(group, boxes))
    return f'<div class="facets" data-set="{version}">{"".join(groups)}</div>'


def _facet(table: pd.DataFrame, key: str, label: str, chosen: Collection[str]) -> str:
    values = facet_values(table, key)
    if len(values) < _FEW and not chosen and key != "tags":
        return ""
    known = {value for value, _, _ in values}
    values += [(value, value, 0) for value in chosen if value not in known]
    boxes = "".join(_box(key, value, name, value in chosen, count) for value, name, count in values)
    return _fieldset(label, boxes) if boxes else ""


def _fieldset(title: str, boxes: str) -> str:
    return f"<fieldset><legend>{escape(title)}</legend><div>{boxes}</div></fieldset>"


def _box(name: str, value: str, label: str, on: bool, count: int | None = None) -> str:
    number = "" if count is None else f" <small>{count:,}</small>"
    return (
        f'<label><input type="checkbox" name="{escape(name)}" value="{escape(value)}"'
        f"{' checked' if on else ''}>{escape(label)}{number}</label>"
    )
