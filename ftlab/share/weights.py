"""Which runs have weights to export, and of what kind. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import recorded_folder
from ftlab.models.files import read_model_json
from ftlab.models.reference import BUNDLED_ID
from ftlab.records.result import status_label
from ftlab.records.store import Run, RunStore

Kind = Literal["adapter", "weights", "model"]
"""The content of a run's folder: a PEFT adapter, the trained weights, or a whole model."""

CONFIG_FILE = "adapter_config.json"

WEIGHTS_OF_ITS_OWN = "trained_weights.safetensors"
"""The same name as in `ftlab.models.loading`, which imports torch."""


def any_run(runs_folder: Path, run_id: str) -> Run:
    """The run with that id, measured here or recorded; raises `FtlabError` if there is none."""
    return RunStore(runs_folder.resolve(), recorded_folder()).find(run_id)


def why_no_weights(run: Run) -> str:
    """The reason why the run has no weights to export; "" if it has weights."""
    if run.origin == "opened":
        return (
            f"{run.run_id} was opened from a file; adapters that were packed with it are in the "
            "Playground."
        )
    if run.origin != "measured":
        return (
            f"{run.run_id} is a recorded run that ships with ftlab, without its weights; clone it "
            "into Experiment and run it here to get them."
        )
    if run.spec.is_base:
        return f"{run.run_id} is a base run: the untouched model, on which nothing was trained."
    if not run.has_weights:
        return f"{run.run_id} is {status_label(run.status)}; only a run that is done has weights."
    folder = run.directory.adapter
    if folder.is_symlink() or any(path.is_symlink() for path in folder.glob("*")):
        return (
            f"The weights of {run.run_id} are links, which ftlab does not follow; copy the "
            "files themselves there."
        )
    if not any(folder.glob("*.safetensors")):
        return f"The weights of {run.run_id} are not there any more; run it again to get them."
    return ""


def weights_of(run: Run) -> Path:
    """The folder with the run's weights; raises `FtlabError` if there is none."""
    reason = why_no_weights(run)
    if reason:
        raise FtlabError(reason)
    return run.directory.adapter


def kind_of(folder: Path) -> Kind:
    if (folder / CONFIG_FILE).is_file():
        return "adapter"
    return "model" if (folder / "config.json").is_file() else "weights"


def adapter_config(folder: Path) -> dict[str, Any]:
    """Reads the adapter's PEFT configuration; raises `FtlabError` if it cannot be read."""
    try:
        return read_model_json(folder / CONFIG_FILE)
    except (OSError, ValueError) as error:
        raise FtlabError(
            f"{CONFIG_FILE} of '{folder.parent.name}' cannot be read ({error}); run it again."
        ) from None


def public_model(model: str) -> str:
    """The public name of a record's model; for a folder, its name without the path."""
    if model == "bundled":
        return BUNDLED_ID
    return Path(model).name if model.startswith("/") else model


def is_on_hub(model: str) -> bool:
    """Whether the record's model has an id on the Hub."""
    return not model.startswith("/")


def script_command(model: str, script: str = "reproduce.py") -> str:
    """The command that runs a run's script on that model; a local folder has to be named in it."""
    return f"python {script}" if is_on_hub(model) else f"python {script} FOLDER"


def script_base(model: str) -> str:
    """A clause, without full stop, on the base that the script loads or that has to be named."""
    if not is_on_hub(model):
        return f"FOLDER is that of {public_model(model)}"
    if public_model(model) == BUNDLED_ID:
        return "it finds the bundled model on this machine, without the Hub"
    return f"it takes {model} from the Hub or its cache"
