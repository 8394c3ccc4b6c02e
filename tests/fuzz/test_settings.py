"""What people write: variants, configurations, models, forms. A request or a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from ftlab.__main__ import main
from ftlab.learn.photo import read_photo
from ftlab.methods.by_hand import canonical_config, config_label
from ftlab.methods.dimensions import shape_from
from ftlab.methods.limits import read_budget
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import (
    apply_settings,
    format_variant,
    parse_variant,
    read_variants,
    validate_variant,
)
from ftlab.models.reference import is_owned_hub_id, model_label, parse_model
from ftlab.models.resolve import describe_shape
from ftlab.playground.adapter_files import check_config, public_name
from ftlab.prediction.adapters import adapter_from
from ftlab.prediction.source import find_config
from ftlab.records.run import parse_tags
from ftlab.tabs.experiment.request import read_form
from ftlab.tabs.plan.request import curve_questions, read_plan
from tests.fuzz.conftest import Fuzz
from tests.fuzz.strategies import as_json, damaged, scalars, texts, torn, values
from tests.playground.adapters import CONFIG

METHOD = st.sampled_from(list(METHODS)) | texts(20)
VARIANTS = st.builds(
    lambda method, settings: f"{method}:{','.join(f'{name}={value}' for name, value in settings)}",
    METHOD,
    st.lists(
        st.tuples(
            st.sampled_from(["r", "alpha", "dropout", "targets", "learning_rate", "base", "tokens"])
            | texts(12),
            scalars().map(str) | values().map(json.dumps),
        ),
        max_size=4,
    ),
)
MODEL_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "vocab_size": 320,
}
C3A = {"peft_type": "C3A", "block_size": 64, "target_modules": ["q_proj"]}


@pytest.mark.hostile("fuzzed variants")
def test_a_variant_is_read_checked_and_written_or_a_sentence(fuzz: Fuzz) -> None:
    def read(text: str) -> None:
        variant = parse_variant(text)
        errors = validate_variant(variant)
        assert variant.label
        if not errors:
            assert parse_variant(format_variant(variant)) == variant

    fuzz(VARIANTS | texts(), read, 40)
    settings = st.lists(texts(20) | texts(9).map("lora.r={}".format), max_size=3)
    fuzz(settings, lambda given: apply_settings([parse_variant("lora")], given), 20)


@pytest.mark.hostile("fuzzed PeftConfigs")
def test_a_peft_config_by_hand_is_read_and_named_or_a_sentence(fuzz: Fuzz) -> None:
    def read(text: str) -> None:
        canonical = canonical_config(text)
        assert canonical_config(canonical) == canonical
        assert config_label({"config": canonical}).isprintable()

    for whole in (C3A, CONFIG):
        fuzz(damaged(whole).map(json.dumps), read, 24)
    fuzz(torn(as_json(C3A)).map(lambda data: data.decode("latin-1")), read, 20)
    fuzz((values() | damaged([C3A, C3A])).map(json.dumps), read_variants, 30)
    fuzz(damaged(CONFIG), adapter_from_any, 20)


def adapter_from_any(config: Any) -> None:
    if isinstance(config, dict):
        adapter_from(config)


@pytest.mark.hostile("fuzzed adapter configs")
def test_an_adapter_s_config_is_facts_or_a_sentence(fuzz: Fuzz) -> None:
    def read(data: bytes) -> None:
        facts = check_config(data)
        assert facts.model.isprintable()
        assert not facts.model.startswith(("/", "~", "."))
        assert ".." not in facts.model.split("/")

    fuzz(damaged(CONFIG).map(as_json), read, 40)
    fuzz(torn(as_json(CONFIG)) | values().map(as_json), read, 30)
    fuzz(texts(), public_name, 20)


@pytest.mark.hostile("fuzzed model names")
def test_a_model_s_name_is_a_reference_or_a_sentence(fuzz: Fuzz) -> None:
    names = texts() | texts(12).map("/{}".format) | texts(12).map("a/{}".format)
    fuzz(names, parse_model, 40)
    fuzz(names, model_label, 20)
    fuzz(names, is_owned_hub_id, 20)
    fuzz(names, parse_tags, 20)


@pytest.mark.hostile("fuzzed model configs")
def test_a_pasted_model_config_is_a_plan_or_a_sentence(
    fuzz: Fuzz, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftlab.prediction.source._from_hub", lambda name: {"hub": name})

    def read(text: str) -> None:
        named = find_config(text)
        describe_shape(dict(named.config))
        shape_from({"model.layers.0.self_attn.q_proj.weight": (64, 64)}, named.config)

    fuzz(damaged(MODEL_CONFIG).map(json.dumps), read, 24)
    fuzz(texts() | values().map(json.dumps), read, 30)

    def planned(values: dict[str, Any]) -> None:
        curve_questions(read_plan(values))

    fields: dict[str, Any] = {
        "plan_config": json.dumps(MODEL_CONFIG),
        "plan_model": "bundled",
        "plan_card": "rtx-4090",
        "plan_method": "lora",
        "plan_length": 256,
        "plan_batch": 4,
        "plan_completion_tokens": 0,
        "plan_weights": "bf16",
        "plan_checkpointing": False,
        "plan_optimizer": "adamw",
        "plan_accumulation": 1,
    }
    fuzz(_with_wrong_values(fields), planned, 24)
    configs = damaged(MODEL_CONFIG).map(json.dumps)
    fuzz(configs.map(lambda text: fields | {"plan_config": text}), planned, 20)


@pytest.mark.hostile("fuzzed forms")
def test_a_form_of_the_page_is_a_request_or_sentences_beside_its_fields(fuzz: Fuzz) -> None:
    fields: dict[str, Any] = {
        "model": "bundled",
        "model_name": "",
        "task": "sql",
        "file": "",
        "hub.id": "",
        "hub.config": "",
        "hub.split": "",
        "map.prompt": None,
        "metric": None,
        "methods": ["lora", "full"],
        "settings.steps": 10,
        "settings.learning_rate": "",
        "settings.schedule": "cosine",
        "settings.optimizer": "adamw",
        "settings.gradient_checkpointing": False,
        "settings.weight_decay": 0,
        "seeds": "0",
        "lora.r": 8,
        "lora.learning_rate": "",
        "lora.base": "",
        "extra": "",
        "peft_json": "",
        "match": "",
        "dtype_policy": "bf16",
        "device": "cpu",
        "report_to": "",
    }

    def read(values: dict[str, Any]) -> None:
        reading = read_form(values)
        for error in reading.errors:
            assert isinstance(error.field, str)
            assert 0 < len(error.message) < 2_000
        reading.checked()

    fuzz(_with_wrong_values(fields), read, 40)
    kinds = st.sampled_from(["folder", "hub"])
    fuzz(
        st.tuples(kinds, texts(), st.sampled_from(["file", "hub"]), texts()).map(
            lambda given: (
                fields
                | {"model": given[0], "model_name": given[1], "task": given[2]}
                | {"file": given[3], "hub.id": given[3]}
            )
        ),
        read,
        24,
    )


@pytest.mark.hostile("fuzzed budgets")
def test_a_budget_of_parameters_is_a_number_or_a_sentence(fuzz: Fuzz) -> None:
    shape = shape_from({"model.layers.0.self_attn.q_proj.weight": (64, 64)}, MODEL_CONFIG)
    fuzz(texts() | VARIANTS | st.from_regex(r"[0-9,.ekmb]{1,20}"), lambda t: read_budget(t, shape))


@pytest.mark.hostile("fuzzed command lines")
def test_a_command_line_ends_with_a_status_and_no_traceback(
    fuzz: Fuzz, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(arguments: list[str]) -> None:
        try:
            status = main(arguments)
        except SystemExit as end:  # argparse
            status = end.code if isinstance(end.code, int) else 1
        assert status in (0, 1, 2)
        said = capfd.readouterr().err
        assert "Traceback" not in said
        assert all(char.isprintable() or char in "\n\t" for char in said)

    runs = ["--runs-dir", str(tmp_path / "runs")]
    word = texts(30)
    fuzz(
        word.map(lambda text: ["report", "-o", str(tmp_path / "r.html"), *runs, "--", text]),
        run,
        12,
    )
    fuzz(word.map(lambda text: ["cancel", *runs, "--", text]), run, 12)
    fuzz(word.map(lambda text: ["script", *runs, "--", text]), run, 12)
    fuzz(
        st.tuples(VARIANTS | word, word).map(
            lambda given: ["predict", f"--methods={given[0]}", f"--model={given[1]}", "--steps=x"]
        ),
        run,
        12,
    )


@pytest.mark.hostile("fuzzed photos")
def test_a_photo_is_a_picture_or_a_sentence(tmp_path: Path, fuzz: Fuzz) -> None:
    from PIL import Image

    for kind in ("png", "jpeg", "gif", "webp", "bmp", "tiff"):
        path = tmp_path / f"a.{kind}"
        Image.radial_gradient("L").resize((24, 16)).convert("RGB").save(path, kind)
        fuzz(torn(path.read_bytes()) | st.binary(max_size=60), _photo_of(path), 12)


def _photo_of(path: Path) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        path.write_bytes(data)
        assert max(read_photo(path).shape) <= 300

    return read


def _with_wrong_values(fields: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """The form with up to four of its fields set to anything; none is missing."""
    wrong = st.dictionaries(
        st.sampled_from(list(fields)),
        scalars() | texts() | VARIANTS | values() | damaged(C3A).map(json.dumps),
        min_size=1,
        max_size=4,
    )
    return wrong.map(lambda values: fields | values)
