"""What full fine-tuning changed, and the bytes that AdamW really holds."""

import math

import numpy as np
import pytest
import torch

from ftlab.basics.errors import FtlabError
from ftlab.learn.matrices import (
    layer_changes,
    open_tensors,
    overall,
    tensor_changes,
    training_bytes,
)
from tests.learn.adapters import ATTENTION, some, write_model

EMBEDDINGS, NORM = "model.embed_tokens.weight", "model.norm.weight"
Q0, Q10 = (f"{ATTENTION.format(layer, 'q_proj')}.weight" for layer in (0, 10))


def model(**changed):
    tensors = {EMBEDDINGS: some(6, 4), Q0: some(4, 4, 1), Q10: some(4, 4, 2), NORM: some(1, 4)[0]}
    return tensors | changed


def changes(tmp_path, tuned):
    base = write_model(tmp_path / "base", model())
    return tensor_changes(open_tensors(base), open_tensors(write_model(tmp_path / "t", tuned)))


def test_a_number_counts_as_changed_if_it_differs_at_all(tmp_path):
    moved = some(4, 4, 1)
    moved[0, :3] = np.nextafter(moved[0, :3], np.float32(9))
    found = changes(tmp_path, model(**{Q0: moved})).set_index("tensor")
    assert found.loc[Q0, "changed"] == 3
    assert found["changed"].sum() == 3
    assert found["numbers"].sum() == 24 + 16 + 16 + 4


def test_relative_is_the_change_over_the_base_by_frobenius_norms(tmp_path):
    parts = layer_changes(changes(tmp_path, model(**{Q10: some(4, 4, 2) * np.float32(1.25)})))
    assert parts["part"].tolist() == ["embeddings", "layer 0", "layer 10", "last norm"]
    assert parts["relative"].tolist() == pytest.approx([0, 0, 0.25, 0])
    assert parts["share"].tolist() == [0, 0, 1, 0]


def test_the_whole_model_is_weighed_by_its_numbers(tmp_path):
    tuned = {name: tensor * np.float32(2) for name, tensor in model().items()}
    share, relative = overall(changes(tmp_path, tuned))
    assert (share, relative) == (1, pytest.approx(1))
    half = overall(changes(tmp_path, model(**{EMBEDDINGS: some(6, 4) * np.float32(2)})))
    moved, whole = some(6, 4), [tensor.ravel() for tensor in model().values()]
    assert half[0] == pytest.approx(24 / 60)
    assert half[1] == pytest.approx(np.linalg.norm(moved) / np.linalg.norm(np.concatenate(whole)))


def test_pieces_of_a_large_tensor_add_up_to_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("ftlab.learn.matrices._AT_ONCE", 8)
    tuned = model(**{EMBEDDINGS: some(6, 4, 7)})
    found = changes(tmp_path, tuned).set_index("tensor").loc[EMBEDDINGS]
    assert found["numbers"] == found["changed"] == 24
    assert math.sqrt(found["moved"]) == pytest.approx(
        np.linalg.norm(some(6, 4, 7) - some(6, 4)), rel=1e-6
    )


def test_a_model_of_zeros_has_no_relative_change(tmp_path):
    zero = write_model(tmp_path / "z", {Q0: np.zeros((2, 2), np.float32)})
    found = tensor_changes(open_tensors(zero), open_tensors(zero))
    assert math.isnan(overall(found)[1])
    assert layer_changes(found)["relative"].isna().all()


def test_another_model_is_refused(tmp_path):
    with pytest.raises(FtlabError, match=r"shape \(2, 4\) in the run and \(4, 4\)"):
        changes(tmp_path, model(**{Q0: some(2, 4)}))
    with pytest.raises(FtlabError, match="no tensor in common"):
        changes(tmp_path / "b", {"other": some(1, 1)})


@pytest.mark.parametrize(("dtype", "policy"), [(torch.bfloat16, "bf16"), (torch.float32, "mixed")])
def test_bytes_a_weight_are_those_that_torch_holds(dtype, policy):
    weight = torch.nn.Parameter(torch.randn(128, 128, dtype=dtype))
    optimizer = torch.optim.AdamW([weight], fused=True)
    weight.sum().backward()
    optimizer.step()
    state = optimizer.state[weight]
    found = training_bytes(policy)
    assert found.weight == weight.element_size()
    assert found.gradient == weight.grad.element_size()
    assert found.first_moment == state["exp_avg"].element_size()
    assert found.second_moment == state["exp_avg_sq"].element_size()
    assert found.total == 4 * weight.element_size()


def test_bytes_of_8_bit_moments_are_those_that_bitsandbytes_holds():
    from bitsandbytes.optim import AdamW8bit, GlobalOptimManager

    GlobalOptimManager.get_instance().initialize()  # else it obeys the runs of other tests
    weight = torch.nn.Parameter(torch.randn(128, 128))
    optimizer = AdamW8bit([weight])
    weight.sum().backward()
    optimizer.step()
    state = optimizer.state[weight]
    held = state["state1"].nbytes + state["absmax1"].nbytes
    assert training_bytes("fp32", "adamw_8bit").first_moment == held / weight.numel()


def test_adapters_learn_in_32_bits_whatever_the_policy():
    assert training_bytes("bf16", adapter=True).total == 16
    assert training_bytes("bf16").total == 8
    assert training_bytes("fp32").total == training_bytes("mixed").total == 16
