"""Tensors read by numpy against the libraries that wrote them."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ftlab.basics.errors import FtlabError
from ftlab.learn.matrices import open_tensors

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_float_type_is_read_as_the_float32_with_its_value(tmp_path, dtype):
    stored = random(7, 5, dtype=dtype)
    save_file({"before": random(3), "w": stored, "z": random(2)}, tmp_path / "m.safetensors")
    found = open_tensors(tmp_path / "m.safetensors").read("w")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, stored.float().numpy())
    found[:] = 0  # it is a copy
    assert open_tensors(tmp_path / "m.safetensors").read("w").any()


def test_rows_are_those_of_the_whole(tmp_path):
    save_file({"w": random(9, 4, dtype=torch.bfloat16)}, tmp_path / "m.safetensors")
    tensors = open_tensors(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(tensors.rows("w", 2, 5), tensors.read("w")[2:5])
    assert tensors.rows("w", 8, 20).shape == (1, 4)


def test_all_shards_of_a_folder_are_one_model(tmp_path):
    save_file({"a": random(2)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b": random(3)}, tmp_path / "model-00002-of-00002.safetensors")
    assert set(open_tensors(tmp_path).names) == {"a", "b"}
    assert open_tensors(tmp_path).shape("b") == (3,)


def test_a_tensor_without_numbers_is_read_as_one(tmp_path):
    save_file({"w": torch.zeros(0, 4), "v": random(1)}, tmp_path / "m.safetensors")
    assert open_tensors(tmp_path / "m.safetensors").read("w").shape == (0, 4)


@pytest.mark.parametrize(
    ("name", "words"),
    [("k_proj", r"no tensor 'k_proj'.*such as w"), ("w", "of I64; only F32, F16, BF16")],
)
def test_a_tensor_that_is_missing_or_holds_whole_numbers_is_refused(tmp_path, name, words):
    save_file({"w": torch.arange(4)}, tmp_path / "m.safetensors")
    with pytest.raises(FtlabError, match=words):
        open_tensors(tmp_path / "m.safetensors").read(name)


def test_a_file_that_was_cut_off_says_so(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"w": random(64, 64)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FtlabError, match="cut off"):
        open_tensors(path)


def test_a_missing_file_an_empty_folder_and_garbage_are_one_sentence_each(tmp_path):
    with pytest.raises(FtlabError, match=r"gone\.safetensors' cannot be read"):
        open_tensors(tmp_path / "gone.safetensors")
    with pytest.raises(FtlabError, match=r"holds no \.safetensors file"):
        open_tensors(tmp_path)
    (tmp_path / "m.safetensors").write_bytes(b"\xff" * 50)
    with pytest.raises(FtlabError, match="no valid safetensors"):
        open_tensors(tmp_path)
