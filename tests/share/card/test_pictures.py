"""The card as SVG and PNG: one layout, in which no text is wider than its place."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageFont

from ftlab.methods.registry import look_of
from ftlab.share import card as card_module
from ftlab.share.card import (
    DARK,
    HEIGHT,
    LIGHT,
    WIDTH,
    Box,
    Words,
    balance,
    card_png,
    card_svg,
    clean,
    cut,
    draw,
    fit,
    width,
    wrap,
)
from ftlab.share.card_content import Card, card_of
from tests.fakes import make_run, make_sweep
from tests.share.fakes import HOSTILE, data_of

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def card(tmp_path: Path) -> Card:
    """One that saves all that a card shows."""
    make_sweep(tmp_path, methods=("full", "lora", "prompt_tuning"))
    make_run(tmp_path, "qlora", measures={"train_seconds": 60.0})
    return card_of(data_of(tmp_path), "QLoRA")


@pytest.fixture
def awkward(tmp_path: Path) -> Card:
    """Long and hostile names in every place, and no saving."""
    folder = tmp_path / "awkward"
    long = HOSTILE + " " + "W" * 400
    make_run(folder, "full", model=f"/srv/{'m' * 200}")
    make_run(
        folder, "lora", hyperparameters={"targets": long}, model="owner/" + "n" * 200,
        measures={"net_peak_memory_bytes": 9_600_000_000, "score_after": None},
    )  # fmt: skip
    return card_of(data_of(folder))


def words_of(card: Card) -> list[Words]:
    return [shape for shape in draw(card).shapes if isinstance(shape, Words)]


def test_the_svg_is_well_formed_and_its_text_is_text(card: Card) -> None:
    svg = card_svg(card)
    assert look_of("qlora").colour in svg
    assert look_of("full").colour in svg
    root = ElementTree.fromstring(svg)
    assert (root.get("width"), root.get("height")) == (str(WIDTH), str(HEIGHT))
    said = " ".join(text.text or "" for text in root.iter(f"{SVG}text"))
    for part in ("0.59x", "9.8\u00a0MB", "memory while training", "dtype policy bf16", "ftlab"):
        assert part in said
    assert "QLoRA trained this model with 41\u00a0% less" in (root.get("aria-label") or "")


def test_names_in_the_svg_are_never_markup(awkward: Card) -> None:
    root = ElementTree.fromstring(card_svg(awkward))
    kinds = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert kinds == {"svg", "title", "rect", "line", "text"}


def test_marks_that_no_xml_may_hold_are_left_out(tmp_path: Path) -> None:
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", hyperparameters={"targets": "a\x00b\x1b\u202ec"})
    svg = card_svg(card_of(data_of(tmp_path)))
    ElementTree.fromstring(svg)
    assert "\u202e" not in svg


@pytest.mark.parametrize("which", ["card", "awkward"])
def test_all_text_is_within_the_picture_and_no_two_texts_lie_on_each_other(
    which: str, request: pytest.FixtureRequest
) -> None:
    boxes: list[tuple[float, float, float, float, str]] = []
    for words in words_of(request.getfixturevalue(which)):
        wide = width(words.text, words.size, words.bold)
        left = words.x - {"start": 0.0, "middle": wide / 2, "end": wide}[words.anchor]
        assert left >= 40, words
        assert left + wide <= WIDTH - 40, words
        assert words.size <= words.y <= HEIGHT - 20, words
        one = (left, words.y - 0.7 * words.size, left + wide, words.y, words.text)
        for other in boxes:
            apart = (
                one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            )
            assert apart, (one, other)
        boxes.append(one)


def test_the_verdict_changes_the_look(card: Card, awkward: Card) -> None:
    def first_box(shown: Card) -> str:
        return next(shape.fill for shape in draw(shown).shapes if isinstance(shape, Box))

    assert first_box(card) == LIGHT.good_fill
    assert first_box(awkward) == LIGHT.warn_fill
    assert DARK.page in card_svg(card, DARK)


def test_the_png_is_of_the_size_of_a_slide_and_says_its_sentence(card: Card, awkward: Card) -> None:
    assert Image.open(BytesIO(card_png(awkward))).size == (1600, 900)
    image = Image.open(BytesIO(card_png(card)))
    assert (image.format, image.size) == ("PNG", (1600, 900))
    assert image.info["Description"].startswith("QLoRA trained this model with 41\u00a0% less")
    colours = {colour for _, colour in image.getcolors(1 << 20) or []}
    for colour in (look_of("qlora").colour, LIGHT.ink, LIGHT.muted, LIGHT.good):
        assert tuple(bytes.fromhex(colour[1:])) in colours


def test_without_gradios_typeface_another_stands_in(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert card_module.font_file(bold=True) is not None
    monkeypatch.setattr(card_module, "font_file", lambda bold: None)
    stand_in = card_module.font.__wrapped__(20, True)
    assert isinstance(stand_in, ImageFont.FreeTypeFont | ImageFont.ImageFont)
    assert stand_in.getlength("QLoRA") > 0


def test_texts_are_shrunk_then_wrapped_then_cut() -> None:
    assert fit("short", 500, range(40, 19, -10), 1) == (40, ["short"])
    size, lines = fit("a line that is somewhat longer", 300, range(40, 9, -10), 1)
    assert size < 40
    assert lines == ["a line that is somewhat longer"]
    size, (line,) = fit("word " * 100, 300, range(40, 19, -10), 1)
    assert size == 20
    assert line.endswith("…")
    assert width(line, 20) <= 300


def test_a_word_longer_than_a_line_is_broken() -> None:
    lines = wrap("x" * 60, 200, 20, 9)
    assert "".join(lines) == "x" * 60
    assert all(width(line, 20) <= 200 for line in lines)


def test_as_much_as_fits_is_kept_of_a_text_that_is_cut() -> None:
    kept = cut("abcdefghij" * 2000, 200, 20)
    assert kept.endswith("…")
    assert width(kept, 20) <= 200 < width(kept[:-1] + "ab…", 20)


def test_lines_are_balanced_without_becoming_more() -> None:
    text = "QLoRA: 1.78 % of the parameters, 0.39x the memory and a last word"
    plain, even = wrap(text, 600, 30, 3), balance(text, 600, 30, 3)
    assert len(even) == len(plain)
    assert " ".join(even) == " ".join(plain)
    assert max(width(line, 30) for line in even) <= max(width(line, 30) for line in plain)


def test_numbers_keep_their_units_when_a_line_is_broken() -> None:
    assert clean("9.8 MB  instead\nof 269 MB") == "9.8\u00a0MB instead of 269\u00a0MB"
    assert cut("abc", 1000, 20) == "abc"
