"""Writes the site's reference, page by page, from what the code itself reads and shows.

Run as: python -m tests.site.reference [build/reference]

`make docs` runs it. The pages are not committed: they are long, change with every setting, and are
the same texts that form, `--help` and API show, so a copy in the repository could only be old.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftlab.__main__ import COMMANDS, build_parser
from ftlab.charts.spec import ChartSpec, charts
from ftlab.maintain.__main__ import PROGRAM
from ftlab.methods.registry import METHODS
from ftlab.methods.spec import Hyperparameter
from ftlab.playground.client import PlaygroundClient
from ftlab.prediction.question import Step, Target
from ftlab.records.metrics import METRICS
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore
from ftlab.settings.generation import GenerationSettings
from ftlab.settings.schema import Field, fields_of, plain_number
from ftlab.settings.training import TrainingSettings
from ftlab.share.markdown import plain
from ftlab.tabs.agents import INSTRUCTIONS, tools_of
from ftlab.tabs.api import calls_of
from ftlab.tabs.context import AppContext
from ftlab.tasks.registry import TASKS

_WIDTH = 100  # characters of a line of --help
_OF_A_MACHINE = "_of this machine_"
GROUPS: Mapping[str, tuple[type, str]] = {
    "Settings of a run": (
        TrainingSettings,
        "Shared by all runs of a sweep. On the form of Experiment, as options of `sweep`, `tune` "
        "and `race`, and as `settings` of an API call.",
    ),
    "Settings of a launch": (SweepRequest, "What is launched, where, and how often."),
    "Settings of an answer": (
        GenerationSettings,
        "Of the Playground, and options of `generate` and `grid`.",
    ),
    "What a prediction is about": (Target, "The model and the card of Plan and of `predict`."),
    "The step of a prediction": (Step, "The training step whose memory Plan and `predict` say."),
}
"""Each settings type of the schema, by its heading, with where its settings are set."""


def settings_page() -> str:
    parts = [
        "# Settings\n\nEach is described once, in the code; form, command line, API and this page "
        "read it there. *Fair*: runs are a fair comparison only if they share it.\n"
    ]
    for heading, (settings, where) in GROUPS.items():
        rows = (_setting_row(field) for field in fields_of(settings).values())
        heads = ("option", "default", "values", "fair", "what it is")
        parts.append(f"## {heading}\n\n{where}\n\n{_table(heads, rows)}\n")
    return "\n".join(parts)


def _setting_row(field: Field) -> Sequence[str]:
    default = field.default
    shown = field.setting.empty if default is None else _default(field, default)
    label, about = field.setting.label, field.setting.help
    return (
        f"`--{field.option}`",
        plain(shown),
        plain(_values(field)),
        "✓" if field.setting.same else "",
        f"**{plain(label)}**" + (f": {plain(about)}" if about else ""),
    )


def _default(field: Field, default: Any) -> str:
    if isinstance(default, int | float | bool | str | tuple):
        return field.shown(default) or "none"
    return str(default)


def _values(field: Field) -> str:
    setting = field.setting
    if setting.choices:
        return ", ".join(map(str, setting.choices))
    if field.kind == "switch":
        return "on, off"
    if field.kind in ("whole", "real") and setting.parse is None:
        low, high = plain_number(setting.low), plain_number(setting.high)
        first = f"above {low}" if setting.above else f"from {low}"
        return first if high == "inf" else f"{first} to {high}"
    return f"as in {setting.example}" if setting.example else ""


def hyperparameters_page() -> str:
    parts = [
        "# Hyperparameters of the methods\n\n"
        "Given on the form below a ticked method, or as `--variant METHOD:NAME=VALUE,…`. Each "
        "method also takes `lr`, its learning rate, and most take `base`, the precision of the "
        "frozen base. "
        "[Which method is good for what](../methods.md) says more of each.\n"
    ]
    for method in METHODS.values():
        rows = [_hyperparameter_row(one) for one in method.hyperparameters]
        body = _table(("name", "label", "default", "values", "what it is"), rows)
        none = "It has no hyperparameters of its own."
        parts.append(f"## {method.label}\n\n`{method.id}`: {method.summary}\n")
        parts.append(f"{body if rows else none}\n")
    return "\n".join(parts)


def _hyperparameter_row(one: Hyperparameter) -> Sequence[str]:
    values = ", ".join(one.choices)
    if not values and one.minimum is not None and one.maximum is not None:
        values = f"{one.minimum:g} to {one.maximum:g}"
        values += " characters" if one.kind == "text" else ""
    return (f"`{one.name}`", plain(one.label), plain(one.default), values, plain(one.help))


def metrics_page() -> str:
    heads = ("column", "label", "unit", "better", "how it is measured")
    rows = (
        (f"`{one.key}`", plain(one.label), plain(one.unit), one.direction, plain(one.how))
        for one in METRICS.values()
    )
    return (
        "# Metrics\n\nThe columns of Results, of its CSV and JSON, and of `python -m ftlab runs`. "
        "[How each number is measured](../measuring.md) says more.\n\n" + _table(heads, rows) + "\n"
    )


def tasks_page() -> str:
    rows = (
        (f"`{t.id}`", plain(t.label), plain(t.summary), plain(f"{t.metric.label}: {t.metric.how}"))
        for t in TASKS.values()
    )
    drawn = (
        (f"`{one.id}`", plain(_name(one)), plain(_reading(one)), _places(one)) for one in charts()
    )
    return (
        "# Tasks and charts\n\n## Tasks\n\nA file of your own is a task, too: "
        "[Your own CSV in ten minutes](../tutorial-csv.md).\n\n"
        + _table(("task", "label", "what it is", "its score"), rows)
        + "\n\n## Charts\n\n"
        + _table(("chart", "what it plots", "how to read it", "where"), drawn)
        + "\n"
    )


def _name(chart: ChartSpec) -> str:
    return chart.name if isinstance(chart.name, str) else f"{chart.id} of the measures chosen"


def _reading(chart: ChartSpec) -> str:
    return chart.reading if isinstance(chart.reading, str) else ""


def _places(chart: ChartSpec) -> str:
    places = (("Compare", chart.compare is not None), ("report", chart.report is not None))
    return ", ".join(name for name, is_there in places if is_there) or "bars of Compare"


def command_line_page() -> str:
    """`--help` of each command, with names of this machine left out."""
    parts = [
        "# Command line\n\nWhat `python -m ftlab COMMAND --help` prints, for each command. "
        "Installed, `ftlab` is the same as `python -m ftlab`.\n",
    ]
    for parser, commands in ((build_parser(), COMMANDS), (PROGRAM.parser(), PROGRAM.commands)):
        known = _subparsers(parser)
        if commands is PROGRAM.commands:
            parts.append(
                "# For maintainers\n\n`python -m ftlab.maintain COMMAND`, in a checkout.\n"
            )
        for command in commands:
            text = _help(known[command.NAME])
            parts.append(f"## {command.NAME}\n\n{plain(command.SUMMARY)}\n\n```text\n{text}```\n")
    return "\n".join(parts)


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (found,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return dict(found.choices)


def _help(parser: argparse.ArgumentParser) -> str:
    name = parser.prog.rsplit(" ", 1)[1]
    program = "python -m ftlab.maintain" if "maintain" in parser.prog else "python -m ftlab"
    parser.prog = f"{program} {name}"
    formatter = parser.formatter_class
    parser.formatter_class = lambda prog: formatter(prog, width=_WIDTH)  # type: ignore[assignment]
    text = parser.format_help()
    for folder in (Path.cwd(), Path.home()):
        text = text.replace(str(folder), _OF_A_MACHINE)
    return text


def api_page() -> str:
    """What programs and agents may call."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        context = AppContext(runs, RunStore(runs, None), PlaygroundClient(runs))
        calls = calls_of(context)
        tools = [(tool.call, tool.title) for tool in tools_of(context)]
    parts = [
        "# API and tools for agents\n\n## Calls of the page\n\nBy `gradio_client`, at the address "
        'of the page: `Client("http://127.0.0.1:7860").predict(…, api_name="/NAME")`. `results` is '
        "another name of `runs`.\n",
        *(_call(call, name) for name, call in calls.items()),
        "## Tools for agents\n\nAt `/mcp`, by the Model Context Protocol: "
        "[how to connect](../guide.md#tools-for-agents-mcp). What an agent is told first:\n\n"
        + _quoted(INSTRUCTIONS),
        *(_call(call, call.__name__, title) for call, title in tools),
        "## OpenAI's protocol\n\n`python -m ftlab serve` answers `/v1/models`, "
        "`/v1/chat/completions` and `/healthz`: [Serving runs to programs](../serving.md).\n",
    ]
    return "\n".join(parts)


