"""From a request to queued run directories."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ftlab.devices import resolve_device
from ftlab.errors import FieldError, FtlabError, InvalidRequest
from ftlab.methods.registry import BASE_METHOD
from ftlab.methods.spec import BasePrecision
from ftlab.methods.variant import Variant
from ftlab.models.reference import parse_model
from ftlab.models.size import size_of_model
from ftlab.operations.log import note
from ftlab.runs.closed import check_open
from ftlab.runs.directory import RunDirectory
from ftlab.runs.disk import check_space
from ftlab.runs.memory_limit import least, operator_limit
from ftlab.runs.peft_check import check_request
from ftlab.runs.rates import default_rate
from ftlab.runs.result import RunResult
from ftlab.runs.spec import RunSpec, SweepRequest
from ftlab.runs.validation import not_applicable, validate
from ftlab.tasks.reference import TaskReference
from ftlab.tasks.reference import load as load_task

_TRIES = 5


def plan_sweep(
    request: SweepRequest, now: float | None = None, onto: Sequence[RunSpec] = ()
) -> list[RunSpec]:
    """The specs of a valid request: first a base run for each base precision, then the variants.

    Every spec carries the same task, settings and seed, so all runs of one seed see the same
    examples in the same order, and the learning rate that it will be trained with. The ids sort in
    the order of the queue. A variant that is not applicable has its specs too, but no base run is
    made for its sake. `onto` are the runs of a sweep that these go on: they share its id, and its
    base runs where it has them.
    """
    created = time.time() if now is None else now
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(created))
    sweep_id = onto[0].sweep_id if onto else f"{stamp}-{secrets.token_hex(2)}"
    device = resolve_device(request.device).id
    limit = least(request.memory_limit, operator_limit())
    model = parse_model(request.model).name  # a worker's own folder is another one
    size = size_of_model(request.model)
    specs: list[RunSpec] = []

    def add(
        variant: Variant | None, precision: BasePrecision | None, base: str | None, seed: int
    ) -> str:
        name = variant.method if variant else "-".join(filter(None, (BASE_METHOD, precision)))
        run_id = f"{sweep_id}-{len(onto) + len(specs):02d}-{name}"
        specs.append(
            RunSpec(
                run_id=run_id,
                sweep_id=sweep_id,
                model=model,
                task=request.task,
                variant=variant,
                settings=request.settings,
                dtype_policy=request.dtype_policy,
                device=device,
                seed=seed,
                base_precision=precision,
                base_run_id=base,
                created_at=created,
                memory_limit=limit,
                default_rate=default_rate(variant, request.settings, size),
            )
        )
        return run_id

    left_out = not_applicable(request)
    precisions = dict.fromkeys(
        variant.base_precision for variant in request.variants if variant.label not in left_out
    )
    known = {spec.base_precision: spec.run_id for spec in onto if spec.is_base}
    bases = {
        precision: known.get(precision) or add(None, precision, None, request.seeds[0])
        for precision in precisions
    }
    for seed in request.seeds:
        for variant in request.variants:
            precision = variant.base_precision
            add(variant, precision, bases.get(precision), seed)
    return specs


def space_errors(request: SweepRequest, folder: Path) -> list[FieldError]:
    """What is said beside a valid request that has no room in the folder."""
    try:
        check_space(plan_sweep(request), folder)
    except FtlabError as error:
        return [FieldError("", str(error))]
    return []


def enqueue_sweep(
    request: SweepRequest, runs_folder: Path, onto: Sequence[RunSpec] = ()
) -> list[RunSpec]:
    """Checks the request and writes one run directory a run; the dispatcher takes it from there.

    A variant that is not applicable is a run that has ended, with the reason as its result.
    `onto` is as in `plan_sweep`.
    Raises `InvalidRequest` with every wrong field, `FtlabError` if the folder cannot be written or
    the disk has no room for what is to be saved.
    """
    check_open(runs_folder)
    errors = validate(request) or _errors_in_file(request.task)
    if not errors:
        request, errors = check_request(request)
    if errors:
        raise InvalidRequest(errors)
    left_out = not_applicable(request)
    for _ in range(_TRIES):
        specs = plan_sweep(request, onto=onto)
        check_space(specs, runs_folder)
        try:
            _write(specs, runs_folder, left_out)
        except FileExistsError:
            continue  # somebody drew the same id in the same second: once more, with another
        except OSError as error:
            raise FtlabError(
                f"The runs folder '{runs_folder}' cannot be written ({error.strerror}); "
                "free some space, make it writable, or name another with --runs-dir."
            ) from None
        note("sweep queued", sweep=specs[0].sweep_id, runs=[spec.run_id for spec in specs])
        return specs
    raise FtlabError(
        f"The run {specs[0].run_id} is in '{runs_folder}' already; "
        "somebody queues runs of that sweep at this moment, so try again."
    )


def _write(specs: Sequence[RunSpec], runs_folder: Path, left_out: Mapping[str, str]) -> None:
    """Makes the run directories: all, or none, and those of others are left alone."""
    made: list[Path] = []
    try:
        for spec in specs:
            directory = RunDirectory(runs_folder / spec.run_id)
            made.append(directory.path)
            directory.write_spec(spec, _ended(spec, left_out))
    except OSError as error:
        if isinstance(error, FileExistsError):
            made.pop()  # it is somebody else's
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
        raise


def _ended(spec: RunSpec, left_out: Mapping[str, str]) -> RunResult | None:
    """The result of a run that is never started; `None` for one that is."""
    if spec.label not in left_out:
        return None
    return RunResult("not_applicable", left_out[spec.label], finished_at=spec.created_at)


def _errors_in_file(task: TaskReference) -> list[FieldError]:
    """What is wrong inside a file of the user's own; found before anything is queued."""
    if task.kind != "file":
        return []
    try:
        load_task(task)
    except FtlabError as error:
        return [FieldError("task.id", str(error))]
    return []
