"""Resolves a model's name to a local folder of safetensors; downloads the model if necessary."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.basics.errors import FtlabError
from ftlab.basics.recent import Recent
from ftlab.models.bundled import Say, bundled_folder, ensure_bundled, is_fetched
from ftlab.models.download import DownloadProgress, snapshot
from ftlab.models.files import file_sha256, read_model_json
from ftlab.models.hub import TIMEOUT_SECONDS, hub_answers
from ftlab.models.reference import ModelReference, names_hub_model, parse_model

_ALLOWED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
_SHAPE_KEYS = {
    "num_hidden_layers": "layers",
    "n_layer": "layers",
    "max_position_embeddings": "context",
    "n_positions": "context",
    "model_type": "architecture",
}


@dataclass(frozen=True)
class ResolvedModel:
    """A local model; `folder` holds the weights, `public_id` is for adapter configs."""

    reference: ModelReference
    folder: Path

    @property
    def public_id(self) -> str:
        """The public id of the model; for a local folder only its name."""
        reference = self.reference
        return Path(reference.name).name if reference.kind == "folder" else reference.name

    def config(self) -> dict[str, Any]:
        """The content of config.json; raises `OSError` or `ValueError` if it cannot be read."""
        return read_model_json(self.folder / "config.json")

    def fingerprint(self) -> str:
        """SHA-256 over the weight files, sorted by name; the hash of each file is cached."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.glob("*.safetensors")):
            digest.update(file_sha256(path))
        return digest.hexdigest()


def local_folder(reference: ModelReference) -> Path | None:
    """The local folder of the model, without any download; `None` if there is none."""
    if reference.kind == "bundled":
        return bundled_folder() if is_fetched() else None
    if reference.kind == "folder":
        return Path(reference.name)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(reference.name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def resolve_model(
    text: str,
    say: Say = lambda line: None,
    progress: DownloadProgress = lambda done, total: None,
) -> ResolvedModel:
    """The local model; it is downloaded first if necessary.

    `say` and `progress` are those of `ensure_bundled` and `snapshot`. Raises `FtlabError` with
    cause and advice if there is no such model.
    """
    reference = parse_model(text)
    if reference.kind == "bundled":
        return ResolvedModel(reference, ensure_bundled(say))
    if reference.kind == "folder":
        return _without_remote_code(ResolvedModel(reference, Path(reference.name)))
    say(f"Fetching {reference.name} from the Hugging Face Hub …")
    return _without_remote_code(ResolvedModel(reference, _from_hub(reference.name, progress)))


def describe_shape(config: dict[str, Any]) -> str:
    """A short description of the model, as in "llama, 30 layers, context 8,192"."""
    found: dict[str, Any] = {}
    for key, name in _SHAPE_KEYS.items():
        if key in config:
            found.setdefault(name, config[key])
    parts = [str(found["architecture"])] if "architecture" in found else []
    if "layers" in found:
        parts.append(f"{found['layers']} layers")
    if type(found.get("context")) is int:
        parts.append(f"context {found['context']:,}")
    return ", ".join(parts)


def _from_hub(name: str, progress: DownloadProgress) -> Path:
    folder = snapshot(name, _ALLOWED, progress)
    _need_safetensors(name, [path.name for path in folder.iterdir()])
    return folder


def _need_safetensors(name: str, files: Iterable[str]) -> None:
    if not any(file.endswith(".safetensors") for file in files):
        raise FtlabError(
            f"The model '{name}' has no safetensors weights; other formats can run code when they "
            "are opened and are not read."
        )


def _without_remote_code(model: ResolvedModel) -> ResolvedModel:
    try:
        config = model.config()
    except (OSError, ValueError) as error:
        raise FtlabError(
            f"The config.json of '{model.reference.name}' cannot be read: {str(error).rstrip('.')}."
        ) from None
    if "auto_map" in config:
        raise FtlabError(
            f"The model '{model.reference.name}' needs code of its own (auto_map in its config), "
            "which ftlab never runs; choose a model that transformers knows by itself."
        )
    return model


_REACHED_SECONDS, _MISSED_SECONDS = 600.0, 20.0
_MOST = 64


def why_out_of_reach(model: str) -> str:
    """Why the Hub model is not available; "" if it is, and for all other names."""
    if not names_hub_model(model):
        return ""
    reference = parse_model(model)
    folder = local_folder(reference)
    if folder is not None and any(folder.glob("*.safetensors")):
        return ""
    try:
        _ask(reference.name)
    except FtlabError as error:
        return str(error)
    return ""


def _ask(name: str) -> None:
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

    with hub_answers(name):
        # Request a file: the file list of a gated model is public, its files are not.
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=TIMEOUT_SECONDS)
        files = HfApi().model_info(name, timeout=TIMEOUT_SECONDS).siblings or []
    _need_safetensors(name, [file.rfilename for file in files])


class ModelReach:
    """Caches the results of `why_out_of_reach`; failures only briefly, as networks recover."""

    def __init__(
        self,
        ask: Callable[[str], str] = why_out_of_reach,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._clock = ask, clock
        self._kept: Recent[str, tuple[float, str]] = Recent(_MOST)

    def known(self, model: str) -> str | None:
        """The cached result, or `None`; makes no request."""
        asked_at, answer = self._kept.get(model, (0.0, None))
        if answer is None:
            return None
        age = self._clock() - asked_at
        return answer if age < (_MISSED_SECONDS if answer else _REACHED_SECONDS) else None

    def why_not(self, model: str) -> str:
        """The result, cached; a request to the Hub takes seconds."""
        answer = self.known(model)
        if answer is None:
            answer = self._ask(model)
            self._kept[model] = (self._clock(), answer)
        return answer
