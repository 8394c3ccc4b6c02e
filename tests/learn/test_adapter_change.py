"""What an adapter changes: against the whole matrices, which the code never forms."""

import numpy as np
import pytest

from ftlab.basics.errors import FtlabError
from ftlab.learn.matrices import OUTSIDE, read_adapter
from ftlab.playground.panes import CONFIG_FILE, WEIGHTS_FILE, shipped_folder
from tests.learn.adapters import ATTENTION, factors, some, write_lora

Q0, K0, Q1 = (ATTENTION.format(*which) for which in ((0, "q_proj"), (0, "k_proj"), (1, "q_proj")))


@pytest.fixture
def two_layers(tmp_path):
    tensors = (
        factors(Q1, some(12, 2, 1), some(2, 8, 2))
        | factors(Q0, some(12, 2, 3), some(2, 8, 4))
        | factors(K0, some(4, 2, 5), some(2, 8, 6))
    )
    return write_lora(tmp_path / "lora", tensors, r=2, lora_alpha=6)


def test_singular_values_are_those_of_the_scaled_product(two_layers):
    change = read_adapter(two_layers)
    matrix = change.find(1, "q_proj")
    whole = 3 * (some(12, 2, 1) @ some(2, 8, 2))  # alpha / r = 6 / 2
    np.testing.assert_allclose(matrix.values, np.linalg.svd(whole, compute_uv=False)[:2], rtol=1e-5)
    assert matrix.size == pytest.approx(np.linalg.norm(whole), rel=1e-5)
    assert 1 < matrix.effective_rank <= 2


def test_matrices_stand_layer_by_layer_with_short_names(two_layers):
    change = read_adapter(two_layers)
    assert change.layers == [0, 1]
    assert [m.name for m in change.matrices] == [
        "layers.0.k_proj",
        "layers.0.q_proj",
        "layers.1.q_proj",
    ]
    assert change.parts(0) == ["k_proj", "q_proj"]
    smallest = change.matrices[0]
    assert smallest.shape == (4, 8)
    assert smallest.numbers == 2 * (4 + 8)  # r(m + n) in B and A
    assert change.number_bytes == 4


def test_a_matrix_that_is_not_there_gives_another_of_its_layer(two_layers):
    change = read_adapter(two_layers)
    assert change.find(1, "k_proj").name == "layers.1.q_proj"
    assert change.find(9, "q_proj").name == "layers.0.k_proj"


def test_rank_stabilised_lora_divides_alpha_by_the_root_of_the_rank(tmp_path):
    tensors = factors(Q0, some(12, 4), some(4, 8))
    plain = read_adapter(write_lora(tmp_path / "a", tensors, r=4, lora_alpha=8))
    stable = read_adapter(write_lora(tmp_path / "b", tensors, r=4, lora_alpha=8, use_rslora=True))
    assert not plain.rank_stabilised
    assert stable.rank_stabilised
    assert plain.matrices[0].scale == 2
    assert stable.matrices[0].scale == 4
    np.testing.assert_allclose(stable.matrices[0].values, 2 * plain.matrices[0].values)


def test_a_matrix_outside_the_layers_comes_last(tmp_path):
    tensors = factors("lm_head", some(20, 2), some(2, 8)) | factors(Q0, some(12, 2), some(2, 8))
    change = read_adapter(write_lora(tmp_path / "a", tensors))
    assert change.layers == [0, OUTSIDE]
    assert change.matrices[-1].name == "lm_head"


def test_of_two_matrices_of_one_name_the_second_is_counted_as_left_out(tmp_path):
    cross = "model.layers.0.encoder_attn.q_proj"
    tensors = factors(Q0, some(12, 2), some(2, 8)) | factors(cross, some(12, 2), some(2, 8))
    change = read_adapter(write_lora(tmp_path / "a", tensors))
    assert len(change.matrices) == 1
    assert change.left_out == 1


def test_an_untrained_adapter_changes_nothing(tmp_path):
    tensors = factors(Q0, np.zeros((12, 2), np.float32), some(2, 8))
    matrix = read_adapter(write_lora(tmp_path / "a", tensors)).matrices[0]
    assert not matrix.values.any()
    assert matrix.effective_rank == 0


def test_a_number_that_is_none_is_one_sentence_that_names_the_matrix(tmp_path):
    b = some(12, 2)
    b[3, 1] = np.nan
    folder = write_lora(tmp_path / "a", factors(Q0, b, some(2, 8)))
    with pytest.raises(
        FtlabError, match=r"layers\.0\.self_attn\.q_proj.*not finite: its training diverged"
    ):
        read_adapter(folder)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_missing_or_broken_file_is_one_sentence(two_layers, name):
    (two_layers / name).write_bytes(b"{ torn")
    with pytest.raises(FtlabError):
        read_adapter(two_layers)
    (two_layers / name).unlink()
    with pytest.raises(FtlabError):
        read_adapter(two_layers)


@pytest.mark.parametrize("task", ["sql", "shakespeare", "medical"])
def test_the_shipped_adapters_can_be_looked_into(task):
    change = read_adapter(shipped_folder() / task)
    assert len(change.layers) == 30
    assert {m.rank for m in change.matrices} == {1}
    assert all(m.size > 0 for m in change.matrices)
    numbers = sum(m.numbers for m in change.matrices)
    weights = (shipped_folder() / task / WEIGHTS_FILE).stat().st_size
    assert weights == pytest.approx(numbers * change.number_bytes, rel=0.05)  # the header aside
