"""Whether a model can be had at all, asked before anything is queued. Nothing is downloaded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ftlab.errors import FtlabError
from ftlab.models.hub import TIMEOUT_SECONDS, hub_answers
from ftlab.models.reference import parse_model
from ftlab.models.resolve import local_folder

_REACHED_SECONDS, _MISSED_SECONDS = 600.0, 20.0
_MOST = 64


def why_out_of_reach(model: str) -> str:
    """Why a model named as `parse_model` reads it cannot be had; "" where it can.

    One on this machine is not asked about. What names no model is said by `parse_model` alone.
    """
    try:
        reference = parse_model(model)
        folder = local_folder(reference)
    except FtlabError:
        return ""
    if reference.kind != "hub" or (folder is not None and any(folder.glob("*.safetensors"))):
        return ""
    try:
        _ask(reference.name)
    except FtlabError as error:
        return str(error)
    return ""


def _ask(name: str) -> None:
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

    with hub_answers(
        name,
        f"The model '{name}'",
        "Use the bundled model, a local folder, or a machine with a way to the Hub.",
    ):
        # Of the file, because a gated model tells everybody what files it has.
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=TIMEOUT_SECONDS)
        files = HfApi().model_info(name, timeout=TIMEOUT_SECONDS).siblings or []
    if not any(file.rfilename.endswith(".safetensors") for file in files):
        raise FtlabError(
            f"The model '{name}' has no safetensors weights; other formats can run code when they "
            "are opened and are not read."
        )


class ModelReach:
    """The answers of `why_out_of_reach`, kept for a while: a refusal shortly, as nets come back."""

    def __init__(
        self,
        ask: Callable[[str], str] = why_out_of_reach,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._clock = ask, clock
        self._turn = threading.Lock()
        self._kept: dict[str, tuple[float, str]] = {}

    def known(self, model: str) -> str | None:
        """The answer if there is one; asks nobody."""
        with self._turn:
            asked_at, answer = self._kept.get(model, (0.0, None))
        if answer is None:
            return None
        age = self._clock() - asked_at
        return answer if age < (_MISSED_SECONDS if answer else _REACHED_SECONDS) else None

    def why_not(self, model: str) -> str:
        """The answer, which takes seconds where the Hub has to be asked."""
        answer = self.known(model)
        if answer is None:
            answer = self._ask(model)
            with self._turn:
                self._kept.pop(model, None)
                self._kept[model] = (self._clock(), answer)
                for old in list(self._kept)[:-_MOST]:
                    self._kept.pop(old)
        return answer
