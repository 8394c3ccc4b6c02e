"""Whether runs can be compared: what must be equal, and what differs.

Two runs are comparable only if every condition of `CONDITIONS` agrees and neither was disturbed.
Table, figures, report and card all use this list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from ftlab.basics.devices import kind_of
from ftlab.basics.errors import FtlabError
from ftlab.basics.words import join_names, plural, shorten, some_names
from ftlab.models.reference import model_label
from ftlab.records.run import StoredRun
from ftlab.records.spec import SweepRequest
from ftlab.records.table import origin_label
from ftlab.settings.schema import Field, fields_of
from ftlab.settings.training import EVAL_SPLITS, TrainingSettings
from ftlab.tasks.spec import Example, TaskData

if TYPE_CHECKING:
    import pandas as pd


SCORED = "scored_examples"
"""Key in a run's environment for the number of examples that it scored."""

_OWNERS = {"bundled": "task", "file": "file", "hub": "data set"}


@dataclass(frozen=True)
class Scored:
    """`count` examples are scored; `reason` is why fewer than requested, "" if all are scored."""

    count: int
    reason: str = ""


def measured_split(data: TaskData, settings: TrainingSettings) -> tuple[Example, ...]:
    """All examples of the split that the settings select for scoring."""
    return data.tuning if settings.eval_split == "tuning" else data.held_out


def scored_of(request: SweepRequest, data: TaskData, too_long: int = 0) -> Scored:
    """What a sweep will score; `too_long` is how many requested examples exceed the max length."""
    settings = request.settings
    split = EVAL_SPLITS[settings.eval_split]
    there = len(measured_split(data, settings))
    asked = settings.eval_examples
    reasons = []
    if there < asked:
        owner = _OWNERS[request.task.kind]
        reasons.append(f"the {owner} has {plural(there, f'{split} example')}, not {asked:,}")
    if too_long:
        of = plural(min(asked, there), f"{split} example")
        verb = "is" if too_long == 1 else "are"
        reasons.append(f"{too_long:,} of {of} {verb} longer than {settings.max_length:,} tokens")
    return Scored(min(asked, there) - too_long, ", and ".join(reasons))


def scored_words(scored: Scored) -> str:
    """As in "6 examples are scored: the file has 6 test examples, not 8."

    Empty if as many are scored as were requested.
    """
    if not scored.reason:
        return ""
    verb = "is" if scored.count == 1 else "are"
    return f"{plural(scored.count, 'example')} {verb} scored: {scored.reason}."


def scored_by(run: StoredRun) -> int | None:
    """How many examples the run scored; `None` for a run that ended before scoring."""
    if run.result is None:
        return None
    known = run.result.environment.get(SCORED)
    if type(known) is int:
        return known
    if run.status != "done":
        return None
    asked = run.spec.settings.eval_examples
    # Older records have it only in a note, and only if fewer were scored than requested.
    if not any("were scored, not" in note or "left out" in note for note in run.result.notes):
        return asked
    try:
        return len(run.directory.samples()) or asked
    except (OSError, FtlabError):
        return asked


Conditions = Mapping[str, str]
"""Key of a condition -> its value as text; values that were not recorded are missing."""

OTHER_WORK = "other work on the machine"
PACKAGES = "packages"

_MOST_VALUES, _MOST_NAMES, _MOST_DIFFERENCES = 4, 4, 6
_VALUE_LENGTH = 60


@dataclass(frozen=True)
class Condition:
    """A property that runs must share. `read` returns its value, empty if it is not recorded.

    `same` renders a value that all runs share. A condition that depends on the seed (`by_seed`) is
    compared only between runs of one seed. `follows` lists the conditions that determine this one;
    if one differs, this one is not reported too. Values are displayed if `shown` (hashes are not).
    """

    key: str
    label: str
    read: Callable[[StoredRun], Any]
    same: Callable[[str], str] = str
    by_seed: bool = False
    shown: bool = True
    follows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """A condition in which runs differ: its name, and the values as text, or ""."""

    label: str
    values: str = ""

    def __str__(self) -> str:
        return f"{self.label} ({self.values})" if self.values else self.label


@dataclass(frozen=True)
class Facts:
    """The compared properties of a run; `disturbed` is `None` if it is not recorded."""

    variant: str
    seed: Any
    disturbed: bool | None
    conditions: Conditions


