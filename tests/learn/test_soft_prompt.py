"""Nearest tokens against a plain search over the whole matrix."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from ftlab.basics.errors import FtlabError
from ftlab.learn import soft_prompt
from ftlab.learn.matrices import open_tensors
from ftlab.learn.soft_prompt import (
    PROMPT_TENSOR,
    embedding_name,
    nearest_tokens,
    read_prompt,
    token_texts,
    typical_cosines,
    visible,
)
from ftlab.playground.panes import WEIGHTS_FILE
from tests.learn.adapters import some, write_model

NAME = "model.embed_tokens.weight"
ROWS, WIDTH = 50, 6


@pytest.fixture
def model(tmp_path):
    return open_tensors(write_model(tmp_path / "base", {NAME: some(ROWS, WIDTH)}))


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


@pytest.mark.parametrize("rows_at_once", [1, 7, 4096])
def test_the_nearest_are_those_of_a_plain_search(model, monkeypatch, rows_at_once):
    monkeypatch.setattr(soft_prompt, "_ROWS_AT_ONCE", rows_at_once)
    vectors, rows = some(4, WIDTH, 9), some(ROWS, WIDTH)
    found = nearest_tokens(vectors, model, NAME, top=3)
    for i, vector in enumerate(vectors):
        cosines = [cosine(vector, row) for row in rows]
        expected = np.argsort(cosines)[::-1][:3]
        assert found.tokens[i].tolist() == expected.tolist()
        assert found.cosines[i] == pytest.approx(np.array(cosines)[expected], abs=1e-6)
        assert found.distances[i] == pytest.approx(
            np.linalg.norm(rows[expected] - vector, axis=1), abs=1e-5
        )


def test_a_vector_that_is_a_token_is_at_that_token_and_one_of_zeros_near_nothing(model):
    found = nearest_tokens(some(ROWS, WIDTH)[[17]], model, NAME, top=1)
    assert found.tokens.item() == 17
    assert found.cosines.item() == pytest.approx(1)
    assert found.distances.item() == pytest.approx(0, abs=1e-3)
    nothing = nearest_tokens(np.zeros((1, WIDTH), np.float32), model, NAME)
    assert nothing.cosines.tolist() == [[0, 0, 0]]


def test_a_vocabulary_smaller_than_the_top_gives_all_of_it(tmp_path):
    tiny = open_tensors(write_model(tmp_path / "tiny", {NAME: some(2, WIDTH)}))
    assert nearest_tokens(some(1, WIDTH, 3), tiny, NAME, top=3).tokens.shape == (1, 2)


def test_a_token_is_not_its_own_nearest(model, monkeypatch):
    monkeypatch.setattr(soft_prompt, "_ROWS_AT_ONCE", 8)
    rows = some(ROWS, WIDTH)
    table = np.array([[cosine(a, b) for b in rows] for a in rows])
    pairs = table[np.triu_indices(ROWS, 1)]
    np.fill_diagonal(table, -1)
    found = typical_cosines(model, NAME)
    assert sorted(found.nearest) == pytest.approx(sorted(table.max(axis=1)), abs=1e-5)
    assert sorted(found.pair) == pytest.approx(sorted(pairs), abs=1e-5)


def test_what_is_typical_is_the_same_for_the_same_seed(tmp_path):
    large = open_tensors(write_model(tmp_path / "l", {NAME: some(600, WIDTH)}))
    first, again = typical_cosines(large, NAME, 3), typical_cosines(large, NAME, 3)
    assert first.nearest.tolist() == again.nearest.tolist()
    assert len(first.nearest) == 256


def test_embeddings_of_another_width_are_not_the_prompts(model):
    assert embedding_name(model, WIDTH) == NAME
    with pytest.raises(FtlabError, match="no token embeddings of width 7"):
        embedding_name(model, 7)


@pytest.mark.parametrize(
    "vectors", [np.full((2, 3), np.nan, np.float32), np.zeros((0, 3), np.float32), some(1, 3)[0]]
)
def test_a_prompt_that_is_no_matrix_of_numbers_is_refused(tmp_path, vectors):
    save_file({PROMPT_TENSOR: vectors}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(FtlabError, match="train it again"):
        read_prompt(tmp_path)


def test_blanks_of_a_token_are_made_visible():
    assert visible(" the\n\t\x00") == "␣the⏎⇥�"
    assert visible("a" * 30) == "a" * 19 + "…"


def test_tokens_are_read_as_the_tokenizer_decodes_them(tiny_model):
    text = token_texts(tiny_model / "tokenizer.json")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for word in ("a", " ", "<|end|>"):
        assert text(tokenizer.encode(word)[0]) == word
    part = tokenizer.encode("é")[0]  # half a character: its stored form says more than a mark
    assert text(part) == tokenizer.convert_ids_to_tokens(part) != "\ufffd"
    assert text(319) == ""  # a row of the matrix that no token has


def test_a_broken_tokenizer_is_one_sentence(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(FtlabError, match=r"tokenizer\.json' cannot be read"):
        token_texts(tmp_path / "tokenizer.json")
