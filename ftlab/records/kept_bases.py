"""What a base run measured, kept for later sweeps: the untouched model is measured once a machine.

It is kept by all that it depends on: the model's files, precision and dtype policy, the data and
how it is scored, device and threads, package versions, and ftlab's own code. If anything differs,
the base is measured anew. Each sweep has its base run and gets a copy of the numbers, so deleting
the sweep that measured them takes nothing from the others.

Numbers on data that ships with ftlab are kept in the cache folder (`FTLAB_KEPT` names another),
for all runs folders of the user; those on a person's own data stay in the runs folder, as the data
does, and are that person's alone: another with the same data measures anew, and so does not learn
that somebody else has it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ftlab.basics.devices import cpu_count, list_devices
from ftlab.basics.errors import FtlabError
from ftlab.basics.kept_files import hash_of_code, kept_folder, read_kept, write_kept
from ftlab.basics.system import read_proc
from ftlab.models.files import file_sha256
from ftlab.models.libraries import cpu_settings, gpu_settings, installed_versions
from ftlab.models.resolve import resolve_model
from ftlab.records.result import RunResult
from ftlab.records.run import RunDirectory, write_json_lines
from ftlab.records.spec import RunSpec
from ftlab.tasks.reference import load as load_task
from ftlab.tasks.registry import general_fingerprint

MEASURED_IN = "measured_in"
"""The key in a kept result's environment for the run that measured it."""

_EARLIER = "an earlier run"
"""What another person's run is called."""

_PACKAGES = (
    "torch", "transformers", "tokenizers", "bitsandbytes", "accelerate", "safetensors", "peft",
    "sacrebleu", "rouge-score",
)  # fmt: skip
_CODE = ("models", "tasks", "training")
"""ftlab's packages that load and score a model."""

_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
_MOST_KEPT = 200


@dataclass(frozen=True)
class KeptBase:
    """The result of a base run, its rows of samples.jsonl, and its owner."""

    result: RunResult
    rows: tuple[dict[str, Any], ...]
    owner: str = ""


_KEPT = TypeAdapter(KeptBase)


def kept_file(spec: RunSpec, runs_folder: Path) -> Path | None:
    """Where the numbers of such a base run are kept; `None` if the model is not on this machine.

    Raises `FtlabError` if model or data cannot be read. Call it with the environment of a worker.
    """
    task, data = load_task(spec.task)
    settings = spec.settings
    facts = {
        "model": _model_files(spec),
        "precision": [spec.base_precision, spec.dtype_policy],
        "data": [data.fingerprint(settings.eval_examples), general_fingerprint()],
        "scored": [
            task.metric.label, task.max_new_tokens, settings.eval_examples, settings.eval_split,
            settings.eval_answers, settings.max_length,
        ],
        "device": _device(spec.device),
        "limit": spec.memory_limit,
        "cores": cpu_count(),
        "settings": cpu_settings() | gpu_settings(),
        "python": platform.python_version(),
        "packages": installed_versions(_PACKAGES),
        "code": hash_of_code(*_CODE),
    }  # fmt: skip
    if settings.shard > 1:
        facts["shard"] = settings.shard
    if _is_own_data(spec):
        facts["owner"] = spec.owner
    if not facts["model"]:
        return None
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return _folder(spec, runs_folder) / f"{key[:40]}.json"


def take(file: Path, directory: RunDirectory) -> RunResult | None:
    """Writes the kept samples into a base run's folder and returns its result; `None` if there is
    no sound file."""
    try:
        kept = _KEPT.validate_json(read_kept(file))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ValidationError) as error:
        print(f"The kept base {file.name} cannot be used, it is measured anew: {error}", flush=True)
        return None
    write_json_lines(directory.samples_file, kept.rows)
    result = kept.result
    which = f"run {result.environment[MEASURED_IN]}"
    if kept.owner != directory.spec().owner:  # who may not see that run
        which = _EARLIER
        result = replace(result, environment=result.environment | {MEASURED_IN: _EARLIER})
    day = time.strftime("%d %b %Y", time.localtime(result.finished_at))
    note = (
        f"Not measured again: the numbers are those of {which} of {day}, with the same model, "
        "data, settings, device and package versions."
    )
    return replace(result, finished_at=time.time(), notes=(note, *result.notes))


def keep(file: Path, directory: RunDirectory, result: RunResult) -> None:
    """Keeps what a base run measured; does nothing if the folder cannot be written."""
    environment = result.environment | {MEASURED_IN: directory.run_id}
    rows, owner = tuple(directory.samples()), directory.spec().owner
    kept = KeptBase(replace(result, environment=environment), rows, owner)
    write_kept(file, _KEPT.dump_json(kept), _MOST_KEPT)


def _folder(spec: RunSpec, runs_folder: Path) -> Path:
    return runs_folder / ".ftlab" / "bases" if _is_own_data(spec) else kept_folder("bases")


def _is_own_data(spec: RunSpec) -> bool:
    return spec.task.kind != "bundled"


def _model_files(spec: RunSpec) -> list[tuple[str, str]]:
    """Name and hash of every file that loading the model and its tokenizer may read."""
    folder = resolve_model(spec.model, say=print).folder
    files = sorted({file for pattern in _MODEL_FILES for file in folder.glob(pattern)})
    return [(file.name, file_sha256(file).hex()) for file in files]


def _device(device_id: str) -> list[str]:
    """What the numbers depend on; the same for like cards, of which a run gets any."""
    device = next((one for one in list_devices() if one.id == device_id), None)
    if device is None:
        raise FtlabError(f"There is no device '{device_id}' on this machine.")
    wanted = ("model name", "flags")
    lines = (read_proc("cpuinfo") or "").splitlines()
    cpu = dict.fromkeys(line for line in lines if line.startswith(wanted))
    return [device.kind, device.label, *cpu]