@dataclass(frozen=True)
class Comparability:
    """What runs share (as text), what differs, and what is not recorded for all of them."""

    runs: int = 0
    variants: int = 0
    same: tuple[str, ...] = ()
    unlike: tuple[Difference, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def is_like(self) -> bool:
        """Whether the runs can be compared; always true for a single run."""
        return self.runs < 2 or not self.unlike

    def names(self, most: int = _MOST_NAMES) -> str:
        """What differs, as in "steps, peft and 2 more"; empty if the runs can be compared."""
        return "" if self.is_like else some_names([found.label for found in self.unlike], most)

    @property
    def verdict(self) -> str:
        """One line that tells how many conditions are equal, or which differ."""
        if not self.is_like:
            return f"not a fair comparison: {self.names()}"
        if self.variants == 1:
            return "only one variant is done"
        return f"a fair comparison: same data, model and settings ({len(self.same)} checked)"

    @property
    def kind(self) -> Literal["ok", "warn", "mute"]:
        """The kind of the verdict's chip."""
        if not self.is_like:
            return "warn"
        return "ok" if self.variants > 1 else "mute"

    @property
    def values(self) -> str:
        """As in "steps (30, 60), peft (0.21.2, 0.22.0)"; empty if the runs can be compared."""
        return "" if self.is_like else _listed([*map(str, self.unlike)], most=_MOST_DIFFERENCES)

    @property
    def sentence(self) -> str:
        """The sentence that figures show if their runs cannot be compared; else ""."""
        return f"Not a fair comparison: {self.values}." if self.values else ""


def _recorded(key: str) -> Callable[[StoredRun], Any]:
    """Returns a function that reads the key from a run's environment."""
    return lambda run: run.result.environment.get(key) if run.result else None


def _devices(run: StoredRun) -> str:
    """As in "cuda", or "cuda × 4" for a run over several: its losses are the same, what it costs
    is not."""
    kind, count = kind_of(run.spec.device), run.spec.settings.shard
    return f"{kind} × {count}" if count > 1 else kind


def _packages(run: StoredRun) -> str:
    """As in "cuda 12.8, driver 570.86, peft 0.21.2, torch 2.13.0"."""
    packages = _recorded("packages")(run)
    if not isinstance(packages, Mapping):
        return ""
    beside = {name: _recorded(name)(run) for name in ("cuda", "cudnn", "driver")}
    versions = beside | dict(packages)
    return ", ".join(f"{name} {versions[name]}" for name in sorted(versions) if versions[name])


def _examples(run: StoredRun) -> str:
    """As in "64" for test examples, or "64 tuning"; "" before scoring."""
    count, split = scored_by(run), run.spec.settings.eval_split
    if count is None:
        return ""
    return f"{count}{'' if split == 'held_out' else f' {EVAL_SPLITS[split]}'}"


def _examples_shared(count: str, of: str = EVAL_SPLITS["held_out"]) -> str:
    return plural(int(count), f"{of} example")


def _value(described: Field, run: StoredRun) -> Any:
    value = getattr(run.spec.settings, described.name)
    return value if described.kind == "whole" else described.shown(value)


def _shared(described: Field, text: str) -> str:
    shown = described.shown(int(text)) if described.kind == "whole" else text
    return described.setting.same.format(shown)


_CONDITIONS_OF_SETTINGS = tuple(
    Condition(
        name, described.setting.label.lower(), partial(_value, described),
        partial(_shared, described),
    )
    for name, described in fields_of(TrainingSettings).items()
    if described.setting.same
)  # fmt: skip
_LENGTHS = ("steps", "batch_size", "accumulation", "max_length")

CONDITIONS: tuple[Condition, ...] = (
    Condition("model", "model", lambda run: model_label(run.spec.model)),
    Condition(
        "model_hash", "weights", _recorded("model_hash"), lambda _: "the same weights",
        shown=False, follows=("model",),
    ),
    Condition("task", "task", lambda run: run.spec.task.label),
    Condition(
        "data_hash", "examples", _recorded("data_hash"), lambda _: "the same examples",
        shown=False, follows=("task",),
    ),
    Condition(
        "order_hash", "order of the examples", _recorded("order_hash"),
        lambda _: "in the same order", by_seed=True, shown=False,
        follows=("model", "task", "data_hash", *_LENGTHS),
    ),
    *_CONDITIONS_OF_SETTINGS,
    Condition(
        "tokens", "tokens", lambda run: run.result and run.result.measures.train_tokens,
        lambda _: "as many tokens", by_seed=True,
        follows=("model", "task", "data_hash", "order_hash", *_LENGTHS),
    ),
    Condition(
        "eval_examples", "test examples", _examples,
        lambda value: _examples_shared(*value.split()),
    ),
    Condition(
        "dtype_policy", "dtype policy", lambda run: run.spec.dtype_policy, "dtype policy {}".format
    ),
    Condition("device", "device", _devices, "device {}".format),
    Condition("machine", "machine", _recorded("device")),
    Condition(
        "attention", "attention kernel", _recorded("attention"), "attention kernel {}".format,
        follows=("model", "dtype_policy", "device", "machine", PACKAGES),
    ),
    Condition(
        "threads", "threads", _recorded("threads"), lambda value: f"{value} threads"
    ),
    Condition(PACKAGES, "package versions", _packages, lambda _: "the same package versions"),
)  # fmt: skip
"""Every condition, in display order."""


def conditions_of(run: StoredRun) -> dict[str, str]:
    """The run's recorded value of each condition, by key."""
    values = {condition.key: condition.read(run) for condition in CONDITIONS}
    return {key: str(value) for key, value in values.items() if value not in (None, "")}


def comparability_of_runs(runs: Iterable[StoredRun]) -> Comparability:
    """What the runs share and where they differ; the caller leaves base runs out."""
    return comparability_of(
        [
            Facts(
                run.spec.label,
                run.spec.seed,
                run.result.measures.disturbed if run.result else None,
                conditions_of(run),
            )
            for run in runs
        ]
    )


def comparability_of_rows(rows: pd.DataFrame) -> Comparability:
    """The same for rows of the store's table (columns `ROW_KEYS`), including imported ones."""
    columns = (rows[key].tolist() for key in ("variant", "seed", "disturbed", "conditions"))
    found = comparability_of(
        [
            Facts(str(name), seed, mark, known or {})
            for name, seed, mark, known in zip(*columns, strict=True)
        ]
    )
    mixed = [
        Difference("origin", f"{count} of {plural(len(rows), 'run')} {origin_label(origin)}")
        for origin in ("imported", "opened")  # equal machines may still differ in speed
        for count in [int((rows["origin"] == origin).sum())]
        if 0 < count < len(rows)
    ]
    return replace(found, unlike=(*mixed, *found.unlike)) if mixed else found


def comparability_of(runs: Sequence[Facts]) -> Comparability:
    """What the runs share, what differs, and what is not recorded for all of them.

    A value that is not recorded counts as unknown, never as different.
    """
    if not runs:
        return Comparability()
    # Remove duplicates: most runs of a long table have identical conditions.
    unique = list({(run.seed, *run.conditions.items()): run for run in runs}.values())
    values = {condition.key: _values(condition, unique) for condition in CONDITIONS}
    unlike = {key for key, groups in values.items() if any(len(group) > 1 for group in groups)}
    same: list[str] = []
    found: list[Difference] = []
    unknown: list[str] = []
    for condition in CONDITIONS:
        if unlike & {*condition.follows}:
            continue
        differences = _differences(condition, values[condition.key])
        if differences:
            found += differences
        elif any(condition.key not in run.conditions for run in unique):
            unknown.append(condition.label)
        else:
            same.append(condition.same(values[condition.key][0][0]))
    for either in (_seeds(runs), _disturbed(runs)):
        if isinstance(either, Difference):
            found.append(either)
        elif either:
            same.append(either)
        else:
            unknown.append(OTHER_WORK)
    variants = len({run.variant for run in runs})
    return Comparability(len(runs), variants, tuple(same), tuple(found), tuple(unknown))


def _values(condition: Condition, runs: Sequence[Facts]) -> list[list[str]]:
    """The distinct recorded values: of all runs together, or for each seed."""
    groups: dict[Any, dict[str, None]] = {}
    for run in runs:
        value = run.conditions.get(condition.key)
        if value is not None:
            groups.setdefault(run.seed if condition.by_seed else None, {})[value] = None
    return [list(values) for values in groups.values()]


def _differences(condition: Condition, groups: Sequence[Sequence[str]]) -> list[Difference]:
    values = list(dict.fromkeys(value for group in groups if len(group) > 1 for value in group))
    if not values:
        return []
    if condition.key == PACKAGES:
        return _unlike_packages(values)
    shown = [shorten(value, _VALUE_LENGTH) for value in values if condition.shown]
    return [Difference(condition.label, _listed(shown))]


def _unlike_packages(values: Sequence[str]) -> list[Difference]:
    """One difference for each package with several versions."""
    versions: dict[str, dict[str, None]] = {}
    for value in values:
        for package in value.split(", "):
            name, _, version = shorten(package, _VALUE_LENGTH).partition(" ")
            versions.setdefault(name, {})[version] = None
    return [
        Difference(name, _listed(list(found))) for name, found in versions.items() if len(found) > 1
    ]


def _seeds(runs: Sequence[Facts]) -> str | Difference:
    """As in "seeds 0 and 1"; a difference as in "0, 1 of Full fine-tuning and LoRA; 0 of QLoRA"."""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        seeds.setdefault(run.variant, []).append(str(run.seed))
    variants: dict[tuple[str, ...], list[str]] = {}
    for variant, own in seeds.items():
        variants.setdefault(tuple(sorted(own, key=lambda seed: (len(seed), seed))), []).append(
            variant
        )
    if len(variants) == 1:
        (shared,) = variants
        return f"seed{'' if len(shared) == 1 else 's'} {join_names(list(shared))}"
    parts = [f"{', '.join(own)} of {some_names(names)}" for own, names in variants.items()]
    return Difference("seeds", _listed(parts, "; "))


def _disturbed(runs: Sequence[Facts]) -> str | Difference:
    """The disturbed runs; "" if it is not recorded for all runs."""
    disturbed = [f"{run.variant} seed {run.seed}" for run in runs if run.disturbed is True]
    if disturbed:
        return Difference(OTHER_WORK, _listed(disturbed))
    return "" if any(run.disturbed is None for run in runs) else f"no {OTHER_WORK}"


def _listed(values: Sequence[str], between: str = ", ", most: int = _MOST_VALUES) -> str:
    more = len(values) - most
    return between.join(values[:most]) + (f" and {more} more" if more > 0 else "")
