"""How long a prompt grid takes, said before it starts. No torch.

Computed from what its passes read and multiply, with the measured rates of the device, and
corrected by the earlier grids of the folder that the same device answered. A portion of prompts is
read in one pass; each further pass adds a token to every answer that has not ended. The base and
all plain LoRA adapters answer in the same passes, any other pane in passes of its own.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ftlab.basics.devices import Device
from ftlab.basics.errors import FtlabError
from ftlab.methods.dimensions import ModelShape
from ftlab.models.dimensions import shape_of_model
from ftlab.models.files import read_model_json
from ftlab.playground.grid import (
    START_SECONDS,
    GridDirectory,
    GridRequest,
    list_grids,
    portions,
    validate_grid,
)
from ftlab.playground.held_out import HeldOut
from ftlab.playground.panes import LineUp, PaneSource, line_up, same_name
from ftlab.prediction.duration import Rates
from ftlab.settings.generation import Precision

_BYTES: Mapping[Precision, float] = {"bf16": 2, "fp32": 4, "nf4": 2}
"""Of a weight as a pass reads it: one in 4 bits is unpacked to 16."""

_CHARACTERS_A_TOKEN = 4.0
_TEMPLATE_TOKENS = 30
"""Of the chat template around a prompt."""

_CALLS_A_LINEAR, _CALLS_A_ROW = 60.0, 3.3
"""Calls of torch that take as long as a pass does besides its products, for each linear layer: with
norms, attention, caches, activations, and what Python takes between them; and for each row that has
an adapter, until its answer ends."""

_CALLS_TO_ATTACH = 440.0
"""As many calls, for each linear layer, take as long as it takes to load an adapter."""

_SHARE = 0.75
"""Of the allowed tokens that an answer has on the mean, if nothing says that it ends earlier."""

_LONGEST = 1.5
"""The longest answer of a portion over the mean, where they end by themselves."""

_AS_COMPUTED = 1.0
"""Measured over computed seconds before there is an earlier grid: 0.74 to 1.34, on the mean 1.0,
in 16 grids of 10 to 192 answers by 2 to 64 panes, on one and on two cores of a CPU."""

_AN_ADAPTER = 0.006
"""What an adapter costs each row besides its own numbers, as a share of those of the base."""

_MOST_EARLIER, _MOST_LOOKED_AT = 5, 20
"""Grids that correct the time, and those that are looked at for them: the newest."""

_MOST_TOKENS = 1 << 20
"""Of an answer: more is no count."""


@dataclass(frozen=True)
class Length:
    """Tokens of a pane's answers: on the mean, and of the longest."""

    mean: float
    longest: float

    def longest_of(self, count: int) -> float:
        """Of so many answers the longest, on the mean: of one it is as long as any."""
        return self.mean + (self.longest - self.mean) * (1 - 1 / count)


@dataclass(frozen=True)
class _Earlier:
    """A grid that is done: the seconds before its first answer and of its work, and its device."""

    request: GridRequest
    lengths: tuple[Length, ...]
    start: float
    worked: float
    device: str


@dataclass(frozen=True)
class _Lane:
    """A model that answers: its panes, and the numbers of all adapters that it adds, those of the
    panes `adapted`."""

    panes: tuple[int, ...]
    adapter_numbers: float = 0.0
    adapted: tuple[int, ...] = ()


def expected_seconds(
    request: GridRequest,
    runs_folder: Path,
    device: Device,
    rates: Rates | None,
    held_out: HeldOut,
) -> float | None:
    """Seconds from its start to its last answer, without waiting for other work.

    `rates` are those of the device. `None` if the request is not valid, the rates are not known
    yet, or the base is not on this machine.
    """
    if rates is None or validate_grid(request, runs_folder):
        return None
    lineup = line_up(request.panes, request.request.model, runs_folder)
    shape = shape_of_model(lineup.model)
    if shape is None:
        return None
    earlier = [
        grid
        for grid in _earlier_grids(runs_folder)
        if same_name(grid.request.request.model or "") == same_name(lineup.model)
        and grid.request.request.precision == request.request.precision
        and grid.device == device.label
    ][:_MOST_EARLIER]
    seconds = _computed(request, lineup, _lengths(request, lineup, earlier, held_out), shape, rates)
    ratios = []
    for grid in earlier:
        panes = line_up(grid.request.panes, grid.request.request.model, runs_folder)
        ratios.append(grid.worked / _computed(grid.request, panes, grid.lengths, shape, rates))
    start = statistics.median([grid.start for grid in earlier] or [START_SECONDS])
    return start + seconds * statistics.median(ratios or [_AS_COMPUTED])


def _computed(
    request: GridRequest,
    lineup: LineUp,
    lengths: Sequence[Length],
    shape: ModelShape,
    rates: Rates,
) -> float:
    """Seconds of reading the prompts and of writing the answers, without the start."""
    precision = request.request.precision
    numbers = shape.total
    a_call = len(shape.linears) * rates.call_seconds
    a_pass = numbers * _BYTES[precision] / rates.of_few_rows().bytes + _CALLS_A_LINEAR * a_call
    if precision == "nf4" and rates.unpacked:
        a_pass += numbers / rates.unpacked
    speed = rates.wide if precision == "fp32" else rates.narrow
    lanes = list(_lanes(lineup, len(request.panes), shape.has_experts))
    system = len(request.request.system) if request.request.mode == "chat" else 0
    # One after another, before the first answer.
    attached = sum(source.folder is not None for source in lineup.sources.values())
    seconds = attached * _CALLS_TO_ATTACH * a_call
    for portion in portions(request):
        longest = system + max(len(request.prompts[place]) for place in portion)
        read = len(portion) * (longest / _CHARACTERS_A_TOKEN + _TEMPLATE_TOKENS)
        for lane in lanes:
            written = len(portion) * sum(lengths[pane].mean for pane in lane.panes)
            tokens = read * len(lane.panes) + written
            adapted = len(portion) * sum(lengths[pane].mean for pane in lane.adapted)
            passes = 1 + max(lengths[pane].longest_of(len(portion)) for pane in lane.panes)
            seconds += passes * a_pass + _CALLS_A_ROW * adapted * a_call
            products = numbers * (1 + _AN_ADAPTER * len(lane.adapted)) + lane.adapter_numbers
            seconds += 2 * tokens * products / speed
    return seconds


