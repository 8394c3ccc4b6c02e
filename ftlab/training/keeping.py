"""Keeping a training while it goes on, and putting the parts of a resumed one together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ftlab.errors import one_line
from ftlab.runs.checkpoints import Checkpoint, hashes_of, record_checkpoint
from ftlab.runs.resume import Earlier
from ftlab.training.meters import PhaseMeter
from ftlab.training.trainer import FairTrainer, Keeping, StepMeter


def steps_of(earlier: Earlier) -> StepMeter:
    """The steps so far, as if they had been taken by this process."""
    skipped = sum(bool(event.get("skipped")) for event in earlier.events)
    return StepMeter(
        earlier.steps("seconds"), earlier.steps("tokens"), earlier.steps("loss"), skipped=skipped
    )


@dataclass(frozen=True)
class KeptPeak:
    """The highest memory of the training phase, and the process without a model; bytes."""

    peak_bytes: int | None
    before_model_bytes: int | None

    @property
    def net(self) -> int | None:
        if self.peak_bytes is None or self.before_model_bytes is None:
            return None
        return self.peak_bytes - self.before_model_bytes


def higher(peak: KeptPeak, earlier: Earlier | None) -> KeptPeak:
    """The higher one of this part's and the earlier ones', above what each began with."""
    if earlier is None:
        return peak
    before = KeptPeak(earlier.checkpoint.peak_bytes, earlier.checkpoint.before_model_bytes)
    return max(peak, before, key=lambda one: -1 if one.net is None else one.net)


def keep_training(
    meter: PhaseMeter,
    before_model_bytes: int | None,
    began: float,
    earlier: Earlier | None,
    note: Callable[[str], None],
) -> Keeping:
    """Records each checkpoint of the training phase with what the run has measured so far."""

    def kept(trainer: FairTrainer, folder: Path) -> None:
        peak = higher(KeptPeak(meter.peak_so_far, before_model_bytes), earlier)
        checkpoint = Checkpoint(
            step=trainer.state.global_step,
            files=hashes_of(folder),
            run_seconds=time.perf_counter() - began,
            peak_bytes=peak.peak_bytes,
            before_model_bytes=peak.before_model_bytes,
            real_tokens=trainer.real_tokens,
            padded_tokens=trainer.padded_tokens,
            added_loss=trainer.added_loss,
        )
        record_checkpoint(folder.parent, checkpoint)

    def lost(error: Exception) -> None:
        note(f"A checkpoint could not be written, so the run went on without: {one_line(error)}")

    return Keeping(meter.pause, kept, lost, earlier.checkpoint if earlier else None)
