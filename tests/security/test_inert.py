"""Script in data, names, answers and notes stays text on every surface that shows or writes it."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from ftlab.basics.words import inert
from ftlab.charts.spec import Facts, charts
from ftlab.methods.registry import METHODS
from ftlab.playground.grid import Cell, GridDirectory, GridRequest
from ftlab.playground.grid_table import write_csv
from ftlab.playground.requests import GenerateRequest
from ftlab.records.run import Annotations, RunDirectory, write_annotations
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore, SweepData, UnreadableRun, read_run, sweep_data
from ftlab.share.card import card_svg
from ftlab.share.card_content import card_of
from ftlab.share.model_card import model_card
from ftlab.share.report import sweep_report
from ftlab.share.report_sections import command_of
from ftlab.share.script import _words, literal
from ftlab.tabs.experiment.queue import NEWEST, queue_html, view_sweep
from ftlab.tabs.playground.grid import grid_html
from ftlab.tabs.results.columns import COLUMNS, Group, Query, show, shown_records, to_csv
from ftlab.tabs.results.html import caption, facets_html, how_measured, table_html
from ftlab.tabs.results.panel import panel
from ftlab.tabs.widgets import blank, chip, field_error, heading
from ftlab.tasks.files import ColumnMapping
from ftlab.tasks.reference import TaskReference
from tests.data.hostile.make import FORMULAS, MARKDOWN, SCRIPTS, TEXTS
from tests.fakes import SWEEP, make_run

BREAKOUT = (
    "\"'></style></title></textarea></script><script>hit()</script><img src=x onerror=hit()>"
    '<a href="javascript:hit()">x</a><svg onload=hit()>'
)
"""Ends whatever it may stand in, and then does harm."""

_HARMLESS = ("https://", "http://www.w3.org/", "data:image/", "data:font/", "#", "/")


class Page(HTMLParser):
    """What a browser would run or fetch in a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.live: list[str] = []
        self._script = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        data = found.get("type") == "application/json"
        self._script = tag == "script" and not data
        if tag in ("iframe", "object", "embed", "base", "form", "link"):
            self.live.append(f"<{tag}>")
        for name, value in found.items():
            if name.startswith("on") and "hit()" in value:
                self.live.append(f"{tag} {name}={value}")
            where = name in ("href", "src", "action", "formaction", "xlink:href", "srcset", "data")
            if where and value and not value.lstrip().lower().startswith(_HARMLESS):
                self.live.append(f"{tag} {name}={value}")

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = False

    def handle_data(self, data: str) -> None:
        if self._script and "hit()" in data:
            self.live.append(f"script: {data[:80]}")


def assert_inert(html: str) -> None:
    assert Page(html).live == []


def test_the_reader_of_pages_knows_what_is_live() -> None:
    for text in SCRIPTS[:5] + SCRIPTS[6:8]:
        assert Page(text).live, text
    assert Page("<b title='&lt;script&gt;hit()'>&lt;script&gt;hit()&lt;/script&gt;</b>").live == []


def hostile_run(folder: Path, method: str, text: str, **changes: Any) -> RunDirectory:
    """A finished run of which everything that others could write is the text."""
    samples = [
        {
            "index": number,
            "prompt": [{"role": "user", "content": text}],
            "reference": text,
            **{f"answer_{when}": text for when in ("before", "after")},
            **{f"verdict_{when}": text for when in ("before", "after")},
            **{f"score_{when}": 0.5 for when in ("before", "after")},
            **{f"loss_{when}": 1.5 for when in ("before", "after")},
        }
        for number in range(3)
    ]
    directory = make_run(
        folder,
        method,
        samples=samples,
        task=TaskReference("file", f"/data/{text}.csv", ColumnMapping(prompt=text, completion="c")),
        model=f"/models/{text}",
        environment={
            "device": text, "metric": text, "python": text, "cuda": text, "data_hash": text,
            "threads": text, "packages": {text: text, "torch": text}, text: text,
        },
        notes=[text],
        log=text,
        **changes,
    )  # fmt: skip
    write_annotations(directory, Annotations(tags=(text[:40],), note=text[:2000]))
    return directory


def hostile_sweep(folder: Path, text: str) -> SweepData:
    for method in ("full", "lora", "qlora", "prompt_tuning"):
        hostile_run(folder, method, text)
    hostile_run(folder, "prompt_tuning_text", text, hyperparameters={"text": text})
    hostile_run(folder, "lora", text, status="failed", reason=text)
    return sweep_data(RunStore(folder), SWEEP)


@pytest.fixture
def sweep(tmp_path: Path) -> SweepData:
    return hostile_sweep(tmp_path, BREAKOUT)


