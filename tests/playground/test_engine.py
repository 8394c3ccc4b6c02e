"""Requests to the engine: every pane ends once, errors stay where they are, the base stays it."""

from __future__ import annotations

import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ftlab.basics.errors import FtlabError
from ftlab.playground import engine as engine_module
from ftlab.playground.attach import Attached
from ftlab.playground.engine import FULL_MODELS_SHARE, Adapters, Engine, FullModels, free_on
from ftlab.playground.panes import WEIGHTS_FILE, PaneSource, find_source
from ftlab.playground.requests import GenerateRequest, PaneUpdate, Stopped
from ftlab.tasks.spec import Message
from tests.playground.asking import answers_of, finals, logits, texts, updates_of
from tests.playground.conftest import AddAdapter, AddRun, NewEngine, SaveAdapter
from tests.playground.kinds import chat_ids, generated, load_plain, spelt
from tests.tiny import make_tiny_model


def test_text_grows_in_every_pane_and_each_ends_once(
    engine: Engine, add_run: AddRun, ask: GenerateRequest
) -> None:
    panes = (add_run("lora").run_id, "base", add_run("prompt_tuning").run_id)
    updates = updates_of(engine, replace(ask, panes=panes, model=None))  # the runs' own base
    for pane in range(3):
        kinds = [update.kind for update in updates if update.pane == pane]
        assert kinds[0] == "status"
        assert kinds[-1] == "done"
        assert kinds.count("done") == 1
    done = next(update for update in updates if update.pane == 1 and update.kind == "done")
    assert 1 <= done.tokens <= 12
    assert done.first_token_seconds is not None
    assert done.swap_seconds is None
    lora = next(update for update in updates if update.pane == 0 and update.kind == "done")
    assert lora.swap_seconds is not None


def downloads(monkeypatch: pytest.MonkeyPatch, *reports: tuple[int, int]) -> None:
    """The base is downloaded first, with these progress reports: bytes done and in total."""
    real = engine_module.resolve_model

    def fetched(name: str, say: Any, progress: Any) -> Any:
        for done, total in reports:
            progress(done, total)
        return real(name, say)

    monkeypatch.setattr(engine_module, "resolve_model", fetched)


