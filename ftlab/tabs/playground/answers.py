"""The answers to one prompt as one HTML file to send: who said what, and how it was asked."""

from __future__ import annotations

import importlib.metadata
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from gradio.utils import get_upload_folder

from ftlab import __version__
from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.basics.words import plain_line, plural, shorten
from ftlab.methods.registry import look_of
from ftlab.models.reference import BUNDLED_ID
from ftlab.playground.requests import GenerateRequest, PaneUpdate
from ftlab.playground.text_difference import changed_share, word_differences
from ftlab.records.run import write_atomically
from ftlab.share.page import NOTHING, each, small_print, standalone
from ftlab.share.page import table as page_table
from ftlab.share.report_sections import request_words
from ftlab.tabs.playground.session import CHAT, Pane, Session, kl_words, marked, pane_html
from ftlab.tabs.widgets import Markup, named

_STYLE = """
.panes { display:grid; gap:12px;
  grid-template-columns:repeat(auto-fit, minmax(min(100%, 300px), 1fr)) }
.pane { border:1px solid var(--line); border-top:3px solid var(--c); border-radius:6px;
  padding:10px 12px; min-width:0; break-inside:avoid }
.pane h3 { font-size:14px; margin:0 0 6px }
.proof, .foot { display:flex; flex-wrap:wrap; gap:4px 6px; align-items:center; font-size:13px }
.foot { border-top:1px solid var(--line); padding-top:6px; margin-top:6px }
.grow { flex:1 }
.chip { margin:0 }
.chip.seal { color:var(--ink); background:none; border-color:var(--muted) }
.answer { white-space:pre-wrap; font:13px/1.5 ui-monospace,monospace; padding:10px 0 }
.turns p { white-space:pre-wrap; margin:6px 0 0; font:13px/1.45 ui-monospace,monospace }
.turns .asked, .question { color:var(--muted); border-left:2px solid var(--line); padding-left:8px }
.answer ins { background:var(--ok2); color:var(--ok); text-decoration-thickness:2px }
.answer del { color:var(--muted) }
.rows { width:auto; font:12px/1.4 ui-monospace,monospace; margin:4px 0 8px }
.rows th, .rows td { border:1px solid var(--line); padding:2px 6px }
.proofs small { display:block; font-weight:400 }
"""
_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
_NO_ANSWER = "This pane gave no answer."


def why_no_file(session: Session) -> str:
    """A sentence that says why the answers cannot be downloaded now; "" if they can."""
    if any((pane.update or pane.status) and not pane.is_final for pane in session.panes):
        return "The answers can be downloaded as HTML when all panes have ended."
    if session.is_blind:
        return "The answers can be downloaded as HTML after the vote: the file says who is who."
    if not any(_has_answer(pane) for pane in session.panes):
        return "The answers can be downloaded as HTML once a prompt is answered."
    return ""


def answers_file(session: Session, against: int | None) -> Path:
    """Writes the page for download. Only its visitor knows the path.

    Raises `FtlabError` if there are no answers yet, or if they are still hidden.
    """
    page = answers_page(session, against)
    folder = Path(get_upload_folder()) / "ftlab" / secrets.token_urlsafe(24)
    folder.mkdir(parents=True)
    path = folder / f"ftlab-answers-{time.strftime('%Y%m%d-%H%M%S')}.html"
    write_atomically(path, page.encode())
    return path


def answers_page(session: Session, against: int | None = None) -> str:
    """Returns the asked panes in the order of the page as one self-contained HTML document.

    Differences are marked against the pane at the position `against`, or the first with an answer.
    Raises `FtlabError` if there are no answers yet, or if they are still hidden.
    """
    problem = why_no_file(session)
    if problem:
        raise FtlabError(problem)
    shown = session.shown()
    panes = [pane for pane in shown if pane.request is not None]
    chosen = shown[against : against + 1] if against is not None and against >= 0 else []
    other = next(pane for pane in (*chosen, *panes) if _has_answer(pane))
    request = panes[0].request
    assert request is not None
    prompt = plain_line(request.prompt)
    title = f"{plural(len(panes), 'answer')} to “{shorten(prompt, 80)}”"
    sections = [
        _asked(request, panes),
        _answers(panes),
        _differences(panes, other),
        _proofs(panes),
    ]
    return standalone(title, [str(section) for section in sections if section], _STYLE)


def _has_answer(pane: Pane) -> bool:
    is_done = pane.update is not None and pane.update.kind == "done"
    return pane.request is not None and (is_done or bool(pane.answer))


