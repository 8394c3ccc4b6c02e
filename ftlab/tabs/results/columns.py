"""Rows and columns of the runs table: filters, sorting, grouping, CSV and JSON export."""

from __future__ import annotations

import json
import math
import operator
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.basics.words import did_you_mean, inert, rate_name
from ftlab.methods.registry import label_of
from ftlab.models.reference import model_label
from ftlab.records.metrics import METRICS, OPTIONAL
from ftlab.records.result import MEMORY_PARTS, status_label
from ftlab.records.table import origin_label
from ftlab.tabs.widgets import plural

_SWEEP = re.compile(r"(\d{8}-\d{6})-([0-9a-z]+)")


def sweep_name(sweep_id: str) -> str:
    """20261125-120304-ab12 -> "25 Nov 12:03 ab12"; other ids are returned unchanged."""
    match = _SWEEP.fullmatch(sweep_id)
    if match is None:
        return sweep_id
    try:
        made = time.strptime(match[1], "%Y%m%d-%H%M%S")
    except ValueError:
        return sweep_id
    return f"{made.tm_mday} {time.strftime('%b %H:%M', made)} {match[2]}"


def sweep_label(sweep_id: str, task: str, *more: str) -> str:
    """Label of a sweep in a list, e.g. "25 Nov 12:03 ab12, SQL, 4 runs"."""
    return ", ".join([sweep_name(sweep_id), task, *more])


def run_name(run_id: str) -> str:
    """20261125-120304-ab12-03-lora -> "ab12-03"; other ids are returned unchanged."""
    match = re.fullmatch(_SWEEP.pattern + r"-(\d+)-.*", run_id)
    return f"{match[2]}-{match[3]}" if match else run_id


Kind = Literal["text", "number", "measure"]
"""Text; a setting with a numeric value, equal for all seeds; a measured number."""

GROUPS = ("Measures", "Settings", "The run")
MEMORY_KEYS = ("peak_memory_bytes", "net_peak_memory_bytes")
KIND_WORDS = {
    "CPU resident": "the resident size of the process on the CPU",
    "CUDA allocated": "bytes that torch allocated on the GPU",
}


@dataclass(frozen=True)
class Column:
    """One column. `key` is its name in the store's DataFrame; `format` renders a value.

    `unit` and `how` are set for measures: the unit of the raw value, and how it is measured.
    `interval_keys` are the columns with the bounds of its 95 % interval.
    """

    key: str
    label: str
    group: str
    format: Callable[[Any], str]
    kind: Kind = "text"
    better: Literal["lower", "higher", ""] = ""
    unit: str = ""
    how: str = ""
    interval_keys: tuple[str, ...] = ()

    def text(self, value: Any) -> str:
        """The value as display text; a dash if missing. Not HTML-escaped."""
        if is_missing(value):
            return units.DASH
        if self.kind != "text" and isinstance(value, str):
            return value  # several values of a group, already formatted
        return self.format(value)


