"""Going on with a run that was cut off: asking for it, and what its first part had reported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftlab.errors import FtlabError
from ftlab.operations.log import note
from ftlab.runs.checkpoints import Checkpoint, events_until, trusted_checkpoint
from ftlab.runs.closed import check_open
from ftlab.runs.directory import RunDirectory, write_json_lines

Event = dict[str, Any]


def ask_to_resume(directory: RunDirectory) -> None:
    """Puts a run that ended early back into the queue; a dispatcher has to be started then.

    Its result, if it has one, is kept beside it under another name. Raises `FtlabError` if the run
    is done, still going, or has no checkpoint.
    """
    check_open(directory.path.parent)
    status = directory.status()
    if status in ("done", "running", "queued"):
        raise FtlabError(
            f"The run {directory.run_id} is {status}; only one that ended early can be resumed."
        )
    trusted_checkpoint(directory)
    try:
        directory.resume_file.touch()
        if directory.result_file.exists():
            directory.result_file.replace(directory.path / "result.before-resume.json")
    except OSError as error:
        raise FtlabError(
            f"'{directory.path}' cannot be written ({error.strerror}), so the run is not resumed."
        ) from None
    note("run resumed", run=directory.run_id)


@dataclass(frozen=True)
class Earlier:
    """The part of a run before it was cut off; `resumed` are the steps of all its resumptions."""

    checkpoint: Checkpoint
    events: tuple[Event, ...]
    resumed: tuple[int, ...]

    def steps(self, key: str) -> list[Any]:
        """One value of each training step, as it was reported."""
        return [event[key] for event in self.events if event.get("event") == "step"]

    @property
    def elapsed(self) -> float:
        """Seconds from the first line of the metrics to the checkpoint."""
        return float(self.events[-1].get("elapsed", 0.0))

    @property
    def sentence(self) -> str:
        at = " and ".join(f"{step:,}" for step in self.resumed)
        return (
            f"Cut off and resumed after step {at}: times are of the steps that count, the peak is "
            "the highest of the parts."
        )


def read_earlier(directory: RunDirectory) -> Earlier | None:
    """What the run goes on from; `None` where it was not asked to.

    Raises `FtlabError` if its checkpoint is not one that it wrote.
    """
    if not (directory.resume_file.exists() and directory.metrics_file.exists()):
        return None
    checkpoint = trusted_checkpoint(directory)
    events = events_until(directory, checkpoint)
    if not events:
        raise FtlabError(f"The metrics of {directory.run_id} have no step; run it again.")
    before = tuple(int(step) for step in events[0].get("resumed", ()))
    return Earlier(checkpoint, tuple(events), (*before, checkpoint.step))


def begin_again(directory: RunDirectory, earlier: Earlier, start: Event) -> None:
    """Puts the new process into the first line of the metrics, before what the first part reported.

    What came after the checkpoint is left out: it is done once more. The run waits no longer.
    """
    first = earlier.events[0] | start | {"resumed": list(earlier.resumed)}
    write_json_lines(directory.metrics_file, [first, *earlier.events[1:]])
    directory.resume_file.unlink(missing_ok=True)
