"""Uploaded adapters: checks them and stores each under its own name next to the runs."""

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

from ftlab.basics.errors import FtlabError
from ftlab.basics.people import asking
from ftlab.basics.words import plain_line, shown_name
from ftlab.jobs.inputs import EVERYTHING, Access
from ftlab.methods.peft_rules import read_object
from ftlab.models.dimensions import shape_of_model
from ftlab.models.files import Header, read_header
from ftlab.models.reference import BUNDLED_ID, parse_model
from ftlab.models.resolve import ResolvedModel
from ftlab.playground.adapter_files import (
    MAX_BYTES,
    AdapterFacts,
    OpenFile,
    adapter_files,
    check_config,
    no_numbers,
    unknown_key,
)
from ftlab.playground.fitting import is_the_same, why_not_on
from ftlab.playground.panes import (
    CONFIG_FILE,
    UPLOADED,
    WEIGHTS_FILE,
    AdapterRecord,
    PaneSource,
    find_source,
    misfit_words,
    read_record,
    same_name,
    uploaded_folder,
    write_record,
    wrong_base,
)
from ftlab.records.run import check_writable

MAX_LABEL_CHARACTERS = 60

_MAX_SLUG_CHARACTERS = 40
_CHUNK = 2**20


def upload_adapter(
    source: Path,
    runs_folder: Path,
    label: str = "",
    access: Access = EVERYTHING,
    base: str | None = None,
) -> PaneSource:
    """Stores a PEFT adapter from a folder or a .zip; returns its source, which has its pane name.

    An empty `label` means the name of the folder or zip. An adapter that the same person uploaded
    before is reused; a new label replaces its old one. `base` is the model on which it will
    answer; the default is the model that the adapter names. Raises `FtlabError` with a solution if
    it is not one complete adapter that fits the base and leaves its weights unchanged, or if
    `access` does not allow the base it names.
    """
    check_writable(runs_folder)
    access.check_upload()
    given = _clean(label)
    parent = uploaded_folder(runs_folder)
    with adapter_files(source) as open_file, _work_folder(parent) as work:
        config = _read_config(open_file)
        facts = check_config(config)
        _check_base(facts.model, access)
        sha256, ranks = _store(open_file, config, facts, work)
        record = AdapterRecord(
            label=given or _clean(source.name if source.is_dir() else source.stem) or "Adapter",
            method=facts.method,
            model=facts.model,
            sha256=sha256,
            detail=f"{facts.describe(ranks)}, uploaded",
            named_by_folder=bool(facts.place),
            owner=asking().name,
        )
        record = _name_base(record, facts.place, base, access)
        _check_fit(work, record, base or _base_of(record, facts.place, access))
        folder = _keep(work, parent, record, config)
        kept = read_record(folder)
        vouched = tuple(dict.fromkeys((*kept.vouched, *record.vouched)))
        new = replace(kept, label=given or kept.label, vouched=vouched)
        if record.same_weights and not new.same_weights:
            new = replace(new, model=record.model, same_weights=True)
        if new != kept:
            write_record(folder, new)
    return find_source(runs_folder, UPLOADED + folder.name)


def vouch_for_base(runs_folder: Path, name: str, model: str) -> PaneSource:
    """Records that a person confirms `model` as the base of an uploaded adapter ("adapter:…").

    Raises `FtlabError` if the adapter does not exist, is somebody else's, or its tensors do not fit
    that base.
    """
    check_writable(runs_folder)
    parent, wanted = uploaded_folder(runs_folder), name.removeprefix(UPLOADED)
    if not name.startswith(UPLOADED) or wanted not in _names(parent):
        raise FtlabError(
            f"'{shown_name(name)}' names no uploaded adapter; only the base model of an uploaded "
            "adapter can be confirmed."
        )
    source = find_source(runs_folder, name)
    why = why_not_on(source.files, model)
    if why:
        raise FtlabError(misfit_words(source, model, why))
    record = read_record(parent / wanted)
    asking().check_change(record.owner, f"The adapter '{record.label}'")
    if wrong_base(source, model):
        vouched = (*record.vouched, same_name(model))
        write_record(parent / wanted, replace(record, vouched=vouched))
    return find_source(runs_folder, name)


