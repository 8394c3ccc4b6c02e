"""What serving many adapters on one base took here, beside as many full models: measured.

`ftlab.playground.serving` measures it in a process of its own. Compare shows it beside the sums of
file sizes, for a sweep whose adapters have the same base and size.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, TypeAdapter

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import assets_folder, read_record, write_atomically
from ftlab.basics.units import format_bytes
from ftlab.basics.words import plural
from ftlab.records.expected import Seconds
from ftlab.settings.generation import Precision

SAME_SIZE = 0.01
"""Two adapters are of one size if their files differ by at most this share."""


@dataclass(frozen=True)
class ServingPoint:
    """`count` adapters on one base, or as many full models, in one process.

    `memory_bytes` is what weights and Python objects take, without the process itself: base and
    adapters, or all models (`None`: not measurable). `load_seconds` is the time of reading all of
    them, after the base. `swap_seconds` is the time between two prompts to have all of them answer
    that are loaded. A prompt is then answered by each with `new_tokens` tokens, together, in
    `answer_seconds`.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "ignore"}

    count: Annotated[int, Field(ge=1)]
    memory_bytes: Annotated[int, Field(ge=0)] | None
    load_seconds: Seconds
    swap_seconds: Seconds
    answer_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    @property
    def answers_per_second(self) -> float:
        return self.count / self.answer_seconds


@dataclass(frozen=True)
class ServingRecord:
    """One measurement: copies of one adapter, and full models as large as the base.

    `adapters` and `full_models` are by ascending count. `stopped` says why the full models ended
    before the last count; "" if they did not. `environment` has "device" and "versions".
    `origin` is "recorded" for the one that ships with ftlab.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "ignore"}

    model: str
    precision: Precision
    label: str
    method: str
    file_bytes: Annotated[int, Field(ge=0)]
    new_tokens: int
    adapters: Annotated[tuple[ServingPoint, ...], Field(min_length=1)]
    full_models: tuple[ServingPoint, ...] = ()
    stopped: str = ""
    made_at: float = 0.0
    environment: Mapping[str, Any] = field(default_factory=dict)
    origin: Literal["measured", "recorded"] = "measured"

    def is_of(self, model: str, method: str, file_bytes: float) -> bool:
        """Whether adapters of that method and size on that base were measured."""
        return (
            (self.model, self.method) == (model, method)
            and abs(self.file_bytes - file_bytes) <= SAME_SIZE * file_bytes
        )  # fmt: skip

    @property
    def sentence(self) -> str:
        """What the most adapters took, and the most full models, on which machine."""
        most = self.adapters[-1]
        words = f"{plural(most.count, f'{self.label} adapter')} on one base {_took(most)}"
        if self.full_models:
            full = self.full_models[-1]
            words += f"; {plural(full.count, 'full model')} {_took(full)}"
        return f"{words}."


def _took(point: ServingPoint) -> str:
    memory = f"took {format_bytes(point.memory_bytes)}" if point.memory_bytes is not None else ""
    speed = f"gave {point.answers_per_second:.2g} answers a second"
    return f"{memory} and {speed}" if memory else speed


_RECORD: TypeAdapter[ServingRecord] = TypeAdapter(ServingRecord)


def shipped_file() -> Path:
    """The measurement that ships with ftlab."""
    return assets_folder() / "serving.json"


def serving_folder(runs_folder: Path) -> Path:
    return runs_folder / ".ftlab" / "serving"


def keep_record(record: ServingRecord, runs_folder: Path) -> Path:
    """Writes it into the runs folder; raises `FtlabError` if that cannot be done."""
    made = time.strftime("%Y%m%d-%H%M%S", time.localtime(record.made_at))
    path = serving_folder(runs_folder) / f"{made}-{secrets.token_hex(2)}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _RECORD.dump_json(record, indent=2))
    except OSError as error:
        raise FtlabError(
            f"'{path}' cannot be written ({error.strerror}); free some space, or make the folder "
            "writable."
        ) from None
    return path


def serving_records(runs_folder: Path) -> list[ServingRecord]:
    """All that can be read: own ones, newest first, then the shipped one."""
    own = sorted(serving_folder(runs_folder).glob("*.json"), reverse=True)
    found = []
    for path in (*own, shipped_file()):
        try:
            record = read_record(_RECORD, path)
        except (FtlabError, OSError):
            continue
        if record is not None:
            shipped = path == shipped_file()
            found.append(replace(record, origin="recorded" if shipped else "measured"))
    return found


def record_of(
    records: Sequence[ServingRecord], model: str, method: str, file_bytes: float
) -> ServingRecord | None:
    """That of the most adapters among the records of such ones; the first of several."""
    found = [one for one in records if one.is_of(model, method, file_bytes)]
    return max(found, key=lambda record: record.adapters[-1].count, default=None)