@pytest.mark.hostile("script on the page")
@pytest.mark.parametrize("text", [BREAKOUT, *TEXTS[::5]], ids=lambda text: ascii(text)[:40])
def test_the_table_the_side_panel_and_the_queue_show_text_as_text(
    tmp_path: Path, text: str
) -> None:
    directory = hostile_run(tmp_path, "lora", text)
    failed = hostile_run(tmp_path, "full", text, status="failed", reason=text)
    store = RunStore(tmp_path)
    for group in get_args(Group):
        shown = show(store.table(), Query(columns=tuple(COLUMNS), group=group))
        table = table_html(shown)
        assert_inert(table + caption(shown, [UnreadableRun(text, text)]) + how_measured(shown))
    assert_inert(facets_html(store.table(), {"method": [text]}, 0))
    for run in map(read_run, (directory, failed)):
        assert_inert("".join(str(part) for part in vars(panel(run)).values()))
    assert_inert(queue_html(view_sweep(store.runs(), NEWEST)))
    assert_inert(chip(text, text, text) + field_error([text]) + blank(text, text))
    assert_inert(heading(text, sub=text))


@pytest.mark.hostile("script in the report and the card")
@pytest.mark.parametrize("text", [BREAKOUT, *SCRIPTS[2::9]], ids=lambda text: ascii(text)[:40])
def test_the_report_and_the_card_show_text_as_text(tmp_path: Path, text: str) -> None:
    data = hostile_sweep(tmp_path, text)
    assert_inert(sweep_report(data, notes=[text]))
    svg = card_svg(card_of(data))
    assert_inert(svg)
    import xml.etree.ElementTree as ElementTree

    names = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(svg).iter()}
    assert not names & {"script", "a", "foreignObject", "image", "iframe", "use", "animate", "set"}


@pytest.mark.hostile("script in figures")
@pytest.mark.parametrize(
    "text",
    [BREAKOUT, "<b>x</b>", '<a href="javascript:hit()">x</a>', "<sub>x</sub>", "%{customdata}"],
)
def test_no_name_becomes_a_tag_or_a_link_in_a_figure(tmp_path: Path, text: str) -> None:
    """Plotly reads a few tags of HTML in every text, `<a href>` among them."""
    data = hostile_sweep(tmp_path, text)
    for chart in charts():
        figure = chart.figure(Facts(data.table, chart.read(data) if chart.read else None))
        for where, shown in _texts(json.loads(figure.to_json())):
            if where != "customdata":
                assert not re.search(r"<(a|script|img|svg)\b", shown), (where, shown)
                assert "javascript:" not in shown or "<a" not in shown
                assert "%{customdata}" not in shown.replace("%{customdata[", "")


def _texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, where)


@pytest.mark.hostile("script in the model card")
@pytest.mark.parametrize("text", [BREAKOUT, *SCRIPTS, *MARKDOWN], ids=lambda text: ascii(text)[:40])
def test_a_model_card_holds_no_tag_link_or_picture_that_a_name_made(
    tmp_path: Path, text: str
) -> None:
    for number, model in enumerate((f"/models/{text}", f"a/{text}")):
        for task in (
            TaskReference("file", f"/d/{text}.csv"),
            TaskReference("hub", f"a/{text}"),
        ):
            directory = hostile_run(tmp_path / str(number), "lora", text)
            run = read_run(directory)
            run = replace(run, spec=replace(run.spec, model=model, task=task))
            card = model_card(run, "adapter")
            head, front, body = card.split("---\n", 2) if card.startswith("---\n") else ("", "", "")
            assert head == ""
            facts = yaml.safe_load(front)
            assert set(facts) <= {
                "base_model", "base_model_relation", "library_name", "pipeline_tag", "tags",
                "license", "datasets", "model-index",
            }  # fmt: skip
            prose = re.sub(r"```python\n.*?```", "", body, flags=re.S)
            assert not re.search(r"<[a-zA-Z!/]", prose)
            links = re.findall(r"(?<!\\)\[[^\]]*\]\(([^)]*)\)", prose)
            assert all(link.startswith("https://huggingface.co/") for link in links), links
            assert not re.search(r"(?<!\()(https?|ftp)://", prose)
            assert prose.count("```") == 0
            for program in re.findall(r"```python\n(.*?)```", body, flags=re.S):
                ast.parse(program)


