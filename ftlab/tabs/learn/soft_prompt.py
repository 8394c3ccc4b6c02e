"""Learn: prompt tuning. Shows the learnt vectors and the real tokens nearest to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.charts.learn import TokenBand, nearest_figure
from ftlab.learn.matrices import base_folder, open_tensors
from ftlab.learn.soft_prompt import (
    Nearest,
    embedding_name,
    nearest_tokens,
    read_prompt,
    token_texts,
    typical_cosines,
    visible,
)
from ftlab.methods.families.prompts import PROMPT_TUNING
from ftlab.methods.spec import Paper
from ftlab.playground.panes import UPLOADED, WEIGHTS_FILE, PaneSource, all_sources
from ftlab.records.run import RunDirectory
from ftlab.tabs.context import AppContext, opened
from ftlab.tabs.learn.parts import QUIET, choice, code, papers, plot, said, stack, table, tiles
from ftlab.tabs.widgets import H, Markup, blank, escape, field_error, head, live

_PAPERS = papers(
    PROMPT_TUNING.paper,
    Paper(
        "Khashabi et al. 2022, Prompt Waywardness: The Curious Case of Discretized Interpretation "
        "of Continuous Prompts",
        "https://arxiv.org/abs/2112.08348",
    ),
)
_SIZE = (
    "A prompt of 20 vectors for the bundled model, whose tokens are 576 numbers wide, is 20 x 576 "
    "= 11,520 numbers: 46 kB in 32 bits."
)
_NO_RUN = blank(
    "No prompt tuning of yours yet.",
    "Open Experiment, tick Prompt tuning and press Launch. The vectors that it learns are then "
    "held against the model's real tokens here.",
)
_SHOWN_CHIPS = 5  # first vectors shown before the question; the last one is shown too
_QUESTION_CHARACTERS = 220


@dataclass(frozen=True)
class Prompt:
    """A learnt prompt compared with real tokens; `texts` are the texts of `nearest.tokens`."""

    shape: tuple[int, int]
    nearest: Nearest
    texts: list[list[str]]
    band: TokenBand
    usual: float

    @property
    def median(self) -> float:
        """The median of the vectors' cosines to their nearest tokens."""
        return float(np.median(self.nearest.cosines[:, 0]))


@dataclass(frozen=True)
class View:
    """The panel's content; `figure` is `None` if there is no prompt to draw."""

    options: list[tuple[str, str]]
    chosen: str | None
    words: str
    figure: go.Figure | None
    table: str


ReadPrompt = Callable[[Path, Path], Prompt]


def measure_prompt(folder: Path, base: Path) -> Prompt:
    """Reads the prompt in `folder` and finds its nearest tokens in the model in `base`.

    Raises `FtlabError` if a file of either is missing or broken, or their shapes do not fit.
    """
    vectors = read_prompt(folder)
    model = open_tensors(base)
    name = embedding_name(model, vectors.shape[1])
    nearest = nearest_tokens(vectors, model, name)
    typical = typical_cosines(model, name)
    text = token_texts(base / "tokenizer.json")
    low, usual, high = (float(q) for q in np.quantile(typical.nearest, (0.1, 0.5, 0.9)))
    return Prompt(
        (vectors.shape[0], vectors.shape[1]),
        nearest,
        [[visible(text(int(token))) for token in row] for row in nearest.tokens],
        TokenBand(low, high, float(np.median(typical.pair))),
        usual,
    )


def view(context: AppContext, chosen: str | None, read: ReadPrompt) -> View:
    """Returns the content for the run or adapter of that name, else for the newest one."""
    everyone = all_sources(context.store.runs(), context.runs_folder)
    sources = [source for source in everyone if source.method == PROMPT_TUNING.id]
    options = [(source.title, source.name) for source in sources]
    name = choice(options, chosen)
    source = next((source for source in sources if source.name == name), None)
    if source is None or source.folder is None:
        return View(options, name, stack(_NO_RUN, said(_SIZE), _PAPERS), None, "")
    try:
        prompt = read(source.folder, base_folder(source.model))
    except FtlabError as error:
        return View(options, name, field_error([str(error)]), None, "")
    words = stack(_before_the_question(source, context.runs_folder, prompt), _tiles(source, prompt))
    tokens = stack(said(*finding(prompt)), _tokens(prompt), _PAPERS)
    return View(options, name, words, _figure(prompt), tokens)


def finding(prompt: Prompt) -> tuple[str, str]:
    """Returns two sentences on how near the vectors are to real tokens, from the cosines."""
    cosines = prompt.nearest.cosines[:, 0]
    far = int((cosines < prompt.usual).sum())
    verdict = (
        "A learnt vector is a point between tokens, seldom a word."
        if 2 * far > len(cosines)
        else "Most are as near to a token as tokens are to each other."
    )
    return (
        f"{far} of {len(cosines)} learnt vectors are further from every token than a real token "
        f"usually is from the nearest other one: median cosine {prompt.median:.2f} against "
        f"{prompt.usual:.2f}. {verdict}",
        "The nearest token is a comparison, not a translation. A run here starts each vector at "
        "a token drawn at random: after few steps the nearest is often the one it started from.",
    )


