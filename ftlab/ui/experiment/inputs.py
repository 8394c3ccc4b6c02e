"""What model and data of a request turn out to be: what is wrong with them, and what is scored."""

from __future__ import annotations

from dataclasses import dataclass

from ftlab.errors import FieldError, FtlabError, InvalidRequest
from ftlab.models.reach import ModelReach
from ftlab.runs.scored import Scored, scored_words
from ftlab.runs.spec import SweepRequest
from ftlab.tasks.formatting import TooLong
from ftlab.ui.experiment.longest import check_training_fits, scored_now
from ftlab.ui.experiment.task_data import kept_hub_rows, load_data
from ftlab.ui.html import escape


@dataclass(frozen=True)
class Inputs:
    """`scored` is `None` where the data are not known yet, or cannot be read."""

    errors: tuple[FieldError, ...] = ()
    scored: Scored | None = None

    def note_html(self) -> str:
        """The sentence beside the field that asks for more examples than there are."""
        words = scored_words(self.scored) if self.scored else ""
        return f'<p class="meta">{escape(words)}</p>' if words else ""


def look_at_inputs(request: SweepRequest, models: ModelReach, *, ask: bool = False) -> Inputs:
    """Looks at the model and the data of a request whose fields are right by themselves.

    Only with `ask` the Hub is asked about either, and every training example is counted in tokens,
    which takes seconds; without, what was found out before counts.
    """
    why = models.why_not(request.model) if ask else models.known(request.model)
    errors = [FieldError("model", why)] if why else []
    if request.task.kind == "hub" and not ask and kept_hub_rows(request.task) is None:
        return Inputs(tuple(errors))
    scored = None
    try:
        load_data(request.task)
        scored = scored_now(request)
        if ask:
            check_training_fits(request)
    except TooLong as error:
        errors.append(FieldError("settings.max_length", str(error)))
    except FtlabError as error:
        errors.append(FieldError("task.id", str(error)))
    return Inputs(tuple(errors), scored)


def check_inputs(request: SweepRequest, models: ModelReach) -> None:
    """Asks whoever has to be asked; raises `InvalidRequest` if model or data cannot be used."""
    found = look_at_inputs(request, models, ask=True)
    if found.errors:
        raise InvalidRequest(list(found.errors))


def must_ask(request: SweepRequest, models: ModelReach) -> bool:
    """Whether the answer depends on the Hub, and is not known yet."""
    unread = request.task.kind == "hub" and kept_hub_rows(request.task) is None
    return unread or models.known(request.model) is None
