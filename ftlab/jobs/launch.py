"""Validates a request and queues its runs; used by the web page, the command line and the API.

The memory limit is stored in the spec of each run. It therefore reaches the worker from any
dispatcher, outlives the process that queued the run, and is part of the record.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NewType

from ftlab.basics.devices import (
    AUTO,
    CPU,
    like_devices,
    list_devices,
    resolve_device,
    told_devices,
)
from ftlab.basics.errors import FieldError, FtlabError, InvalidRequest
from ftlab.basics.files import free_disk_bytes
from ftlab.basics.locks import FileLock, holding
from ftlab.basics.log import note
from ftlab.basics.people import asking
from ftlab.basics.units import format_bytes
from ftlab.jobs.launchers.launcher import where_runs_go
from ftlab.jobs.peft_check import check_request
from ftlab.methods.limits import Incompatible, incompatible
from ftlab.methods.registry import BASE_METHOD
from ftlab.methods.spec import BasePrecision
from ftlab.methods.variant import Variant, trainable_parameters, validate_variant
from ftlab.models.dimensions import shape_of_model, size_of_model
from ftlab.models.reference import parse_model
from ftlab.records.result import OPEN, RunResult
from ftlab.records.resume import checkpoint_interval
from ftlab.records.run import RunDirectory, check_writable, run_directories
from ftlab.records.spec import RunSpec, SweepRequest, asked_again, default_rate
from ftlab.settings.request import MEMORY_LIMIT_VARIABLE, parse_memory_limit
from ftlab.settings.schema import errors_in
from ftlab.settings.training import PREFIX, problems_of_parts
from ftlab.tasks.files import MAX_EVALUATION
from ftlab.tasks.reference import TaskReference
from ftlab.tasks.reference import load as load_task
from ftlab.tasks.reference import validate as validate_task


def validate(request: SweepRequest) -> list[FieldError]:
    """Returns every invalid field with a message: the value, the rule and how to fix it."""
    return [
        *errors_in(request),
        *validate_task(request.task),
        *_variants(request),
        *errors_in(request.settings, PREFIX),
        *(FieldError(f"{PREFIX}shard", why) for why in problems_of_shard(request)),
    ]


ValidRequest = NewType("ValidRequest", SweepRequest)
"""A request in which `validate` finds nothing wrong."""


def checked(request: SweepRequest) -> ValidRequest:
    """Returns the request; raises `InvalidRequest` with every invalid field."""
    errors = validate(request)
    if errors:
        raise InvalidRequest(errors)
    return ValidRequest(request)


def incompatible_variants(request: SweepRequest) -> list[tuple[Variant, Incompatible]]:
    """Returns the variants that cannot be trained on the model with these settings, and why.

    Variants with values that are invalid for every model are left to `validate`. For a model that
    is not local yet, only checks that do not need its shape are made.
    """
    shape, device_id = shape_of_model(request.model), device_of(request)
    return [
        (variant, found)
        for variant in request.variants
        if not validate_variant(variant)
        and (found := incompatible(variant, shape, request.settings, device_id)) is not None
    ]


def problems_of_shard(request: SweepRequest) -> Iterator[str]:
    """Yields why no run of the request can be divided over so many GPUs, and the way out."""
    settings = request.settings
    parts = settings.shard
    if parts <= 1:
        return
    yield from problems_of_parts(parts, settings.batch_size, settings.optimizer)
    if settings.measure_answering:
        yield (
            "What answering costs is measured on one GPU, and the model is to lie on "
            f"{parts}; switch Measure answering off, or choose 1 GPU in a run."
        )
    try:
        like = like_devices(request.device)
    except FtlabError:
        return  # told with the device
    first = like[0]
    if not first.is_gpu:
        return  # processes that share the cores, which shows that it works
    if len(like) < parts:
        there = len(like_devices(AUTO)) if first.is_cuda else 1
        enough = first.is_cuda and there >= parts
        way_out = f"choose the device {AUTO}" if enough else f"choose {there} or fewer"
        what = (
            f"the device {request.device} is one" if enough else f"this machine has {there} alike"
        )
        yield f"A run over {parts} GPUs needs so many like ones, and {what}; {way_out}."
    elif any("." in device.id for device in like[:parts]):
        yield (
            f"A run over {parts} GPUs needs whole ones: MIG instances cannot exchange gradients "
            "(NCCL); choose 1 GPU in a run."
        )
    if first.lacks_bf16 and request.dtype_policy != "fp32":
        yield (
            f"{first.label} has no bf16, and gradients scaled for fp16 are not divided over GPUs; "
            "choose the dtype policy fp32, or 1 GPU in a run."
        )


def device_of(request: SweepRequest) -> str:
    """Returns the id of the requested device; the CPU if missing (`validate` reports that)."""
    try:
        return resolve_device(request.device).id
    except FtlabError:
        return CPU


def not_applicable(request: SweepRequest) -> dict[str, str]:
    """Returns, by label, why a variant of a valid request is not applicable and not trained."""
    return {
        variant.label: found.message
        for variant, found in incompatible_variants(request)
        if found.not_applicable
    }


def _variants(request: SweepRequest) -> Iterator[FieldError]:
    if not request.variants:
        yield FieldError("variants", "No method is chosen; choose at least one.")
    seen = set()
    for variant in request.variants:
        errors = validate_variant(variant)
        yield from errors
        if not errors and variant.label in seen:
            yield FieldError("variants", f"{variant.label} is in the sweep twice; name it once.")
        elif not errors:
            seen.add(variant.label)
    found = [why for _, why in incompatible_variants(request)]
    none_left = len(found) == len(request.variants) and all(why.not_applicable for why in found)
    for why in found:
        if none_left or not why.not_applicable:
            yield FieldError(why.field or "variants", why.message)


_BYTES_A_STEP = 400  # one line of metrics.jsonl
_BYTES_AN_ANSWER = 16_000  # one line of samples.jsonl
_TOKENIZER_BYTES = 20_000_000  # saved with a whole model
_COPIES = 3
"""Size factor of an adapter, at most: if it changes the base, its initial weights are stored too
and its rank is doubled."""
_CHECKPOINTS = 3
_MARGIN_BYTES = 10_000_000  # everything else, mainly the log


def needed_bytes(spec: RunSpec) -> int:
    """Returns the most bytes that the run may write: saved weights, checkpoints and records."""
    return _saved_bytes(spec) + checkpoint_bytes(spec) + _record_bytes(spec)


def checkpoint_bytes(spec: RunSpec) -> int:
    """Returns the disk space in bytes for checkpoints: two are kept while a third is written.

    Each holds the trainable weights and AdamW's two moments of them, in the same precision. 0 if
    the number of trainable weights is not known before training.
    """
    variant = spec.variant
    shape = None if variant is None else shape_of_model(spec.model)
    if variant is None or shape is None or not checkpoint_interval(spec.settings):
        return 0
    size = 4 if variant.spec.is_adapter else _weight_bytes(spec)
    return _CHECKPOINTS * 3 * size * (trainable_parameters(variant, shape) or 0)


def check_space(specs: Iterable[RunSpec], folder: Path) -> None:
    """Raises `FtlabError` if the folder's disk has not enough free space for all the runs."""
    needed, free = sum(map(needed_bytes, specs)), free_disk_bytes(folder)
    if free is not None and free < needed:
        raise FtlabError(
            f"{format_bytes(free)} are free in '{folder}', and what is to be saved there may take "
            f"{format_bytes(needed)}; free some space, or name another folder with --runs-dir."
        )