def forget_adapter(runs_folder: Path, name: str) -> None:
    """Removes an uploaded adapter by its pane name ("adapter:…").

    Raises `FtlabError` if it does not exist, is somebody else's or cannot be removed.
    """
    check_writable(runs_folder)
    parent, wanted = uploaded_folder(runs_folder), name.removeprefix(UPLOADED)
    record = _record(parent / wanted) if wanted in _names(parent) else None
    if wanted not in _names(parent) or not (record is None or asking().sees(record.owner)):
        raise FtlabError(
            f"There is no uploaded adapter '{wanted[:80]}'; choose one of the playground's list."
        )
    if record is not None:
        asking().check_change(record.owner, f"The adapter '{record.label}'")
    gone = parent / f".gone-{secrets.token_hex(8)}"
    try:
        os.rename(parent / wanted, gone)  # hidden first, so nobody finds a half-removed folder
        shutil.rmtree(gone)
    except OSError as error:
        raise FtlabError(
            f"The adapter '{wanted}' cannot be removed ({error.strerror}); make the runs folder "
            "writable."
        ) from None


def _record(folder: Path) -> AdapterRecord | None:
    """`None` for a damaged one, which only somebody who may change everything can remove."""
    try:
        return read_record(folder)
    except FtlabError:
        asking().check_change("", f"The adapter '{folder.name[:80]}'")
        return None


def _check_base(model: str, access: Access) -> None:
    try:
        access.check_model(model)
    except FtlabError as error:
        raise FtlabError(
            f"The adapter's base_model_name_or_path is not accepted: {str(error)[:-1]}, or write "
            f"the model's public id into {CONFIG_FILE}."
        ) from None


def _name_base(
    record: AdapterRecord, place: str, base: str | None, access: Access
) -> AdapterRecord:
    """The record, with `base` as its model if the adapter's base folder holds the same weights."""
    model = base or BUNDLED_ID
    if not _may_look(place, access) or not is_the_same(place, model):
        return record
    return replace(record, model=ResolvedModel(parse_model(model), Path()).public_id,
                   same_weights=True)  # fmt: skip


def _may_look(place: str, access: Access) -> bool:
    """Whether the visitor may read `place`: an upload must not reveal files of this machine."""
    try:
        access.check_model(place)
    except FtlabError:
        return False
    return bool(place)


def _base_of(record: AdapterRecord, place: str, access: Access) -> str:
    """The default base to compare an adapter with: the base that it names.

    The bundled model if that is a folder that is not on this machine."""
    if not record.named_by_folder:
        return record.model
    return place if _may_look(place, access) and shape_of_model(place) else BUNDLED_ID


def _check_fit(work: Path, record: AdapterRecord, model: str) -> None:
    """Refuses unknown keys, and tensors that do not fit the base if its shapes are known."""
    source = PaneSource(UPLOADED, record.label, model=record.model, folder=work)
    unknown = unknown_key(read_object((work / CONFIG_FILE).read_bytes()))
    if unknown:
        raise FtlabError(f"{CONFIG_FILE} {unknown} Correct or remove it, and try again.")
    why = why_not_on(source.files, model)
    if why:
        raise FtlabError(misfit_words(source, model, why))


def _read_config(open_file: OpenFile) -> bytes:
    with open_file(CONFIG_FILE) as stream:
        data = stream.read(MAX_BYTES[CONFIG_FILE] + 1)
    if len(data) > MAX_BYTES[CONFIG_FILE]:
        raise FtlabError(f"{CONFIG_FILE} is longer than it declares; save the adapter again.")
    return data


