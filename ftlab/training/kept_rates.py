"""What the same training step took on this machine before: how slow a run is, judged from outside.

A run beside which something works all the time has no quiet step of its own. So the rate of every
run beside which nothing is known to have worked is kept with the machine's device locks, and later
runs of the same step are held against it. It counts while the machine is up: a restarted one may be
another. A machine that has become slower for good is known as such after three runs.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftlab.locks import FileLock, holding
from ftlab.paths import locks_folder
from ftlab.reading import read_plain
from ftlab.runs.directory import write_atomically
from ftlab.runs.process import boot_id
from ftlab.runs.spec import RunSpec

MOST_STEPS = 500
"""Different steps that are remembered, the latest."""

RATES_OF_A_STEP = 5
_MOST_BYTES = 1 << 20
_FACTS = ("device", "uuid", "threads", "packages", "model_hash", "data_hash", "attention")


class KeptRates:
    """Seconds a token, padding counted, by step. What cannot be read is not known."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = locks_folder() / "step-rates.json" if file is None else file

    def rate(self, step: str) -> float | None:
        """The middle one of the last rates of that step; `None` where there is none."""
        rates = self._read().get(step, [])
        return statistics.median(rates) if rates else None

    def keep(self, step: str, rate: float) -> None:
        """Adds a rate; a folder that cannot be written remembers nothing."""
        try:
            with holding(FileLock(self._file.with_suffix(".lock"))):
                known = self._read()
                rates = [*known.pop(step, []), rate][-RATES_OF_A_STEP:]
                latest = list(known.items())[-(MOST_STEPS - 1) :]
                write_atomically(self._file, json.dumps(dict([*latest, (step, rates)])).encode())
        except OSError:
            return

    def _read(self) -> dict[str, list[float]]:
        try:
            found = json.loads(read_plain(self._file, _MOST_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {step: rates for step, rates in found.items() if _are_rates(rates)}


def same_step(spec: RunSpec, environment: Mapping[str, Any]) -> str:
    """A name that only runs share whose steps take equally long on this machine.

    Seed and number of steps are not in it: they choose among the same examples.
    """
    settings = spec.settings
    facts = {
        "boot": boot_id(),
        "variant": None if spec.variant is None else [
            spec.variant.method, sorted(spec.variant.hyperparameters.items()), spec.base_precision,
        ],
        "batch": [settings.batch_size, settings.accumulation, settings.max_length],
        "optimizer": [settings.optimizer, settings.gradient_checkpointing],
        "policy": spec.dtype_policy,
        **{name: environment.get(name) for name in _FACTS},
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _are_rates(rates: Any) -> bool:
    return isinstance(rates, list) and all(isinstance(x, float) and 0 < x < 1e6 for x in rates)
