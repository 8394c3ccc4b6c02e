"""Learn: LoRA as a photo filter. A change, reduced to rank r, is added to the original photo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import plotly.graph_objects as go

from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.charts.learn import spectrum_figure, spectrum_rows
from ftlab.jobs.inputs import EVERYTHING, Access
from ftlab.learn.matrices import kept, missed, rank_for, stored
from ftlab.learn.photo import (
    FILTERS,
    MAX_RANK,
    Filtered,
    Picture,
    grey_levels,
    heat_address,
    heat_scale,
    photo_address,
    read_photo,
    shipped_photos,
    take_apart,
)
from ftlab.methods.registry import look_of
from ftlab.tabs.learn.parts import QUIET, USUAL_RANK, plot, rank_within, tiles
from ftlab.tabs.widgets import H, escape, field_error, heading, live

PHOTOS = (
    ("Lion", "lion.jpg"),
    ("Cheetah", "cheetah1.jpg"),
    ("Tower", "tower.jpg"),
    ("Bus, tiny", "bus.png"),
)
"""(label, file) of the photos that ship with the gradio package."""

OWN = "Your photo"
_FEW = QUIET | {"concurrency_limit": 2, "concurrency_id": "photo filter"}
"""Concurrency limit: the decomposition of a photo's change keeps every core busy for a second."""

_TITLE = "A filter is a change laid over a photo. How much of that change do you need?"
_LESSON = (
    '<div class="lesson"><p>{why}</p>'
    "<p>Here the full change is known and cut down by its singular values; of all changes of rank "
    "r none comes closer ("
    '<a href="https://doi.org/10.1007/BF02288367">Eckart &amp; Young 1936</a>). LoRA never sees a '
    "full change: it leaves the weights alone and learns B and A themselves "
    '(<a href="https://arxiv.org/abs/2106.09685">Hu et al. 2021</a>).</p></div>'
)


@dataclass(frozen=True)
class Lesson:
    """A photo with a filter applied; `name` is the photo's name, used as alternative text."""

    name: str
    filter_id: str
    pictures: Filtered

    @property
    def top(self) -> int:
        """The largest rank on the slider."""
        return self.pictures.change.top


def photos() -> dict[str, Path]:
    """Returns the paths of the photos by label; empty if gradio no longer ships them."""
    return shipped_photos(Path(gr.__file__).parent / "media_assets" / "images", PHOTOS)


def make_lesson(name: str, photo: Picture, filter_id: str) -> Lesson:
    """Applies the filter and decomposes its change, once for all ranks."""
    return Lesson(name, filter_id, take_apart(photo, FILTERS[filter_id](photo)))


def subtitle(lesson: Lesson) -> str:
    m, n = lesson.pictures.change.shape
    return (
        f"filtered = original + change. At {n // 3} x {m} pixels the change is a matrix of {m} "
        f"rows and {n} columns: {n // 3} each for red, green and blue."
    )


def finding(lesson: Lesson, rank: int) -> str:
    """Returns a sentence on the spectrum, from its numbers."""
    values = lesson.pictures.change.values
    if not values.any():
        return "This filter does not change this photo: there is nothing to store."
    needed = rank_for(values, 0.9)
    return (
        f"{needed} of {len(values)} directions hold{'s' if needed == 1 else ''} 90 % of the "
        f"change's energy; rank {rank} holds {units.format_share(kept(values, rank))}"
    )


def figure_heading(lesson: Lesson, rank: int) -> str:
    """HTML: the finding above the figure, and how energy relates to the error in the tile."""
    values = lesson.pictures.change.values
    held, error = kept(values, rank), missed(values, rank)
    words = (
        f"Figure: singular values of the change, kept ones in colour. Energy is size squared, so "
        f"{units.format_share(held)} of it held is an error of √(1 − {held:.3f}) = "
        f"{_share(error)}."
    )
    return f'<h4>{escape(finding(lesson, rank))}</h4><p class="meta">{escape(words)}</p>'


def numbers_html(lesson: Lesson, rank: int) -> str:
    """HTML: tiles with the stored numbers and the error."""
    change = lesson.pictures.change
    m, n = change.shape
    small, full = stored(change.shape, rank), m * n
    more = ": more, not less" if small > full else ""
    numbers = [
        (f"{small:,}", f"numbers in B and A: r(m + n) = {rank} x ({m} + {n})"),
        (f"{full:,}", f"numbers in the full change: m x n = {m} x {n}"),
        (units.format_share(small / full), f"of the numbers in the full change{more}"),
        (
            _share(missed(change.values, rank)),
            "error: size of what is missed over size of the change; "
            f"{lesson.pictures.mean_error(rank):.1f} of 255 grey levels on average",
        ),
    ]
    return tiles(numbers)


def before_html(lesson: Lesson) -> str:
    """HTML: the original and the filtered photo."""
    name = FILTERS[lesson.filter_id].label.lower()
    pictures = lesson.pictures
    return (
        '<div class="photos two">'
        + _photo(grey_levels(pictures.original), "Original, untouched", lesson.name)
        + _photo(grey_levels(pictures.filtered), "Full change", f"{lesson.name}, filter {name}")
        + "</div>"
    )


def after_html(lesson: Lesson, rank: int) -> str:
    """HTML: the original with the change of that rank added."""
    picture = lesson.pictures.laid_over(rank)
    words = f"{lesson.name} with the change of rank {rank}"
    return f'<div class="photos">{_photo(picture, f"Original + rank {rank}", words)}</div>'


