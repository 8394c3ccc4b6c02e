"""The Learn tab's panels: full fine-tuning, prompt tuning, the 16 levels, merging."""

import re
import shutil

import gradio as gr
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from ftlab.basics.errors import FtlabError
from ftlab.charts.learn import (
    TokenBand,
    block_figure,
    change_figure,
    levels_figure,
    nearest_figure,
    outputs_figure,
)
from ftlab.learn.matrices import FETCH, base_folder, matrices
from ftlab.learn.nf4 import NF4, error_of, quantise
from ftlab.learn.soft_prompt import PROMPT_TENSOR, Nearest
from ftlab.models.bundled import bundled_folder
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.panes import WEIGHTS_FILE
from ftlab.records.store import RunStore
from ftlab.tabs.context import AppContext
from ftlab.tabs.learn import full as learn_full
from ftlab.tabs.learn import merge as learn_merge
from ftlab.tabs.learn import nf4 as learn_nf4
from ftlab.tabs.learn import soft_prompt as learn_soft_prompt
from ftlab.tabs.learn.parts import choice, rank_within, said, table, whole_number
from tests.fakes import make_run, make_sweep
from tests.learn.adapters import ATTENTION, factors, some, write_lora, write_model

WIDTH, RANK = 64, 2
EMBEDDINGS = "model.embed_tokens.weight"
PANELS = (learn_full, learn_soft_prompt, learn_nf4, learn_merge)


def projection(layer, module="q_proj"):
    return f"{ATTENTION.format(layer, module)}.weight"


@pytest.fixture
def bundled(tmp_path, monkeypatch, tiny_model):
    """A small model in the bundled one's place."""
    monkeypatch.setenv("FTLAB_HOME", str(tmp_path / "home"))
    names = [projection(layer, module) for layer in (0, 1) for module in ("q_proj", "v_proj")]
    tensors = {name: some(WIDTH, WIDTH, i) for i, name in enumerate(names)}
    folder = write_model(bundled_folder(), tensors | {EMBEDDINGS: some(300, WIDTH, 9)})
    shutil.copy(tiny_model / "tokenizer.json", folder)
    return folder


