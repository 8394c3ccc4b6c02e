"""`describe`: write docs/methods.md, what each method is good for and what it cost here.

Committed, unlike the site's reference, so that it is read on GitHub too: it changes only with a
method or a recorded sweep. `tests/maintain/test_describe.py` fails where it is not what this
command writes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

import pandas as pd

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import checkout_folder, put_between, recorded_folder
from ftlab.basics.words import plural
from ftlab.methods.registry import METHODS
from ftlab.methods.spec import FAMILIES, MethodSpec
from ftlab.records.metrics import METRICS
from ftlab.records.recording import Provenance, read_provenance
from ftlab.records.store import RunStore
from ftlab.records.transfer import TransferRecord, published_value, read_transfer
from ftlab.share.markdown import table

NAME = "describe"
SUMMARY = "write docs/methods.md: what each method is good for, and what it cost here"
DESCRIPTION = (
    "Writes what the registry says of each method, and what it cost in the recorded sweep with\n"
    "the most methods. Trains nothing."
)
BEGIN = "<!-- made by `python -m ftlab.maintain describe --write` -->"
END = "<!-- end of the methods -->"

COSTS = ("trainable_params", "net_peak_memory_bytes", "train_seconds", "adapter_bytes")
_SCORE = "score_after"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--write", action="store_true", help="write it into docs/methods.md, not to the terminal"
    )


def run(options: argparse.Namespace) -> int:
    text = methods_text()
    if options.write:
        put_between(BEGIN, END, text, checkout_folder() / "docs" / "methods.md")
    else:
        print(text)
    return 0


def methods_text() -> str:
    """The table of what each method cost, and a section for each family."""
    costs, provenance = recorded_costs()
    study = read_transfer()
    return "\n\n".join([_costs(costs, provenance, study), *_families()])


def recorded_costs() -> tuple[pd.DataFrame, Provenance]:
    """The mean of each measure over the seeds, by method, of the recorded sweep that has the most
    methods; and where that comes from. Raises `FtlabError` if none is there."""
    with tempfile.TemporaryDirectory() as empty:
        runs = RunStore(Path(empty), recorded_folder()).table()
    if runs.empty:
        raise FtlabError("No recorded sweep is there; `make recorded` measures them.")
    counts = runs.groupby("sweep_id")["method"].nunique()
    sweep = str(counts.idxmax())
    means = runs[runs["sweep_id"] == sweep].groupby("method")[[*COSTS, _SCORE]].mean()
    return means, read_provenance(recorded_folder() / sweep)


def _costs(costs: pd.DataFrame, provenance: Provenance, study: TransferRecord | None) -> str:
    heads = ["method", *(METRICS[key].name for key in COSTS), "score", "score, longer", "at 3B"]
    learned = _scores(study)
    rows = []
    for method in METHODS.values():
        if method.id not in costs.index and method.id not in learned:
            continue
        found = costs.loc[method.id] if method.id in costs.index else None
        measured = [
            METRICS[key].text(None if found is None else float(found[key]))
            for key in (*COSTS, _SCORE)
        ]
        rows.append([method.label, *measured, *learned.get(method.id, ("–", "–"))])
    said = (
        f"Means over the seeds of `{provenance.command}`, recorded on {provenance.machine} with "
        f"{plural(provenance.cores or 0, 'core')}: the bundled model of 135M parameters on SQL."
    )
    if study is not None:
        steps = study.protocol.steps
        said += (
            f" *Score, longer*: the same task after {steps} steps; *at 3B*: GSM8K accuracy of "
            "Llama-3.2-3B in PEFT's published table, which is another task "
            "([both studies](evidence.md)). With so few test examples and steps, small "
            "differences in score show nothing."
        )
    return f"{said}\n\n{table(heads, rows)}"


def _scores(study: TransferRecord | None) -> Mapping[str, tuple[str, str]]:
    """By method, its mean score in the study and the published one."""
    if study is None:
        return {}
    column = study.column("score")
    return {
        one.id: (
            METRICS[column.ours].text(fmean(study.rows[one.id][column.ours])),
            f"{published_value(one, column, 'default'):.3f}",
        )
        for one in study.protocol.methods
        if one.id in study.rows
    }


def _families() -> list[str]:
    parts = []
    for family, heading in FAMILIES.items():
        members = [method for method in METHODS.values() if method.family == family]
        if members:
            parts += [f"## {heading}", *map(_method, members)]
    return parts


def _method(method: MethodSpec) -> str:
    lines = [
        f"### {method.label}\n",
        f"{method.summary} [{method.paper.title}]({method.paper.url}). `--methods {method.id}`\n",
    ]
    if method.good_for:
        lines.append(f"- *Good for:* {method.good_for}")
    if method.weak_at:
        lines.append(f"- *Weak at:* {method.weak_at}")
    return "\n".join(lines)