def test_the_progress_of_a_download_is_shown_in_every_pane(
    engine: Engine, ask: GenerateRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads(monkeypatch, (0, 3_100_000_000), (1_200_000_000, 3_100_000_000), (31, 31))
    engine.unload()
    updates = updates_of(engine, replace(ask, panes=("base", "base")))
    for pane in range(2):
        told = [u.text for u in updates if u.pane == pane and u.kind == "status"]
        assert told[:4] == [
            "Loading the base model …",
            "Downloading the base model: 0.0 of 3.1 GB …",
            "Downloading the base model: 1.2 of 3.1 GB …",
            "Loading the base model …",
        ]
    assert [update.kind for update in updates if update.is_final] == ["done", "done"]


def test_a_request_can_be_cancelled_during_the_download(
    engine: Engine, ask: GenerateRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads(monkeypatch, (0, 10), (5, 10), (10, 10))
    engine.unload()
    updates: list[PaneUpdate] = []

    def check() -> None:
        if "5 of 10" in updates[-1].text:
            raise Stopped

    with pytest.raises(Stopped):
        engine.answer(ask, updates.append, check)
    assert [update.kind for update in updates] == ["status"] * 3, "a stop is no error of a pane"
    with monkeypatch.context() as patch:
        patch.undo()
        assert [update.kind for update in finals(engine, ask)] == ["done"]


def test_all_lanes_stream_at_the_same_time(
    engine: Engine, add_adapter: AddAdapter, ask: GenerateRequest
) -> None:
    request = replace(ask, panes=("base", add_adapter("dora").name))
    order = [(u.pane, u.kind) for u in updates_of(engine, request) if u.kind != "status"]
    assert order.index((1, "text")) < order.index((0, "done"))
    assert order.index((0, "text")) < order.index((1, "done"))


def test_the_base_answers_the_same_after_all_kinds_of_adapters(
    engine: Engine, add_run: AddRun, add_adapter: AddAdapter, ask: GenerateRequest
) -> None:
    before, alone = logits(engine.base), texts(engine, ask)
    kinds = ("lora", "dora", "ia3", "loha", "lokr", "prompt_tuning", "p_tuning", "prefix_tuning")
    names = [add_adapter(kind).name for kind in kinds]
    full = add_run("full").run_id
    for place in range(0, len(names), 4):
        panes = ("base", *names[place : place + 4], full)
        assert texts(engine, ask, *panes)[0] == alone[0]
    assert torch.equal(logits(engine.base), before)
    assert texts(engine, ask) == alone
    assert not any("lora" in name for name, _ in engine.base.named_modules())


def test_an_adapter_that_writes_into_the_base_is_reported_and_everything_is_unloaded(
    engine: Engine, add_adapter: AddAdapter, ask: GenerateRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = texts(engine, ask)
    honest, sly = add_adapter("lora").name, add_adapter("lora").name
    attach = engine_module.attach

    def write(base: Any, source: PaneSource) -> Attached:
        if source.name == sly:
            with torch.no_grad():
                base.model.norm.weight.mul_(2)
        return attach(base, source)

    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "attach", write)
        found = finals(engine, ask, "base", honest, sly, "no-such-run")
    assert [update.kind for update in found] == ["error"] * 4
    assert all("An adapter changed the base's own weights" in u.text for u in found[:3])
    assert engine._base is None
    assert texts(engine, ask, "base", honest)[0] == alone[0], "the base was not loaded anew"


def test_an_adapter_that_puts_other_weights_in_the_bases_place_is_noticed(
    engine: Engine, add_adapter: AddAdapter, ask: GenerateRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach = engine_module.attach

    def swap(base: Any, source: PaneSource) -> Attached:
        weight = base.model.layers[0].self_attn.q_proj.weight
        weight.data = weight.data + 1  # as PiSSA's start does
        return attach(base, source)

    monkeypatch.setattr(engine_module, "attach", swap)
    found = finals(engine, ask, "base", add_adapter("lora").name)
    assert all("An adapter changed the base's own weights" in update.text for update in found)


def test_every_error_is_reported_in_its_own_pane(
    engine: Engine, add_run: AddRun, add_adapter: AddAdapter, ask: GenerateRequest, tmp_path: Path
) -> None:
    other = make_tiny_model(tmp_path / "other-llama")
    lost, foreign = add_run("lora"), add_adapter("lora", base=other)
    soft = add_adapter("prompt_tuning", num_virtual_tokens=120).name
    alone = texts(engine, ask, "base", lost.run_id)
    shutil.rmtree(lost.path)  # between two prompts
    panes = ("no-such-run", "base", foreign.name, lost.run_id, soft, "adapter:../../etc")
    found = finals(engine, ask, *panes)
    assert [u.kind for u in found] == ["error", "done", "error", "error", "error", "error"]
    assert found[1].text == alone[0]
    for place, part in [
        (0, "There is no run 'no-such-run'"),
        (2, "of 'lora' names other-llama as its base; its 28 tensors fit tiny-llama. If"),
        (3, f"There is no run '{lost.run_id}'"),
        (4, "and 120 soft tokens before it; the model's context is 128 tokens"),
        (5, "'../../etc' names no adapter"),
    ]:
        assert part in found[place].text
        assert "\n" not in found[place].text


def test_a_prompt_beyond_the_context_is_refused_and_a_long_one_uses_the_remaining_tokens(
    engine: Engine, ask: GenerateRequest
) -> None:
    (long,) = finals(engine, replace(ask, prompt="x " * 200))
    assert long.kind == "error"
    assert "the model's context is 128 tokens and the answer needs some of them" in long.text
    (tight,) = finals(engine, replace(ask, prompt="x" * 100, max_new_tokens=100))
    assert tight.kind == "done"
    assert 1 <= tight.tokens < 28


def test_a_prompt_that_cannot_be_tokenised_is_reported_in_its_panes(
    engine: Engine, add_adapter: AddAdapter, ask: GenerateRequest
) -> None:
    request = replace(ask, panes=("base", add_adapter("prompt_tuning").name))
    ends = answers_of(engine, request, ["good", "half a character: \ud800"])
    assert [ends[0, pane].kind for pane in (0, 1)] == ["done", "done"]
    assert [ends[1, pane].kind for pane in (0, 1)] == ["error", "error"]
    assert ends[1, 0].text.startswith("The prompt could not be read")


def test_an_error_of_the_chat_template_is_reported_in_every_pane(
    tmp_path: Path, new_engine: NewEngine, ask: GenerateRequest
) -> None:
    model = make_tiny_model(
        tmp_path / "strict", chat_template="{{ raise_exception('no turns here') }}"
    )
    engine = new_engine("fp32", model)
    found = finals(engine, replace(ask, model=str(model)), "base", "no-such-run", "base")
    assert [update.kind for update in found] == ["error"] * 3
    assert "The model's chat template refuses these turns (user)" in found[0].text
    assert "There is no run" in found[1].text


def test_a_model_that_cannot_be_loaded_is_reported_in_every_pane(
    engine: Engine, ask: GenerateRequest
) -> None:
    found = finals(engine, replace(ask, model="/no/such/model"), "base", "base")
    assert [update.text for update in found] == ["There is no model folder '/no/such/model'."] * 2


def test_a_stop_ends_the_whole_request(
    engine: Engine, add_adapter: AddAdapter, ask: GenerateRequest
) -> None:
    updates: list[PaneUpdate] = []

    def check() -> None:
        if any(update.kind == "text" for update in updates):
            raise Stopped

    with pytest.raises(Stopped):
        engine.answer(replace(ask, panes=("base", add_adapter("dora").name)), updates.append, check)
    assert not any(update.is_final for update in updates)
    assert [update.kind for update in finals(engine, ask)] == ["done"], "it goes on after a stop"


def test_several_prompts_are_answered_as_each_alone(
    engine: Engine, add_run: AddRun, add_adapter: AddAdapter, ask: GenerateRequest
) -> None:
    prompts = ["a", "the capital of France", "how many singers are there", "x" * 130]
    panes = ("base", add_run("lora").run_id, add_adapter("prompt_tuning").name, "no-such-run")
    ends = answers_of(engine, replace(ask, panes=panes), prompts)
    for place, prompt in enumerate(prompts):
        alone = finals(engine, replace(ask, panes=panes, prompt=prompt))
        for pane, update in enumerate(alone):
            assert (ends[place, pane].kind, ends[place, pane].text) == (update.kind, update.text)
    assert [ends[3, pane].kind for pane in range(4)] == ["error"] * 4


def test_completion_continues_plain_text(
    engine: Engine, ask: GenerateRequest, tiny_model: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model)
    prompt = "Once upon"
    plain = generated(load_plain(tiny_model, None), tokenizer(prompt)["input_ids"], 12)
    wanted = tokenizer.decode(plain, skip_special_tokens=True)
    chat = replace(ask, prompt=prompt, system="ignored", histories=())
    assert texts(engine, replace(chat, mode="completion")) == [wanted]
    assert texts(engine, chat) != [wanted]


def test_system_prompt_and_earlier_turns_reach_the_model(
    engine: Engine, ask: GenerateRequest, tiny_model: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model)
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "He."},
        {"role": "user", "content": ask.prompt},
    ]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    wanted = spelt(tiny_model, generated(load_plain(tiny_model, None), ids, 12))
    history = (Message("user", "Who?"), Message("assistant", "He."))
    request = replace(ask, system=" Be brief. ", histories=(history,))
    assert texts(engine, request) == [wanted]
    assert texts(engine, replace(request, system=" ", histories=())) == [
        spelt(
            tiny_model,
            generated(load_plain(tiny_model, None), chat_ids(tiny_model, ask.prompt), 12),
        )
    ]


def test_another_base_or_precision_takes_the_place_of_the_first(
    engine: Engine, add_run: AddRun, ask: GenerateRequest, tiny_model: Path, tmp_path: Path
) -> None:
    finals(engine, ask, add_run("lora").run_id)
    other = tmp_path / "other"
    other.symlink_to(tiny_model)
    copied = shutil.copytree(tiny_model, tmp_path / "copied")
    base = engine.base
    finals(engine, replace(ask, model=str(other)))
    assert engine.base is base, "the same folder under another name is the same model"
    finals(engine, replace(ask, model=str(copied)))
    assert engine.base is not base
    assert not engine.adapters.names
    base = engine.base
    finals(engine, replace(ask, model=str(copied), precision="bf16"))
    assert engine.base is not base
    assert engine.base.dtype is torch.bfloat16


def test_adapters_stay_loaded_within_their_share_of_the_memory(
    engine: Engine, add_adapter: AddAdapter
) -> None:
    added = [add_adapter("prompt_tuning", seed=seed) for seed in range(20)]
    names = [adapter.name for adapter in added]
    size = (added[0].folder / WEIGHTS_FILE).stat().st_size + engine_module._OBJECTS_BYTES
    engine.adapters = Adapters(engine.device, lambda: None, limit=19 * size)

    def attached(name: str, *in_use: str) -> Attached:
        return engine.attached(find_source(engine.runs_folder, name), in_use)

    loaded = [attached(name) for name in names]
    assert engine.adapters.names == names[1:]
    assert attached(names[1]) is loaded[1]
    assert engine.adapters.names[-1] == names[1], "the one just used is the last to go"
    with pytest.raises(FtlabError, match=r"no memory for another adapter: .+ fewer adapters"):
        attached(names[0], *names)
    engine.adapters = Adapters(engine.device, lambda: size, limit=19 * size)
    attached(names[0])
    engine.adapters = Adapters(engine.device, lambda: size - 1, limit=19 * size)
    with pytest.raises(FtlabError, match="no memory for another adapter"):
        attached(names[0])


def test_an_adapter_that_makes_room_is_not_held_by_the_rows_of_the_last_prompt(
    engine: Engine, add_adapter: AddAdapter, ask: GenerateRequest
) -> None:
    """Its memory would not be free, and the next adapter would be refused."""
    first, second = add_adapter("lora", seed=1).name, add_adapter("lora", seed=2).name
    engine.adapters._limit = 1  # one alone may take more
    finals(engine, ask, first)
    loaded = weakref.ref(engine.attached(find_source(engine.runs_folder, first)))
    assert finals(engine, ask, second)[0].kind == "done"
    assert engine.adapters.names == [second]
    assert loaded() is None


def test_another_file_under_the_same_name_is_another_adapter(
    engine: Engine, add_adapter: AddAdapter, save_adapter: SaveAdapter, ask: GenerateRequest
) -> None:
    lora = add_adapter("lora", noise=0.5)
    first = finals(engine, ask, lora.name)[0]
    save_adapter("lora", lora.folder, seed=2, noise=0.5)
    second = finals(engine, ask, lora.name)[0]
    assert second.adapter_sha256 != first.adapter_sha256
    assert second.text != first.text


def test_full_models_beyond_the_memory_limit_are_reported_in_their_panes(
    engine: Engine, add_run: AddRun, add_adapter: AddAdapter, ask: GenerateRequest
) -> None:
    first, second = add_run("full", seed=1).run_id, add_run("full", seed=2).run_id
    size = 2 * (engine.runs_folder / first / "adapter" / "model.safetensors").stat().st_size
    engine.full_models = FullModels(engine.device, lambda: None, limit=size * 3 // 2)
    lora = add_adapter("lora").name
    found = finals(engine, ask, "base", first, lora, second)
    assert [update.kind for update in found] == ["done", "done", "done", "error"]
    assert found[3].text.startswith("There is no memory for another full model: ")
    assert [u.kind for u in finals(engine, ask, "base", second)] == ["done", "done"]
    assert engine.full_models.names == [second]


def test_a_note_shows_another_precision_than_in_training(
    new_engine: NewEngine, add_run: AddRun, ask: GenerateRequest
) -> None:
    engine = new_engine("bf16")
    request = replace(ask, precision="bf16")
    lora, qlora = finals(engine, request, add_run("lora").run_id, add_run("qlora").run_id)
    assert lora.note == ""
    assert qlora.note.startswith("Trained on a base held in nf4; answered here on the base in 16")


def test_free_memory_and_the_limit_of_full_models_are_plausible(
    engine: Engine,
) -> None:
    free = free_on(engine.device)
    assert free is not None
    assert free > 50 << 20
    assert engine._share(FULL_MODELS_SHARE) > free // 4