@pytest.fixture
def context(tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    return AppContext(runs, RunStore(runs, recorded=tmp_path / "recorded"), PlaygroundClient(runs))


def full_run(context, base, factor=1.5):
    run = make_run(context.runs_folder, "full")
    shutil.copytree(base, run.adapter)
    tensors = {projection(0): some(WIDTH, WIDTH) * np.float32(factor)}
    tensors |= {projection(0, "v_proj"): some(WIDTH, WIDTH, 1), EMBEDDINGS: some(300, WIDTH, 9)}
    write_model(run.adapter, tensors)
    return run


def prompt_run(context, vectors, **run):
    directory = make_run(context.runs_folder, "prompt_tuning", **run)
    directory.adapter.mkdir()
    save_file({PROMPT_TENSOR: vectors}, directory.adapter / WEIGHTS_FILE)
    return directory


def lora_run(context, method="lora", layers=(0, 1), **config):
    run = make_run(context.runs_folder, method)
    tensors = {}
    for layer in layers:
        module = ATTENTION.format(layer, "q_proj")
        tensors |= factors(module, b=some(WIDTH, RANK, 6), a=some(RANK, WIDTH, 5))
    write_lora(run.adapter, tensors, **({"r": RANK} | config))
    return run


# ---- full fine-tuning


def full_view(context, chosen=None):
    return learn_full.view(context.store, chosen, learn_full.measure_changes)


def test_a_full_run_is_held_against_its_base(context, bundled):
    full_run(context, bundled)
    shown = full_view(context)
    changed = WIDTH * WIDTH / (2 * WIDTH * WIDTH + 300 * WIDTH)
    assert f"{100 * changed:.1f} %" in shown.change
    assert shown.figure.data[0].y == pytest.approx((0, 50 / 2**0.5), abs=2)
    assert "269 MB" in shown.change


def test_the_newest_full_run_comes_first_and_another_can_be_chosen(context, bundled):
    older, newer = full_run(context, bundled), full_run(context, bundled, factor=1)
    make_run(context.runs_folder, "full", "failed")
    assert full_view(context).chosen == newer.run_id
    assert full_view(context, older.run_id).chosen == older.run_id
    assert full_view(context, "gone").chosen == newer.run_id
    assert len(full_view(context).options) == 2


def test_without_a_run_the_recorded_sweep_gives_the_numbers_and_says_so(context, tmp_path):
    make_sweep(tmp_path / "recorded" / "sweep", ("full", "lora"))
    shown = full_view(context)
    assert shown.figure is None
    assert "No full fine-tuning of yours yet" in shown.change
    assert 'class="chip recorded"' in shown.cost
    assert "chip measured" not in shown.cost
    assert "2.34 GB" in shown.cost  # the recorded peak
    assert "1.08 GB" in shown.cost  # 8 bytes for each of 134.5 M weights
    assert "LoRA" in shown.cost
    assert "2.4 M weights" in shown.cost


def test_without_any_run_the_bytes_a_weight_are_still_there(context):
    shown = full_view(context)
    assert "together" in shown.cost
    assert "chip" not in shown.cost
    assert shown.options == []


def test_a_run_without_its_weights_is_a_sentence_beside_its_numbers(context, bundled):
    make_run(context.runs_folder, "full")
    shown = full_view(context)
    assert shown.figure is None
    assert 'role="alert"' in shown.change
    assert "chip measured" in shown.cost


# ---- prompt tuning


def prompt_view(context, chosen=None):
    return learn_soft_prompt.view(context, chosen, learn_soft_prompt.measure_prompt)


def test_a_learnt_vector_is_named_by_its_nearest_token(context, bundled):
    rows = some(300, WIDTH, 9)
    prompt_run(context, np.stack([rows[67], rows[68] + some(1, WIDTH, 2)[0]]))
    shown = prompt_view(context)
    found = learn_soft_prompt.measure_prompt(
        context.runs_folder / shown.chosen / "adapter", bundled
    )
    assert found.nearest.tokens[:, 0].tolist() == [67, 68]
    assert shown.figure.data[0].y[0] == pytest.approx(1)
    assert f"<code>{found.texts[0][0]}</code> 1.00" in shown.table
    assert f"{2 * WIDTH} " in shown.words.replace("</b><span>", " ")


@pytest.mark.parametrize(
    ("cosines", "words"),
    [((0.9, 0.5, 0.4), "2 of 3 .*against 0.80. A learnt vector is a point between tokens"),
     ((0.9, 0.85, 0.4), "1 of 3 .*against 0.80. Most are as near to a token")],
)  # fmt: skip
def test_the_vectors_are_said_to_be_no_words_only_if_most_are_far(cosines, words):
    column = np.array(cosines, np.float32)[:, None]
    nearest = Nearest(np.zeros((3, 1), np.int64), column, column)
    prompt = learn_soft_prompt.Prompt((3, 4), nearest, [["a"]] * 3, TokenBand(0.7, 0.9, 0.5), 0.8)
    assert re.search(words, learn_soft_prompt.finding(prompt)[0])


def test_the_vectors_stand_before_a_question_of_the_run(context, bundled):
    question = "How many <b>singers</b>?"
    sample = {"prompt": [{"role": "user", "content": question}]}
    prompt_run(context, some(20, WIDTH, 4), samples=[sample])
    words = prompt_view(context).words
    assert words.index("v1<") < words.index("v20<") < words.index("How many")
    assert "&lt;b&gt;singers" in words
    assert "<b>singers" not in words
    assert "v6<" not in words
    assert "…" in words
    prompt_run(context, some(3, WIDTH, 4), samples=[])
    words = prompt_view(context).words
    assert "your question" in words
    assert "v3<" in words


def test_without_a_learnt_prompt_that_fits_it_is_said_what_to_run(context, bundled):
    shown = prompt_view(context)
    assert shown.figure is None
    assert "tick Prompt tuning" in shown.words
    assert "11,520" in shown.words
    prompt_run(context, some(3, WIDTH - 1))
    shown = prompt_view(context)
    assert shown.figure is None
    assert "no token embeddings of width 63" in shown.words


# ---- the 16 levels


def test_a_block_is_shown_as_it_is_quantised(bundled):
    shown = learn_nf4.view(0, "q_proj", 2, learn_nf4.read_matrix)
    weights = some(WIDTH, WIDTH)[1]
    _, after, before = shown.figure.data
    assert list(before.y) == pytest.approx(weights.tolist())
    assert list(after.y) == pytest.approx(quantise(weights).restored.tolist())
    assert shown.figure.layout.yaxis.tickvals == pytest.approx(NF4 * np.abs(weights).max())
    relative = error_of(weights, quantise(weights).restored).relative
    assert f"{100 * relative:.2f} %" in shown.numbers
    assert (shown.block, shown.blocks) == (2, WIDTH)
    assert sum(shown.used.data[0].y) == pytest.approx(100)
    used = np.zeros(16)
    assert "All 16" in learn_nf4.levels_words(used + 1 / 16)
    used[3] = 1
    assert learn_nf4.levels_words(used).startswith("1 of 16 levels are used, at most for 100 %")


@pytest.mark.parametrize(("asked", "block"), [(0, 1), (-3, 1), (10**9, WIDTH), (None, 1)])
def test_a_block_out_of_range_becomes_the_nearest(bundled, asked, block):
    assert learn_nf4.view(0, "q_proj", asked, learn_nf4.read_matrix).block == block


def test_a_matrix_that_is_not_there_is_refused(bundled):
    with pytest.raises(FtlabError, match="no o_proj in layer 0"):
        learn_nf4.read_matrix(0, "o_proj")


def test_even_levels_are_not_said_to_be_worse_where_they_are_not(bundled):
    even = np.tile(np.arange(-7, 8), 274)[: WIDTH * WIDTH].reshape(WIDTH, WIDTH)
    write_model(bundled, {projection(0): even.astype(np.float32)})
    errors = learn_nf4.view(0, "q_proj", 1, learn_nf4.read_matrix).errors
    assert "do no worse" in errors
    assert "crowd" not in errors


def test_the_models_size_is_reckoned_from_its_shapes(bundled, context):
    html = learn_nf4.model_html(learn_nf4.bundled_tensors(), context.store)
    linear, rest = 4 * WIDTH * WIDTH, 300 * WIDTH
    assert f"{(2 * linear) / 1e3:.0f} kB" in html
    assert f"{(linear * 4.126953125 / 8 + 2 * rest) / 1e3:.0f} kB" in html
    assert "chip" not in html  # nothing was measured


def test_measured_peaks_of_ones_own_come_before_recorded_ones(bundled, context, tmp_path):
    make_sweep(tmp_path / "recorded" / "sweep", ("lora", "qlora"))
    html = learn_nf4.model_html(learn_nf4.bundled_tensors(), context.store)
    assert "chip recorded" in html
    assert "4 bits saved nothing" in html
    make_sweep(context.runs_folder, ("lora", "qlora"), sweep_id="20261126-120000-ab12")
    html = learn_nf4.model_html(learn_nf4.bundled_tensors(), context.store)
    assert "chip measured" in html
    assert "chip recorded" not in html


# ---- merging


def opened(context, name=None):
    able = learn_merge.sources(context)
    return learn_merge.open_source(next(s for s in able if name in (None, s.name)))


def test_the_merged_matrix_gives_the_output_of_base_and_adapter(context, bundled):
    run = lora_run(context)
    figure, html = learn_merge.draw(opened(context, run.run_id), (0, "q_proj"), 0)
    exact = next(trace for trace in figure.data if trace.name == "fp32")
    assert exact.y == pytest.approx(exact.x, abs=1e-3)
    assert "under 0.001 %" in html
    assert "none" in html


def test_loras_are_offered_before_qloras_and_own_ones_before_shipped(context, bundled):
    qlora, lora = lora_run(context, "qlora"), lora_run(context)
    make_run(context.runs_folder, "full")
    names = [source.name for source in learn_merge.sources(context)]
    assert names[0] == lora.run_id
    assert names[-1] == qlora.run_id
    assert len(names) == 5  # and the three that ship


def test_a_qlora_says_that_it_learnt_on_other_weights(context, bundled):
    lora, qlora = lora_run(context), lora_run(context, "qlora")
    assert "base in NF4" in learn_merge.cost_html(opened(context, qlora.run_id))
    assert "NF4" not in learn_merge.cost_html(opened(context, lora.run_id))


def test_costs_are_those_of_all_matrices_that_the_adapter_changes(context, bundled):
    html = learn_merge.cost_html(opened(context, lora_run(context).run_id))
    assert "8.7 k" in html
    assert "8.2 k" in html
    assert "6.25 % more multiplications" in html


@pytest.mark.parametrize(
    ("layer", "module", "place"),
    [(0, "q_proj", (0, "q_proj")), (29, "q_proj", (1, "q_proj")), (1, "v_proj", (1, "q_proj")),
     (None, None, (1, "q_proj"))],
)  # fmt: skip
def test_a_place_that_the_adapter_leaves_alone_becomes_the_nearest(
    context, bundled, layer, module, place
):
    assert opened(context, lora_run(context).run_id).nearest(layer, module) == place


def test_an_adapter_of_no_projection_of_the_base_is_refused(context, bundled):
    run = lora_run(context, layers=(7,))
    with pytest.raises(FtlabError, match="changes no projection"):
        opened(context, run.run_id)


# ---- what they share


@pytest.mark.parametrize("value", [None, -1, 1.5, 2**32, float("nan"), float("inf"), "7", True])
def test_what_is_no_whole_number_is_refused_with_the_rule(value):
    with pytest.raises(FtlabError, match=r"Seed of x .*whole number from 0 to 4,294,967,295"):
        whole_number(value, "Seed of x", 2**32 - 1)
    assert whole_number(7.0, "Seed", 9) == 7


@pytest.mark.parametrize(
    ("asked", "given"),
    [(None, 8), (float("nan"), 8), (0, 1), (-3, 1), (2.6, 3), (3.4, 3), (70, 64), (999, 64)],
)
def test_a_rank_outside_the_slider_is_brought_within(asked, given):
    assert rank_within(asked, 64) == given


def test_cells_and_sentences_of_plain_text_are_escaped():
    html = table(["<i>", "b"], [["<script>", "<img>"]], "a<b") + said("<b>")
    assert "<script>" not in html
    assert "<img>" not in html
    assert "<b>" not in html
    assert "<i>" not in html


def test_a_choice_stays_while_it_is_there():
    options = [("A", "a"), ("B", "b")]
    assert choice(options, "b") == "b"
    assert choice(options, "gone") == choice(options, None) == "a"
    assert choice([], "a") is None


def test_without_the_bundled_model_every_panel_says_what_to_run(context, tmp_path, monkeypatch):
    monkeypatch.setenv("FTLAB_HOME", str(tmp_path / "nothing"))
    assert "python -m ftlab model" in FETCH
    prompt_run(context, some(3, WIDTH))
    make_run(context.runs_folder, "full")
    assert "python -m ftlab model" in prompt_view(context).words
    assert "python -m ftlab model" in full_view(context).change
    for ask in (learn_nf4.bundled_tensors, lambda: learn_merge.open_source(
        learn_merge.sources(context)[0]
    )):  # fmt: skip
        with pytest.raises(FtlabError, match="python -m ftlab model"):
            ask()


def test_a_model_of_the_hub_is_not_fetched_to_look_at_it():
    with pytest.raises(FtlabError, match="not on this machine; train on it once"):
        base_folder("nobody/no-such-model")


def test_projections_are_found_by_layer_and_name():
    names = (projection(10), projection(2), EMBEDDINGS, "model.layers.2.mlp.up_proj.weight")
    assert list(matrices(names)) == [(2, "q_proj"), (2, "up_proj"), (10, "q_proj")]


# ---- figures, on their data


def test_a_part_that_did_not_move_has_a_bar_of_no_height():
    parts = pd.DataFrame(
        {"part": ["embeddings", "layer 0", "layer 5", "last norm"], "numbers": [9, 9, 9, 9],
         "share": [0.5, 1, 1, 0], "relative": [0.01, 0.02, 0.03, 0.0]}
    )  # fmt: skip
    figure = change_figure(parts)
    assert figure.data[0].y == pytest.approx((1, 2, 3, 0))
    assert figure.layout.xaxis.ticktext == ("emb.", "5", "norm")
    assert "50.0 % of its 9 numbers" in figure.data[0].customdata[0]


def test_tokens_in_a_figure_are_text_and_no_markup():
    vectors = pd.DataFrame({"vector": [1], "cosine": [0.5], "token": ["<b>%{x}"]})
    figure = nearest_figure(vectors, TokenBand(0.6, 0.8, 0.4))
    assert "<b>" not in figure.data[0].text[0]
    assert "%{" not in figure.data[0].text[0]
    band, line = figure.layout.shapes
    assert (band.y0, band.y1, line.y0) == (0.6, 0.8, 0.4)
    below = nearest_figure(vectors.assign(cosine=-0.3), TokenBand(0.6, 0.8, 0.4))
    assert below.layout.yaxis.range[0] <= -0.3


def test_the_error_of_a_weight_is_the_line_between_its_points():
    block = pd.DataFrame({"weight": [0.5, -1.0], "restored": [0.4, -1.0]})
    figure = block_figure(block, pd.DataFrame({"value": [-1.0, 0.0, 1.0]}))
    assert figure.data[0].y == (0.5, 0.4, None, -1.0, -1.0, None)
    assert figure.data[1].customdata == ("-0.1000", "+0.0000")


def test_a_block_of_zeros_still_has_a_range():
    zero = pd.DataFrame({"weight": [0.0], "restored": [0.0]})
    low, high = block_figure(zero, pd.DataFrame({"value": [0.0] * 16})).layout.yaxis.range
    assert low < 0 < high


def test_shares_of_the_levels_are_in_per_cent():
    used = pd.DataFrame({"level": NF4, "share": [1 / 16] * 16})
    assert levels_figure(used).data[0].y == pytest.approx([6.25] * 16)


def test_every_kind_of_merged_matrix_has_its_own_marker():
    outputs = pd.DataFrame({"apart": [1.0, 2], "fp32": [1.0, 2], "bf16": [1.1, 2], "nf4": [3.0, 2]})
    diagonal, *kinds = outputs_figure(outputs).data
    assert diagonal.x == diagonal.y
    assert len({trace.marker.symbol for trace in kinds}) == 3
    assert {trace.name: trace.y[0] for trace in kinds} == {"nf4": 3, "bf16": 1.1, "fp32": 1}


# ---- wiring


def built(context):
    with gr.Blocks() as page, gr.Tabs():
        for panel in PANELS:
            with gr.Tab(panel.__name__):
                panel.build(context)
    return page


def test_every_panel_is_built_and_none_of_its_events_is_an_api(context):
    page = built(context)
    events = list(page.fns.values())
    assert len(events) == 5
    assert {event.api_visibility for event in events} == {"private"}
    fields = [b for b in page.blocks.values() if isinstance(b, gr.Slider | gr.Dropdown | gr.Number)]
    assert all(field.label and field.interactive for field in fields)


def test_opening_a_panel_fills_all_that_it_shows(context, bundled):
    """Every handler gives as many updates as it has outputs, with something to show and without."""

    def enter_all():
        for event in built(context).fns.values():
            values = [getattr(block, "value", None) for block in event.inputs]
            assert len(event.fn(*values)) == len(event.outputs)

    enter_all()
    full_run(context, bundled)
    prompt_run(context, some(3, WIDTH))
    lora_run(context)
    enter_all()
