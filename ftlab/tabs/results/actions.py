"""Actions on runs from the Results tab. Each returns the sentence to show. No components.

Runs shipped with ftlab are read-only. Imported results can only be removed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.basics.words import some_names
from ftlab.jobs.control import start_dispatcher
from ftlab.jobs.launch import enqueue_again
from ftlab.records.published import remove_published
from ftlab.records.removal import removable, remove_runs
from ftlab.records.resume import ask_to_resume
from ftlab.records.run import Annotations, parse_tags, write_annotations
from ftlab.records.store import Run, RunStore
from ftlab.tabs.results.columns import run_name
from ftlab.tabs.widgets import plural

_MOST_NAMED = 6


def own_runs(store: RunStore, run_ids: Collection[str]) -> list[Run]:
    """Returns these runs. Raises `FtlabError` for an id that is not in the store's folder."""
    if not run_ids:
        raise FtlabError("No run is ticked; tick the rows that are meant.")
    known = {run.run_id: run for run in store.runs()}
    for run_id in run_ids:
        if run_id not in known:
            raise FtlabError(_not_own(store, run_id))
    return [known[run_id] for run_id in dict.fromkeys(run_ids)]


def delete_question(store: RunStore, run_ids: Sequence[str]) -> str:
    """The confirmation question. Raises `FtlabError` if the runs cannot be deleted."""
    own, imported = _to_delete(store, run_ids)
    removable(store.folder, own)
    parts = []
    if own:
        goes = "Its adapter goes with it" if len(own) == 1 else "Their adapters go with them"
        named = some_names([run_name(run_id) for run_id in own], _MOST_NAMED)
        parts.append(f"Delete {plural(len(own), 'run')} ({named})? {goes}; this cannot be undone.")
    if imported:
        parts.append(
            f"Remove {plural(len(imported), 'imported result')}? "
            "They can be imported again from their files."
        )
    return " ".join(parts)


def delete(store: RunStore, run_ids: Sequence[str]) -> str:
    """Deletes own runs permanently and removes imported results."""
    own, imported = _to_delete(store, run_ids)
    gone = remove_runs(store.folder, own)
    if imported:
        remove_published(store.folder, imported)
    parts = [f"{plural(len(own), 'run')} deleted"] if own else []
    bases = len(gone) - len(own)
    if bases:
        parts.append(f"with {plural(bases, 'base run')} that no other run needs")
    if imported:
        parts.append(f"{plural(len(imported), 'imported result')} removed")
    return ", ".join(parts) + "."


def archive(store: RunStore, run_ids: Sequence[str], archived: bool) -> str:
    """Archives or unarchives runs. Deletes no files."""
    runs = own_runs(store, run_ids)
    for run in runs:
        _annotate(run, replace(run.annotations, archived=archived))
    if not archived:
        return f"{plural(len(runs), 'run')} taken out of the archive."
    return f"{plural(len(runs), 'run')} archived; the filter 'Show archived' brings them back."


def all_archived(store: RunStore, run_ids: Collection[str]) -> bool:
    """Whether all runs are archived, so that only unarchiving makes sense."""
    wanted = set(run_ids)
    found = [run for run in store.runs() if run.run_id in wanted]
    return bool(found) and all(run.annotations.archived for run in found)


def tag(store: RunStore, run_ids: Sequence[str], text: str, instead: bool = False) -> str:
    """Adds the tags in the text to the runs. With `instead`, replaces their tags."""
    tags = parse_tags(text or "")
    if not tags and not instead:
        raise FtlabError("No tag is given; write one or more, as in demo, for Ada.")
    runs = own_runs(store, run_ids)
    kept = [() if instead else run.annotations.tags for run in runs]
    changed = [parse_tags(", ".join((*own, *tags))) for own in kept]  # all checked before a write
    for run, new in zip(runs, changed, strict=True):
        _annotate(run, replace(run.annotations, tags=new))
    if not tags:
        return f"Tags taken from {plural(len(runs), 'run')}."
    done = "tagged with" if instead else "also tagged with"
    return f"{plural(len(runs), 'run')} {done} {', '.join(tags)}."


def save_notes(store: RunStore, run_id: str, tags: str, note: str) -> str:
    """Replaces one run's tags and note."""
    (run,) = own_runs(store, [run_id])
    _annotate(run, replace(run.annotations, tags=parse_tags(tags or ""), note=(note or "").strip()))
    return "Saved."


def run_again(store: RunStore, run_ids: Sequence[str]) -> str:
    """Queues the same runs again as new sweeps and starts the dispatcher."""
    runs = own_runs(store, run_ids)
    try:
        sweeps = enqueue_again([run.spec for run in runs], store.folder)
    except InvalidRequest as error:
        raise FtlabError(f"Not queued: {error.errors[0].message}") from None
    start_dispatcher(store.folder)
    count = sum(not spec.is_base for specs in sweeps for spec in specs)
    return (
        f"{plural(count, 'run')} queued in {plural(len(sweeps), 'new sweep')}; "
        "Experiment shows how they go."
    )


def resume(store: RunStore, run_ids: Sequence[str]) -> str:
    """Queues runs that ended early, to resume from their checkpoints."""
    runs = own_runs(store, run_ids)
    for run in runs:
        ask_to_resume(run.directory)
    start_dispatcher(store.folder)
    return f"{plural(len(runs), 'run')} queued to go on; Experiment shows how."


def can_clone(store: RunStore, run_ids: Sequence[str]) -> list[str]:
    """The ids of own and shipped runs, whose settings can be copied into Experiment.

    Raises `FtlabError` if there are none.
    """
    published = {run.run_id for run in store.published()}
    found = [run_id for run_id in run_ids if run_id not in published]
    if not found:
        raise FtlabError(
            "Imported results have no settings that Experiment could take over; tick a run."
        )
    return [store.find(run_id).run_id for run_id in found]


def _to_delete(store: RunStore, run_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns (own runs, imported results). Raises `FtlabError` for any other id."""
    published = {run.run_id for run in store.published()}
    imported = [run_id for run_id in run_ids if run_id in published]
    others = [run_id for run_id in run_ids if run_id not in published]
    if others or not imported:
        others = [run.run_id for run in own_runs(store, others)]
    return others, imported


def _annotate(run: Run, annotations: Annotations) -> None:
    if annotations != run.annotations:
        write_annotations(run.directory, annotations)


def _not_own(store: RunStore, run_id: str) -> str:
    if any(run.run_id == run_id for run in store.shipped()):
        return (
            f"{run_name(run_id)} comes recorded with ftlab and is read-only; "
            "clone it into Experiment to run it here."
        )
    if any(run.run_id == run_id for run in store.published()):
        return f"{run_id[:80]} was imported and is read-only; it can only be removed."
    return f"There is no run '{run_id[:80]}' in {store.folder}; it may have been deleted."
