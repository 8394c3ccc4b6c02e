"""Links to the playground: the panes that an address names, and what is said about the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftlab.basics.words import shorten, some_names
from ftlab.playground.panes import BASE, UPLOADED, all_sources, same_name, wrong_base
from ftlab.playground.requests import MAX_PANES
from ftlab.records.store import Run
from ftlab.tabs.address import address_of
from ftlab.tabs.playground.view import NOBODY

LONGEST_PANES = 600
"""Characters of `panes` that are read: six run ids of 81 characters and what stands between."""

LONGEST_PROMPT = 3_000
"""Characters that a prompt may take in a link, percent-encoded; chat programs cut longer links."""

PRIVATE = "An uploaded adapter is in no link: whoever has its files can upload them here."


def panes_value(names: Sequence[str | None]) -> str:
    """Returns the panes as in an address: "base,RUN_ID,,shipped:sql", without uploaded ones."""
    linked = ["" if not name or name.startswith(UPLOADED) else name for name in names]
    return ",".join(linked).rstrip(",")


def panes_address(names: Sequence[str | None]) -> str:
    """HTML without text that names the panes for the page's address."""
    value = panes_value(names)
    return f"<i {address_of(panes=value)}></i>" if value else ""


@dataclass(frozen=True)
class LinkedPanes:
    """The panes of a link that are here, "" for the others; without any, `panes` is empty.

    `model` is their base; `None` if it may be any. `said` has a sentence for each kind of pane that
    is not shown.
    """

    panes: tuple[str, ...]
    model: str | None
    said: tuple[str, ...]


def read_panes(value: str, runs: Sequence[Run], runs_folder: Path) -> LinkedPanes:
    """Reads `panes` of an address. Only sources that the page offers to all are opened."""
    names = [name.strip() for name in value.split(",")]
    said = []
    if len(names) > MAX_PANES:
        said.append(f"The link names {len(names)} panes; the first {MAX_PANES} are read.")
    names = names[:MAX_PANES]
    sources = {source.name: source for source in all_sources(runs, runs_folder)}
    offered = {name for name in sources if not name.startswith(UPLOADED)}
    if any(name.startswith(UPLOADED) for name in names):
        said.append(PRIVATE)
    gone = [name for name in names if name and name not in offered]
    gone = [name for name in dict.fromkeys(gone) if not name.startswith(UPLOADED)]
    if gone:
        quoted = some_names([f"'{shorten(name, 60)}'" for name in gone])
        said.append(f"Nobody by the name of {quoted} can answer here.")
    found = [name if name in offered else NOBODY for name in names]
    model = next((same_name(sources[n].model) for n in found if n not in (NOBODY, BASE)), None)
    other = [n for n in found if n and model and wrong_base(sources[n], model)]
    if other:
        labels = some_names(list(dict.fromkeys(sources[n].label for n in other)))
        said.append(f"All panes share one base model; {labels} is not of the first one's.")
    panes = tuple(NOBODY if name in other else name for name in found)
    return LinkedPanes(panes if any(panes) else (), model, tuple(said))


def link_notes(names: Sequence[str | None], long_prompt: str) -> list[str]:
    """Sentences on what a copied link leaves out; `long_prompt` is a prompt that did not fit."""
    said = []
    if any(name and name.startswith(UPLOADED) for name in names):
        said.append(
            "The link leaves the pane of an uploaded adapter empty: uploads are private to this "
            "page, so send the adapter's files."
        )
    if long_prompt:
        said.append(
            f"The link names the panes alone: the prompt would take more than {LONGEST_PROMPT:,} "
            "characters of an address, so send it as text."
        )
    return said
