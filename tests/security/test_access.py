"""Which local folders and files a visitor may name, in whatever way they are written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.jobs.inputs import Access, demo_access, is_path, lies_within
from ftlab.models.reference import BUNDLED_ID
from ftlab.playground.panes import BASE
from ftlab.playground.requests import check_named
from ftlab.records.run import RunDirectory
from ftlab.tabs.api import api_request
from ftlab.tabs.experiment.request import allowed_values, read_form
from ftlab.tabs.experiment.task import preview_html
from ftlab.tabs.plan.request import read_plan
from ftlab.tasks.reference import TaskReference
from tests.fakes import make_run

CSV = "prompt,completion\n" + "".join(f"q{n},a{n}\n" for n in range(12))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """allowed/ with a model and a file in it, secret/ beside it, and links from one to another."""
    for name in ("allowed/model", "secret/model", "allowed-not"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
        (folder / "model.safetensors").write_bytes(b"")
        (folder / "data.csv").write_text(CSV)
    (tmp_path / "allowed/out").symlink_to(tmp_path / "secret")
    (tmp_path / "allowed/out.csv").symlink_to(tmp_path / "secret/model/data.csv")
    (tmp_path / "allowed/etc").symlink_to("/etc")
    (tmp_path / "allowed/loop").symlink_to(tmp_path / "allowed/loop")
    (tmp_path / "inside").symlink_to(tmp_path / "allowed/model")
    return tmp_path


@pytest.fixture
def access(place: Path) -> Access:
    return Access(folders=(place / "allowed",), uploads=place / "uploads")


def hostile_paths(place: Path) -> list[str]:
    """Paths that lead out of allowed/, that only look as though they led in, or that are none."""
    allowed, secret = place / "allowed", place / "secret"
    ways_up = "../" * 30
    return [
        str(secret / "model"), f"{secret}/model/", f"//{str(secret)[1:]}/model", f" {secret}/x ",
        f"{allowed}/../secret/model", f"{allowed}/model/../../secret/model",
        f"{allowed}/./model/../.././secret/model", f"{allowed}//..//secret/model",
        str(allowed / "out/model"), f"{allowed}/out/", str(allowed / "out.csv"),
        f"{allowed}/model/../out/model", f"{allowed}/etc", f"{allowed}/etc/passwd",
        f"{allowed}-not", f"{allowed}-not/data.csv", f"{allowed}/loop", f"{allowed}/loop/model",
        "/", "/etc", "/etc/passwd", "/proc/self/environ", "/proc/self/root/etc", "/dev/stdin",
        "/proc/self/cwd", f"{ways_up}etc/passwd", f"./{ways_up}etc", "..", "../..", ".", "./",
        "./runs",
        "~", "~/", "~root", "~root/.ssh/id_rsa", "~nobody-of-that-name", f"~{allowed}",
        f"{allowed}\x00/../../secret", f"{allowed}/model\x00.csv", "\x00", "\x00/etc/passwd",
        f"/etc/passwd\x00{allowed}", "C:\\models\\x", "C:/models/x", "c:x", "\\\\server\\share\\x",
        "\\etc\\passwd", f"{allowed}\\..\\..\\secret", f"{allowed}/model\\..\\..\\secret",
        "\\\\?\\C:\\x", "\\\\.\\pipe\\x", "file:///etc/passwd", "FILE:///etc/passwd", "file:etc",
        "file://localhost/etc/passwd", "a/../../etc/passwd", "a/../..", "x/..", f"{allowed}/..",
        f"{allowed}/model/../..", "/" + "a" * 5000, "./" + "a/" * 3000, f"{allowed}/" + "../" * 500,
        "/\u2025/etc", ".\u2215etc", "/etc/\n", "/etc\t", "/var/lib", str(place), f"{place}/.",
    ]  # fmt: skip


HOW_MANY = len(hostile_paths(Path("/x")))


@pytest.mark.hostile("local paths")
def test_no_path_leads_out_of_a_listed_folder(
    place: Path, access: Access, record_property: pytest.RecordProperty
) -> None:
    for path in hostile_paths(place):
        assert is_path(path), path
        assert not lies_within(path, access.folders or ()), path
        for check in (access.check_model, access.check_task_text):
            with pytest.raises(FtlabError, match="may be named here") as error:
                check(path)
            assert "\x00" not in str(error.value)
            assert len(str(error.value)) < 1000
        with pytest.raises(FtlabError, match="may be named here"):
            access.check_task(TaskReference("file", path))
    record_property("hostile inputs", 3 * HOW_MANY)


def test_what_lies_within_may_be_named(place: Path, access: Access) -> None:
    (place / "uploads/ab").mkdir(parents=True)
    for name in (
        "allowed/model", "allowed/model/../model", "allowed/out/../allowed/model", "inside",
        "secret/../allowed/model", "allowed", "uploads/ab", "allowed/not-there-yet",
    ):  # fmt: skip
        access.check_model(str(place / name))
    access.check_task(TaskReference("file", str(place / "allowed/model/data.csv")))
    access.check_task_text(str(place / "allowed/model/data.csv"))


def test_a_relative_path_is_judged_from_where_the_app_runs(
    place: Path, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    access.check_model("allowed/model")
    with pytest.raises(FtlabError, match="does not lie in a folder"):
        access.check_model("secret/model")  # looks like a Hub id, but names a folder here


@pytest.mark.parametrize("name", ["bundled", BUNDLED_ID, "gpt2", "owner/name", "sql", ""])
def test_what_is_no_path_is_left_to_the_usual_check(name: str, access: Access) -> None:
    access.check_model(name)


def test_the_operator_names_what_there_is(place: Path) -> None:
    Access().check_model(str(place / "secret"))
    Access().check_task_text("/etc/passwd")


def test_where_no_folder_is_listed_the_way_out_is_said() -> None:
    with pytest.raises(FtlabError, match="the operator can list folders with --allow-folder"):
        Access(folders=()).check_model("/etc")


@pytest.mark.hostile("local paths")
def test_a_form_says_the_same_of_a_path_that_is_there_and_of_one_that_is_not(
    place: Path, access: Access
) -> None:
    """Or a visitor could find out what lies on the machine."""
    sentences = []
    for path in (place / "secret/model", place / "secret/nothing"):
        values = {"model": "folder", "model_name": str(path), "task": "sql", "methods": ["lora"]}
        reading = read_form(values, access)
        assert [error.field for error in reading.errors] == ["model"]
        assert reading.request.model == "bundled"
        sentences.append(reading.errors[0].message.replace(str(path), ""))
    assert sentences[0] == sentences[1]


@pytest.mark.hostile("local paths")
def test_nothing_is_previewed_of_a_file_that_may_not_be_named(place: Path, access: Access) -> None:
    values = {"task": "file", "file": str(place / "secret/model/data.csv"), "model": "bundled"}
    assert "q1" in preview_html(values)
    assert preview_html(allowed_values(values, access)) == ""


def request(model: str, task: TaskReference, access: Access) -> Any:
    return api_request(model, task, ["lora"], "0", {}, {}, access).checked()


@pytest.mark.hostile("local paths")
def test_the_api_takes_no_model_and_no_file_from_elsewhere(
    place: Path, access: Access, record_property: pytest.RecordProperty
) -> None:
    sql = TaskReference("bundled", "sql")
    for path in hostile_paths(place):
        with pytest.raises(InvalidRequest, match="may be named here"):
            request(path, sql, access)
        with pytest.raises(InvalidRequest, match="may be named here"):
            request("bundled", TaskReference("file", path), access)
    record_property("hostile inputs", 2 * HOW_MANY)


@pytest.mark.hostile("local paths")
def test_plan_reads_no_config_from_elsewhere(
    place: Path, access: Access, record_property: pytest.RecordProperty
) -> None:
    from tests.tabs.plan.test_tab import values

    for path in hostile_paths(place):
        for field in ("model", "config"):
            with pytest.raises(InvalidRequest, match="may be named here"):
                read_plan(values(**{field: path}), access)
    record_property("hostile inputs", 2 * HOW_MANY)


@pytest.mark.hostile("local paths")
def test_the_playground_answers_on_no_base_from_elsewhere(
    place: Path, access: Access, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    for path in hostile_paths(place):
        with pytest.raises(InvalidRequest, match="may be named here"):
            check_named([BASE], path, tmp_path, access)
    check_named([BASE], None, tmp_path, access)
    check_named([BASE, "no-such-run"], BUNDLED_ID, tmp_path, access)
    record_property("hostile inputs", HOW_MANY)


def test_the_base_of_a_run_was_named_by_the_operator(place: Path, access: Access) -> None:
    model = str(place / "secret/model")
    run = make_run(place / "runs", "lora", model=model)
    assert RunDirectory(place / "runs" / run.run_id).spec().model == model
    check_named([run.run_id], model, place / "runs", access)
    check_named([run.run_id], None, place / "runs", access)
    with pytest.raises(InvalidRequest, match="may be named here"):
        check_named([BASE], model, place / "runs", access)


@pytest.mark.hostile("local paths")
@pytest.mark.parametrize("name", ["gpt2", "owner/name", "/etc", "~", "hub:owner/name"])
def test_a_demo_asks_nobody_and_opens_nothing(name: str) -> None:
    with pytest.raises(FtlabError, match=r"demo asks the Hugging Face Hub|may be named here"):
        demo_access().check_model(name)
    with pytest.raises(FtlabError):
        demo_access().check_task(TaskReference("hub", name))


def test_a_demo_plans_what_is_in_the_catalogue_or_pasted() -> None:
    from tests.tabs.plan.test_tab import values

    read_plan(values(), demo_access())
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2,
              "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 320}  # fmt: skip
    read_plan(values(config=json.dumps(config)), demo_access())


def test_a_listed_folder_may_itself_be_a_link(place: Path) -> None:
    assert lies_within(str(place / "inside/config.json"), [place / "inside"])
    assert lies_within(str(place / "allowed/model"), [place / "inside"])
    assert not lies_within(str(place / "secret"), [place / "inside"])


def test_a_folder_that_a_link_was_put_in_place_of_is_judged_anew(
    place: Path, access: Access
) -> None:
    new = place / "allowed/new"
    new.mkdir()
    access.check_model(str(new))
    new.rmdir()
    os.symlink(place / "secret", new)
    with pytest.raises(FtlabError, match="may be named here"):
        access.check_model(str(new))