def _saved_bytes(spec: RunSpec) -> int:
    """Bytes of the adapter (4 per weight) or of the model; 0 if not known before training.

    Not known are PeftConfigs written by hand, and models that are not local yet.
    """
    variant = spec.variant
    shape = None if variant is None else shape_of_model(spec.model)
    if variant is None or shape is None:
        return 0
    if variant.spec.ships_whole_model:
        return shape.total * _weight_bytes(spec) + _TOKENIZER_BYTES
    return _COPIES * 4 * (trainable_parameters(variant, shape) or 0)


def _weight_bytes(spec: RunSpec) -> int:
    """Bytes of a trainable base weight; on a GPU without bf16 it is stored in 32 bits."""
    lacks_bf16 = any(device.id == spec.device and device.lacks_bf16 for device in list_devices())
    return 2 if spec.dtype_policy == "bf16" and not lacks_bf16 else 4


def _record_bytes(spec: RunSpec) -> int:
    settings = spec.settings
    answers = min(settings.eval_examples, MAX_EVALUATION) * _BYTES_AN_ANSWER
    return settings.steps * _BYTES_A_STEP + answers + _MARGIN_BYTES


def operator_limit() -> int | None:
    """Returns the limit from the environment; raises `FtlabError` if it is not a size."""
    text = os.environ.get(MEMORY_LIMIT_VARIABLE, "").strip()
    return parse_memory_limit(text) if text else None


