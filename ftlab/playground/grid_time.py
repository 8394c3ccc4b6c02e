"""How long a prompt grid takes, said before it starts. No torch.

Computed from what its passes read and multiply, with the measured rates of the device, and
corrected by the earlier grids of the folder. A portion of prompts is read in one pass; each further
pass adds a token to every answer that has not ended. The base and all plain LoRA adapters answer in
the same passes, any other pane in passes of its own.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftlab.basics.errors import FtlabError
from ftlab.methods.dimensions import ModelShape
from ftlab.models.dimensions import shape_of_model
from ftlab.models.files import read_model_json
from ftlab.playground.grid import GridDirectory, GridRequest, list_grids, portions, validate_grid
from ftlab.playground.held_out import HeldOut
from ftlab.playground.panes import LineUp, PaneSource, line_up, same_name
from ftlab.prediction.duration import Rates
from ftlab.settings.generation import Precision

_BYTES: Mapping[Precision, float] = {"bf16": 2, "fp32": 4, "nf4": 2}
"""Of a weight as a pass reads it: one in 4 bits is unpacked to 16."""

_CHARACTERS_A_TOKEN = 4.0
_TEMPLATE_TOKENS = 30
"""Of the chat template around a prompt."""

_CALLS_A_LINEAR, _CALLS_AN_ADAPTER = 60, 2
"""Of torch in a pass, for each linear layer, with those of norms, attention, caches and activations
and what Python takes between them; and for each adapter that is added."""

_SHARE = 0.75
"""Of the allowed tokens that an answer has on the mean, if nothing says that it ends earlier."""

_LONGEST = 1.5
"""The longest answer of a portion over the mean, where they end by themselves."""

_START_SECONDS = 5.0
"""Before there is an earlier grid: the process starts, imports torch and loads the base."""

_AS_COMPUTED = 1.0
"""Measured over computed seconds before there is an earlier grid: the median of 14 grids of 10 to
192 answers by 2 to 64 panes, on one and on two cores of a CPU."""

_AN_ADAPTER = 0.015
"""What an adapter costs each row besides its own numbers, as a share of those of the base."""

_MOST_EARLIER = 20
"""Grids that correct the time: the newest."""


@dataclass(frozen=True)
class Length:
    """Tokens of a pane's answers: on the mean, and of the longest."""

    mean: float
    longest: float


@dataclass(frozen=True)
class _Earlier:
    """A grid that is done: the seconds before its first answer and of its work."""

    request: GridRequest
    lengths: tuple[Length, ...]
    start: float
    worked: float


@dataclass(frozen=True)
class _Lane:
    """A model that answers: its panes, and the numbers of all `adapters` that it adds."""

    panes: tuple[int, ...]
    adapter_numbers: float = 0.0
    adapters: int = 0


def expected_seconds(
    request: GridRequest, runs_folder: Path, rates: Rates | None, held_out: HeldOut
) -> float | None:
    """Seconds from its start to its last answer, without waiting for other work.

    `None` if the request is not valid, the device's rates are not known yet, or the base is not on
    this machine.
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
    ]
    seconds = _computed(request, lineup, _lengths(request, lineup, earlier, held_out), shape, rates)
    ratios = []
    for grid in earlier:
        panes = line_up(grid.request.panes, grid.request.request.model, runs_folder)
        of_grid = _computed(grid.request, panes, grid.lengths, shape, rates)
        ratios.append(grid.worked / of_grid)
    start = statistics.median([grid.start for grid in earlier] or [_START_SECONDS])
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
    numbers = sum(math.prod(size) for size in shape.weights.values())
    a_call = len(shape.linears) * rates.call_seconds
    a_pass = numbers * _BYTES[precision] / rates.of_few_rows().bytes + _CALLS_A_LINEAR * a_call
    if precision == "nf4" and rates.unpacked:
        a_pass += numbers / rates.unpacked
    speed = rates.wide if precision == "fp32" else rates.narrow
    lanes = list(_lanes(lineup, len(request.panes)))
    seconds = 0.0
    for portion in portions(request):
        longest = max(len(request.prompts[place]) for place in portion)
        read = len(portion) * (longest / _CHARACTERS_A_TOKEN + _TEMPLATE_TOKENS)
        for lane in lanes:
            written = len(portion) * sum(lengths[pane].mean for pane in lane.panes)
            tokens = read * len(lane.panes) + written
            passes = 1 + max(lengths[pane].longest for pane in lane.panes)
            seconds += passes * (a_pass + _CALLS_AN_ADAPTER * lane.adapters * a_call)
            products = numbers * (1 + _AN_ADAPTER * lane.adapters) + lane.adapter_numbers
            seconds += 2 * tokens * products / speed
    return seconds


def _lanes(lineup: LineUp, count: int) -> Iterator[_Lane]:
    """The base and plain LoRA adapters together; each other pane alone."""
    together, added, adapters = [], 0.0, 0
    for pane in range(count):
        source = lineup.sources.get(pane)
        if source is None or source.folder is None:
            together.append(pane)
        elif _is_plain_lora(source):
            together.append(pane)
            added += _adapter_numbers(source)
            adapters += 1
        else:
            yield _Lane((pane,))
    if together:
        yield _Lane(tuple(together), added, adapters)


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
        if grid.request.task == request.task and grid.request.request.max_new_tokens == most:
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
    found = (_read(grid) for grid in list_grids(runs_folder)[:_MOST_EARLIER])
    return [grid for grid in found if grid is not None]


def _read(grid: GridDirectory) -> _Earlier | None:
    try:
        request, result, cells = grid.request(), grid.result(), grid.cells()
    except FtlabError:
        return None
    if result is None or result.status != "done" or any(cell.error for cell in cells):
        return None
    worked = max((cell.worked_seconds for cell in cells), default=0.0)
    by_pane: dict[int, list[int]] = defaultdict(list)
    for cell in cells:
        by_pane[cell.pane].append(cell.tokens)
    if not worked or sorted(by_pane) != list(range(len(request.panes))):
        return None
    lengths = tuple(_length(by_pane[pane]) for pane in sorted(by_pane))
    return _Earlier(request, lengths, result.seconds - result.waited_seconds - worked, worked)


def _length(tokens: Iterable[int]) -> Length:
    each = list(tokens)
    return Length(statistics.fmean(each), max(each))
