"""What full fine-tuning changed in one matrix."""

import numpy as np
import pytest

from ftlab.basics.errors import FtlabError
from ftlab.learn import matrices
from ftlab.learn.matrices import full_change, kept
from tests.learn.adapters import ATTENTION, some, write_model

Q = ATTENTION.format(3, "q_proj")


def pair(tmp_path, before, after):
    base = write_model(tmp_path / "base", {f"{Q}.weight": before})
    return base, write_model(tmp_path / "tuned", {f"{Q}.weight": after})


def test_the_change_is_taken_apart_and_not_the_weights(tmp_path):
    before, change = some(16, 10), some(16, 2, 1) @ some(2, 10, 2)
    base, tuned = pair(tmp_path, before, before + change)
    found = full_change(base, tuned, Q)
    expected = np.linalg.svd(change, compute_uv=False)
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    assert len(found.values) == 10
    assert kept(found.values, 2) == pytest.approx(1)
    assert found.bits == 32


def test_weights_in_sixteen_bits_are_said_to_be(tmp_path):
    before = some(16, 10).astype(np.float16)
    base, tuned = pair(tmp_path, before, (before * 2).astype(np.float16))
    found = full_change(base, tuned, Q)
    assert found.bits == 16
    expected = np.linalg.svd(before.astype(np.float32), compute_uv=False)
    np.testing.assert_allclose(found.values, expected, rtol=1e-3)


def test_matrices_of_two_shapes_are_of_two_models(tmp_path):
    base, tuned = pair(tmp_path, some(16, 10), some(16, 12))
    with pytest.raises(FtlabError, match="16 x 10 in the base and 16 x 12"):
        full_change(base, tuned, Q)


def test_a_matrix_that_one_side_lacks_is_one_sentence(tmp_path):
    base, tuned = pair(tmp_path, some(4, 4), some(4, 4))
    with pytest.raises(FtlabError, match="holds no tensor"):
        full_change(base, tuned, ATTENTION.format(9, "q_proj"))


def test_a_matrix_that_would_be_waited_for_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(matrices, "MAX_SIDE", 8)
    base, tuned = pair(tmp_path, some(16, 10), some(16, 10))
    with pytest.raises(FtlabError, match="too large to be taken apart"):
        full_change(base, tuned, Q)


def test_training_that_went_astray_is_one_sentence(tmp_path):
    after = some(4, 4)
    after[0, 0] = np.inf
    base, tuned = pair(tmp_path, some(4, 4), after)
    with pytest.raises(FtlabError, match="went astray"):
        full_change(base, tuned, Q)