def least(*limits: int | None) -> int | None:
    """Returns the smallest limit; `None` if there is none."""
    return min((limit for limit in limits if limit is not None), default=None)


_TRIES = 5


def plan_sweep(
    request: SweepRequest, now: float | None = None, onto: Sequence[RunSpec] = ()
) -> list[RunSpec]:
    """Returns the specs of a valid request: one base run per base precision, then the variants.

    All specs have the same task and settings, so all runs of one seed use the same examples in the
    same order. Each spec also has its learning rate. The ids sort in queue order. A variant that
    is not applicable gets specs too, but no base run. `onto` are the runs of an existing sweep to
    extend: the new runs share its id and owner, and its base runs if there are any. Other runs
    belong to the person who asks.
    """
    created = time.time() if now is None else now
    owner = onto[0].owner if onto else asking().name
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(created))
    sweep_id = onto[0].sweep_id if onto else f"{stamp}-{secrets.token_hex(2)}"
    devices = tuple(device.id for device in like_devices(request.device))
    is_any = len(devices) > 1 or (request.device == AUTO and told_devices() is not None)
    limit = least(request.memory_limit, operator_limit())
    model = parse_model(request.model).name  # resolved here: a worker has another working directory
    size = size_of_model(request.model)
    first = 1 + max(map(_number, onto), default=-1)  # some of the earlier ones may be removed
    specs: list[RunSpec] = []

    def add(
        variant: Variant | None, precision: BasePrecision | None, base: str | None, seed: int
    ) -> str:
        name = variant.method if variant else "-".join(filter(None, (BASE_METHOD, precision)))
        run_id = f"{sweep_id}-{first + len(specs):02d}-{name}"
        specs.append(
            RunSpec(
                run_id=run_id,
                sweep_id=sweep_id,
                model=model,
                task=request.task,
                variant=variant,
                settings=request.settings,
                dtype_policy=request.dtype_policy,
                device=devices[0],
                devices=devices if is_any else (),
                seed=seed,
                base_precision=precision,
                base_run_id=base,
                created_at=created,
                memory_limit=limit,
                default_rate=default_rate(variant, request.settings, size),
                owner=owner,
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
        for precision in sorted(precisions, key=bool)  # the others are compared with the whole one
    }
    for seed in request.seeds:
        for variant in request.variants:
            precision = variant.base_precision
            add(variant, precision, bases.get(precision), seed)
    return specs


def _number(spec: RunSpec) -> int:
    """Its place in the queue of its sweep, by its id."""
    return int(spec.run_id.removeprefix(f"{spec.sweep_id}-").partition("-")[0])


def space_errors(request: SweepRequest, folder: Path) -> list[FieldError]:
    """Returns an error if the disk has no room for a valid request, else an empty list."""
    try:
        check_space(plan_sweep(request), folder)
    except FtlabError as error:
        return [FieldError("", str(error))]
    return []


def enqueue_sweep(
    request: ValidRequest,
    runs_folder: Path,
    onto: Sequence[RunSpec] = (),
    pause_after: int | None = None,
) -> list[RunSpec]:
    """Writes a directory per run, which the dispatcher then starts.

    A variant that is not applicable becomes a finished run, with the reason as its result.
    `onto` is as in `plan_sweep`. The runs pause after step `pause_after`, if it is given.
    Raises `InvalidRequest` if PEFT rejects a PeftConfig, and `FtlabError` if the folder cannot be
    written, the disk or the person's queue is too full, or the sweep of `onto` is somebody else's.
    """
    check_writable(runs_folder)
    if onto:
        asking().check_change(onto[0].owner, f"The sweep {onto[0].sweep_id}")
    normalised, errors = check_request(request)
    if errors:
        raise InvalidRequest(errors)
    left_out = not_applicable(normalised)
    for _ in range(_TRIES):
        specs = plan_sweep(normalised, onto=onto)
        check_space(specs, runs_folder)
        try:
            with room_for(len(specs), runs_folder):
                _write(specs, runs_folder, left_out, pause_after)
        except FileExistsError:
            continue  # another process got the same id: retry with a new one
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


@contextmanager
def room_for(more: int, runs_folder: Path) -> Iterator[None]:
    """Within it the person who asks may queue so many runs more; others of that person wait.

    Raises `FtlabError` if these are too many.
    """
    person = asking()
    if person.most_queued is None:
        yield
        return
    with holding(FileLock(runs_folder / ".ftlab" / "room.lock")):
        open_runs = (run for run in run_directories(runs_folder) if not run.result_file.exists())
        person.check_room(sum(_is_open(run, person.name) for run in open_runs), more)
        yield


def _is_open(directory: RunDirectory, owner: str) -> bool:
    with suppress(FtlabError):  # a damaged run is nobody's
        return directory.spec().owner == owner and directory.status() in OPEN
    return False


def _write(
    specs: Sequence[RunSpec],
    runs_folder: Path,
    left_out: Mapping[str, str],
    pause_after: int | None,
) -> None:
    """Creates all the run directories, or none; directories of other processes are not touched."""
    made: list[Path] = []
    try:
        for spec in specs:
            directory = RunDirectory(runs_folder / spec.run_id)
            made.append(directory.path)
            directory.write_spec(spec, _ended(spec, left_out), pause_after, where_runs_go())
    except OSError as error:
        if isinstance(error, FileExistsError):
            made.pop()  # another process made it
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
        raise


def _ended(spec: RunSpec, left_out: Mapping[str, str]) -> RunResult | None:
    """The result of a run that will not be started, else `None`."""
    if spec.label not in left_out:
        return None
    return RunResult("not_applicable", left_out[spec.label], finished_at=spec.created_at)


def errors_in_file(task: TaskReference) -> list[FieldError]:
    """The errors inside a user's data file."""
    if task.kind != "file":
        return []
    try:
        load_task(task)
    except FtlabError as error:
        return [FieldError("task.id", str(error))]
    return []


def requests_of(specs: Iterable[RunSpec]) -> list[SweepRequest]:
    """Returns the fewest requests that give exactly these runs; base runs are added automatically.

    Runs of one sweep share model, task, settings, dtype policy and device, and each of its
    variants is run with each of its seeds.
    """
    asked: dict[Any, dict[Any, tuple[Variant, dict[int, None]]]] = {}
    shared: dict[Any, SweepRequest] = {}
    for spec in specs:
        variant = asked_again(spec)
        if variant is None:
            continue
        request = same_for_all(spec)
        key = repr(request)
        shared.setdefault(key, request)
        variants = asked.setdefault(key, {})
        _, seeds = variants.setdefault(_identity(variant), (variant, {}))
        seeds[spec.seed] = None
    requests = []
    for key, variants in asked.items():
        by_seeds: dict[frozenset[int], tuple[dict[int, None], list[Variant]]] = {}
        for variant, seeds in variants.values():
            by_seeds.setdefault(frozenset(seeds), (seeds, []))[1].append(variant)
        requests += [
            replace(shared[key], variants=tuple(members), seeds=tuple(seeds))
            for seeds, members in by_seeds.values()
        ]
    return requests


def same_for_all(spec: RunSpec) -> SweepRequest:
    """Returns what all runs of the run's sweep share, as a request without variants."""
    return SweepRequest(
        model=spec.model,
        task=spec.task,
        variants=(),
        settings=spec.settings,
        dtype_policy=spec.dtype_policy,
        device=AUTO if spec.devices else spec.device,
        memory_limit=spec.memory_limit,
    )


def enqueue_again(specs: Sequence[RunSpec], runs_folder: Path) -> list[list[RunSpec]]:
    """Queues the runs again and returns the specs of each new sweep, base runs first.

    Raises `FtlabError` before anything is queued if a request is no longer valid, for example
    because its model or file is gone.
    """
    requests = requests_of(specs)
    if not requests:
        raise FtlabError("Nothing to run again: base runs follow from the runs of their sweep.")
    errors = [
        error for request in requests for error in validate(request) or errors_in_file(request.task)
    ]
    if errors:
        raise InvalidRequest(list(dict.fromkeys(errors)))
    return [enqueue_sweep(ValidRequest(request), runs_folder) for request in requests]


def _identity(variant: Variant) -> Any:
    own = tuple(sorted(variant.hyperparameters.items()))
    return variant.method, own, variant.learning_rate, variant.base