def factors_html(lesson: Lesson, rank: int) -> str:
    """HTML: B, A and their product as heat maps, arranged like a written matrix product."""
    change = lesson.pictures.change
    m, n = change.shape
    b, a = change.factors(rank)
    tall, flat, whole = (heat_address(each, heat_scale(each)) for each in (b, a, b @ a))
    thick = round(6 + 34 * rank / MAX_RANK)
    return (
        f'<div class="factors" style="--thick:{thick}px">'
        f"<p><b>B</b> {m} x {rank}</p>"
        f'<figure class="a"><img src="{flat}" alt="A as a heat picture"></figure>'
        f'<figure class="b"><img src="{tall}" alt="B as a heat picture"></figure>'
        f'<figure class="ba"><img src="{whole}" alt="B times A as a heat picture"></figure></div>'
        f'<p class="meta">Above: <b>A</b> {rank} x {n}. Below, <b>B·A</b> {m} x {n}: what is '
        'added to <span class="reds">red</span>, green and blue, side by side. '
        '<i class="sw" style="--c:#d7602a"></i>brighter '
        '<i class="sw" style="--c:#2777e0"></i>darker</p>'
    )


def spectrum(lesson: Lesson, rank: int) -> go.Figure:
    rows = spectrum_rows(lesson.pictures.change.values, rank)
    return spectrum_figure(rows, look_of("lora").colour)


def build(entered: list[Any], access: Access = EVERYTHING) -> None:
    """Builds the panel; the first of the `entered` events decomposes the first photo."""
    shipped = photos()
    top = H(heading(_TITLE, sub="filtered = original + change"))
    with gr.Row(elem_classes="ft-tools ft-photo-tools"):
        photo = live(
            gr.Radio,
            list(shipped),
            value=next(iter(shipped), None),
            label="Photo",
            elem_classes="ft-seg",
            scale=3,
            min_width=280,
        )
        chosen = live(
            gr.Dropdown,
            [(f.label, f.id) for f in FILTERS.values()],
            value=next(iter(FILTERS)),
            label="Filter",
            filterable=False,
            scale=2,
            min_width=150,
        )
        upload = gr.UploadButton(
            "Use my photo", size="sm", scale=1, min_width=110, elem_classes="ft-upload",
            visible=access.may_upload,
        )  # fmt: skip
    wrong = H()
    with gr.Row(elem_classes="ft-photos"):
        before, after = H(elem_classes="ft-before"), H(elem_classes="ft-after")
    rank = live(gr.Slider, 1, MAX_RANK, USUAL_RANK, step=1, precision=0, label="Rank r")
    numbers = H()
    factors = H()
    found = H()
    figure = plot()
    words = H()

    lesson = gr.State(None)
    own = gr.State(None)  # the visitor's own photo, scaled down
    moving = [after, numbers, factors, found, figure]
    shown = [lesson, wrong, top, before, rank, *moving, words]

    def moved(now: Lesson, r: int) -> list[Any]:
        return [
            after_html(now, r),
            numbers_html(now, r),
            factors_html(now, r),
            figure_heading(now, r),
            spectrum(now, r),
        ]

    def show(now: Lesson, r: float | None) -> list[Any]:
        within = rank_within(r, now.top)
        slider = gr.Slider(maximum=max(2, now.top), value=within, interactive=now.top > 1)
        why = _LESSON.format(why=escape(FILTERS[now.filter_id].why))
        head = heading(_TITLE, sub=subtitle(now))
        return [now, "", head, before_html(now), slider, *moved(now, within), why]

    def pick(
        name: str | None, mine: Picture | None, filter_id: str | None, r: float | None
    ) -> list[Any]:
        try:
            picture = mine if name == OWN else None
            if picture is None:
                picture = read_photo(_path_of(name))
            return show(make_lesson(str(name), picture, _known(filter_id)), r)
        except FtlabError as error:
            return [gr.skip(), field_error([str(error)]), *[gr.skip()] * (len(shown) - 2)]

    def enter(now: Lesson | None, *chosen: Any) -> list[Any]:
        return [gr.skip()] * len(shown) if now is not None else pick(*chosen)

    def bring(path: str | None, filter_id: str | None, r: float | None) -> list[Any]:
        same = [gr.skip()] * (2 + len(shown))
        if path is None:
            return same
        try:
            access.check_upload()
            picture = read_photo(Path(path))
        except FtlabError as error:
            same[2 + shown.index(wrong)] = field_error([str(error)])
            return same
        choices = gr.Radio(choices=[*shipped, OWN], value=OWN)
        return [choices, picture, *show(make_lesson(OWN, picture, _known(filter_id)), r)]

    def slide(now: Lesson | None, r: float | None) -> list[Any]:
        return moved(now, rank_within(r, now.top)) if now else [gr.skip()] * len(moving)

    gr.on(entered, enter, [lesson, photo, own, chosen, rank], shown, **_FEW)
    gr.on([photo.input, chosen.input], pick, [photo, own, chosen, rank], shown, **_FEW)
    upload.upload(bring, [upload, chosen, rank], [photo, own, *shown], **_FEW)
    rank.input(slide, [lesson, rank], moving, **QUIET)


def _path_of(name: str | None) -> Path:
    shipped = photos()
    if name not in shipped:
        raise FtlabError(f"There is no photo '{str(name)[:60]}'; choose one, or use your own.")
    return shipped[name]


def _known(filter_id: str | None) -> str:
    if filter_id not in FILTERS:
        raise FtlabError(f"There is no filter '{str(filter_id)[:60]}'; choose one of the list.")
    return filter_id


def _share(value: float) -> str:
    """Formats a share in per cent; "0 %" for values that are only floating-point error."""
    return units.format_share(value) if value >= 1e-5 else "0 %"


def _photo(picture: np.ndarray, title: str, words: str) -> str:
    return (
        f'<figure><img src="{photo_address(picture)}" alt="{escape(words)}">'
        f"<figcaption>{escape(title)}</figcaption></figure>"
    )
