"""Running runs once more: from their specs to requests that ask for the very same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftlab.errors import FtlabError, InvalidRequest
from ftlab.methods.variant import Variant
from ftlab.runs.rates import asked_again
from ftlab.runs.spec import RunSpec, SweepRequest
from ftlab.runs.sweep import enqueue_sweep
from ftlab.runs.validation import validate


def requests_of(specs: Iterable[RunSpec]) -> list[SweepRequest]:
    """As few sweeps as ask for exactly these runs, each once; base runs follow by themselves.

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
    """What the run shares with all others of its sweep, as a request without variants."""
    return SweepRequest(
        model=spec.model,
        task=spec.task,
        variants=(),
        settings=spec.settings,
        dtype_policy=spec.dtype_policy,
        device=spec.device,
        memory_limit=spec.memory_limit,
    )


def enqueue_again(specs: Sequence[RunSpec], runs_folder: Path) -> list[list[RunSpec]]:
    """Queues the runs anew and gives the specs of each new sweep, base runs first.

    Raises `FtlabError` before anything is queued where a request is no longer valid, say because
    its model or its file is gone; a file that was changed for the worse is found as its turn comes.
    """
    requests = requests_of(specs)
    if not requests:
        raise FtlabError("Nothing to run again: base runs follow from the runs of their sweep.")
    errors = [error for request in requests for error in validate(request)]
    if errors:
        raise InvalidRequest(list(dict.fromkeys(errors)))
    return [enqueue_sweep(request, runs_folder) for request in requests]


def _identity(variant: Variant) -> Any:
    own = tuple(sorted(variant.hyperparameters.items()))
    return variant.method, own, variant.learning_rate, variant.base
