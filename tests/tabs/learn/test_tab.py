"""The Learn tab's frame and its first lesson: LoRA on a photo and on a weight matrix."""

import re
import shutil

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from ftlab.basics.errors import FtlabError
from ftlab.learn.matrices import missed, stored
from ftlab.learn.photo import read_photo
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.panes import WEIGHTS_FILE
from ftlab.records.store import RunStore
from ftlab.tabs.context import AppContext, Asked, Links
from ftlab.tabs.learn import photo_filter as learn_filter
from ftlab.tabs.learn import tab as learn
from ftlab.tabs.learn.change import (
    choose,
    finding,
    full_figure,
    full_finding,
    full_html,
    map_figure,
    matrix_html,
    scale_words,
    source_chip,
    sources,
)
from ftlab.tabs.learn.parts import rank_within
from tests.fakes import make_run
from tests.learn.adapters import ATTENTION, factors, some, write_lora, write_model

M, N, RANK = 12, 8, 2


@pytest.fixture
def base(tmp_path):
    """A model of three layers with one matrix each."""
    names = [ATTENTION.format(layer, "q_proj") for layer in range(3)]
    return write_model(
        tmp_path / "base", {f"{name}.weight": some(M, N, i) for i, name in enumerate(names)}
    )


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


def lora_run(store, base, **config):
    run = make_run(store.folder, "lora", model=str(base))
    tensors = {}
    for layer in range(3):
        module = ATTENTION.format(layer, "q_proj")
        tensors |= factors(module, some(M, RANK, 10 + layer), some(RANK, N, 20 + layer))
    write_lora(run.adapter, tensors, r=RANK, **config)
    return run.run_id


def full_run(store, base):
    """Weights that differ from the base's by a matrix of rank 1 in each layer."""
    run = make_run(store.folder, "full", model=str(base))
    module = ATTENTION.format
    write_model(
        run.adapter,
        {
            f"{module(i, 'q_proj')}.weight": some(M, N, i) + some(M, 1, 30) @ some(1, N, 31)
            for i in range(3)
        },
    )
    return run.run_id


@pytest.fixture(scope="module")
def lion():
    return learn_filter.make_lesson("Lion", read_photo(learn_filter.photos()["Lion"]), "sepia")


# ---- the photo


def test_gradio_still_ships_the_photos_to_choose_from():
    assert list(learn_filter.photos()) == [label for label, _ in learn_filter.PHOTOS]


def test_the_tiles_hold_the_numbers_stored_and_missed(lion):
    html = learn_filter.numbers_html(lion, 8)
    assert lion.pictures.change.shape == (256, 768)
    assert "<b>8,192</b>" in html
    assert "r(m + n) = 8 x (256 + 768)" in html
    assert "<b>196,608</b>" in html
    assert "<b>4.17 %</b>" in html
    share = 100 * missed(lion.pictures.change.values, 8)
    assert f"<b>{share:.1f} %</b>" in html
    assert f"{lion.pictures.mean_error(8):.1f} of 255 grey levels" in html


def test_a_rank_that_stores_more_than_the_change_says_so():
    photo = np.random.default_rng(0).uniform(60, 200, (10, 10, 3)).astype(np.float32)
    lesson = learn_filter.make_lesson("small", photo, "sepia")
    assert stored((10, 30), 10) > 10 * 30
    assert "more, not less" in learn_filter.numbers_html(lesson, 10)
    assert "more, not less" not in learn_filter.numbers_html(lesson, 2)


def test_the_heading_says_how_energy_and_error_belong_together(lion):
    html = learn_filter.figure_heading(lion, 8)
    assert re.search(r"7 of 256 directions hold 90\s% of the change&#39;s energy", html)
    held, error = re.search(r"√\(1 − (0\.\d+)\) = (\d+\.\d) %", html).groups()
    assert np.sqrt(1 - float(held)) == pytest.approx(float(error) / 100, abs=0.002)