@contextmanager
def _work_folder(parent: Path) -> Iterator[Path]:
    """A temporary folder; its name begins with a dot, so that no list shows it."""
    work = parent / f".upload-{secrets.token_hex(8)}"
    try:
        work.mkdir(parents=True)
        yield work
    except OSError as error:
        raise FtlabError(
            f"The adapter cannot be stored in the runs folder ({error.strerror}); free some space "
            "there, make it writable, or name another with --runs-dir."
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _store(
    open_file: OpenFile, config: bytes, facts: AdapterFacts, work: Path
) -> tuple[str, list[int]]:
    """Writes both files into `work`; returns the SHA-256 of the weights and LoRA's ranks."""
    (work / CONFIG_FILE).write_bytes(config)
    with open_file(WEIGHTS_FILE) as stream:
        # The header declares the file's size, so no more than the maximum is written.
        header = read_header(stream, WEIGHTS_FILE)
        if header.file_bytes > MAX_BYTES[WEIGHTS_FILE]:
            raise FtlabError(
                f"{WEIGHTS_FILE} declares {header.file_bytes:,} bytes; at most "
                f"{MAX_BYTES[WEIGHTS_FILE]:,} are accepted, so upload a smaller adapter."
            )
        _check_together(facts, header.shapes)
        sha256 = _copy(stream, header, work / WEIGHTS_FILE)
    diverged = no_numbers(work / WEIGHTS_FILE, header)
    if diverged:
        raise FtlabError(
            f"{WEIGHTS_FILE} contains NaN or infinity in {shown_name(diverged, 120)}: its training "
            "diverged, so upload an earlier checkpoint or another adapter."
        )
    return sha256, _ranks(header.shapes)


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
            f"{WEIGHTS_FILE} has bytes after its last tensor, so it is no valid safetensors file; "
            "save it again with safe_serialization=True."
        )
    return digest.hexdigest()


def _check_together(facts: AdapterFacts, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Checks rank or tokens against the weights: a larger value would make PEFT fill the memory."""
    if facts.rank is not None:
        asked, what = facts.rank, "r"
        held = _ranks(shapes)
    elif facts.tokens is not None:
        asked, what = facts.tokens, "num_virtual_tokens"
        held = [shape[0] for name, shape in shapes.items() if shape and "prompt_embed" in name]
    else:
        return
    if not held or asked > max(held):
        found = f"have {max(held)}" if held else "hold none of its tensors"
        raise FtlabError(
            f"{CONFIG_FILE} says {facts.peft_type} with {what}={asked}, but the weights {found}; "
            "upload the two files of one adapter."
        )


def _ranks(shapes: Mapping[str, tuple[int, ...]]) -> list[int]:
    return [
        shape[0]
        for name, shape in shapes.items()
        if shape and re.search(r"\.lora_(embedding_)?A\b", name)
    ]


def _keep(work: Path, parent: Path, record: AdapterRecord, config: bytes) -> Path:
    """Renames the finished folder to its final name, unless the same adapter exists already."""
    write_record(work, record)
    mark = hashlib.sha256(f"{record.sha256} of {record.owner}".encode()).hexdigest()
    base = f"{_slug(record.label)}-{(mark if record.owner else record.sha256)[:8]}"
    number = 1
    while True:
        for name in _names(parent):
            if _is_same(parent / name, record, config):
                return parent / name
        folder = parent / (base if number == 1 else f"{base}-{number}")
        try:
            os.rename(work, folder)
            return folder
        except OSError:
            if not folder.exists():
                raise
            number += 1  # the same weights with another configuration, or a damaged folder


def _is_same(folder: Path, record: AdapterRecord, config: bytes) -> bool:
    """Whether the same person has uploaded the same adapter."""
    try:
        there = read_record(folder)
        return (
            (there.sha256, there.owner) == (record.sha256, record.owner)
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
    """The label as one short line, safe for a terminal and a page."""
    return plain_line(label, MAX_LABEL_CHARACTERS)


def _slug(label: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", label.lower())[:_MAX_SLUG_CHARACTERS].strip("-")
    return slug or "adapter"
