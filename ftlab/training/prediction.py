"""What would have been predicted of a run, laid beside what it measured."""

from __future__ import annotations

import json
import traceback
from dataclasses import replace

from ftlab.devices import resolve_device
from ftlab.models.resolve import resolve_model
from ftlab.prediction.run_question import run_question
from ftlab.prediction.simulation.predict import predict
from ftlab.prediction.source import CONFIG_FILE
from ftlab.runs.result import RunResult
from ftlab.runs.spec import RunSpec
from ftlab.tasks.order import BatchSize


def with_prediction(result: RunResult, spec: RunSpec, longest: BatchSize | None) -> RunResult:
    """The result with the peak that is predicted for its longest batch; never raises.

    To be called when all is measured: predicting takes memory and a second of its own, and patches
    torch. Without a batch, or without a prediction, the result is as it was.
    """
    if longest is None or spec.variant is None:
        return result
    try:
        folder = resolve_model(spec.model).folder
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        question = run_question(
            config,
            spec.variant,
            spec.settings,
            spec.dtype_policy,
            longest,
            resolve_device(spec.device),
        )
        found = predict(question)
    except Exception:
        traceback.print_exc()  # to the run's log; the run is as good without
        return result
    measures = replace(result.measures, predicted_net_peak_bytes=found.peak_allocated_bytes)
    return replace(result, measures=measures, predicted_anatomy=found.anatomy)
