"""What of a run can become a GGUF file, and its export for the command line and the page.

Nothing here imports torch: a run that is not merged yet is merged first, by the process of `merge`.
The `gguf` package is imported only while a file is written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ftlab.basics.errors import FtlabError
from ftlab.basics.processes import WorkerEnded, answer_once, module_command
from ftlab.models.files import read_model_json
from ftlab.models.reference import parse_model
from ftlab.models.resolve import local_folder
from ftlab.records.merge import MergeDirectory
from ftlab.records.result import OPEN
from ftlab.records.store import Run
from ftlab.share.gguf_architectures import architecture_of
from ftlab.share.gguf_tokenizer import read_vocabulary
from ftlab.share.merge_control import why_not_mergeable
from ftlab.share.model_card import LICENCES, bundle_name
from ftlab.share.weights import kind_of, public_model, weights_of

TYPES = {
    "f16": "16 bits, for values to 65,504",
    "bf16": "16 bits with the range of 32",
    "f32": "32 bits",
    "q8_0": "8 bits and a scale for each 32",
}
"""The types that weights are stored in."""

ADAPTER_TYPES = ("f32", "f16", "bf16")
"""The rows of an adapter are as long as its rank, which may be less than a block of q8_0."""

_PROCESS_SECONDS = 3600.0
"""For a model of 140 GB at 40 MB/s."""


def usual_type(adapter: bool) -> str:
    return "f32" if adapter else "f16"


def file_name(run: Run, kind: str, adapter: bool) -> str:
    """As in "ftlab-lora-sql-ab12-03-merged-f16.gguf", or "…-03-adapter-f32.gguf"."""
    if adapter:
        return f"{bundle_name(run)}-adapter-{kind}.gguf"
    return f"{bundle_name(run, merged=not _is_whole(run))}-{kind}.gguf"


def _is_whole(run: Run) -> bool:
    return kind_of(run.directory.adapter) == "model"


def model_folder(run: Run) -> Path | None:
    """The folder of the run's whole model: its own or the merged one; `None` if it is not merged.

    Raises `FtlabError` if the run has no weights, or none that can be merged into its base, or if
    llama.cpp does not know the base's architecture or tokenizer.
    """
    folder = weights_of(run)
    if _is_whole(run):
        return folder
    _check_base(run)
    reason = why_not_mergeable(run)
    if reason:
        raise FtlabError(
            f"{reason} GGUF holds a whole model or a plain LoRA, so this run cannot become one; "
            "export a run of another method."
        )
    merge = MergeDirectory(run.directory)
    if merge.status() in OPEN:
        raise FtlabError(f"{run.run_id} is being merged; export it when that is done.")
    merged = run.directory.merged
    is_there = merge.record() is not None and any(merged.glob("*.safetensors"))
    return merged if is_there and not merged.is_symlink() else None


def write_model(
    run: Run, folder: Path, target: Path, kind: str, replace: bool, say: Callable[[str], None]
) -> int:
    """Writes the whole model in the folder, and returns the file's size in bytes."""
    from ftlab.share.gguf_export import model_contents, write_gguf

    contents = model_contents(folder, kind, _name(run), LICENCES.get(public_model(run.spec.model)))
    return write_gguf(contents, target, replace, say)


def write_adapter(
    run: Run, target: Path, kind: str, replace: bool, say: Callable[[str], None]
) -> int:
    """Writes the run's LoRA as an adapter, and returns the file's size in bytes.

    Raises `FtlabError` if GGUF cannot hold it, or if the base is not on this machine.
    """
    from ftlab.share.gguf_adapter import adapter_contents
    from ftlab.share.gguf_export import write_gguf

    folder = weights_of(run)
    if kind not in ADAPTER_TYPES:
        raise FtlabError(
            f"An adapter is not stored in {kind}, whose blocks are longer than its rows; add "
            f"--type with one of {', '.join(ADAPTER_TYPES)}."
        )
    base = _base_folder(run)
    if base is None:
        raise FtlabError(
            f"The base {public_model(run.spec.model)} is not on this machine, and its sizes belong "
            "to the file; fetch it with a run or the Playground first."
        )
    contents = adapter_contents(folder, base, kind, _name(run), run.spec.label)
    return write_gguf(contents, target, replace, say)


def write_in_process(run: Run, runs_folder: Path, target: Path) -> None:
    """Writes the whole model in a subprocess, in the usual type; replaces the file.

    Raises `FtlabError` with the error message of the command if it is not written.
    """
    command = module_command(
        "ftlab", "export", run.run_id, "--gguf", "--replace",
        "--runs-dir", str(runs_folder.resolve()), "-o", str(target),
    )  # fmt: skip
    try:
        answer_once(command, seconds=_PROCESS_SECONDS)
    except OSError as error:
        raise FtlabError(f"The file could not be made ({error}).") from None
    except WorkerEnded as end:
        raise FtlabError(f"No GGUF: {end.last.removeprefix('ftlab: ')}") from None


def _name(run: Run) -> str:
    return f"{public_model(run.spec.model).rpartition('/')[2]} {run.spec.label}"


def _base_folder(run: Run) -> Path | None:
    try:
        return local_folder(parse_model(run.spec.model))
    except FtlabError:  # a folder that is gone: the merge says so, if it is needed
        return None


def _check_base(run: Run) -> None:
    """Refuses what cannot be written before a merge of some minutes; not all of it is known yet."""
    base, name = _base_folder(run), public_model(run.spec.model)
    if base is None:
        return
    config = _config(base)
    architecture_of(config, name)
    if (base / "tokenizer.json").is_file():
        read_vocabulary(base, config, name)


def _config(folder: Path) -> dict[str, object]:
    try:
        return read_model_json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise FtlabError(
            f"config.json in '{folder}' cannot be read ({error}); fetch the model again."
        ) from None
