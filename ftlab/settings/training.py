"""The settings that all runs of a sweep share, described once for all interfaces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict

from ftlab.basics.errors import FtlabError
from ftlab.settings.schema import Setting

Tracker = Literal["tensorboard", "trackio", "mlflow"]

TRACKERS: dict[Tracker, str] = {
    "tensorboard": "TensorBoard",
    "trackio": "trackio",
    "mlflow": "MLflow",
}
"""Tracker names of the Trainer (also their package names) and their labels."""


def is_installed(tracker: str) -> bool:
    """Whether the tracker's package is installed; does not import it."""
    return tracker in TRACKERS and find_spec(tracker) is not None


def problems_of_trackers(names: Sequence[str]) -> Iterator[str]:
    """An error message for each name that is unknown, not installed or given twice."""
    for i, name in enumerate(names):
        if name not in TRACKERS:
            yield f"'{str(name)[:40]}' is none of: {', '.join(TRACKERS)}."
        elif name in names[:i]:
            yield f"{name} is named twice; name it once."
        elif not is_installed(name):
            yield f"{name} is not installed; pip install {name}, or leave it out."


def parse_trackers(given: object) -> tuple[Tracker, ...]:
    """Parses "tensorboard,trackio", "none", or a list of names; does not reject unknown names.

    Raises `FtlabError` if it is not a list of names.
    """
    names = given.split(",") if isinstance(given, str) else given
    if names is None:
        return ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise FtlabError(
            f"Log to is '{str(given)[:40]}'; it must be names out of: {', '.join(TRACKERS)}."
        )
    stripped = (name.strip() for name in names)
    return tuple(name for name in stripped if name and name != "none")


def tensorboard_folder(run_folder: Path) -> Path:
    """In the run's folder: `tensorboard --logdir runs` finds it, and it is deleted with the run."""
    return run_folder / "tensorboard"


def trackio_folder(runs_folder: Path) -> Path:
    """The folder of one database for all runs of a runs folder."""
    return runs_folder / "trackio"


def mlflow_folder(runs_folder: Path) -> Path:
    """The folder of MLflow's database for all runs of a runs folder."""
    return runs_folder / "mlflow"


DtypePolicy = Literal["bf16", "mixed", "fp32"]
Schedule = Literal["cosine", "linear", "constant"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]
EvalSplit = Literal["held_out", "tuning"]

DTYPE_POLICIES: dict[DtypePolicy, str] = {
    "bf16": "bf16 base; adapters fp32, computed in bf16; full fine-tuning in pure bf16",
    "mixed": "fp32 weights, bf16 (or fp16) compute",
    "fp32": "fp32 weights and compute",
}
EVAL_SPLITS: dict[EvalSplit, str] = {"held_out": "test", "tuning": "tuning"}
"""The data splits for evaluating a run. Settings are chosen on "tuning"; results are reported on
"held_out"."""

SCHEDULES: dict[Schedule, str] = {name: name for name in ("cosine", "linear", "constant")}
OPTIMIZERS: dict[Optimizer, str] = {
    "adamw": "AdamW (torch, fused)",
    "adamw_8bit": "AdamW 8-bit (bitsandbytes)",
    "paged_adamw_8bit": "Paged AdamW 8-bit (bitsandbytes; pages nothing on a CPU)",
}

EVALUATION_BATCH = 16
"""Batch size of evaluation; halved each time memory runs out."""

ROWS_AT_ONCE = 64
"""Most answers that are generated at once."""

CACHE_BYTES = 1 << 29
"""Most bytes of the keys and values of these, unless more are spare or `EVALUATION_BATCH` answers
need more. 64 answers of the bundled model need 400 MB in fp32, and take half the time of four times
16."""

CURVE_EXAMPLES = 32
"""Maximum of test examples per evaluation during training: the first ones, the same at each
point of the curve."""

AUTOMATIC_FROM, AUTOMATIC_EVERY = 300, 100
"""By default a run of so many steps or more saves a checkpoint every so many steps."""

HIGHEST_RATE = 10.0
"""No learning rate may be higher."""

_MOST_STEPS = 1_000_000


def problems_of_parts(parts: int, batch_size: int, optimizer: Optimizer) -> Iterator[str]:
    """Yields why a step cannot be divided over so many GPUs, and the way out."""
    if parts > batch_size:
        yield (
            f"A batch of {batch_size} cannot be divided over {parts} GPUs, each needs an "
            f"example; choose batch size {parts} or more, or fewer GPUs in a run."
        )
    if parts > 1 and optimizer != "adamw":
        yield (
            f"The optimizer {optimizer} does not take weights that lie on {parts} GPUs; "
            "choose adamw, or 1 GPU in a run."
        )


