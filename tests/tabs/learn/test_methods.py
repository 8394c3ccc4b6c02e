"""Learn: the table of what each method can do."""

from __future__ import annotations

import re
from dataclasses import replace

from ftlab.methods.capabilities import COLUMNS, capabilities, footnotes, made_with
from ftlab.methods.registry import METHODS
from ftlab.methods.spec import FAMILIES
from ftlab.tabs.learn.methods import view
from ftlab.tabs.widgets import escape


def test_every_method_stands_under_its_family() -> None:
    html = view(capabilities(), made_with())
    groups = html.split("<tbody>")[1:]
    assert len(groups) == len(FAMILIES)
    for family, group in zip(FAMILIES, groups, strict=True):
        assert f"<span>{escape(FAMILIES[family])}</span>" in group
        shown = re.findall(r'scope="row"><i [^>]*></i><b>(.*?)</b>', group)
        assert shown == [spec.label for spec in METHODS.values() if spec.family == family]


def test_a_tick_is_a_sign_and_a_word_not_a_colour_alone() -> None:
    row = replace(capabilities()["lora"], merges=None, on_4bit=False)
    cells = re.findall(r"<td class.*?</td>", view({"lora": row}, {}))
    assert len(cells) == len(COLUMNS)
    said = {re.sub(r"<[^>]*>", " ", cell).split()[0]: cell for cell in cells}
    assert '<span class="unseen">yes</span>' in said["✓"]
    assert '<span class="unseen">no</span>' in said["✗"]
    assert '<span class="unseen">does not apply</span>' in said["–"]


def test_what_does_not_work_is_said_under_the_table_by_number() -> None:
    one = replace(capabilities()["lora"], reason="Merging: <no>.")
    html = view({"lora": one, "full": replace(one, id="full"), "ia3": capabilities()["ia3"]}, {})
    assert html.count("</span>1</sup>") == 2
    assert '<li value="1"><b>Full fine-tuning and LoRA</b> Merging: &lt;no&gt;.</li>' in html


def test_the_page_says_of_each_method_what_the_file_says() -> None:
    html = view(capabilities(), made_with())
    for text in footnotes(capabilities()).values():
        assert str(escape(text)) in html
    for name, version in made_with().items():
        assert f"{name} {version}" in html


def test_without_a_table_the_panel_says_how_to_get_one() -> None:
    assert "python -m ftlab.maintain probe --write" in view({}, {})
