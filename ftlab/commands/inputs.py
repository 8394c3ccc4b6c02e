"""Model and data of a request, looked at before anything of it is queued."""

from __future__ import annotations

from ftlab.errors import FtlabError
from ftlab.models.reach import why_out_of_reach
from ftlab.models.reference import parse_model
from ftlab.models.resolve import local_folder
from ftlab.runs.scored import measured_split, scored_of, scored_words
from ftlab.runs.spec import SweepRequest
from ftlab.runs.validation import validate
from ftlab.settings.training import EVAL_SPLITS
from ftlab.tasks.formatting import FileTokenizer, PromptFormatter, encode
from ftlab.tasks.reference import load
from ftlab.tasks.spec import TaskData


def check_inputs(request: SweepRequest) -> str:
    """How many examples are scored, in a sentence where they are not as many as were asked for.

    A request that is wrong by itself is left to the queue, which names every wrong field.
    Raises `FtlabError` if the model or the data cannot be had, or no example is short enough.
    """
    if validate(request):
        return ""
    why = why_out_of_reach(request.model)
    if why:
        raise FtlabError(why)
    _, data = load(request.task)
    return scored_words(scored_of(request, data, _too_long(request, data)))


def _too_long(request: SweepRequest, data: TaskData) -> int:
    """How many of the examples that are scored do not fit; 0 where the model is not here yet."""
    folder = local_folder(parse_model(request.model))
    if folder is None:
        return 0
    try:
        formatter = PromptFormatter(FileTokenizer(folder))
    except FtlabError:  # a model without tokenizer.json: its worker counts
        return 0
    settings = request.settings
    length = settings.max_length
    # One that fits is enough: in tokens all of them take seconds.
    if not any(formatter.format(example).length <= length for example in data.train):
        encode(formatter, data.train, length, "training")
    wanted = measured_split(data, settings)[: settings.eval_examples]
    return encode(formatter, wanted, length, EVAL_SPLITS[settings.eval_split]).dropped