@pytest.mark.hostile("formulas in spreadsheets")
@pytest.mark.parametrize(
    "text",
    [
        *FORMULAS,
        "＝1+1",
        "\u200b=1",
        "\ufeff=1",
        "\u00a0=1",
        "\u3000=1",
        "\u2060=1",
        "\u00ad=1",
        "\u202e=1",
        "\x00=1",
        "\x1f\x85=1",
        "＋1",
        "－1+2",
        "＠SUM(1)",
        "﹦1",
        "﹢1",
        "﹣1+2",
        "﹫A1",
        "\n=1",
        "\x0b=1",
        "\u2028=1",
    ],
    ids=ascii,
)
def test_no_cell_of_an_exported_csv_is_a_formula(tmp_path: Path, text: str) -> None:
    directory = hostile_run(tmp_path, "lora", text)
    write_annotations(directory, Annotations(tags=(text.strip()[:40],), note=text))
    table = RunStore(tmp_path).table()
    shown = show(table, Query(columns=tuple(table.columns)))
    grid = GridDirectory(tmp_path / ".ftlab" / "grids" / "20261126-120000-0abc")
    grid.write_request(
        GridRequest(
            GenerateRequest(prompt="", panes=(text,)), (text,), labels=(text,), methods=(text,)
        )
    )
    grid.add_cell(Cell(0, 0, answer=text, note=text, verdict=text, metric=text))
    write_csv(grid, tmp_path / "grid.csv")
    exported = to_csv(shown_records(shown), list(shown_records(shown)[0]))
    for content in (exported, (tmp_path / "grid.csv").read_text(encoding="utf-8")):
        for row in csv.reader(io.StringIO(content, newline="")):
            for cell in row:
                plain = "".join(c for c in cell if c.isprintable() and not c.isspace())
                number = re.fullmatch(r"-?[\d.]+(e[-+]?\d+)?", plain)
                begins = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "﹦", "﹢", "﹣", "﹫")
                assert number or not plain.startswith(begins), cell
                assert not cell.startswith(("\t", "\r", "\n")), cell
    assert_inert(grid_html(grid))


def test_numbers_and_plain_text_are_exported_as_they_are() -> None:
    for value in (-1, 2.5, None, "lora", "a=b", "1-2"):
        assert inert(value) == value


NAMES = [
    *TEXTS, '"""\nimport os; os.system("id")\n"""', "'; import os; os.system('id'); '", "\\", '\\"',
    "$run_id ${steps} $$", "a\nb\rc\u2028d", "{0.__class__}", "😀", "\x00", "\\N{BULLET}", "\\x41",
    "`id`", "$(id)", "; rm -rf /", "&& id", "| id", "> /tmp/x", "\n id", "-rf", "--help", "~", "!!",
    "*", "a b", "%PATH%", "\\\n", "'\"'\"'",
]  # fmt: skip


@pytest.mark.hostile("names in programs")
@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:40])
def test_a_name_in_the_python_script_stays_a_text(name: str) -> None:
    """All texts get into the script through these two."""
    program = f'"""{_words(name)}\n"""\nVALUE = {literal({name: [name]})}\n'
    tree = ast.parse(program)
    assert [type(node) for node in tree.body] == [ast.Expr, ast.Assign]
    assert ast.literal_eval(tree.body[1].value) == {name: [name]}  # type: ignore[attr-defined]


@pytest.mark.hostile("names in programs")
@pytest.mark.parametrize("method", [name for name, spec in METHODS.items() if spec.hyperparameters])
def test_a_value_of_a_spec_that_is_code_is_never_written_into_the_script(
    tmp_path: Path, method: str
) -> None:
    from ftlab.basics.errors import FtlabError
    from ftlab.share.script import reproduction

    numbers = [p.name for p in METHODS[method].hyperparameters if p.kind in ("int", "float")]
    for name in numbers:
        run = make_run(tmp_path / name, method, hyperparameters={name: "__import__('os').abort()"})
        with pytest.raises(FtlabError, match="is not a number"):
            reproduction(read_run(run))


@pytest.mark.hostile("names in commands")
@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:40])
def test_the_command_of_a_sweep_gives_a_shell_each_name_as_one_word(
    tmp_path: Path, name: str
) -> None:
    spec = make_run(tmp_path).spec()
    assert spec.variant is not None
    task = TaskReference("file", name, ColumnMapping(prompt=name, completion=name), config=name)
    request = SweepRequest(name, task, (spec.variant,), spec.settings)
    command = command_of(request)
    words = shlex.split(command.text)
    assert words[:4] == ["python", "-m", "ftlab", "sweep"]
    for option in ("model", "task", "hub-config"):
        assert f"--{option}={name}" in words or words[words.index(f"--{option}") + 1] == name
    allowed = re.compile(r"--[a-z-]+(=.*)?", re.S)
    values = (name, f"prompt={name},completion={name}")
    for word in words[4:]:
        assert allowed.fullmatch(word) or word in values or re.fullmatch(r"[\w.,:=-]+", word), word
