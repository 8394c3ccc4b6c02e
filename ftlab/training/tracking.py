"""Logs to TensorBoard and trackio, by the very callbacks that the Trainer's `report_to` makes.

They are made here, and not by the Trainer, so that what they import is in memory before the meter
starts, and so that no error of theirs ends a run. They hear of a run's begin, logs and end alone,
which all lie outside the timed steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ftlab.errors import one_line
from ftlab.settings.trackers import TRACKERS, Tracker, tensorboard_folder

PROJECT = "ftlab"
"""trackio's name for all our runs."""


def make_trackers(
    names: Sequence[Tracker], run_folder: Path, note: Callable[[str], None]
) -> list[CarefulTracker]:
    """A callback for each name; one that cannot be made says so in a note and is left out."""
    trackers = []
    for name in names:
        try:
            callback = _MAKERS[name](run_folder)
        except Exception as error:
            note(f"Nothing is logged to {TRACKERS[name]}: {one_line(error)}")
        else:
            trackers.append(CarefulTracker(TRACKERS[name], callback, note))
    return trackers


def _tensorboard(run_folder: Path) -> TrainerCallback:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(log_dir=str(tensorboard_folder(run_folder))))


def _trackio(run_folder: Path) -> TrainerCallback:
    from transformers.integrations import TrackioCallback

    return TrackioCallback()


_MAKERS: dict[str, Callable[[Path], TrainerCallback]] = {
    "tensorboard": _tensorboard,
    "trackio": _trackio,
}


class CarefulTracker(TrainerCallback):
    """Passes events on to a callback until one raises; then there is a note, and silence."""

    def __init__(self, label: str, callback: TrainerCallback, note: Callable[[str], None]) -> None:
        self._label = label
        self._callback: TrainerCallback | None = callback
        self._note = note

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        self._pass_on("on_train_begin", args, state, control, more)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        self._pass_on("on_log", args, state, control, more)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """May be called again; the callback hears of it once."""
        self._pass_on("on_train_end", args, state, control, more)
        self._callback = None

    def _pass_on(
        self,
        event: str,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        more: dict[str, Any],
    ) -> None:
        if self._callback is None:
            return
        try:
            getattr(self._callback, event)(args, state, control, **more)
        except Exception as error:
            self._callback = None
            self._note(f"Logging to {self._label} ended early: {one_line(error)}")
