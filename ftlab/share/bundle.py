"""Packs a run's weights into one zip, and uploads them to the Hugging Face Hub.

Nothing else of the run directory is included: no log, no answers, no local path.

The token is read from the environment only. It is passed to huggingface_hub and to nothing else,
and it is removed from error messages.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.processes import WorkerEnded, answer_once, module_command
from ftlab.basics.units import format_bytes
from ftlab.jobs.launchers.hub_errors import TOKEN
from ftlab.models.files import read_model_json
from ftlab.models.reference import is_owned_hub_id
from ftlab.records.merge import MergeDirectory
from ftlab.records.spec import needs_hub
from ftlab.records.store import Run
from ftlab.share.model_card import bundle_name, model_card
from ftlab.share.weights import kind_of, public_model, weights_of

CARD = "README.md"
_TEMPLATE = "chat_template.jinja"
_CONFIGS = ("adapter_config.json", "config.json", "tokenizer_config.json", "trained_weights.json")
_KEPT_FREE = 2**28  # bytes that stay free on the disk for other programs
_SCRIPT_SECONDS = 600.0
_PATH_KEY = re.compile(r"_?(\w+_)?name_or_path")


@dataclass(frozen=True)
class Bundle:
    """Files by name: `texts` are generated, `files` are copied unchanged from the run.

    `name` is the name of the folder in the zip.
    """

    name: str
    texts: Mapping[str, str]
    files: Mapping[str, Path]


def run_bundle(run: Run, merged: bool = False) -> Bundle:
    """Returns the bundle of the run's weights, or of its merged model if `merged`.

    Raises `FtlabError` if the run has no weights or was not merged.
    """
    folder = weights_of(run)
    record = None
    if merged:
        merge = MergeDirectory(run.directory)
        folder, record = run.directory.merged, merge.record()
        if record is None or not any(folder.glob("*.safetensors")):
            raise FtlabError(
                f"{run.run_id} has no merged model in its folder; make one with "
                f"`python -m ftlab merge {run.run_id}`."
            )
    if folder.is_symlink():
        raise FtlabError(f"The folder '{folder.name}' of {run.run_id} is a link; copy it instead.")
    found = sorted(path for path in folder.iterdir() if _goes_along(path))
    base = public_model(run.spec.model)
    texts = {path.name: without_paths(path, base) for path in found if path.name in _CONFIGS}
    texts[CARD] = model_card(run, kind_of(folder), record)
    files = {path.name: path for path in found if path.name not in texts}
    return Bundle(bundle_name(run, merged), texts, files)


def write_zip(bundle: Bundle, target: Path) -> None:
    """Writes the zip atomically. Weights are copied in chunks, never held in memory.

    Raises `FtlabError` if the file cannot be written.
    """
    check_room(sum(path.stat().st_size for path in bundle.files.values()), target.parent)
    with new_zip(target) as archive:
        for name, text in bundle.texts.items():
            archive.writestr(f"{bundle.name}/{name}", text, zipfile.ZIP_DEFLATED)
        for name, path in bundle.files.items():
            packs = path.suffix != ".safetensors"  # weights hardly compress
            how = zipfile.ZIP_DEFLATED if packs else zipfile.ZIP_STORED
            archive.write(path, f"{bundle.name}/{name}", how)


@contextlib.contextmanager
def new_zip(target: Path) -> Iterator[zipfile.ZipFile]:
    """A zip that replaces `target` at the end; raises `FtlabError` if it cannot be written."""
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
                yield archive
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FtlabError(
            f"'{target}' cannot be written ({error.strerror}); free some space, or name a file in "
            "a folder that can be written."
        ) from None


def check_room(needed: int, folder: Path, what: str = "The zip") -> None:
    """Checks the free space first: a sparse file can be larger than the disk and would fill it."""
    free = shutil.disk_usage(folder).free
    if needed + _KEPT_FREE > free:
        raise FtlabError(
            f"{what} takes {format_bytes(needed)} and '{folder}' has {format_bytes(free)} free; "
            "free some space."
        )


def zip_script(run: Run, runs_folder: Path, target: Path) -> None:
    """Writes the run's script and its examples as one zip, in a subprocess that takes some seconds.

    Raises `FtlabError` with the error message of the command if there is no script.
    """
    with tempfile.TemporaryDirectory(prefix="ftlab-") as place:
        folder = Path(place)
        command = module_command(
            "ftlab", "script", run.run_id,
            "--runs-dir", str(runs_folder.resolve()), "-o", str(folder),
        )  # fmt: skip
        try:
            answer_once(command, seconds=_SCRIPT_SECONDS, needs_hub=needs_hub(run.spec))
        except OSError as error:
            raise FtlabError(f"The script could not be made ({error}).") from None
        except WorkerEnded as end:
            raise FtlabError(f"No script: {end.last.removeprefix('ftlab: ')}") from None
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, f"{target.stem}/{path.name}")


@contextlib.contextmanager
def laid_out(bundle: Bundle) -> Iterator[Path]:
    """A temporary folder with the bundle's files; weights are symbolic links, not copies."""
    with tempfile.TemporaryDirectory(prefix="ftlab-") as place:
        folder = Path(place) / bundle.name
        folder.mkdir()
        for name, text in bundle.texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        for name, path in bundle.files.items():
            (folder / name).symlink_to(path.resolve())
        yield folder


