"""The quicker fake tensors are those of torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ftlab.methods.variant import Variant
from ftlab.prediction.question import Prediction, Step, ask_about
from ftlab.prediction.simulation.fake import QuickFakeMode
from ftlab.prediction.simulation.step import predict
from tests.prediction.simulation.test_real_memory import LLAMA

OWN, STANDARD = Step(96, completion_tokens=20), Step(96)


def found(method: str, step: Step) -> Prediction:
    (question,) = ask_about(LLAMA, [Variant(method)], step)
    return replace(predict(question), seconds=0)


@pytest.mark.parametrize(
    ("method", "step"),
    [
        ("lora", OWN),
        pytest.param("full", STANDARD, marks=pytest.mark.slow),
        pytest.param("adalora", OWN, marks=pytest.mark.slow),
        pytest.param("qdora", STANDARD, marks=pytest.mark.slow),
    ],
)
def test_a_prediction_is_the_same_with_torchs_own_mode(
    method: str, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = found(method, step)
    monkeypatch.setattr("ftlab.prediction.simulation.step.QuickFakeMode", FakeTensorMode)
    assert quick == found(method, step)
    assert quick.how == "simulated"


def results(mode: Any) -> list[Any]:
    with mode:
        one = torch.empty(4, 6)
        two = [one + 1, one + 1.0, one.int() + 1, one.int() + 1.0, one.t(), one.t()[1:], one[:2]]
        two += [torch.cat([one, one]), torch.cat([one, one], dim=1), one.half() @ one.half().t()]
        alike = [one.view(2, 12), one.t().reshape(2, 12)]
        same = [each.untyped_storage()._cdata == one.untyped_storage()._cdata for each in two[4:7]]
        return [(t.dtype, t.shape, t.stride(), t.storage_offset()) for t in two + alike] + [same]


def test_arguments_that_give_other_results_are_told_apart() -> None:
    mode = QuickFakeMode()
    first = results(mode)
    assert results(mode) == first == results(FakeTensorMode())
    assert first[-1] == [True, True, True]


def test_a_tensor_with_values_is_left_to_torch() -> None:
    with QuickFakeMode() as mode:
        known = torch.tensor(3)
        assert known.item() == 3
        assert (known + 1).item() == 4
    assert not any(func is torch.ops.aten._local_scalar_dense.default for func, *_ in mode._known)


def test_no_card_is_pretended_because_then_no_backward_pass_works_in_a_fork(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretended: list[bool] = []
    monkeypatch.setattr(torch._C, "_ensureCUDADeviceGuardSet", lambda: pretended.append(True))
    with QuickFakeMode():
        assert torch.empty(2).device.type == "cpu"
    assert not pretended
    with FakeTensorMode():  # where no card is, torch's own pretends one
        pass
    assert bool(pretended) is not torch.cuda.is_available()
