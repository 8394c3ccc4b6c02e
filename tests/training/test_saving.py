"""What saving leaves of a model that is still to be scored: a run is saved first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ftlab.methods.registry import CORE, METHODS
from ftlab.methods.spec import RunPlan
from ftlab.methods.variant import Variant
from ftlab.models.loading import load_base_model, load_tokenizer
from ftlab.models.resolve import resolve_model
from ftlab.training.model import apply_method, save_initial, save_result
from ftlab.training.step import Arithmetic
from tests.slow import slow
from tests.tiny import make_tiny_model


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("biased") / "model", biases=True)


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("method", [*CORE, *slow(m for m in METHODS if m not in CORE)])
def test_the_model_computes_after_it_was_saved_what_it_did_before(
    method: str, biased: Path, tmp_path: Path
) -> None:
    variant = Variant(method, {"layers": 1} if method == "last_layers" else {})
    source = resolve_model(str(biased))
    learns = not variant.spec.is_adapter
    base = load_base_model(
        source, "bf16", variant.base_precision, torch.device("cpu"), weights_learn=learns
    )
    model: Any = apply_method(base, variant, "bf16", False, RunPlan(100, str(biased)))
    initial = save_initial(model, tmp_path / "initial")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    ids = torch.arange(3, 15)[None]
    model.eval()
    with torch.no_grad(), Arithmetic("bf16", torch.device("cpu")).context():
        logits, before = model(input_ids=ids).logits, state(model)
        save_result(model, variant, load_tokenizer(source), tmp_path / "adapter", initial)
        assert torch.equal(model(input_ids=ids).logits, logits)
    after = state(model)
    assert after.keys() == before.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
