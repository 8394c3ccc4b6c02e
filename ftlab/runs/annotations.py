"""What a person adds to a run afterwards: tags, a note, and whether it is put away."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter

from ftlab.errors import FtlabError
from ftlab.reading import read_plain
from ftlab.runs.closed import check_open
from ftlab.runs.directory import RunDirectory
from ftlab.runs.parsing import MAX_RECORD_BYTES
from ftlab.writing import write_atomically
from ftlab.runs.parsing import parse_json

TAG_LENGTH, NOTE_LENGTH, TAGS_MOST = 40, 2000, 12

_UNFIT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters; a note has lines and tabs
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # turn round what is written after them
    "\ud800-\udfff]"  # halves of a character, which no file can hold
)


@dataclass(frozen=True)
class Annotations:
    """`archived` runs stay on disk and in every record, but out of sight until asked for."""

    __pydantic_config__ = ConfigDict(extra="ignore")

    archived: bool = False
    tags: tuple[str, ...] = ()
    note: str = ""


_ANNOTATIONS = TypeAdapter(Annotations)


def read_annotations(directory: RunDirectory) -> Annotations:
    """The run's annotations; none where there is no file. Raises `FtlabError` for a broken one."""
    try:
        return parse_json(
            _ANNOTATIONS,
            read_plain(directory.annotations_file, MAX_RECORD_BYTES),
            directory.annotations_file.name,
        )
    except FileNotFoundError:
        return Annotations()


def write_annotations(directory: RunDirectory, annotations: Annotations) -> None:
    """Replaces the run's annotations, without characters that no line of text can show.

    Raises `FtlabError` for what is too long or not writable.
    """
    check_open(directory.path.parent)
    if len(annotations.note) > NOTE_LENGTH:
        raise FtlabError(
            f"The note has {len(annotations.note):,} characters; at most {NOTE_LENGTH:,} are kept."
        )
    tags = tuple(filter(None, (_UNFIT.sub("", tag) for tag in annotations.tags)))
    annotations = replace(annotations, tags=tags, note=_UNFIT.sub("", annotations.note))
    try:
        write_atomically(directory.annotations_file, _ANNOTATIONS.dump_json(annotations, indent=2))
    except OSError as error:
        raise FtlabError(
            f"The annotations of '{directory.run_id}' cannot be written ({error.strerror})."
        ) from None


def parse_tags(text: str) -> tuple[str, ...]:
    """Tags from "demo, for Ada"; each once. Raises `FtlabError` for too many or too long ones."""
    words = (" ".join(tag.split()) for tag in _UNFIT.sub(" ", text).split(","))
    tags = tuple(dict.fromkeys(filter(None, words)))
    if len(tags) > TAGS_MOST:
        raise FtlabError(f"There are {len(tags):,} tags; a run takes at most {TAGS_MOST}.")
    for tag in tags:
        if len(tag) > TAG_LENGTH:
            raise FtlabError(
                f"The tag '{tag[:20]}…' has {len(tag):,} characters; at most {TAG_LENGTH} are "
                "kept. Put a comma between tags."
            )
    return tags


def changed_at(path: Path) -> int:
    """When the file was last written, in nanoseconds; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
