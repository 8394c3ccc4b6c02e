"""The report of a sweep as Markdown, for chats and issues."""

from __future__ import annotations

from collections.abc import Iterable

from ftlab import __version__
from ftlab.charts.facts import by_variant
from ftlab.jobs.launch import requests_of
from ftlab.models.reference import model_label
from ftlab.records.comparability import comparability_of_runs
from ftlab.records.recommendation import Preference, recommend
from ftlab.records.store import SweepData
from ftlab.share.card_content import card_of
from ftlab.share.markdown import plain, table
from ftlab.share.report import check_reportable
from ftlab.share.report_sections import command_of, ended_words, measured_text, shown_metrics


def markdown_report(data: SweepData, prefer: Preference = "memory") -> str:
    """The sweep for people: finding, advice, measures, whether it was fair, and how to repeat it.

    Raises `FtlabError` if no run of it is done.
    """
    check_reportable(data)
    card, advice = card_of(data), recommend(data.table, prefer)
    is_done = data.table["status"] == "done"
    done, missing = data.table[is_done], data.table[~is_done]
    models = ", ".join(dict.fromkeys(map(model_label, map(str, data.table["model"]))))
    tasks = ", ".join(dict.fromkeys(map(str, data.table["task"])))
    groups = by_variant(done)
    rows = [
        [f"{metric.label} ({metric.unit}, {metric.direction} is better)"]
        + [measured_text(metric, group) for group in groups]
        for metric in shown_metrics(done)
    ]
    fair = comparability_of_runs([run for run in data.own_runs if run.status == "done"])
    commands = [command_of(request) for request in requests_of([run.spec for run in data.runs])]
    parts = [
        f"# {plain(card.sentence)}",
        plain(f"{models}; {tasks}; {card.origin_text}; sweep {data.sweep_id}; ftlab {__version__}"),
        _list(card.doubts),
        f"## {plain(advice.title)}",
        plain(advice.sentence),
        _list([*advice.details, *filter(None, [advice.basis])]),
        "## Results",
        table(["Measure", *(group.variant for group in groups)], rows),
        _list(ended_words(missing)),
        "## Was it fair?",
        plain(fair.sentence) if fair.runs else "Results of others: not held to equal conditions.",
        *(["## Run it again", *(f"```\n{command.lines}\n```" for command in commands)]
          if commands else []),
    ]  # fmt: skip
    return "\n\n".join(filter(None, parts)) + "\n"


def _list(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {plain(sentence)}" for sentence in sentences)