def test_a_filter_that_changes_nothing_is_said_to():
    grey = np.full((6, 6, 3), 128, np.float32)
    lesson = learn_filter.make_lesson("grey", grey, "contrast")
    assert "does not change this photo" in learn_filter.finding(lesson, 1)
    assert "<b>0 %</b>" in learn_filter.numbers_html(lesson, 1)


def test_a_small_photo_has_fewer_ranks():
    line = np.arange(9, dtype=np.float32).reshape(1, 3, 3) * 20
    lesson = learn_filter.make_lesson("line", line, "sepia")
    assert lesson.top == 1
    assert rank_within(8, lesson.top) == 1
    assert "rank 1 holds 100 %" in learn_filter.finding(lesson, 1)


def test_every_picture_has_words_for_those_who_do_not_see_it(lion):
    html = (
        learn_filter.before_html(lion)
        + learn_filter.after_html(lion, 8)
        + learn_filter.factors_html(lion, 8)
    )
    assert html.count("<img ") == html.count('alt="') == 6
    assert 'alt="Lion with the change of rank 8"' in html
    assert 'alt=""' not in html


def test_a_name_from_outside_is_no_html(lion):
    lesson = learn_filter.Lesson('"><script>', "sepia", lion.pictures)
    assert "<script>" not in learn_filter.before_html(lesson) + learn_filter.after_html(lesson, 1)


# ---- the weight matrix


def test_own_lora_runs_come_first_and_shipped_adapters_after_them(store, base):
    make_run(store.folder, "prompt_tuning", model=str(base))
    own = lora_run(store, base)
    make_run(store.folder, "lora", "failed")
    names = [s.name for s in sources(store)]
    assert names[0] == own
    assert names[1:4] == ["shipped:sql", "shipped:shakespeare", "shipped:medical"]
    assert len(names) == 5


def test_first_the_middle_layer_is_shown_against_the_newest_full_fine_tuning(store, base):
    own = lora_run(store, base)
    full_run(store, base)
    newest = full_run(store, base)
    chosen = choose(store, None, own)
    assert chosen.matrix.name == "layers.1.q_proj"
    assert chosen.full_run is not None
    assert chosen.full_run.name == newest


def test_a_chosen_layer_and_run_are_kept(store, base):
    own, oldest = lora_run(store, base), full_run(store, base)
    full_run(store, base)
    chosen = choose(store, None, own, layer=2, part="q_proj", full_name=oldest)
    assert chosen.matrix.name == "layers.2.q_proj"
    assert chosen.full_run is not None
    assert chosen.full_run.name == oldest


def test_an_adapter_is_read_once_for_all_its_matrices(store, base):
    own = lora_run(store, base)
    first = choose(store, None, own)
    (store.folder / own / "adapter" / WEIGHTS_FILE).unlink()
    assert choose(store, first, own, layer=0).matrix.name == "layers.0.q_proj"
    with pytest.raises(FtlabError):
        choose(store, None, own)


def test_how_much_of_the_full_change_a_rank_holds_is_said(store, base):
    own = lora_run(store, base)
    full_run(store, base)
    chosen = choose(store, None, own)
    expected = "Rank 1 holds 100 % of the energy of the change full fine-tuning made to layers.1.q"
    assert full_finding(chosen, 1).startswith(expected)
    html = full_html(chosen, 1)
    assert f"{M + N} numbers instead of {M * N}" in html
    assert "16 bits" not in html
    assert 'class="chip measured"' in html
    (bars,) = full_figure(chosen, 1).data
    assert len(bars.y) == min(M, N)


