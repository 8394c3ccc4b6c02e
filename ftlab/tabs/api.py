"""What programs and agents may call, and its endpoints for `gradio_client`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from typing import Any

import gradio as gr

from ftlab.basics.errors import FtlabError
from ftlab.basics.words import shown_name
from ftlab.jobs.control import request_cancel, start_dispatcher
from ftlab.jobs.inputs import EVERYTHING, Access, check_inputs
from ftlab.jobs.launch import enqueue_sweep
from ftlab.methods.limits import FIELD as MATCH
from ftlab.records.spec import SweepRequest
from ftlab.settings.schema import fields_of
from ftlab.settings.training import PREFIX, TrainingSettings
from ftlab.tabs.context import AppContext, check_texts, errors_for_caller
from ftlab.tabs.experiment.request import EXTRA, Reading, read_request
from ftlab.tabs.results.columns import filtered, records
from ftlab.tasks.reference import TaskReference, parse_task, with_columns

_DEFAULTS = TrainingSettings()
_REQUEST, _SETTINGS = fields_of(SweepRequest), fields_of(TrainingSettings)
_DESCRIBED = {
    field.option.replace("-", "_"): field
    for field in (*_SETTINGS.values(), *_REQUEST.values(), *fields_of(TaskReference).values())
}
_OTHER_PARAMETERS = {
    "methods": 'variants, such as "lora" or "lora:r=4,alpha=8"',
    "settings": "other settings by name; the error for an unknown name lists all names; also "
    '"match": the number of trainable parameters to which each method\'s size is matched, for '
    'example "2.4M" or "lora"',
    "columns": "for a file or a Hub data set, the column of each role: prompt and completion, or "
    "messages with a chat; and system; guessed if empty",
}


def add_endpoints(context: AppContext) -> None:
    """Adds `/launch_sweep`, `/cancel` and `/runs` (alias `/results`) to the page."""
    calls = calls_of(context)
    for name, call in (calls | {"results": calls["runs"]}).items():
        gr.api(_for_caller(call), api_name=name, concurrency_limit=None)


def _for_caller(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)  # with its signature, of which gradio makes the endpoint
    def called(*given: Any, **named: Any) -> Any:
        with errors_for_caller():
            return call(*given, **named)

    return called


def calls_of(context: AppContext) -> dict[str, Callable[..., Any]]:
    """The functions by name; each takes JSON values, and raises `FtlabError` for wrong ones."""

    def launch_sweep(
        model: str = _REQUEST["model"].default,
        task: str = str(_REQUEST["task"].default),  # a text
        methods: list[str] = ["full", "lora", "qlora", "prompt_tuning"],  # noqa: B006
        steps: float = _DEFAULTS.steps,
        batch_size: float = _DEFAULTS.batch_size,
        max_length: float = _DEFAULTS.max_length,
        seeds: str = _REQUEST["seeds"].shown(_REQUEST["seeds"].default),  # a text
        eval_examples: float = _DEFAULTS.eval_examples,
        settings: dict[str, Any] = {},  # noqa: B006
        columns: dict[str, str] = {},  # noqa: B006
        metric: str = "",
        hub_config: str = "",
        hub_split: str = "",
    ) -> dict[str, Any]:
        given = {
            "steps": steps,
            "batch_size": batch_size,
            "max_length": max_length,
            "eval_examples": eval_examples,
        }
        context.access.check_training()
        context.access.check_task_text(task)
        reference = api_task(task, columns, metric, hub_config, hub_split)
        access = context.access
        reading = api_request(model, reference, methods, seeds, given, settings, access)
        request = reading.checked()
        check_inputs(request, context.models)
        specs = enqueue_sweep(request, context.runs_folder)
        start_dispatcher(context.runs_folder)
        return {"sweep_id": specs[0].sweep_id, "run_ids": [spec.run_id for spec in specs]}

    launch_sweep.__doc__ = _documented(
        launch_sweep,
        "Queues one run per method and seed, and one base run per base precision.",
        "The sweep's id and the ids of its runs, base runs first.",
    )

    def cancel(run_ids: list[str] = [], sweep_id: str = "") -> list[str]:  # noqa: B006
        """Cancels runs within seconds; runs that have already ended are not changed.

        Parameters:
            run_ids: Ids of single runs.
            sweep_id: Id of a sweep whose open runs are cancelled.
        Returns:
            The ids of the open runs that are being cancelled.
        """
        context.access.check_training()
        check_texts(sweep_id=sweep_id)
        if not isinstance(run_ids, list) or not all(isinstance(run, str) for run in run_ids):
            raise FtlabError("'run_ids' must be a list of ids of runs, each in quotes.")
        runs = context.store.runs()
        known = {run.run_id for run in runs}
        unknown = [run_id for run_id in run_ids if run_id not in known]
        if sweep_id and all(run.spec.sweep_id != sweep_id for run in runs):
            unknown.append(sweep_id)
        if unknown:
            named = shown_name(unknown[0])
            raise FtlabError(f"There is no run or sweep '{named}' in this runs folder.")
        open_ids = [
            run.run_id
            for run in runs
            if run.is_open and (run.run_id in run_ids or run.spec.sweep_id == sweep_id)
        ]
        request_cancel(context.runs_folder, open_ids)
        return open_ids

    def runs(sweep: str = "", text: str = "") -> list[dict[str, Any]]:
        """Returns all runs except base runs, newest sweep first, as one flat row per run.

        Parameters:
            sweep: Id of a sweep; empty for all sweeps.
            text: Words that a row must contain, for example "done lora".
        Returns:
            Rows; a number that was not measured is null.
        """
        check_texts(sweep=sweep, text=text)
        return records(filtered(context.store.table(), sweep, text))

    return {"launch_sweep": launch_sweep, "cancel": cancel, "runs": runs}


def _documented(endpoint: Callable[..., Any], what: str, returns: str) -> str:
    """A docstring in gradio's form, with the parameters as their settings describe them."""
    lines = [f"{what}\n\nParameters:"]
    for name in signature(endpoint).parameters:
        field = _DESCRIBED.get(name)
        about = _OTHER_PARAMETERS[name] if field is None else field.about
        if field is not None and field.setting.empty:
            about += f"; empty: {field.setting.empty}"
        lines.append(f"    {name}: {about}")
    return "\n".join([*lines, f"Returns:\n    {returns}"])


