"""LoRA read and merged by numpy, against torch and PEFT."""

import numpy as np
import pandas as pd
import pytest
import torch

from ftlab.basics.errors import FtlabError
from ftlab.learn.matrices import LoraPair, open_lora, scale_of
from ftlab.learn.nf4 import (
    MAX_SEED,
    compare_outputs,
    differences,
    merged_weights,
    multiplications,
    to_bf16,
)
from tests.learn.adapters import ATTENTION, factors, some, write_lora

OUT, IN, RANK = 48, 64, 4
MODULE = ATTENTION.format(0, "q_proj")
PAIR = LoraPair(down=some(RANK, IN, 1), up=some(OUT, RANK, 2), scale=0.1)
WEIGHT = some(OUT, IN)


def outputs(pair=PAIR, seed=0):
    return compare_outputs(WEIGHT, pair, merged_weights(WEIGHT, pair), seed)


def test_rounding_to_bf16_is_torchs():
    values = np.concatenate([some(100, 100).reshape(-1), np.float32([0, -0.0, 1e-40, 3e38, 1.0])])
    ties = np.float32([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8])
    values = np.concatenate([values, ties])
    assert to_bf16(values).tolist() == torch.from_numpy(values).bfloat16().float().tolist()


def test_merged_in_32_bits_gives_the_same_output():
    found = outputs()
    size = np.sqrt((found["apart"] ** 2).mean())
    assert np.abs(found["fp32"] - found["apart"]).max() < 1e-5 * size


def test_the_adapter_has_a_part_in_the_output():
    x = np.random.default_rng(0).standard_normal((IN,), np.float32)
    assert outputs()["apart"].to_numpy() - WEIGHT @ x == pytest.approx(
        0.1 * PAIR.up @ (PAIR.down @ x), abs=1e-4
    )


def test_the_fewer_bits_the_larger_the_difference():
    found = differences(outputs(), WEIGHT, merged_weights(WEIGHT, PAIR)).set_index("held")
    assert found["largest"].is_monotonic_increasing
    assert found.loc["fp32", "lost"] == 0
    assert 0 < found.loc["bf16", "lost"] < found.loc["nf4", "lost"]


def test_differences_are_relative_to_the_outputs_and_losses_to_the_adapters_change():
    weight = np.float32([[1, 0], [0, 1]])
    merged = {
        "fp32": weight + np.float32([[3, 0], [0, 4]]),  # a change of size 5
        "bf16": weight + np.float32([[3, 0.5], [0, 4]]),
        "nf4": weight + np.float32([[3, 0], [2, 4]]),
    }
    found = pd.DataFrame({"apart": [6, -8], "fp32": [6, -8], "bf16": [6.5, -8], "nf4": [7, -11]})
    rows = differences(found.astype(float), weight, merged).set_index("held")
    size = 50**0.5  # the root mean square of 6 and -8
    assert rows["largest"].tolist() == [0, 0.5, 3]
    assert rows["relative"].tolist() == pytest.approx([0, 0.5 / size, 3 / size])
    assert rows["lost"].tolist() == pytest.approx([0, 0.1, 0.4])


def test_an_adapter_that_changes_nothing_loses_nothing_that_could_be_named():
    still = LoraPair(PAIR.down, np.zeros_like(PAIR.up), 1.0)
    found = differences(outputs(still), WEIGHT, merged_weights(WEIGHT, still))
    assert found["lost"].isna().all()


def test_the_seed_chooses_the_input():
    assert outputs(seed=1).equals(outputs(seed=1))
    assert not outputs(seed=1).equals(outputs(seed=2))
    outputs(seed=MAX_SEED)
    with pytest.raises(FtlabError, match=r"seed -1 must lie between 0 and 4,294,967,295"):
        outputs(seed=-1)


def test_a_matrix_of_another_shape_is_refused():
    with pytest.raises(FtlabError, match=r"a matrix of \(48, 64\), the base's is \(64, 48\)"):
        merged_weights(WEIGHT.T, PAIR)


def test_multiplications_are_counted_for_one_token():
    assert multiplications(576, 576, 8) == (576 * 576 + 8 * 1152, 576 * 576)


def test_the_pair_of_a_file_is_pefts_change(tmp_path, tiny_model):
    """s·B·A is what PEFT's own `get_delta_weight` gives for the files that PEFT wrote."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"], use_rslora=True,
        rank_pattern={"up_proj": 2}, alpha_pattern={"1.mlp.up_proj": 10}, init_lora_weights=False,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config)
    model.save_pretrained(tmp_path)
    found = open_lora(tmp_path)
    modules = dict(model.base_model.model.named_modules())
    assert len(found.weights) == 4
    for weight in found.weights:
        layer = modules[weight.removesuffix(".weight")]
        expected = layer.get_delta_weight("default").detach().numpy()
        np.testing.assert_allclose(found.pair(weight).change(), expected, rtol=1e-4, atol=1e-6)
    assert found.pair("model.layers.1.mlp.up_proj.weight").rank == 2


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": 16}, 2.0),
        ({"lora_alpha": 16, "use_rslora": True}, 16 / 8**0.5),
        ({"lora_alpha": 16, "alpha_pattern": {"q_proj": 4}}, 0.5),
        ({"lora_alpha": 16, "alpha_pattern": {"proj": 4}}, 2.0),
        ({}, 1.0),
    ],
)
def test_the_scale_is_alpha_over_the_rank(config, scale):
    assert scale_of(MODULE, 8, config) == pytest.approx(scale)


@pytest.mark.parametrize("key", [r"([\w.]+)*X", "(", "q_proj|v_proj"])
def test_a_pattern_that_could_run_for_ever_is_never_run(key):
    with pytest.raises(FtlabError, match="alpha_pattern"):
        scale_of(MODULE, 8, {"lora_alpha": 16, "alpha_pattern": {key: 4}})


@pytest.mark.parametrize("alpha", ["2", None, True, float("nan")])
def test_an_alpha_that_is_no_number_is_refused(alpha):
    with pytest.raises(FtlabError, match="lora_alpha"):
        scale_of(MODULE, 8, {"lora_alpha": alpha})


def lora(folder, rank_of_b=RANK, **config):
    tensors = factors(MODULE, b=some(OUT, rank_of_b), a=some(RANK, IN))
    return write_lora(folder, tensors, **({"r": RANK} | config))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"use_dora": True}, "sets use_dora"),
        ({"lora_bias": True}, "sets lora_bias"),
        ({"peft_type": "IA3"}, "IA3 adapter; only LoRA"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}, "PROMPT_TUNING adapter; only"),
    ],
)
def test_what_is_no_plain_lora_is_refused(tmp_path, config, words):
    with pytest.raises(FtlabError, match=words):
        open_lora(lora(tmp_path, **config))


def test_factors_that_do_not_fit_together_are_refused(tmp_path):
    found = open_lora(lora(tmp_path, rank_of_b=RANK + 1))
    with pytest.raises(FtlabError, match="do not fit together"):
        found.pair(f"{MODULE}.weight")


def test_a_missing_configuration_and_a_file_without_pairs_are_said(tmp_path):
    with pytest.raises(FtlabError, match=r"no adapter_config\.json that can be read"):
        open_lora(tmp_path)
    write_lora(tmp_path, {"other": some(1, 1)})
    with pytest.raises(FtlabError, match="no pair of lora_A and lora_B"):
        open_lora(tmp_path)
