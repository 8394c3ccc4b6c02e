"""Who is served where: this machine alone, or people who log in; and where accounts come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlab.__main__ import main
from ftlab.basics import addresses
from ftlab.basics.addresses import is_loopback
from ftlab.basics.bearer import read_tokens
from ftlab.basics.errors import FtlabError
from ftlab.jobs.inputs import Access
from ftlab.tabs.serve import VARIABLE, Accounts, Serving, read_accounts, serving
from tests.asynchronous import run

ADA = Accounts({"ada": "correct horse"})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2", "127.1"])
def test_an_address_of_this_machine_alone_needs_no_login(host: str) -> None:
    Serving(host).check()
    assert is_loopback(host)


@pytest.mark.hostile("addresses to bind without a login")
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0", "", "192.168.1.7", "8.8.8.8", "fe80::1"])
def test_an_address_that_others_reach_is_refused_without_a_login(host: str) -> None:
    with pytest.raises(FtlabError, match=r"without a login.*--auth FILE or FTLAB_AUTH") as error:
        Serving(host).check()
    assert str(error.value).count(". ") == 0
    Serving(host, accounts=ADA).check()


def test_a_name_that_leads_here_and_elsewhere_is_not_this_machine_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [(0, 0, 0, "", ("127.0.0.1", 0)), (0, 0, 0, "", ("10.0.0.5", 0))]
    monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *args, **kw: found)
    assert not is_loopback("box")


def test_a_public_link_is_refused_without_a_login() -> None:
    with pytest.raises(FtlabError, match="--share without a login"):
        Serving(share=True).check()
    Serving(share=True, accounts=ADA).check()


@pytest.mark.parametrize(
    ("options", "variables"),
    [
        (["--host", "0.0.0.0"], {}),
        (["--share"], {}),
        ([], {"GRADIO_SERVER_NAME": "0.0.0.0"}),
        ([], {"GRADIO_SHARE": "True"}),
    ],
)
def test_the_command_says_so_and_ends(
    options: list[str],
    variables: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("SPACE_ID", VARIABLE):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    arguments = ["app", "--port", "7993", "--runs-dir", str(tmp_path), *options]
    assert main(arguments) == 2
    assert "without a login" in capsys.readouterr().err


def test_a_space_without_accounts_is_a_demo_and_with_them_it_is_none() -> None:
    space = {"SPACE_ID": "ada/ftlab"}
    demo = serving("0.0.0.0", 7860, False, Accounts(), (), (), space)
    demo.check()
    assert demo.access(Path("runs")).is_demo
    assert not serving("0.0.0.0", 7860, False, ADA, (), (), space).access(Path("runs")).is_demo


def test_visitors_who_log_in_name_listed_folders_alone(tmp_path: Path) -> None:
    assert Serving().access(tmp_path) == Access()
    assert Serving(accounts=ADA).access(tmp_path).folders == ()
    listed = serving("::1", 7860, False, ADA, (tmp_path,), (), {})
    assert listed.access(tmp_path).folders == (tmp_path,)


def test_a_listed_folder_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(FtlabError, match="there is no such folder"):
        serving("::1", 7860, False, ADA, (tmp_path / "gone",), (), {})


def test_a_demo_serves_an_empty_folder_and_leaves_none(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("mine")
    with Serving(space="ada/ftlab").runs_folder(tmp_path) as folder:
        assert folder != tmp_path
        assert [path.name for path in folder.iterdir()] == [".ftlab"]
    assert not folder.exists()
    with Serving().runs_folder(tmp_path) as folder:
        assert folder == tmp_path


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def accepts(accounts: Accounts, user: str, password: str) -> bool:
    return run(accounts.check(user, password))


def test_accounts_are_read_from_a_file(tmp_path: Path) -> None:
    file = private(tmp_path / "auth", "# people\nada:correct horse\n\nbob:with:colons:in\n")
    accounts = read_accounts(file, {})
    assert accepts(accounts, "ada", "correct horse")
    assert accepts(accounts, "bob", "with:colons:in")
    for user, password in [
        ("ada", "correct horse "), ("ada", ""), ("bob", "correct horse"), ("", ""),
        ("# people", ""), ("eve", "correct horse"), ("ada", "\ud800"),
    ]:  # fmt: skip
        assert not accepts(accounts, user, password)


def test_accounts_of_the_environment_are_not_passed_on_to_workers() -> None:
    environment = {VARIABLE: "ada:correct horse"}
    assert accepts(read_accounts(None, environment), "ada", "correct horse")
    assert environment == {}


def test_no_account_is_named_by_default() -> None:
    assert not read_accounts(None, {})


def test_accounts_show_no_password() -> None:
    assert "horse" not in repr(ADA)
    assert "horse" not in repr(Serving(accounts=ADA))


@pytest.mark.hostile("account files")
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ada\n", "Line 1 of .* is no user:password"),
        (":secret-secret\n", "is no user:password"),
        ("ada:short\n", "has 5 characters"),
        ("ada:\n", "has 0 characters"),
        ("ada:long-enough\nada:another-one\n", "names a user again"),
        ("", "names nobody"),
        ("# only a comment\n", "names nobody"),
    ],
)
def test_a_file_of_accounts_that_is_none_is_one_sentence(
    text: str, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(FtlabError, match=sentence):
        read_accounts(private(tmp_path / "auth", text), {})


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o666, 0o660])
def test_a_file_of_accounts_that_others_can_read_or_change_is_refused(
    mode: int, tmp_path: Path
) -> None:
    file = private(tmp_path / "auth", "ada:correct horse\n")
    file.chmod(mode)
    with pytest.raises(FtlabError, match=f"mode {mode:o}.*chmod 600"):
        read_accounts(file, {})


def test_a_file_of_accounts_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FtlabError, match="cannot be read"):
        read_accounts(tmp_path / "gone", {})
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    binary.chmod(0o600)
    with pytest.raises(FtlabError, match="no text in UTF-8"):
        read_accounts(binary, {})


def test_a_password_is_no_option_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["app", "--auth", "ada:correct horse"]) == 2
    said = capsys.readouterr().err
    assert "takes a file, never user:password" in said
    assert "horse" not in said


TWO = Accounts({"ada": "correct horse", "bob": "battery staple"})


def test_the_first_account_is_the_admin_unless_others_are_named() -> None:
    assert Serving(accounts=TWO).people.admins == {"ada"}
    assert Serving(accounts=TWO, admins=("bob",)).people.admins == {"bob"}
    assert not Serving().people.logs_in


@pytest.mark.parametrize(
    ("served", "sentence"),
    [
        (Serving(private=True), "--private is for people who log in; give users and passwords"),
        (Serving(admins=("ada",)), "--admin is for people who log in"),
        (Serving(accounts=TWO, admins=("cyd",)), "--admin names 'cyd', who has no login here"),
        (
            Serving(accounts=TWO, agents=read_tokens("TOKENS", {"TOKENS": f"cyd:{'x' * 16}"})),
            "TOKENS names 'cyd', who has no login here; the logins: ada and bob",
        ),
    ],
)
def test_names_that_nobody_logs_in_with_are_refused_at_the_start(
    served: Serving, sentence: str
) -> None:
    with pytest.raises(FtlabError, match=sentence):
        served.check()


@pytest.mark.parametrize("number", ["0", "-1", "many", "1.5"])
def test_a_limit_of_queued_runs_is_a_whole_number(
    number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["app", "--most-queued", number])
    assert "is no whole number above 0" in capsys.readouterr().err
