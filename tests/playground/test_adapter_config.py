"""Which adapter configurations are accepted; the lists are compared with the installed PEFT."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.methods.peft_rules import BASE_CHANGING_INITS, CANNOT_ANSWER, PEFT_TYPES
from ftlab.methods.registry import METHODS
from ftlab.playground.adapter_files import check_config, public_name
from tests.playground.adapters import config_bytes

BASE_KEEPING_INITS = ("gaussian", "eva", "orthogonal", "mica")


def test_the_list_of_adapter_kinds_is_that_of_the_installed_peft() -> None:
    from peft.utils.peft_types import PeftType

    assert sorted(PEFT_TYPES) == sorted(kind.value for kind in PeftType)
    assert set(CANNOT_ANSWER) < set(PEFT_TYPES)


def test_every_initialisation_of_peft_is_known() -> None:
    from peft.tuners.lora.layer import LoraLayer

    source = inspect.getsource(LoraLayer.update_layer)
    source += inspect.getsource(LoraLayer.reset_lora_parameters)
    branches = re.findall(
        r"init_lora_weights(?:\.lower\(\))?(?: == |\.startswith\()\"(\w+)", source
    )
    assert sorted(branches) == sorted(BASE_CHANGING_INITS + BASE_KEEPING_INITS)


@pytest.mark.parametrize("init", [*BASE_CHANGING_INITS, *BASE_KEEPING_INITS, True])
def test_exactly_the_initialisations_that_overwrite_base_weights_are_refused(init: Any) -> None:
    assert _changes_base(init) == (init in BASE_CHANGING_INITS)
    config = config_bytes(init_lora_weights=init)
    if init in BASE_CHANGING_INITS:
        with pytest.raises(FtlabError, match="relative to changed base weights"):
            check_config(config)
    else:
        assert check_config(config).rank == 2


def _changes_base(init: Any) -> bool:
    """Whether PEFT's own layer, initialised so, leaves another weight in the base layer."""
    import torch
    from peft import LoraConfig
    from peft.tuners.lora import LoraGAConfig
    from peft.tuners.lora.layer import Linear

    torch.manual_seed(0)
    base = torch.nn.Linear(64, 64, bias=False)
    before = base.weight.detach().clone()
    more: dict[str, Any] = {}
    if init == "loftq":
        pytest.importorskip("scipy")
        more["loftq_config"] = {"loftq_bits": 4, "loftq_iter": 1}
    if init == "lora_ga":
        base._peft_loraga_grad = torch.randn(64, 64)
        more["lora_ga_config"] = LoraGAConfig()
    if init == "corda":
        u, s, v = torch.linalg.svd(before)
        base.eigens = SimpleNamespace(S_WC=s[:2], U_WC=u[:, :2], V_WC=v[:2].T)
    config = LoraConfig(r=2, lora_alpha=4, init_lora_weights=init, **more)
    Linear(base, "default", config=config, r=2, lora_alpha=4)
    return not torch.equal(base.weight, before)


@pytest.mark.parametrize(
    ("init", "way_out"),
    [
        ("PiSSA", "path_initial_model_for_weight_conversion"),
        ("pissa_niter_16", "path_initial_model_for_weight_conversion"),
        ("OLoRA", "path_initial_model_for_weight_conversion"),
        ("loftq", "trained on the published weights"),  # PEFT cannot convert it
    ],
)
def test_an_initialisation_that_changes_the_base_is_refused_with_the_way_out(
    init: str, way_out: str
) -> None:
    with pytest.raises(FtlabError, match=way_out):
        check_config(config_bytes(init_lora_weights=init))


@pytest.mark.parametrize("kind", sorted(set(PEFT_TYPES) - set(CANNOT_ANSWER)))
def test_every_other_kind_is_accepted_with_the_label_of_its_method(kind: str) -> None:
    facts = check_config(config_bytes(peft_type=kind, num_virtual_tokens=4))
    assert facts.method == kind.lower()
    label = METHODS[facts.method].label if facts.method in METHODS else kind
    tokens = " 4 tokens" if kind in ("PROMPT_TUNING", "P_TUNING") else ""
    assert facts.summary == label + (" r=2" if kind == "LORA" else tokens)