def _goes_along(path: Path) -> bool:
    named = path.suffix in (".safetensors", ".json") or path.name == _TEMPLATE
    return named and path.is_file() and not (path.is_symlink() or path.name.startswith("."))


def without_paths(path: Path, base: str) -> str:
    """The configuration, with local folders replaced by the base's public name."""
    try:
        config = read_model_json(path)
    except (OSError, ValueError) as error:
        raise FtlabError(f"{path.name} cannot be read ({error}); run it again.") from None
    for key, value in config.items():
        if _PATH_KEY.fullmatch(key) and isinstance(value, str) and Path(value).is_absolute():
            config[key] = base
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"


def hub_api(token: str) -> Any:
    """A `huggingface_hub.HfApi`."""
    from huggingface_hub import HfApi

    return HfApi(token=token)


def token_of(environment: Mapping[str, str] = os.environ) -> str:
    """Returns the token of the environment; raises `FtlabError` if there is none."""
    token = environment.get(TOKEN, "").strip()
    if not token:
        raise FtlabError(
            f"There is no token in the environment: set {TOKEN} to one of yours that may write "
            "(huggingface.co/settings/tokens); it is asked for nowhere else."
        )
    return token


def check_repo(repo: str) -> str:
    """Returns `repo`; raises `FtlabError` unless it has the form OWNER/NAME."""
    if not is_owned_hub_id(repo):
        raise FtlabError(f"'{repo[:120]}' is no repository; write OWNER/NAME.")
    return repo


def push(bundle: Bundle, repo: str, public: bool, token: str, api: Any = None) -> str:
    """Uploads the bundle's files and returns the repository's URL.

    Raises `FtlabError` for any error of the Hub.
    """
    check_repo(repo)
    try:
        api = hub_api(token) if api is None else api
        make_repo(repo, public, api, "add --public")
        upload_files(bundle, repo, api)
    except FtlabError:
        raise
    except Exception as error:
        said = one_line(error).replace(token, "…")[:300]
        raise FtlabError(
            f"{repo} could not be uploaded: {said} Check the name, that the token may write, and "
            "that the Hub can be reached."
        ) from None
    return repo_address(repo)


def make_repo(repo: str, public: bool, api: Any, way: str) -> None:
    """Makes the repository unless it exists.

    A new one is private unless `public`. An existing one keeps its visibility, so an existing
    public one is refused unless `public`; `way`: how to upload to it all the same.
    """
    api.create_repo(repo, private=not public, exist_ok=True)
    if not public and api.repo_info(repo).private is False:
        raise FtlabError(
            f"{repo} exists already and is public, so everybody could read the upload; {way} "
            "to upload all the same, or name another repository."
        )


def upload_files(bundle: Bundle, repo: str, api: Any) -> None:
    """Uploads the bundle's files to a repository that exists."""
    with laid_out(bundle) as folder:
        api.upload_folder(repo_id=repo, folder_path=str(folder), commit_message="Upload with ftlab")


def repo_address(repo: str) -> str:
    return f"https://huggingface.co/{repo}"