def test_a_full_fine_tuning_of_another_base_is_not_held_against_it(store, base, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(base, other)
    own = lora_run(store, base)
    full_run(store, other)
    chosen = choose(store, None, own)
    assert chosen.full_runs == ()
    assert "No full fine-tuning of this base" in full_html(chosen, 1)
    assert full_figure(chosen, 1) is None


def test_without_the_bundled_model_it_is_said_how_to_get_it(store, monkeypatch, tmp_path):
    monkeypatch.setenv("FTLAB_HOME", str(tmp_path / "empty"))
    run = make_run(store.folder, "full")
    write_model(run.adapter, {f"{ATTENTION.format(0, 'q_proj')}.weight": some(M, N)})
    chosen = choose(store, None, "shipped:sql")
    assert chosen.full is None
    assert "python -m ftlab model" in full_html(chosen, 1)
    assert 'role="alert"' in full_html(chosen, 1)


def test_a_full_fine_tuning_that_lost_its_weights_leaves_the_adapters_half_alone(store, base):
    own, lost = lora_run(store, base), full_run(store, base)
    shutil.rmtree(store.folder / lost / "adapter")
    chosen = choose(store, None, own)
    assert chosen.matrix.size > 0
    assert chosen.why_not
    assert full_figure(chosen, 1) is None


@pytest.mark.parametrize("name", ["no-such-run", "shipped:../sql", "shipped:latin"])
def test_an_adapter_that_is_not_there_is_one_sentence(store, name):
    with pytest.raises(FtlabError):
        choose(store, None, name)


def test_the_finding_follows_the_singular_values(store, base):
    own = lora_run(store, base)
    matrix = choose(store, None, own).matrix
    assert re.fullmatch(
        r"[12] of 2 directions holds? 90 % of the energy of layers.1.q_proj's change",
        finding(matrix),
    )
    shipped = choose(store, None, "shipped:sql").matrix
    assert "lies in one direction" in finding(shipped)


def test_stored_numbers_are_given_for_the_matrix_and_for_all(store, base):
    chosen = choose(store, None, lora_run(store, base))
    html = matrix_html(chosen)
    for count in (M * N, RANK * (M + N), 3 * M * N, 3 * RANK * (M + N)):
        assert f"<td>{count:,}</td>" in html
    assert "at 4 bytes each" in html


def test_the_scale_is_said_as_it_is_computed(store, base):
    plain = choose(store, None, lora_run(store, base, lora_alpha=4))
    assert scale_words(plain.change, plain.matrix) == "ΔW = s·B·A with s = alpha / r = 4 / 2 = 2"
    stable = choose(store, None, lora_run(store, base, lora_alpha=4, use_rslora=True))
    words = scale_words(stable.change, stable.matrix)
    assert words == "ΔW = s·B·A with s = rsLoRA: alpha / √r = 4 / √2 = 2.83"


def test_own_and_shipped_adapters_have_different_chips(store, base):
    own, shipped = choose(store, None, lora_run(store, base)), choose(store, None, "shipped:sql")
    assert "measured" in source_chip(own.source)
    assert "ships with ftlab" in source_chip(shipped.source)


def test_the_map_has_a_cell_for_every_matrix_and_frames_the_chosen(store, base):
    chosen = choose(store, None, lora_run(store, base))
    fig = map_figure(chosen, "effective_rank")
    assert np.array(fig.data[0].z, dtype=float).shape == (1, 3)
    assert fig.layout.annotations[0].x == 1


# ---- the tab


@pytest.fixture
def page(store):
    store.folder.mkdir()
    context = AppContext(store.folder, store, PlaygroundClient(store.folder))
    with gr.Blocks() as page:
        tabs = gr.Tabs()
        links = Links.between(tabs)
        with tabs, gr.Tab("Learn"):
            learn.build(context, links)
    return page


def handler(page, name):
    return next(fn.fn for fn in page.fns.values() if fn.name == name)


@pytest.mark.parametrize(
    ("asked", "shown"), [("merging", "merging"), ("", "lora"), ("gone", "lora")]
)
def test_an_address_opens_its_lesson_and_the_first_one_for_what_is_not_there(
    page, monkeypatch, asked, shown
):
    said = []
    monkeypatch.setattr(learn, "warn", said.append)
    row = handler(page, "follow")(Asked(asked))
    assert row.selected == shown
    assert said == (
        ["There is no lesson 'gone'; the lessons are lora, full, prompt_tuning, qlora, merging, "
         "methods, small_and_large, claims."]
        if asked == "gone" else []
    )  # fmt: skip


def test_the_lessons_stand_in_order_and_compute_nothing_before_the_tab_is_opened(page):
    labels = [block.label for block in page.blocks.values() if isinstance(block, gr.Tab)]
    assert labels == [
        "Learn",
        "LoRA: a photo filter",
        "Full fine-tuning",
        "Prompt tuning",
        "QLoRA: 16 levels",
        "Merging",
        "All methods",
        "Small and large",
        "Claims of papers",
    ]
    events = {event for fn in page.fns.values() for _, event in fn.targets}
    assert "select" in events
    assert not events & {"load", "tick"}


def test_the_first_photo_is_taken_apart_once(page):
    enter = handler(page, "enter")
    first = enter(None, "Lion", None, "sepia", 8)
    assert isinstance(first[0], learn_filter.Lesson)
    again = enter(first[0], "Lion", None, "sepia", 8)
    assert again == [gr.skip()] * len(first)


def test_a_wrong_photo_or_filter_leaves_what_is_shown_and_says_why(page):
    pick = handler(page, "pick")
    for name, filter_id, what in (("../x", "sepia", "no photo"), ("Lion", "heat", "no filter")):
        kept, wrong, *rest = pick(name, None, filter_id, 8)
        assert kept == gr.skip()
        assert what in wrong
        assert set(map(str, rest)) == {str(gr.skip())}


def test_an_own_photo_stays_to_be_chosen_again(page, tmp_path):
    Image.new("RGB", (6, 4), "red").save(tmp_path / "mine.png")
    choices, mine, now, *_ = handler(page, "bring")(str(tmp_path / "mine.png"), "sepia", 8)
    assert choices.value == learn_filter.OWN
    assert now.pictures.original.shape == (4, 6, 3)
    again, *_ = handler(page, "pick")(learn_filter.OWN, mine, "bw", 8)
    assert np.array_equal(again.pictures.original, now.pictures.original)
    assert again.filter_id == "bw"


def test_a_file_that_is_no_photo_is_said_beside_the_photo(page, tmp_path):
    (tmp_path / "a<b>.txt").write_text("hello")
    choices, mine, now, wrong, *_ = handler(page, "bring")(str(tmp_path / "a<b>.txt"), "sepia", 8)
    assert [choices, mine, now] == [gr.skip()] * 3
    assert "a&lt;b&gt;.txt" in wrong
    assert 'role="alert"' in wrong


def matrix_handlers(page):
    """`enter` and `look` of the matrix: the second `enter` of the tab is its own."""
    enters = [fn.fn for fn in page.fns.values() if fn.name == "enter"]
    return enters[1], handler(page, "look")


def test_opening_the_tab_without_runs_shows_a_shipped_adapter_or_the_chosen_one(page):
    enter, _ = matrix_handlers(page)
    names, chosen, wrong, *_ = enter(None, None, None, None, "size", None, 8)
    assert names.value == "shipped:sql"
    assert chosen.matrix.name == "layers.15.q_proj"
    assert wrong == ""
    names, chosen, *_ = enter(None, "shipped:medical", 3, "v_proj", "size", None, 8)
    assert names.value == "shipped:medical"
    assert chosen.matrix.name == "layers.3.v_proj"


def test_an_adapter_that_is_no_lora_is_one_sentence_and_hides_the_figures(page, store, base):
    run = make_run(store.folder, "prompt_tuning", model=str(base))
    write_lora(run.adapter, {"x": some(2, 2)}, peft_type="PROMPT_TUNING", num_virtual_tokens=2)
    _, look = matrix_handlers(page)
    state, wrong, column, *_ = look(None, run.run_id, None, None, "size", None, 8)
    assert state is None
    assert "only LoRA" in wrong
    assert column.visible is False


def test_the_rank_over_the_full_change_is_kept_while_the_adapter_stays(page, store, base):
    own, _ = lora_run(store, base), full_run(store, base)
    _, look = matrix_handlers(page)
    first = look(None, own, None, None, "size", None, 40)
    assert first[-2] == RANK  # a new adapter brings its own rank
    assert look(first[0], own, 0, "q_proj", "size", None, 40)[-2] == 40