def is_missing(value: Any) -> bool:
    """True for `None`, NaN and an empty text."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _moment(seconds: float) -> str:
    return time.strftime("%d %b %Y %H:%M", time.localtime(seconds))


_FORMATS: dict[str, Callable[[Any], str]] = {
    "bytes": units.format_bytes,
    "seconds": units.format_seconds,
}
_FURTHER = (
    ("total_seconds", "In all", "seconds", "from load to save"),
    (
        "predicted_total_seconds",
        "In all, predicted",
        "seconds",
        "what was said of the run before it began; never measured",
    ),
    ("step_seconds", "Step", "seconds", "median step after the first"),
    *(
        (f"{phase}_peak_bytes", f"Peak, {phase}", "bytes", f"highest memory of the {phase} phase")
        for phase in ("load", "evaluate", "save")
    ),
    (
        "predicted_net_peak_bytes",
        "Memory, predicted",
        "bytes",
        "worked out before the run; never measured",
    ),
    *(
        (
            f"anatomy_{part}_bytes",
            f"Peak: {part}",
            "bytes",
            f"{part} at the training peak, from one step under a memory tracker",
        )
        for part in MEMORY_PARTS
    ),
)
"""(key, label, unit, how it is measured) of measures that are no metric; lower is better."""


def _columns() -> list[Column]:
    about, settings, measures = "The run", "Settings", "Measures"
    return [
        Column("status", "Status", about, status_label),
        Column("variant", "Variant", about, str),
        Column("method", "Method", settings, label_of),
        Column("task", "Task", settings, str),
        Column("seed", "Seed", settings, str, "number"),
        *(
            Column(key, m.label, measures, m.format, "measure", m.direction, m.unit, m.how,
                   m.interval_keys)
            for key, m in METRICS.items()
        ),
        *(
            Column(key, label, measures, _FORMATS[unit], "measure", "lower", unit, how)
            for key, label, unit, how in _FURTHER
            if key not in METRICS
        ),
        Column("learning_rate", "Learning rate", settings, rate_name, "number"),
        Column("hyperparameters", "Hyperparameters", settings, str),
        Column("steps", "Steps", settings, _whole, "number"),
        Column("batch_size", "Batch", settings, _whole, "number"),
        Column("dtype_policy", "Dtype", settings, str),
        Column("model", "Model", settings, model_label),
        Column("device", "Device", settings, str),
        Column("machine", "Machine", about, str),
        Column("origin", "Origin", about, origin_label),
        Column("owner", "Owner", about, str),
        Column("tags", "Tags", about, str),
        Column("note", "Note", about, str),
        Column("reason", "Why it ended", about, str),
        Column("created_at", "Queued", about, _moment, "number"),
        Column("sweep_id", "Sweep", about, sweep_name),
        Column("run_id", "Run", about, run_name),
    ]  # fmt: skip


COLUMNS: dict[str, Column] = {column.key: column for column in _columns()}
"""Every column, in display order."""

MEASURES = tuple(column for column in COLUMNS.values() if column.kind == "measure")
_USUAL = (
    "status", "variant", "task", "seed",
    *(metric.key for metric in METRICS.values() if metric.in_table), "device", "run_id",
)  # fmt: skip


def usual_columns(table: pd.DataFrame) -> tuple[str, ...]:
    """Keys of the default columns. Tags and optional metrics only where a run has them, and owners
    only where there are several."""
    tagged = bool((table["tags"] != "").any()) if len(table) else False
    several = table.loc[table["origin"] == "measured", "owner"].nunique() > 1
    more = [*(["tags"] if tagged else []), *(["owner"] if several else [])]
    lacking = {key for key in OPTIONAL if table[key].isna().all()}
    return in_order({*_USUAL, *more} - lacking)


def in_order(keys: Collection[str]) -> tuple[str, ...]:
    """The known keys, in display order."""
    return tuple(key for key in COLUMNS if key in keys)


def column_label(column: Column, kinds: Collection[str]) -> str:
    """The column header. Memory columns add the kind if all rows share one, e.g. "Peak, CPU"."""
    if column.key in MEMORY_KEYS and len(kinds) == 1:
        return f"{column.label}, {next(iter(kinds)).split()[0].rstrip(':')}"
    return column.label


def memory_kinds(rows: pd.DataFrame) -> list[str]:
    """The kinds of memory that the rows measured, e.g. ["CPU resident"]."""
    return sorted({str(kind) for kind in rows["peak_memory_kind"] if kind})


def _is_about(numbers: pd.Series, value: float) -> pd.Series:
    return (numbers - value).abs() <= 1e-9 * max(1.0, abs(value))


Comparison = Callable[[pd.Series, float], pd.Series]
_SIGNS: dict[str, Comparison] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": _is_about,
}  # fmt: skip
_SPELLINGS = {"≤": "<=", "≥": ">=", "==": "="}

EXAMPLE = "memory < 1 GB, train >= 30 s, score > 0.3, trainable < 1 %"

_CONDITION = re.compile(
    r"(?P<name>[^<>=≤≥]+?)\s*(?P<sign><=|>=|==|[<>=≤≥])\s*"
    r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(?P<unit>[^\d\s].*)?",
    re.IGNORECASE,
)

# By unit of the raw value: the factor of each accepted unit. "" means that no unit is needed.
_UNITS: dict[str, dict[str, float]] = {
    "bytes": {
        "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
        "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
    },
    "seconds": {"": 1, "s": 1, "ms": 1e-3, "min": 60, "h": 3600},
    "parameters": {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9},
    "of all parameters": {"": 1, "%": 0.01},
    "0 to 1": {"": 1, "%": 0.01},
}  # fmt: skip
_OTHER_NAMES = {
    "size": "adapter_bytes",
    "net peak": "net_peak_memory_bytes",
    "time": "train_seconds",
    "tokens per second": "tokens_per_second",
    "lr": "learning_rate",
    "batch size": "batch_size",
    "base loss": "eval_loss_before",
    "base score": "score_before",
}
_BY_UNIT = {("trainable_params", "%"): "trainable_share"}
"""(key, unit) pairs that select another column: "trainable < 1 %" means the share."""


@dataclass(frozen=True)
class Condition:
    """One comparison. `value` is in the raw unit of column `key`: bytes, seconds, a share of 1."""

    key: str
    sign: str
    value: float


MAX_CHARACTERS = 2_000
"""Maximum length of all conditions together."""


def parse_conditions(text: str) -> tuple[Condition, ...]:
    """Parses comma-separated conditions. Returns an empty tuple for an empty text.

    Raises `FtlabError` with one sentence about the first condition that cannot be parsed.
    """
    if len(text) > MAX_CHARACTERS:  # the number search is quadratic in the length
        raise FtlabError(f"The conditions have more than {MAX_CHARACTERS:,} characters.")
    comma = re.search(r"\d+,\d+", text)
    if comma:
        raise FtlabError(
            f"'{comma[0][:20]}': write a number with a point, as in 1.5; a comma stands between "
            "conditions."
        )
    parts = (part.strip() for part in re.split(r"[,;]|\band\b", text))
    return tuple(_condition(part) for part in parts if part)


def matches(table: pd.DataFrame, conditions: Iterable[Condition]) -> pd.Series:
    """Mask of the rows that meet every condition. A missing number meets no condition."""
    found = pd.Series(True, index=table.index)
    for condition in conditions:
        numbers = pd.to_numeric(table[condition.key], errors="coerce").astype(float)
        found &= _SIGNS[condition.sign](numbers, condition.value)
    return found


def _condition(text: str) -> Condition:
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise FtlabError(
            f"'{text[:60]}' is no condition; write a name, one of {', '.join(_SIGNS)} "
            "and a number, as in memory < 1 GB."
        )
    column, unit = _column(found["name"]), (found["unit"] or "").strip()
    column = COLUMNS[_BY_UNIT.get((column.key, unit), column.key)]
    sign = _SPELLINGS.get(found["sign"], found["sign"])
    return Condition(column.key, sign, float(found["number"]) * _factor(column, unit))


def _column(name: str) -> Column:
    numbers = [column for column in COLUMNS.values() if column.kind != "text"]
    names = {_plain(column.label): column.key for column in numbers}
    every = {_plain(column.key): column.key for column in numbers} | _OTHER_NAMES | names
    plain = _plain(name)
    if plain in every:
        return COLUMNS[every[plain]]
    raise FtlabError(
        f"There is no number '{name.strip()[:40]}'; names: {', '.join(names)}."
        f"{did_you_mean(plain, every)}"
    )


def _factor(column: Column, unit: str) -> float:
    known: Mapping[str, float] = _UNITS.get(column.unit, {"": 1})
    if unit in known:
        return known[unit]
    folded = {name.lower(): factor for name, factor in known.items()}
    if unit.lower() in folded:
        return folded[unit.lower()]
    name, named = _plain(column.label), ", ".join(filter(None, known))
    if not unit:
        raise FtlabError(f"A number for '{name}' needs a unit, as in 1 GB; units: {named}.")
    rule = f"units: {named}" if named else "it takes a bare number"
    raise FtlabError(f"'{unit[:20]}' is no unit of '{name}'; {rule}.")


def _plain(name: str) -> str:
    """ "Loss, base" -> "loss base"; "net_peak" -> "net peak"."""
    return " ".join(re.sub(r"[,:_]", " ", name.lower()).split())


ALL_SWEEPS = ""
FACETS: dict[str, str] = {
    "origin": "Origin",
    "status": "Status",
    "method": "Method",
    "task": "Task",
    "model": "Model",
    "tags": "Tag",
}
"""Columns that are filtered by ticking values, with their labels."""

_SEARCHED = (
    "variant", "method", "hyperparameters", "task", "device", "machine", "origin", "sweep_id",
    "run_id", "tags", "note", "reason",
)  # fmt: skip
_LABELLED: dict[str, Callable[[str], str]] = {
    "status": status_label,
    "origin": origin_label,
    "method": label_of,
    "model": model_label,
    "run_id": run_name,
    "sweep_id": sweep_name,
}


Group = Literal["runs", "sweeps", "seeds"]
"""One row per run, rows grouped under sweep headings, or means over seeds."""

ORIGINS = {
    "measured": "", "opened": "From another machine", "recorded": "Recorded with ftlab",
    "imported": "Imported",
}  # fmt: skip
"""The origins in the order of the table, with the headings of those that can be folded."""

PAGE = 100
"""Number of rows drawn at first, and added by each press of "more"."""


@dataclass(frozen=True)
class Query:
    """What the table shows.

    `text`: words that must all occur in a row's names, tags or note; `facets`: the accepted values
    of a column; `conditions`: input of `parse_conditions`; `archived`: also show archived runs.
    Empty `columns`: the default ones. Empty `sort`: unsorted. `version` counts how often the server
    has reset the tick boxes of filters and columns. `unfolded`: the origins that the user opened.
    """

    sweep: str = ALL_SWEEPS
    text: str = ""
    facets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    conditions: str = ""
    archived: bool = False
    columns: tuple[str, ...] = ()
    sort: str = ""
    descending: bool = False
    group: Group = "runs"
    limit: int = PAGE
    version: int = 0
    unfolded: tuple[str, ...] = ("opened",)

    @property
    def folded(self) -> int:
        """Number of active filters inside the accordion, where they may be hidden."""
        ticked = sum(bool(values) for values in self.facets.values())
        return ticked + bool(self.conditions.strip()) + self.archived

    @property
    def is_search(self) -> bool:
        """Whether certain runs are looked for, wherever they are from."""
        ticked = any(self.facets.values())
        return bool(self.sweep or self.text.strip() or ticked or self.conditions.strip())


def apply_filters(table: pd.DataFrame, query: Query) -> pd.DataFrame:
    """The rows that meet all filters, order kept. Raises `FtlabError` for invalid conditions."""
    found = matches(table, parse_conditions(query.conditions))
    if not query.archived:
        found &= table["archived"] != True  # noqa: E712 (an imported row may hold None)
    if query.sweep != ALL_SWEEPS:
        found &= table["sweep_id"] == query.sweep
    for key, wanted in query.facets.items():
        if wanted:
            texts = _texts(table, key)
            ticked = {text for text in {*texts} if not {*wanted}.isdisjoint(_facet(key, text))}
            found &= pd.Series([text in ticked for text in texts], table.index, dtype=bool)
    words = query.text.lower().split()
    if words and len(table):
        found &= pd.Series(
            [all(word in line for word in words) for line in _searchable(table)], table.index
        )
    return table[found.astype(bool)].reset_index(drop=True)


def tags_of(tags: Any) -> list[str]:
    """Splits a table value: "demo, for Ada" -> ["demo", "for Ada"]."""
    return [tag for tag in str(tags or "").split(", ") if tag]


def _texts(table: pd.DataFrame, key: str) -> list[str]:
    return [str(value or "") for value in table[key].tolist()]


def _facet(key: str, text: str) -> list[str]:
    """The values by which a facet filters a row with that text."""
    if key == "tags":
        return tags_of(text)
    return [model_label(text) if key == "model" else text]  # the bundled model has two names


def facet_values(table: pd.DataFrame, key: str) -> list[tuple[str, str, int]]:
    """(value, label, row count) for each value of a facet, in order of first appearance."""
    counts = Counter[str]()
    for text, count in Counter(_texts(table, key)).items():  # thousands of rows have few texts
        counts.update({value: count for value in _facet(key, text) if value})
    label = _LABELLED.get(key, str)
    return [(value, str(label(value)), count) for value, count in counts.items()]


def sweep_choices(table: pd.DataFrame) -> list[tuple[str, str]]:
    """(label, value) for the dropdown: "All sweeps", then the sweeps in table order."""
    sweeps = table.drop_duplicates("sweep_id")
    counts = table["sweep_id"].value_counts()
    named = []
    for sweep, task, origin in zip(
        sweeps["sweep_id"], sweeps["task"], sweeps["origin"], strict=True
    ):
        mark = [] if origin == "measured" else [origin_label(str(origin))]
        more = [plural(counts[sweep], "run"), *mark]
        named.append((sweep_label(str(sweep), str(task), *more), str(sweep)))
    return [("All sweeps", ALL_SWEEPS), *named]


def known_facets(given: Any) -> dict[str, tuple[str, ...]]:
    """The ticked values sent by the browser, by facet. Invalid entries are ignored."""
    if not isinstance(given, Mapping):
        return {}
    return {
        key: tuple(str(value) for value in given[key])
        for key in FACETS
        if isinstance(given.get(key), Sequence) and not isinstance(given[key], str) and given[key]
    }


def _searchable(table: pd.DataFrame) -> list[str]:
    """One line of lower-case text per row, for the text search."""
    columns = [[str(value or "") for value in table[key].tolist()] for key in _SEARCHED]
    for key, label in _LABELLED.items():
        known = {value: str(label(value)) for value in table[key].unique()}
        columns.append([known[value] for value in table[key].tolist()])
    return [" ".join(parts).lower() for parts in zip(*columns, strict=True)]


SPREAD, COUNT = "_sd", "_n"
_KEPT = (
    "run_id", "sweep_id", "origin", "model", "task", "method", "variant", "status", "disturbed",
    "peak_memory_kind",
)  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """Result of a query. `matched` has one row per run; `rows` has the same or one per seed group.

    Rows of a group hold means, plus the columns `KEY_sd` (sample standard deviation, NaN for a
    single value), `KEY_n` (number of values) and `run_ids`. `of` is the number of all runs. `error`
    is the reason why the conditions were ignored. `folds` are the runs of each origin that has a
    heading: those that are folded are in neither table. `can_fold`: the user may fold them.
    """

    rows: pd.DataFrame
    matched: pd.DataFrame
    columns: tuple[Column, ...]
    query: Query
    of: int
    error: str = ""
    folds: Mapping[str, int] = field(default_factory=dict)
    can_fold: bool = False

    @cached_property
    def drawn(self) -> pd.DataFrame:
        """The rows up to the limit, which holds for each origin."""
        return self.rows.groupby("origin", sort=False).head(self.query.limit)

    def is_folded(self, origin: str) -> bool:
        return self.can_fold and origin not in self.query.unfolded


def show(table: pd.DataFrame, query: Query) -> Shown:
    """Filters, groups and sorts the store's table."""
    error = ""
    try:
        matched = apply_filters(table, query)
    except FtlabError as wrong:
        error = str(wrong)
        matched = apply_filters(table, replace(query, conditions=""))
    counts = matched["origin"].value_counts()
    has_own = "measured" in counts
    folds = {
        origin: int(counts[origin]) for origin in ORIGINS if ORIGINS[origin] and origin in counts
    }
    can_fold = has_own and not query.is_search
    if can_fold:
        matched = matched[matched["origin"].isin(["measured", *query.unfolded])]
        matched = matched.reset_index(drop=True)
    keys = in_order(query.columns) or usual_columns(table)
    rows = mean_over_seeds(matched, keys) if query.group == "seeds" else matched
    rows = sorted_rows(rows, query.sort, query.descending) if query.sort in keys else rows
    if query.group == "sweeps":  # in the order of the store, each in the order of its rows
        rank = {sweep: place for place, sweep in enumerate(matched["sweep_id"].unique())}
        rows = rows.loc[rows["sweep_id"].map(rank).sort_values(kind="stable").index]
    if folds:  # own runs first, whatever they are sorted by
        order = {origin: place for place, origin in enumerate(ORIGINS)}
        places = rows["origin"].map(order).fillna(0)  # means over seeds may mix origins
        rows = rows.loc[places.sort_values(kind="stable").index]
    columns = tuple(COLUMNS[key] for key in keys)
    return Shown(
        rows.reset_index(drop=True), matched, columns, query, len(table), error,
        folds if has_own or len(folds) > 1 else {}, can_fold,
    )  # fmt: skip