def _call(call: Callable[..., Any], name: str, title: str = "") -> str:
    """The heading, the arguments with their defaults, and the docstring of a call."""
    text = inspect.cleandoc(call.__doc__ or "")
    about, _, rest = text.partition("Parameters:")
    described, _, returns = rest.partition("Returns:")
    if not rest:
        about, _, returns = text.partition("Returns:")
    defaults = {key: one.default for key, one in inspect.signature(call).parameters.items()}
    rows = [
        (f"`{key}`", plain(words), f"`{_shown(defaults.get(key))}`")
        for key, words in _described(described)
    ]
    lines = [f"### {name}\n", f"{title}. {about.strip()}\n" if title else f"{about.strip()}\n"]
    if rows:
        lines.append(_table(("argument", "what it is", "default"), rows) + "\n")
    if returns.strip():
        lines.append(f"Returns: {' '.join(returns.split())}\n")
    return "\n".join(lines)


def _described(text: str) -> Iterator[tuple[str, str]]:
    """(name, words) of each argument of a docstring; its words may go over several lines."""
    parts = re.split(r"^ {4}(\w+): ", text, flags=re.MULTILINE)[1:]
    return zip(parts[::2], parts[1::2], strict=True)


def _shown(default: Any) -> str:
    return "needed" if default is inspect.Parameter.empty else repr(default)


def _quoted(text: str) -> str:
    return "".join(f"> {line}".rstrip() + "\n" for line in text.splitlines())


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


PAGES: Mapping[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "hyperparameters.md": hyperparameters_page,
    "metrics.md": metrics_page,
    "tasks-and-charts.md": tasks_page,
    "command-line.md": command_line_page,
    "api.md": api_page,
}


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.md"):
        old.unlink()
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    folder = Path(given[0] if given else "build/reference")
    write(folder)
    print(f"{len(PAGES)} pages in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
