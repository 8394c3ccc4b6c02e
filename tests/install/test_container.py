"""Dockerfile, .dockerignore and compose.yaml keep their promises, read and executed."""

from __future__ import annotations

import ipaddress
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from ftlab.__main__ import build_parser
from ftlab.basics.log import is_secret_name
from tests.install import container, fresh_root
from tests.install.compose import Compose, filled
from tests.install.dockerfile import (
    Ignored,
    Image,
    NotUnderstood,
    build,
    context_files,
    instructions,
)
from tests.processes import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = Compose.read()
IGNORED = Ignored.read((ROOT / ".dockerignore").read_text(encoding="utf-8"))
VARIANTS = ("cpu", "cuda")


class Noted:
    """Steps that change nothing: what would be done, and as which user."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []
        self.arguments: Mapping[str, str] = {}

    def run(self, command: Sequence[str], image: Image, arguments: Mapping[str, str]) -> None:
        self.done.append((image.user, command[-1]))
        self.arguments = arguments

    def copy(self, sources: Sequence[str], target: str) -> None:
        self.done.append(("root", f"COPY {' '.join(sources)} {target}"))

    def make_folder(self, path: str) -> None:
        self.done.append(("root", f"WORKDIR {path}"))


@pytest.fixture(scope="module")
def noted() -> Noted:
    return Noted()


@pytest.fixture(scope="module")
def image(noted: Noted) -> Image:
    return build(DOCKERFILE, noted, {})


@pytest.mark.slow
@pytest.mark.model
def test_the_dockerfile_makes_a_root_in_which_the_app_works_behind_its_proxy() -> None:
    if why := fresh_root.why_not():
        pytest.skip(f"the Dockerfile was not executed: {why}")
    assert container.main([]) == 0


def test_the_app_runs_as_a_user_with_a_fixed_number_who_is_not_root(
    image: Image, noted: Noted
) -> None:
    assert image.user not in ("root", "0", "")
    (made,) = [step for user, step in noted.done if "useradd" in step and user == "root"]
    assert re.search(rf"useradd --uid [1-9]\d+ .*\b{image.user}\b", made)


def test_code_and_packages_are_installed_by_root_and_the_model_by_the_app_s_user(
    image: Image, noted: Noted
) -> None:
    users = {step: user for user, step in noted.done}
    (model,) = [step for step in users if "ftlab model" in step]
    assert users[model] == image.user
    assert {user for step, user in users.items() if step != model} == {"root"}


def test_packages_are_installed_before_the_code_is_copied(noted: Noted, image: Image) -> None:
    steps = [step for _, step in noted.done]
    (packages,) = [number for number, step in enumerate(steps) if "--require-hashes" in step]
    code = [number for number, step in enumerate(steps) if step.startswith("COPY ftlab")]
    assert code > [packages]


def test_the_health_check_asks_healthz_at_the_port_of_the_image(image: Image) -> None:
    assert image.healthcheck is not None
    (port,) = image.ports
    assert "'/healthz'" in image.healthcheck.command[-1]
    assert f"'127.0.0.1', {port}," in image.healthcheck.command[-1]
    assert build_parser().parse_args(list(image.command)).port == int(port)


@pytest.mark.parametrize(("answer", "status"), [(200, 0), (503, 1)])
def test_the_health_check_fails_unless_the_answer_is_200(
    image: Image, answer: int, status: int, tmp_path: Path
) -> None:
    assert image.healthcheck is not None
    (tmp_path / "http").mkdir()
    (tmp_path / "http" / "__init__.py").touch()
    (tmp_path / "http" / "client.py").write_text(
        "class HTTPConnection:\n"
        "    def __init__(self, *a, **k): pass\n"
        "    def request(self, *a): pass\n"
        f"    def getresponse(self): return type('Answer', (), {{'status': {answer}}})\n"
    )
    done = subprocess.run(
        ["python3", *image.healthcheck.command[1:]],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert done.returncode == status


def test_runs_and_cache_are_volumes_and_the_app_keeps_them_there(image: Image) -> None:
    places = image.environment
    assert image.volumes == (places["FTLAB_RUNS"], places["HOME"])
    for name in ("FTLAB_HOME", "HF_HOME"):
        assert places[name].startswith(f"{places['HOME']}/")


def test_process_1_reaps_what_runs_leave_behind(image: Image, noted: Noted) -> None:
    assert image.entrypoint[0] == "tini"
    assert any("install" in step and "tini" in step for _, step in noted.done)


def _images() -> list[str]:
    named = [each.rest for each in instructions(DOCKERFILE) if each.name == "FROM"]
    return [*named, *(str(service["image"]) for service in COMPOSE.services.values())]


@pytest.mark.parametrize("name", _images())
def test_every_image_has_a_tag_that_does_not_move_to_another_release(name: str) -> None:
    _, colon, tag = name.partition(":")
    assert colon
    assert re.fullmatch(r"cpu|cuda|\d+\.\d+-[a-z-]+", tag)


def test_no_file_holds_a_secret(image: Image, noted: Noted) -> None:
    assert not [name for name in (*image.environment, *noted.arguments) if is_secret_name(name)]
    for service in COMPOSE.services.values():
        given = service.get("environment", [])
        assert isinstance(given, list)
        assert not [each for each in given if "=" in each]


@pytest.mark.parametrize("variant", VARIANTS)
def test_compose_builds_a_variant_of_the_dockerfile_for_each_profile(variant: str) -> None:
    app = COMPOSE.app(variant)
    arguments = Noted()
    build(DOCKERFILE, arguments, app["build"]["args"])
    assert arguments.arguments["TORCH"] == variant
    assert app["profiles"] == [variant]
    assert app["image"] == f"ftlab:{variant}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_app_starts_with_a_login_and_believes_the_proxy_alone(variant: str) -> None:
    app = COMPOSE.app(variant)
    options = build_parser().parse_args(app["command"])
    (secret,) = app["secrets"]
    assert str(options.auth) == f"/run/secrets/{secret}"
    assert "file" in COMPOSE.values["secrets"][secret]
    assert options.proxy == [COMPOSE.proxy_address]
    assert ipaddress.ip_address(COMPOSE.proxy_address) in COMPOSE.network
    assert COMPOSE.an_app_address != COMPOSE.proxy_address


def test_only_the_proxy_is_published_and_it_waits_until_an_app_is_healthy() -> None:
    proxy = COMPOSE.services["proxy"]
    assert [name for name, service in COMPOSE.services.items() if service.get("ports")] == ["proxy"]
    assert {port.partition(":")[0] for port in proxy["ports"]} == {"80", "443"}
    assert proxy["profiles"] == list(VARIANTS)
    for variant in VARIANTS:
        wait = proxy["depends_on"][f"app-{variant}"]
        assert wait == {"condition": "service_healthy", "required": False}


def test_the_proxy_asks_the_app_by_a_name_and_the_port_of_the_image(image: Image) -> None:
    (asked,) = re.findall(r"reverse_proxy (\w+):(\d+)", COMPOSE.caddyfile)
    assert asked[1] == image.ports[0]
    for variant in VARIANTS:
        assert asked[0] in COMPOSE.app(variant)["networks"]["inside"]["aliases"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_volumes_of_compose_are_those_of_the_image(variant: str, image: Image) -> None:
    mounted = dict(each.split(":") for each in COMPOSE.app(variant)["volumes"])
    assert tuple(mounted.values()) == image.volumes
    assert mounted.keys() <= COMPOSE.values["volumes"].keys()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_app_has_no_capability_and_can_gain_no_rights(variant: str) -> None:
    assert COMPOSE.app(variant)["cap_drop"] == ["ALL"]
    assert COMPOSE.app(variant)["security_opt"] == ["no-new-privileges:true"]


def test_the_address_of_the_site_is_a_variable() -> None:
    assert "\nlocalhost {" in COMPOSE.caddyfile
    assert "\nlab.example {" in Compose.read({"FTLAB_SITE": "lab.example"}).caddyfile


@pytest.mark.parametrize(
    "path",
    [
        "runs/a/log.txt", ".venv/bin/python", ".git/config", "auth.txt", "auth.env", ".env",
        "build/container/x", ".mypy_cache/a", "tests/processes.py", "Dockerfile", "compose.yaml",
        "ftlab/__pycache__/a.cpython-311.pyc", "ftlab/basics/a.pyc", "docs/guide.md",
    ],
)  # fmt: skip
def test_the_context_leaves_out_what_is_not_copied(path: str) -> None:
    assert IGNORED(path)


def test_the_image_has_the_app_s_code_and_assets_to_the_last_file(noted: Noted) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "ftlab", "assets", "app.py", "requirements.txt"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    copied = [each.rest.split()[:-1] for each in instructions(DOCKERFILE) if each.name == "COPY"]
    found = {
        file.relative_to(ROOT).as_posix()
        for sources in copied
        for source in sources
        for file, _ in context_files(ROOT, source, IGNORED)
    }
    assert {path for path in listed if path} - found == set()


@pytest.mark.parametrize(
    ("rules", "path", "is_out"),
    [
        ("*", "a/b", True),
        ("*\n!a", "a/b", False),
        ("*\n!a\na/c", "a/c/d", True),
        ("*.txt", "a/b.txt", False),
        ("**/*.txt", "a/b.txt", True),
        ("**/*.txt", "b.txt", True),
        ("# *\n\n", "a", False),
        ("a?", "ab", True),
        ("/a/", "a/b", True),
    ],
)
def test_dockerignore_is_read_as_docker_reads_it(rules: str, path: str, is_out: bool) -> None:
    assert Ignored.read(rules)(path) == is_out


def _packages(tmp_path: Path, variant: str) -> tuple[int, list[str], str]:
    """What the step of the packages calls pip with, and the list that it is given."""
    (step,) = [each.rest for each in instructions(DOCKERFILE) if "--require-hashes" in each.rest]
    pip = tmp_path / "bin" / "pip"
    pip.parent.mkdir()
    pip.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
        f"if [ -f packages.txt ]; then cp packages.txt {tmp_path}/list; fi\n"
    )
    pip.chmod(0o755)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "requirements-lock.txt").write_text((ROOT / "requirements-lock.txt").read_text())
    arguments = {"TORCH": variant, "TORCH_CPU_INDEX": "https://cpu.example"}
    environment = {"PATH": f"{pip.parent}:{os.environ['PATH']}", **arguments}
    done = subprocess.run(
        ["sh", "-c", step], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    calls = tmp_path / "calls"
    lines = calls.read_text().splitlines() if calls.exists() else []
    given = tmp_path / "list"
    return done.returncode, lines, given.read_text() if given.exists() else done.stderr


def _names(lock: str) -> set[str]:
    return set(re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE))


def test_the_cpu_variant_has_all_packages_of_the_lock_file_but_those_of_cuda(
    tmp_path: Path,
) -> None:
    status, (torch, others), given = _packages(tmp_path, "cpu")
    lock = (ROOT / "requirements-lock.txt").read_text()
    left_out = _names(lock) - _names(given)
    assert status == 0
    assert {"torch", "triton", "nvidia-cublas", "cuda-toolkit", "nvidia-nccl-cu13"} <= left_out
    assert all(re.match(r"(torch|triton|cuda-.*|nvidia-.*)$", name) for name in left_out)
    assert "nvidia-ml-py" not in left_out  # ftlab's own: it looks for cards
    assert not re.search(r"^(cuda|nvidia-c|nvidia-n)", given, re.MULTILINE)
    pinned = re.findall(r"^torch==\S+", lock, re.MULTILINE)
    assert torch.split() == [
        "install", "--no-cache-dir", "--no-deps", "--index-url", "https://cpu.example", *pinned
    ]  # fmt: skip
    assert "--require-hashes" in others
    assert len(re.findall("--hash", given)) > len(_names(given))


def test_the_cuda_variant_has_the_lock_file_as_it_is(tmp_path: Path) -> None:
    status, (only,), given = _packages(tmp_path, "cuda")
    assert status == 0
    assert "--require-hashes" in only
    assert given == (ROOT / "requirements-lock.txt").read_text()


def test_another_variant_is_refused_in_one_sentence(tmp_path: Path) -> None:
    status, calls, said = _packages(tmp_path, "rocm")
    assert (status, calls) == (1, [])
    assert said == "TORCH=rocm is not a variant; give cpu or cuda.\n"


def test_what_the_interpreter_does_not_know_is_refused() -> None:
    for line in ("ONBUILD RUN x", "COPY --from=other a b", "RUN --mount=type=cache x", "CMD a"):
        with pytest.raises(NotUnderstood):
            build(f"FROM a\n{line}\n", Noted(), {})
    with pytest.raises(NotUnderstood, match="COLOUR"):
        build("FROM a\nARG TORCH=cpu\n", Noted(), {"COLOUR": "red"})
    with pytest.raises(NotUnderstood, match="stage"):
        build("FROM a\nFROM b\n", Noted(), {})


def test_continued_lines_variables_and_folders_are_read_as_docker_reads_them() -> None:
    steps = Noted()
    built = build(
        "FROM a\nARG X=1\nENV P=/q Y=${X}2\nWORKDIR $P\nWORKDIR sub\n"
        "RUN one \\\n# no\n    && two $X\nUSER u\nCOPY a b ./\nRUN three\n",
        steps,
        {"X": "5"},
    )
    assert built.environment["Y"] == "52"
    assert (built.folder, built.user) == ("/q/sub", "u")
    assert steps.done == [
        ("root", "WORKDIR /q"),
        ("root", "WORKDIR /q/sub"),
        ("root", "one     && two $X"),
        ("root", "COPY a b /q/sub/"),
        ("u", "three"),
    ]
    assert steps.arguments == {"X": "5"}


def test_compose_s_variables_are_filled_in() -> None:
    assert filled("${A:-x} ${B:-} $$C", {"A": "1"}) == "1  $C"
    assert filled("${A:-x}", {"A": ""}) == "x"


def test_without_root_nothing_is_tested_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert container.main([]) == 0
    assert capsys.readouterr().out == (
        "SKIPPED: the container was not tested: it needs root, for chroot and mounts.\n"
    )


def test_a_missing_debootstrap_is_said_with_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(fresh_root.shutil, "which", lambda name: None)
    assert "debootstrap" in fresh_root.why_not()
    assert "apt-get install debootstrap" in fresh_root.why_not()


def test_what_pip_is_configured_to_read_is_found(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    settings = {"PIP_FIND_LINKS": f"https://w.example {wheels}", "OTHER": str(tmp_path)}
    assert fresh_root.named_folders(settings) == [wheels]
