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


INFINITE = some(4, 4)
INFINITE[0, 0] = np.inf


@pytest.mark.parametrize(
    ("after", "module", "words"),
    [
        (some(4, 6), Q, "4 x 4 in the base and 4 x 6"),
        (some(4, 4), ATTENTION.format(9, "q_proj"), "holds no tensor"),
        (some(4, 4), Q, "too large to decompose"),
        (INFINITE, Q, "has a value that is not finite"),
    ],
    ids=["another shape", "missing", "too large", "not finite"],
)
def test_a_matrix_that_cannot_be_compared_is_one_sentence(
    tmp_path, monkeypatch, after, module, words
):
    monkeypatch.setattr(matrices, "MAX_SIDE", 3 if "too large" in words else 9)
    base, tuned = pair(tmp_path, some(4, 4), after)
    with pytest.raises(FtlabError, match=words):
        full_change(base, tuned, module)
