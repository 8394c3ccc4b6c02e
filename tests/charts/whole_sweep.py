"""Tables of made-up runs for the tests of charts, and a sweep that every chart can draw."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ftlab.records.result import MEMORY_PARTS
from ftlab.records.store import RunStore, SweepData, sweep_data
from ftlab.settings.training import TrainingSettings
from tests.fakes import SWEEP, make_run

_MEASURES = {
    "score_gain": 0.4,
    "score_gain_low": 0.3,
    "score_gain_high": 0.5,
    "general_loss_change": 0.05,
    "general_loss_change_low": 0.04,
    "general_loss_change_high": 0.06,
    "answer_merged_tokens_per_second": 20.0,
    "answer_merged_net_peak_bytes": 400_000_000,
}


def table_of(folder: Path, *keys: str, **runs: Any) -> pd.DataFrame:
    """The table of a folder, after making runs in it.

    `runs` has by method the values of `keys`, for one run or a list of them for several seeds.
    """
    for method, seeds in runs.items():
        for seed, values in enumerate(seeds if isinstance(seeds, list) else [seeds]):
            given = values if isinstance(values, tuple) else (values,)
            measures = dict(zip(keys, given, strict=True))
            make_run(folder, method, seed=seed, measures=measures)
    return RunStore(folder).table()


def texts(figure: go.Figure) -> list[str]:
    """The texts of the annotations."""
    return [note.text for note in figure.layout.annotations]


def trace_of(figure: go.Figure, name: str) -> Any:
    """The trace of that name, or `None`."""
    return next((trace for trace in figure.data if trace.name == name), None)


def whole_sweep(
    folder: Path, targets: str = "query and value", origin: str = "measured", steps: int = 30
) -> SweepData:
    """Full fine-tuning and LoRA on those targets and for so many steps, each with two rates.

    The runs have gain, forgetting, costs of answering and evaluations between the steps; the table
    also says what the peaks are made of.
    """
    for method, hyperparameters, last in (("full", {}, 30), ("lora", {"targets": targets}, steps)):
        for rate in (1e-4, 3e-4):
            directory = make_run(
                folder,
                method,
                hyperparameters=hyperparameters,
                learning_rate=rate,
                settings=TrainingSettings(steps=last, eval_every=10),
                measures=_MEASURES,
            )
            with directory.metrics_file.open("a") as file:
                for step in (0, 10, 20):
                    event = {"event": "evaluation", "step": step, "loss": 2.0, "score": step / 50}
                    file.write(json.dumps(event) + "\n")
    data = sweep_data(RunStore(folder), SWEEP)
    parts = {f"anatomy_{part}_bytes": 1e8 for part in MEMORY_PARTS}
    return replace(data, table=data.table.assign(origin=origin, **parts))
