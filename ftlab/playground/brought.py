"""Adapters from elsewhere: checked, and kept beside the runs under a name of their own."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from ftlab.access import EVERYTHING, Access
from ftlab.errors import FtlabError
from ftlab.models.safetensors_header import Header, read_header
from ftlab.playground.adapter_config import AdapterFacts, check_config
from ftlab.playground.adapter_files import MAX_BYTES, OpenFile, adapter_files
from ftlab.playground.panes import (
    BROUGHT,
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdapterRecord,
    PaneSource,
    brought_folder,
    find_source,
    read_record,
    write_record,
)
from ftlab.runs.closed import check_open
from ftlab.words import plain_line

MAX_LABEL_CHARACTERS = 60

_MAX_SLUG_CHARACTERS = 40
_CHUNK = 2**20


def bring_adapter(
    source: Path, runs_folder: Path, label: str = "", access: Access = EVERYTHING
) -> PaneSource:
    """Keeps a PEFT adapter that lies in a folder or a .zip, and says by what name it answers.

    `label` "" is the name of the folder or the zip. What was brought before is found again; a
    label given then takes the place of the old one. Raises `FtlabError` with the way out for
    anything that is not one whole adapter fit to be laid over an unchanged base, and for one whose
    base `access` does not let its bringer name.
    """
    check_open(runs_folder)
    access.check_upload()
    given = _clean(label)
    parent = brought_folder(runs_folder)
    with adapter_files(source) as open_file, _work_folder(parent) as work:
        config = _read_config(open_file)
        facts = check_config(config)
        _check_base(facts.model, access)
        record = AdapterRecord(
            label=given or _clean(source.name if source.is_dir() else source.stem) or "Adapter",
            method=facts.method,
            model=facts.model,
            sha256=_store(open_file, config, facts, work),
            detail=f"{facts.summary}, brought along",
        )
        folder = _keep(work, parent, record, config)
        kept = read_record(folder)
        if given and kept.label != given:
            write_record(folder, replace(kept, label=given))
    return find_source(runs_folder, BROUGHT + folder.name)


def forget_adapter(runs_folder: Path, name: str) -> None:
    """Removes a brought adapter, named as its pane is ("adapter:…").

    Raises `FtlabError` if there is none of that name or it cannot be removed.
    """
    check_open(runs_folder)
    parent, wanted = brought_folder(runs_folder), name.removeprefix(BROUGHT)
    if wanted not in _names(parent):
        raise FtlabError(
            f"There is no adapter '{wanted[:80]}' that was brought along; the playground's list "
            "shows those there are."
        )
    gone = parent / f".gone-{secrets.token_hex(8)}"
    try:
        os.rename(parent / wanted, gone)  # first out of sight, so nobody finds half of it
        shutil.rmtree(gone)
    except OSError as error:
        raise FtlabError(
            f"The adapter '{wanted}' cannot be removed ({error.strerror}); make the runs folder "
            "writable."
        ) from None


def _check_base(model: str, access: Access) -> None:
    try:
        access.check_model(model)
    except FtlabError as error:
        raise FtlabError(
            f"The adapter's base_model_name_or_path cannot be taken: {str(error)[:-1]}, or write "
            f"the model's public id into {CONFIG_FILE}."
        ) from None


def _read_config(open_file: OpenFile) -> bytes:
    with open_file(CONFIG_FILE) as stream:
        data = stream.read(MAX_BYTES[CONFIG_FILE] + 1)
    if len(data) > MAX_BYTES[CONFIG_FILE]:
        raise FtlabError(f"{CONFIG_FILE} is longer than it claims to be; save the adapter again.")
    return data


@contextmanager
def _work_folder(parent: Path) -> Iterator[Path]:
    """An empty folder whose name begins with a dot, so that no list shows it; gone at the end."""
    work = parent / f".bring-{secrets.token_hex(8)}"
    try:
        work.mkdir(parents=True)
        yield work
    except OSError as error:
        raise FtlabError(
            f"The adapter cannot be kept in the runs folder ({error.strerror}); free some space "
            "there, make it writable, or name another with --runs-dir."
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _store(open_file: OpenFile, config: bytes, facts: AdapterFacts, work: Path) -> str:
    """Writes both files into `work`; gives back the SHA-256 of the weights."""
    (work / CONFIG_FILE).write_bytes(config)
    with open_file(WEIGHTS_FILE) as stream:
        # The header says how long the file is, so no more is written than an adapter can have.
        header = read_header(stream, WEIGHTS_FILE)
        if header.file_bytes > MAX_BYTES[WEIGHTS_FILE]:
            raise FtlabError(
                f"{WEIGHTS_FILE} claims {header.file_bytes:,} bytes; at most "
                f"{MAX_BYTES[WEIGHTS_FILE]:,} are taken, so bring a smaller adapter."
            )
        _check_together(facts, header.shapes)
        return _copy(stream, header, work / WEIGHTS_FILE)


def _copy(stream: BinaryIO, header: Header, target: Path) -> str:
    digest = hashlib.sha256(header.raw)
    left = header.data_bytes
    with target.open("xb") as file:
        file.write(header.raw)
        while left:
            chunk = stream.read(min(left, _CHUNK))
            if not chunk:
                raise FtlabError(
                    f"{WEIGHTS_FILE} is cut off: {left:,} of {header.file_bytes:,} bytes are "
                    "missing; copy or download it again."
                )
            file.write(chunk)
            digest.update(chunk)
            left -= len(chunk)
    if stream.read(1):
        raise FtlabError(
            f"{WEIGHTS_FILE} goes on after its last tensor, so it is no valid safetensors file; "
            "save it again with safe_serialization=True."
        )
    return digest.hexdigest()


def _check_together(facts: AdapterFacts, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """A configuration that asks for more than the weights have would make PEFT fill the memory."""
    if facts.rank is not None:
        asked, what = facts.rank, "r"
        held = [
            shape[0]
            for name, shape in shapes.items()
            if shape and re.search(r"\.lora_(embedding_)?A\b", name)
        ]
    elif facts.tokens is not None:
        asked, what = facts.tokens, "num_virtual_tokens"
        held = [shape[0] for name, shape in shapes.items() if shape and "prompt_embed" in name]
    else:
        return
    if not held or asked > max(held):
        found = f"have {max(held)}" if held else "hold none of its tensors"
        raise FtlabError(
            f"{CONFIG_FILE} says {facts.peft_type} with {what}={asked}, but the weights {found}; "
            "bring the two files of one adapter."
        )


def _keep(work: Path, parent: Path, record: AdapterRecord, config: bytes) -> Path:
    """Gives the finished folder its name in one step, unless the same adapter is there already."""
    write_record(work, record)
    base = f"{_slug(record.label)}-{record.sha256[:8]}"
    number = 1
    while True:
        for name in _names(parent):
            if _is_same(parent / name, record.sha256, config):
                return parent / name
        folder = parent / (base if number == 1 else f"{base}-{number}")
        try:
            os.rename(work, folder)
            return folder
        except OSError:
            if not folder.exists():
                raise
            number += 1  # the same weights with another configuration, or a damaged folder


def _is_same(folder: Path, digest: str, config: bytes) -> bool:
    try:
        return (
            read_record(folder).sha256 == digest
            and (folder / CONFIG_FILE).read_bytes() == config
            and (folder / WEIGHTS_FILE).is_file()
        )
    except (FtlabError, OSError):
        return False


def _names(parent: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(parent) if not name.startswith("."))
    except OSError:
        return []


def _clean(label: str) -> str:
    """One short line that a terminal and a page can show."""
    return plain_line(label, MAX_LABEL_CHARACTERS)


def _slug(label: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", label.lower())[:_MAX_SLUG_CHARACTERS].strip("-")
    return slug or "adapter"