def _figure(prompt: Prompt) -> go.Figure:
    frame = pd.DataFrame(
        {
            "vector": range(1, prompt.shape[0] + 1),
            "cosine": prompt.nearest.cosines[:, 0].astype(float),
            "token": [row[0] for row in prompt.texts],
        }
    )
    return nearest_figure(frame, prompt.band)


def _tokens(prompt: Prompt) -> str:
    found = prompt.nearest
    rows = [
        [
            f"v{i + 1}",
            *(
                Markup("{} {:.2f}").format(code(text), cosine)
                for text, cosine in zip(prompt.texts[i], found.cosines[i], strict=True)
            ),
            f"{found.distances[i, 0]:.2f}",
        ]
        for i in range(prompt.shape[0])
    ]
    ranks = ["nearest", "second", "third"][: found.tokens.shape[1]]
    heads = ["vector", *ranks, "distance"]
    note = "Beside each token its cosine; the distance (Euclidean) is to the nearest one."
    return table(heads, rows, "Nearest tokens of each vector", tall=True) + said(note)


def _before_the_question(source: PaneSource, runs_folder: Path, prompt: Prompt) -> str:
    count = prompt.shape[0]
    shown: list[int | None] = list(range(1, count + 1))
    if count > _SHOWN_CHIPS + 2:
        shown[_SHOWN_CHIPS:-1] = [None]
    chips = "".join(f'<span class="vec">v{n}</span>' if n else "<span>…</span>" for n in shown)
    question = escape(_question(source, runs_folder))
    return (
        f'<p class="before" aria-label="Learnt vectors, then the prompt">{chips} {question}</p>'
        '<p class="meta">They stand before the whole prompt, chat template and all.</p>'
    )


def _question(source: PaneSource, runs_folder: Path) -> str:
    """Returns a test prompt of the run, or a placeholder for an uploaded adapter."""
    is_run = not source.name.startswith(UPLOADED)
    for sample in RunDirectory(runs_folder / source.name).samples() if is_run else []:
        turns = sample.get("prompt")
        if isinstance(turns, list) and turns and isinstance(turns[-1], dict):
            text = str(turns[-1].get("content", ""))
            short = text[:_QUESTION_CHARACTERS]
            return short if short == text else short.rstrip() + "…"
    return "your question"


def _tiles(source: PaneSource, prompt: Prompt) -> str:
    count, width = prompt.shape
    assert source.folder is not None
    size = (source.folder / WEIGHTS_FILE).stat().st_size
    return tiles(
        [
            (f"{count * width:,}", f"numbers learnt: {count} vectors x {width}"),
            (units.format_bytes(size), "file to deliver"),
            (f"{prompt.median:.2f}", "cosine to the nearest real token, median"),
            (f"{prompt.usual:.2f}", "the same between real tokens"),
        ]
    )


_LEGEND = (
    '<p class="legend"><span><span class="tri" aria-hidden="true">▲</span> a learnt vector</span>'
    '<span><i class="band"></i>real tokens and the nearest other one, the middle 80 %</span>'
    '<span><i class="dots"></i>two real tokens at random, median</span></p>'
)


def build(context: AppContext) -> None:
    """Builds the panel and its events."""
    read = lru_cache(maxsize=8)(measure_prompt)
    with gr.Row(equal_height=True):
        with gr.Column(scale=1, min_width=340, elem_classes="ft-sheet"):
            head(
                "Prompt tuning puts learnt words before the question",
                sub="No weight changes. Only the vectors of a few made-up tokens learn.",
            )
            run = live(gr.Dropdown, [], label="Learnt prompt", visible=False)
            words = H()
            figure = plot(visible=False)
            legend = H(_LEGEND, visible=False)
        with gr.Column(scale=1, min_width=340, elem_classes="ft-sheet", visible=False) as beside:
            head("Which real tokens are they nearest to?")
            tokens = H()

    def show(chosen: str | None) -> list[Any]:
        shown = view(context, chosen, read)
        drawn = shown.figure is not None
        return [
            gr.Dropdown(choices=shown.options, value=shown.chosen, visible=bool(shown.options)),
            shown.words,
            gr.Plot(value=shown.figure, visible=drawn),
            gr.HTML(visible=drawn),
            gr.Column(visible=drawn),
            shown.table,
        ]

    outputs = [run, words, figure, legend, beside, tokens]
    gr.on([opened(), run.input], show, run, outputs, **QUIET)