PREFIX = "settings."
"""Prefix of the names of these settings in a form and in errors."""


@dataclass(frozen=True)
class TrainingSettings:
    """The settings that are the same for all runs of a sweep."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    steps: Annotated[
        int, Setting("Steps", help="optimizer steps", low=1, high=_MOST_STEPS, unit="step",
                     same="{}", place="main", narrow=True),
    ] = 30  # fmt: skip
    batch_size: Annotated[
        int, Setting("Batch size", "Batch", "examples in a batch", low=1, high=4096,
                     same="batch size {}", place="main", narrow=True),
    ] = 4  # fmt: skip
    max_length: Annotated[
        int, Setting("Maximum length", "Max length", "prompt and completion of an example "
                     "together; longer examples are left out and counted", low=16, high=1_000_000,
                     unit="token", same="at most {}", place="main", narrow=True),
    ] = 256  # fmt: skip
    eval_examples: Annotated[
        int, Setting("Test examples", help="kept out of training; those are scored", low=1,
                     high=100_000, place="main", narrow=True),
    ] = 64  # fmt: skip
    learning_rate: Annotated[
        float | None, Setting("Learning rate", above=True, high=HIGHEST_RATE,
                              empty="each method's own for the model"),
    ] = None  # fmt: skip
    accumulation: Annotated[
        int, Setting("Accumulation", help="batches in a step", low=1, high=4096,
                     same="accumulation {}", narrow=True),
    ] = 1  # fmt: skip
    shard: Annotated[
        int, Setting("GPUs in a run", help="divides the model and each batch over so many like "
                     "GPUs (FSDP), for a model that one does not hold; the losses stay the same",
                     low=1, high=64, narrow=True),
    ] = 1  # fmt: skip
    schedule: Annotated[
        Schedule, Setting("Schedule", help="of the learning rate", choices=SCHEDULES,
                          same="{} schedule", narrow=True),
    ] = "cosine"  # fmt: skip
    warmup_steps: Annotated[
        int, Setting("Warm-up steps", "Warm-up", "steps in which the learning rate rises",
                     high=_MOST_STEPS, unit="step", same="warm-up of {}", narrow=True),
    ] = 3  # fmt: skip
    weight_decay: Annotated[
        float, Setting("Weight decay", high=10, same="weight decay {}", narrow=True)
    ] = 0.0
    max_grad_norm: Annotated[
        float, Setting("Gradient clip", help="largest norm of the gradients", high=1e6,
                       same="gradients clipped at {}", narrow=True),
    ] = 1.0  # fmt: skip
    optimizer: Annotated[
        Optimizer, Setting("Optimizer", choices=OPTIMIZERS, same="optimizer {}")
    ] = "adamw"  # fmt: skip
    gradient_checkpointing: Annotated[
        bool, Setting("Gradient checkpointing", help="less memory for activations, more time",
                      same="gradient checkpointing {}"),
    ] = False  # fmt: skip
    eval_split: Annotated[
        EvalSplit, Setting("Measured on", help="tuning: the examples for choosing settings",
                           choices=EVAL_SPLITS, place="command line"),
    ] = "held_out"  # fmt: skip
    eval_answers: Annotated[
        bool, Setting("Answers", help="generate answers and score them, else take the loss alone, "
                      "which is much quicker", place="command line"),
    ] = True  # fmt: skip
    eval_every: Annotated[
        int, Setting("Steps between evaluations", "Score every so many steps",
                     f"score up to {CURVE_EXAMPLES} examples then, for the curve of score against "
                     "steps, outside of time and memory; 0: never", high=_MOST_STEPS),
    ] = 0  # fmt: skip
    measure_answering: Annotated[
        bool, Setting("Measure answering", help="tokens per second and memory of the adapter on "
                      "its base, merged, and on a 4-bit base; loads the model three more times "
                      "after the run, about a minute for the bundled one"),
    ] = False  # fmt: skip
    checkpoint_every: Annotated[
        int | None, Setting("Steps between checkpoints", "Keep a checkpoint every so many steps",
                            "to resume a run that was cut off; 0: never", high=_MOST_STEPS,
                            empty=f"{AUTOMATIC_EVERY}, from {AUTOMATIC_FROM} steps on"),
    ] = None  # fmt: skip
    report_to: Annotated[
        tuple[Tracker, ...], Setting("Log losses to", help="on this machine, beside the runs",
                                     choices=TRACKERS, parse=parse_trackers,
                                     check=problems_of_trackers),
    ] = ()  # fmt: skip