def sorted_rows(rows: pd.DataFrame, key: str, descending: bool) -> pd.DataFrame:
    """Stable sort by one column. Rows without a value come last in both directions."""
    if key == "run_ids" or key not in rows:
        return rows
    values = rows[key]
    if not pd.api.types.is_numeric_dtype(values):
        words = [
            None if is_missing(v) else v.casefold() if isinstance(v, str) else f"{v:020.4f}"
            for v in values.tolist()
        ]
        values = pd.Series(words, index=rows.index, dtype=object)
    order = values.sort_values(ascending=not descending, na_position="last", kind="stable").index
    return rows.loc[order]


def first_direction(key: str) -> bool:
    """Whether the first click on the header sorts descending, so that the best comes first."""
    return COLUMNS[key].better == "higher"


def mean_over_seeds(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """One row per variant and sweep: mean, count and spread of the measures in `keys`.

    A value shared by all runs of a group is kept; differing values are listed.
    """
    measures = [column.key for column in MEASURES if column.key in keys]
    shared = [key for key in dict.fromkeys((*_KEPT, *keys)) if key not in measures]
    groups = rows.groupby(["sweep_id", "variant"], sort=False)
    members = [list(indices) for indices in groups.indices.values()]
    data: dict[str, list[Any]] = {}
    for key in shared:
        values = rows[key].tolist()
        grouped_values = [[values[i] for i in group] for group in members]
        if key == "run_id":
            data["run_ids"] = [tuple(ids) for ids in grouped_values]
        data[key] = (
            [True in marks for marks in grouped_values]
            if key == "disturbed"
            else [_together(key, of_group) for of_group in grouped_values]
        )
    grouped = pd.DataFrame(data)
    means, spreads = groups[measures].mean(), groups[measures].std(ddof=1)
    counts = groups[measures].count()
    for key in measures:
        grouped[key] = means[key].to_numpy()
        grouped[key + SPREAD] = spreads[key].to_numpy()
        grouped[key + COUNT] = counts[key].to_numpy()
    return grouped


def _together(key: str, values: Sequence[Any]) -> Any:
    """The value shared by a group, else its distinct values as display text."""
    different = list(dict.fromkeys(values))
    if len(different) == 1:
        return different[0]
    if key == "run_id" or key not in COLUMNS:
        return ", ".join(map(str, different))  # full ids, so that an export identifies each run
    return ", ".join(COLUMNS[key].text(value) for value in different)


_NOT_EXPORTED = ("run_dir",)  # does not disclose server paths


def filtered(table: pd.DataFrame, sweep: str = ALL_SWEEPS, text: str = "") -> pd.DataFrame:
    """The rows of a sweep ("": all) that contain every word of `text`, including archived ones."""
    return apply_filters(table, Query(sweep=sweep, text=text, archived=True))


def records(rows: pd.DataFrame, keys: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows as JSON values: raw numbers, `None` if missing. Without `keys`, every column."""
    kept = list(keys) or [key for key in rows.columns if key not in _NOT_EXPORTED]
    return [
        {str(key): _plain_value(key, value) for key, value in row.items()}
        for row in rows[kept].to_dict(orient="records")
    ]


def export_keys(shown: Shown) -> list[str]:
    """The columns of an export: the shown columns, each mean followed by its spread and count.

    A single run's difference is followed by its interval bounds.
    """
    keys: list[str] = []
    for column in shown.columns:
        keys.append(column.key)
        if column.key + SPREAD in shown.rows:
            keys += [column.key + SPREAD, column.key + COUNT]
        else:
            keys += column.interval_keys
    return keys


def shown_records(shown: Shown) -> list[dict[str, Any]]:
    """Every matching row in table order, with the columns of `export_keys`."""
    return records(shown.rows, export_keys(shown))


def to_json(rows: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    """CSV with raw numbers. Prefixes text that a spreadsheet would run as a formula with '."""
    safe = [{key: inert(value) for key, value in row.items()} for row in rows]
    table = pd.DataFrame(safe, columns=list(keys), dtype=object)
    # Spreadsheets read a lone \r as a new row. With this line terminator pandas quotes it.
    return str(table.to_csv(index=False, lineterminator="\r\n"))


def write_export(shown: Shown, kind: str, folder: Path) -> str:
    """Writes "csv" or "json" into a new subfolder of `folder` and returns the file path."""
    rows = shown_records(shown)
    text = to_csv(rows, export_keys(shown)) if kind == "csv" else to_json(rows)
    path = folder / secrets.token_hex(8) / f"ftlab-results.{kind}"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8", newline="")
    return str(path)


def _plain_value(key: Any, value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if key == "model" and str(value).startswith("/"):
        return model_label(str(value))  # hides the server path
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value.item() if hasattr(value, "item") else value