@pytest.mark.parametrize("kind", sorted(CANNOT_ANSWER))
def test_a_kind_that_cannot_answer_alone_is_refused_with_the_reason(kind: str) -> None:
    with pytest.raises(FtlabError, match=f"{kind} adapter cannot answer in a pane of its own: ..."):
        check_config(config_bytes(peft_type=kind))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"peft_type": "LoRA"}, "peft_type 'LoRA', which PEFT"),
        ({"peft_type": ...}, "peft_type None"),
        ({"peft_type": ["LORA"]}, r"peft_type \['LORA'\]"),
        ({"task_type": "SEQ_CLS"}, "task_type 'SEQ_CLS', and only CAUSAL_LM"),
        ({"task_type": {}}, "task_type {}"),
        ({"base_model_name_or_path": ...}, "does not say which model"),
        ({"base_model_name_or_path": None}, "does not say which model"),
        ({"base_model_name_or_path": "  "}, "does not say which model"),
        ({"base_model_name_or_path": 3}, "does not say which model"),
        ({"base_model_name_or_path": "/"}, "names no model"),
        ({"base_model_name_or_path": "a\u001b[31m"}, "names no model"),
        ({"base_model_name_or_path": "a\ud800"}, "names no model"),
        ({"base_model_name_or_path": "x" * 300}, "names no model"),
        ({"auto_mapping": {"base_model_class": "X", "parent_library": "evil"}}, "import 'evil'"),
        (
            {"auto_mapping": {"base_model_class": "X", "parent_library": "transformers_evil"}},
            "import 'transformers_evil'",
        ),
        ({"auto_mapping": "os"}, "asks in auto_mapping"),
        (
            {
                "auto_mapping": {
                    "base_model_class": "BertForSequenceClassification",
                    "parent_library": "transformers.models.bert.modeling_bert",
                }
            },
            "writes no text",
        ),
        ({"auto_map": {"AutoConfig": "a.B"}}, "code of its own .'auto_map'"),
        ({"custom_modules": {"a": "b"}}, "code of its own .'custom_modules'"),
        ({"megatron_config": {"a": 1}}, "code of its own .'megatron_config'"),
        ({"arrow_config": {"top_k": 2}}, "arrow_config"),
        ({"shadow_model": "owner/other"}, "second model"),
        ({"kasa_config": {"beta": 1}}, "KaSA"),
        ({"layer_replication": [[0, 4], [2, 5]]}, "layer_replication"),
        ({"bias": "all"}, "bias='all'"),
        ({"r": 0}, "r=0, which is no whole number"),
        ({"r": True}, "r=True"),
        ({"r": "8"}, "r='8'"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"rank_pattern": {"q": 1.5}}, "rank_pattern=1.5"),
        ({"peft_type": "PROMPT_TUNING"}, "num_virtual_tokens=None"),
    ],
)
def test_an_unusable_configuration_is_refused_in_one_sentence(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(FtlabError, match=sentence) as error:
        check_config(config_bytes(**changes))
    assert str(error.value).isprintable()
    assert str(error.value).endswith(".")
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"lora_dropout": NaN}', "not valid JSON"),
        (b'{"r": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"r": 4, "r": 8}', "names 'r' twice"),
        (b'{"r": 1e400}', "a number that is too large"),
        (b"[]", "holds no JSON object"),
        (b'"text"', "holds no JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "more than 32 levels"),
    ],
)
def test_an_invalid_json_file_is_refused(data: bytes, sentence: str) -> None:
    with pytest.raises(FtlabError, match=sentence):
        check_config(data)


def test_the_configurations_that_peft_writes_are_accepted(tmp_path: Path) -> None:
    from peft import LoraConfig

    LoraConfig(task_type="CAUSAL_LM", base_model_name_or_path="a/b").save_pretrained(tmp_path)
    facts = check_config((tmp_path / "adapter_config.json").read_bytes())
    assert (facts.model, facts.rank, facts.summary) == ("a/b", 8, "LoRA r=8")
    mapping = {
        "base_model_class": "LlamaForCausalLM",
        "parent_library": "transformers.models.llama.modeling_llama",
    }
    without_task = config_bytes(task_type=None, auto_mapping=mapping)
    assert check_config(without_task).rank == 2
    assert check_config(config_bytes(rank_pattern={"q_proj": 16, "v_proj": 1})).rank == 16


@pytest.mark.parametrize(
    ("named", "public"),
    [
        ("owner/name", "owner/name"),
        ("gpt2", "gpt2"),
        ("owner/name/", "owner/name"),
        ("/home/alice/models/my-model", "my-model"),
        ("/home/alice/models/my-model/", "my-model"),
        ("./my-model", "my-model"),
        ("~/secret/my-model", "my-model"),
        ("../../my-model", "my-model"),
        ("work/alice/my-model", "my-model"),
        ("C:\\Users\\alice\\my-model", "my-model"),
        ("\\\\server\\share\\my-model", "my-model"),
        ("file:///home/alice/my-model", "my-model"),
        ("/home/alice/.cache/huggingface/hub/models--owner--name/snapshots/ab12", "owner/name"),
        ("/data/hub/models--gpt2/snapshots/ab12", "gpt2"),
        ("/", ""),
        ("..", ""),
    ],
)
def test_the_public_name_of_a_base_model_contains_no_path(named: str, public: str) -> None:
    assert public_name(named) == public


def test_a_configuration_with_many_keys_is_read() -> None:
    config = json.loads(config_bytes()) | {f"key{i}": i for i in range(50_000)}
    assert check_config(json.dumps(config).encode()).rank == 2