def _lanes(lineup: LineUp, count: int, has_experts: bool) -> Iterator[_Lane]:
    """The base and plain LoRA adapters together, which a mixture of experts does not allow; each
    other pane alone."""
    together, added, adapted = [], 0.0, []
    for pane in range(count):
        source = lineup.sources.get(pane)
        if source is None or source.folder is None:
            together.append(pane)
        elif _is_plain_lora(source) and not has_experts:
            together.append(pane)
            added += _adapter_numbers(source)
            adapted.append(pane)
        else:
            yield _Lane((pane,))
    if together:
        yield _Lane(tuple(together), added, tuple(adapted))


def _is_plain_lora(source: PaneSource) -> bool:
    """As `ftlab.playground.attach` finds it from the loaded adapter."""
    if not source.is_adapter:
        return False
    try:
        config = read_model_json(source.files[0])
    except (OSError, ValueError):
        return False
    return config.get("peft_type") == "LORA" and not any(config.get(key) for key in _NOT_PLAIN)


_NOT_PLAIN = ("use_dora", "layer_replication", "modules_to_save", "alora_invocation_tokens")


def _adapter_numbers(source: PaneSource) -> float:
    """As its file is large: adapters are saved in 32 bits."""
    try:
        return source.files[1].stat().st_size / 4
    except OSError:
        return 0.0


# ---------------------------------------------------------------- how long the answers are


def _lengths(
    request: GridRequest, lineup: LineUp, earlier: Sequence[_Earlier], held_out: HeldOut
) -> list[Length]:
    """Of each pane: as in earlier grids of the task, else as what it was trained for suggests."""
    most = float(request.request.max_new_tokens)
    seen: dict[str, list[Length]] = defaultdict(list)
    for grid in earlier:
        asks_alike = grid.request.task == request.task and (
            request.task is not None or grid.request.prompts == request.prompts
        )
        if asks_alike and grid.request.request.max_new_tokens == most:
            for name, length in zip(grid.request.panes, grid.lengths, strict=True):
                seen[name].append(length)
    usual = Length(_SHARE * most, most)
    reference = _reference_tokens(request, held_out)
    found = []
    for pane, name in enumerate(request.panes):
        source = lineup.sources.get(pane)
        if name in seen:
            means, longest = zip(*((one.mean, one.longest) for one in seen[name]), strict=True)
            found.append(Length(statistics.median(means), statistics.median(longest)))
        elif reference and source is not None and source.task == request.task:
            found.append(Length(min(reference, most), min(_LONGEST * reference, most)))
        else:
            found.append(usual)
    return found


def _reference_tokens(request: GridRequest, held_out: HeldOut) -> float:
    """Mean tokens of the reference answers; 0 if there are none."""
    if request.task is None:
        return 0.0
    examples = [held_out.find(prompt, [request.task]) for prompt in request.prompts]
    lengths = [len(one.example.completion) for one in examples if one is not None]
    return statistics.fmean(lengths) / _CHARACTERS_A_TOKEN + 1 if lengths else 0.0


# ---------------------------------------------------------------- earlier grids


def _earlier_grids(runs_folder: Path) -> list[_Earlier]:
    """The newest grids of the folder that are done and of which every cell was answered."""
    found = (
        _read(grid.path, _ended_at(grid)) for grid in list_grids(runs_folder)[:_MOST_LOOKED_AT]
    )
    return [grid for grid in found if grid is not None]


def _ended_at(grid: GridDirectory) -> int:
    """When its result was written; 0 if it has none."""
    try:
        return grid.result_file.stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=256)
def _read(path: Path, ended_at: int) -> _Earlier | None:
    """`None` for a grid that is of no use here. An ended grid does not change, so it is cached."""
    if not ended_at:
        return None
    grid = GridDirectory(path)
    try:
        request, result, cells = grid.request(), grid.result(), grid.cells()
    except (FtlabError, OSError):
        return None
    if result is None or result.status != "done" or any(cell.error for cell in cells):
        return None
    by_pane: dict[int, list[int]] = defaultdict(list)
    for cell in cells:
        by_pane[cell.pane].append(cell.tokens)
    worked = max((cell.worked_seconds for cell in cells), default=0.0)
    start = result.seconds - result.waited_seconds - worked
    is_sound = (
        request.prompts
        and sorted(by_pane) == list(range(len(request.panes)))
        and all(0 <= cell.tokens <= _MOST_TOKENS for cell in cells)
        and math.isfinite(worked) and worked > 0
        and math.isfinite(start) and start >= 0
    )  # fmt: skip
    if not is_sound:
        return None
    lengths = tuple(_length(by_pane[pane]) for pane in sorted(by_pane))
    return _Earlier(request, lengths, start, worked, str(result.environment.get("device")))


def _length(tokens: Iterable[int]) -> Length:
    each = list(tokens)
    return Length(statistics.fmean(each), max(each))