def api_task(
    task: str, columns: Mapping[str, str], metric: str, config: str, split: str
) -> TaskReference:
    """Builds the task from plain values; raises `FtlabError` for an unknown task or bad values."""
    if not isinstance(columns, Mapping) or not all(isinstance(c, str) for c in columns.values()):
        raise FtlabError(
            'The columns must be an object of texts, as in {"prompt": "q", "completion": "a"}.'
        )
    return with_columns(parse_task(task), columns, metric or None, config or None, split or None)


def api_request(
    model: str,
    task: TaskReference,
    methods: list[str],
    seeds: str,
    given: dict[str, Any],
    settings: dict[str, Any],
    access: Access = EVERYTHING,
) -> Reading:
    """Reads the request, with its errors, from plain values; raises `FtlabError` for an unknown
    setting."""
    outer = {MATCH} | {name for name, found in _REQUEST.items() if found.setting.is_on_form}
    outer -= {"seeds"}  # a parameter of its own
    known = outer | {name for name, found in _SETTINGS.items() if found.setting.is_on_form}
    for name in settings:
        if name not in known:
            raise FtlabError(
                f"There is no setting '{shown_name(name)}'; settings: {', '.join(sorted(known))}."
            )
    values = {PREFIX + name: value for name, value in given.items()}
    for name, value in settings.items():
        values[name if name in outer else PREFIX + name] = value
    values |= {"seeds": seeds, EXTRA: "\n".join(map(str, methods))}
    return read_request(model, task, [], values, access)