def _asked(request: GenerateRequest, panes: Sequence[Pane]) -> Markup:
    turns = max(len(pane.history) // 2 for pane in panes) + 1
    is_chat = any(pane.question for pane in panes)
    heading = f"Prompt, turn {turns} of a chat" if is_chat and turns > 1 else "Prompt"
    named_model = replace(request, model=request.model or BUNDLED_ID)
    made = time.strftime("%d %b %Y %H:%M", time.localtime(panes[0].asked_at))
    return Markup('<h2>{}</h2><p class="text question">{}</p>{}').format(
        heading,
        request.prompt,
        small_print(
            "The earlier turns stand above each answer." if turns > 1 else "",
            " · ".join([*request_words(named_model), CHAT if is_chat else "single prompt", made]),
            f"All panes answered on one copy of the base model. {_versions()}",
        ),
    )


def _versions() -> str:
    found = [f"ftlab {__version__}"]
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


def _answers(panes: Sequence[Pane]) -> Markup:
    cells = ((look_of(_method(pane)).colour, Markup(_as_sent(pane))) for pane in panes)
    return Markup('<h2>Answers</h2><div class="panes">{}</div>').format(
        each('<article class="pane" style="--c:{}">{}</article>', cells)
    )


def _as_sent(pane: Pane) -> str:
    """HTML: the pane as on the page, without marks, and without an error's paths and names."""
    update = pane.update
    if update is not None and update.kind == "error":
        update = replace(update, text=_NO_ANSWER)
    return pane_html(replace(pane, update=update, pieces=(), question=""))


def _differences(panes: Sequence[Pane], other: Pane) -> Markup:
    """Each answer with the words that `other` has not, and those that only `other` has."""
    rest = [pane for pane in panes if pane is not other and _has_answer(pane)]
    if not rest:
        return NOTHING
    cells = []
    for pane in rest:
        pieces = word_differences(pane.answer, other.answer)
        share = units.format_share(changed_share(pieces))
        words = "the same text" if pane.answer == other.answer else f"{share} of words differ"
        cells.append((look_of(_method(pane)).colour, _name(pane), words, Markup(marked(pieces))))
    name = other.source.label if other.source else ""
    return Markup('<h2>What differs from {}</h2>{}<div class="panes">{}</div>').format(
        name,
        small_print(f"Underlined: only in this answer. Struck out: only in that of {name}."),
        each(
            '<article class="pane" style="--c:{}">{} <small>{}</small>'
            '<div class="answer">{}</div></article>',
            cells,
        ),
    )


def _proofs(panes: Sequence[Pane]) -> Markup:
    heads = (
        "Pane", "Likeliest first token", "KL, nats", "Tokens", "Tokens/s", "First token, s",
        "Adapter put on, s",
    )  # fmt: skip
    kinds = ("", *["num"] * (len(heads) - 2))
    rows = []
    for pane in panes:
        update = pane.update or PaneUpdate(0, "error", "")
        told = update.next_token
        weights = f"SHA-256 {update.adapter_sha256}" if update.adapter_sha256 else ""
        detail = pane.source.detail if pane.source else ""
        cells = (
            f"{told.token!r}; in the base {told.base_token!r}" if told else units.DASH,
            kl_words(told.kl_nats) if told else units.DASH,
            str(update.tokens),
            units.format_number(update.tokens_per_second, 1),
            units.format_number(update.first_token_seconds),
            units.format_number(update.swap_seconds),
        )
        rows.append(
            Markup("<tr><th>{}{}</th>{}</tr>").format(
                _name(pane),
                each("<small>{}</small>", ((line,) for line in (detail, pane.name, weights))),
                each(
                    '<td class="{}" data-label="{}">{}</td>',
                    zip(kinds, heads[1:], cells, strict=True),
                ),
            )
        )
    columns = each('<th class="{}">{}</th>', zip(("", *kinds), heads, strict=True))
    return Markup("<h2>How each answer came about</h2>{}{}").format(
        page_table("Proof", "proofs stack", columns, NOTHING.join(rows)),
        small_print(
            "The SHA-256 is that of the file with the adapter's weights. KL(pane || base) compares "
            "the first next-token distributions on this prompt: 0 would be an adapter that changes "
            "nothing; in 16 bits up to about 0.006 nats and in 4 bits 0.015 may be rounding alone. "
            "Speed is after the first token, while all panes took turns."
        ),
    )


def _method(pane: Pane) -> str:
    return pane.source.method if pane.source else ""


def _name(pane: Pane) -> Markup:
    return Markup(named(_method(pane), pane.source.label if pane.source else None))
