"""Logging in with Hugging Face: who comes in, who does not, and where the token is not."""

from __future__ import annotations

import gc
import json
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import httpx
import pytest
from itsdangerous import TimestampSigner
from joserfc.jwk import RSAKey
from starlette.middleware.sessions import Session

from ftlab.basics.errors import FtlabError
from ftlab.basics.log import app_log
from ftlab.tabs.gate import Limits
from ftlab.tabs.hub_login import (
    CALLBACK,
    COOKIE,
    INFO,
    LOGIN,
    USERS,
    HubLogin,
    parse_users,
    read_hub_login,
)
from ftlab.tabs.serve import VARIABLE, Serving, read_accounts
from tests.hub_people import CLIENT_SECRET, TOKEN, PeopleHub, Visitor
from tests.hub_server import Hub, serving
from tests.security.servers import Running, call, running, tree
from tests.security.test_login import routes
from tests.waiting import wait_until

HOST = "ada-ftlab.hf.space"
SPACE = {"SPACE_ID": "ada/ftlab", "SPACE_HOST": HOST}
OPEN = {"/", LOGIN, CALLBACK, "/logout", "/healthz", "/gradio_api/startup-events"}
STATIC = ("/assets", "/static", "/svelte", "/theme.css", "/favicon.ico", "/robots.txt",
          "/manifest.json", "/pwa_icon", "/gradio_api/theme.css")  # fmt: skip
CLOSED = ("/monitoring", "/gradio_api/deep_link", "/gradio_api/dev/", "/gradio_api/vibe",
          "/gradio_api/undo-vibe", "/gradio_api/custom_component", "/gradio_api/proxy=",
          "/gradio_api/runs")  # fmt: skip


class Space(NamedTuple):
    """An app in a Space, the Hub that it knows, and what the app asks of its people."""

    app: Running
    people: PeopleHub
    login: HubLogin

    def visitor(self) -> Visitor:
        return Visitor(self.app.url, HOST)

    def cookie(self, key: str | None = None, **changes: Any) -> str:
        return signed(key or self.login.key, **changes)


def signed(key: str, **changes: Any) -> str:
    """A cookie as the app makes it for Ada, with those changes, signed with that key."""
    info = {
        "access_token": TOKEN, "scope": "openid", "expires_at": int(time.time()) + 600,
        "userinfo": {"preferred_username": "ada"}, "orgs": [], "login": "x",
    }  # fmt: skip
    data = b64encode(json.dumps({INFO: info | changes}).encode())
    return TimestampSigner(key).sign(data).decode()


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving(Hub()) as found:
        yield found


@pytest.fixture(scope="module")
def opened(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    people = PeopleHub(hub)
    environment = SPACE | people.environment | {USERS: "ada, org:lab"}
    login = read_hub_login(environment)
    assert login is not None
    served = Serving(space="ada/ftlab", hub=login, limits=Limits(rate=None))
    patch = pytest.MonkeyPatch()
    patch.setattr("ftlab.tabs.api.start_dispatcher", lambda runs_folder: None)
    with running(served, tmp_path_factory.mktemp("runs")) as app:
        yield Space(app, people, login)
    patch.undo()


@pytest.fixture
def space(opened: Space) -> Space:
    """The same app, and a Hub whose every answer is as at first."""
    people = replace(opened.people, key=opened.people.key)
    people.person, people.orgs, people.seconds, people.token = "ada", (), 3600, TOKEN
    people.denies, people.token_status = False, 200
    people.claims, people.signs_with = {}, None
    return opened._replace(people=people)


def status_with(space: Space, cookie: str) -> int:
    with httpx.Client(base_url=space.app.url, timeout=10) as client:
        return client.get("/config", headers={"cookie": f"{COOKIE}={cookie}"}).status_code


def test_who_is_listed_logs_in_by_name_and_gets_all_of_it(space: Space) -> None:
    visitor = space.visitor()
    assert "Log in with Hugging Face" in visitor.get("/").text
    arrived = visitor.log_in()
    assert (arrived.status_code, arrived.headers["location"]) == (303, "/")
    assert "gradio" in visitor.get("/").text
    assert visitor.get("/gradio_api/user").json() == "ada"
    with visitor.client() as client:
        done, said = call(client, "launch_sweep", methods=["lora"], steps=1)
    assert done, said


def test_somebody_who_is_not_listed_is_told_so_in_a_sentence(space: Space) -> None:
    space.people.person = "eve"
    visitor = space.visitor()
    arrived = visitor.log_in()
    assert arrived.status_code == 403
    assert "'eve' is not among the people who may use this app." in arrived.text.replace(
        "&#39;", "'"
    )
    assert visitor.get("/config").status_code == 401


@pytest.mark.parametrize(
    ("org", "status"),
    [
        ({"preferred_username": "lab"}, 303),
        ({"preferred_username": "lab", "pendingSSO": True}, 403),
        ({"preferred_username": "lab", "missingMFA": True}, 403),
        ({"preferred_username": "lab2", "name": "lab"}, 403),
    ],
)
def test_an_organisation_that_is_listed_lets_its_members_in(
    org: dict[str, Any], status: int, space: Space
) -> None:
    space.people.person, space.people.orgs = "bob", (org,)
    visitor = space.visitor()
    assert visitor.log_in().status_code == status
    assert visitor.get("/config").status_code == (200 if status == 303 else 401)


@pytest.mark.hostile("requests without a login")
def test_every_other_route_asks_who_is_there(
    space: Space, record_property: pytest.RecordProperty
) -> None:
    before = tree(space.app.runs)
    asked, wrong = 0, []
    with httpx.Client(base_url=space.app.url, timeout=10) as client:
        for method, path in routes(space.app.page):
            bare = path.rstrip("/") or "/"
            if bare in OPEN or bare.startswith(STATIC):
                continue
            asked += 1
            body: dict[str, Any] | None = {} if method == "POST" else None
            status = client.request(method, path.replace("{", "").replace("}", ""), json=body)
            if status.status_code != 401 and not path.startswith(CLOSED):
                wrong.append((method, path, status.status_code))
        page = client.get("/").text
    assert not wrong, wrong
    assert asked > 40
    assert "Launch" not in page
    assert "<script" not in page
    assert tree(space.app.runs) == before
    record_property("hostile inputs", asked)


@pytest.mark.hostile("log-ins")
def test_a_cookie_that_is_forged_cut_or_expired_opens_nothing(
    space: Space, record_property: pytest.RecordProperty
) -> None:
    right = space.cookie()
    assert status_with(space, right) == 200
    other = replace(space.login, client_secret="x")
    wrong = [
        "", "null", "x", ".", "..", "0" * 4000, right[:-1], right[1:], f"{right}x", right.upper(),
        right.rpartition(".")[0], b64encode(b"{}").decode(),
        space.cookie(other.key), space.cookie("x"),
        space.cookie(expires_at=int(time.time()) - 1), space.cookie(expires_at=None),
        space.cookie(expires_at="never"), space.cookie(userinfo=None),
        space.cookie(userinfo={"preferred_username": "eve"}),
        space.cookie(userinfo={"preferred_username": ["ada"]}),
        space.cookie(userinfo={"preferred_username": "Ada"}),
        space.cookie(userinfo={}), space.cookie(login=None), space.cookie(orgs=None),
        TimestampSigner(space.login.key).sign(b64encode(b"[1]")).decode(),
        TimestampSigner(space.login.key).sign(b"no base64").decode(),
    ]  # fmt: skip
    assert [cookie for cookie in wrong if status_with(space, cookie) != 401] == []
    record_property("hostile inputs", len(wrong))


def test_a_login_ends_with_the_hubs_token(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    space.people.seconds = 600
    visitor = space.visitor()
    visitor.log_in()
    begun = time.time()
    monkeypatch.setattr("ftlab.tabs.hub_login.time", SimpleNamespace(time=lambda: begun + 590))
    assert visitor.get("/config").status_code == 200
    monkeypatch.setattr("ftlab.tabs.hub_login.time", SimpleNamespace(time=lambda: begun + 601))
    refused = visitor.get("/config")
    assert (refused.status_code, refused.text) == (401, "Log in first: this takes a session.")
    assert "Log in with Hugging Face" in visitor.get("/").text


def test_logging_out_is_a_post_and_ends_every_copy_of_the_cookie(space: Space) -> None:
    visitor = space.visitor()
    visitor.log_in()
    copy = visitor.cookies[COOKIE]
    assert "<form method='post' action='/logout'>" in visitor.get("/logout").text
    assert visitor.get("/config").status_code == 200
    cross = {"origin": "https://evil.com", "sec-fetch-site": "cross-site"}
    assert visitor.ask("POST", "/logout", cross).status_code == 403
    assert visitor.get("/config").status_code == 200
    assert visitor.ask("POST", "/logout").headers["location"] == "/"
    assert COOKIE not in visitor.cookies
    assert status_with(space, copy) == 401
    assert visitor.ask("POST", "/logout").status_code == 303


def test_the_cookie_is_for_this_host_over_https_and_no_script_reads_it(space: Space) -> None:
    visitor = space.visitor()
    visitor.log_in()
    parts = {part.strip().lower() for part in visitor.set[-1].split(";")[1:]}
    assert parts == {"path=/", "httponly", "samesite=none", "secure"}
    assert visitor.set[-1].startswith("__Host-")


@pytest.mark.hostile("log-ins")
@pytest.mark.parametrize(
    "query",
    ["", "?code=x", "?state=x", "?code=x&state=x", "?error=access_denied", "?error=<script>",
     "?code=x&state=x&_nb_redirects=x", "?code=x&_target_url=//evil.com"],
)  # fmt: skip
def test_a_callback_that_nobody_asked_for_logs_nobody_in_and_nobody_out(
    query: str, space: Space
) -> None:
    visitor = space.visitor()
    answer = visitor.get(CALLBACK + query)
    assert answer.status_code == 400
    assert "<script" not in answer.text
    assert visitor.get("/config").status_code == 401
    visitor.log_in()
    assert visitor.get(CALLBACK + query).status_code == 400
    assert visitor.get("/config").status_code == 200


@pytest.mark.hostile("log-ins")
def test_a_code_counts_once_and_only_in_the_browser_that_asked(space: Space) -> None:
    visitor, thief = space.visitor(), space.visitor()
    back = visitor.come_back()
    assert thief.get(back).status_code == 400
    assert visitor.get(back).status_code == 303
    assert visitor.get(back).status_code == 400
    assert thief.get("/config").status_code == 401


@pytest.mark.parametrize("target", ["//evil.com", "https://evil.com", "/\\evil.com"])
def test_no_redirect_leads_where_the_address_says(target: str, space: Space) -> None:
    visitor = space.visitor()
    there = visitor.get(f"{LOGIN}?_target_url={target}&redirect_uri={target}")
    assert there.headers["location"].startswith(f"{space.people.hub.address}/oauth/authorize?")
    back = visitor.get(there.headers["location"]).headers["location"]
    assert back.startswith(f"https://{HOST}{CALLBACK}?")
    assert visitor.get(f"{back}&_target_url={target}").headers["location"] == "/"


@pytest.mark.parametrize("path", [LOGIN, "/logout", "/config", "/gradio_api/info"])
def test_a_link_of_another_site_leads_to_the_page_and_the_callback_alone(
    path: str, space: Space
) -> None:
    visitor = space.visitor()
    visitor.log_in()
    cross = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate",
             "sec-fetch-dest": "document"}  # fmt: skip
    assert visitor.get(path, **cross).status_code == 403
    assert visitor.get("/", **cross).status_code == 200


def test_in_a_frame_the_login_opens_a_tab_of_its_own(space: Space) -> None:
    framed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate",
              "sec-fetch-dest": "iframe"}  # fmt: skip
    assert 'target="_blank"' in space.visitor().get("/", **framed).text
    assert "target=" not in space.visitor().get("/").text


def test_a_hub_that_refuses_or_is_gone_gives_a_sentence(space: Space) -> None:
    visitor = space.visitor()
    space.people.denies = True
    denied = visitor.log_in()
    assert (denied.status_code, "did not allow this login" in denied.text) == (400, True)
    space.people.denies, space.people.token_status = False, 401
    assert visitor.log_in().status_code == 400
    space.people.token_status = 500
    assert visitor.log_in().status_code in (400, 502)
    assert visitor.get("/config").status_code == 401


@pytest.mark.hostile("log-ins")
@pytest.mark.parametrize(
    "claims",
    [{"aud": "another app"}, {"iss": "https://evil.com"}, {"nonce": "x"}, {"exp": 1},
     {"preferred_username": ""}, {"preferred_username": None}, {"sub": "2"}],
)  # fmt: skip
def test_an_id_token_of_another_app_person_or_time_logs_nobody_in(
    claims: dict[str, Any], space: Space
) -> None:
    space.people.claims = claims
    visitor = space.visitor()
    assert visitor.log_in().status_code in (400, 403, 502)
    assert visitor.get("/config").status_code == 401


@pytest.mark.hostile("log-ins")
def test_an_id_token_that_the_hub_did_not_sign_logs_nobody_in(space: Space) -> None:
    space.people.signs_with = RSAKey.generate_key(2048, {"kid": "one"})
    visitor = space.visitor()
    assert visitor.log_in().status_code == 502
    assert visitor.get("/config").status_code == 401


def test_a_hub_that_cannot_be_reached_gives_a_sentence(tmp_path: Path, hub: Hub) -> None:
    gone = SPACE | PeopleHub(hub).environment | {"OPENID_PROVIDER_URL": "http://127.0.0.1:9"}
    login = read_hub_login(gone | {USERS: "ada"})
    with running(Serving(space="ada/ftlab", hub=login), tmp_path) as app:
        answer = Visitor(app.url, HOST).get(LOGIN)
    assert (answer.status_code, "cannot be reached" in answer.text) == (502, True)


@pytest.mark.hostile("planted tokens")
def test_the_token_is_in_no_log_no_file_no_page_and_no_object_afterwards(
    space: Space, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    token = space.people.token = f"{TOKEN}OfThisTest"
    with app_log(tmp_path):
        visitor = space.visitor()
        visitor.log_in()
        cookie = visitor.cookies[COOKIE]
        with visitor.client() as client:
            shown = client.get("/config").text + client.get("/").text
            for _ in range(12):
                call(client, "runs")
            call(client, "launch_sweep", methods=["nothing"])
    said = "".join(capfd.readouterr())
    visitor.close()
    for secret in (token, CLIENT_SECRET, cookie[:60]):
        assert secret not in shown + said
        for folder in (tmp_path, space.app.runs):
            files = [path for path in folder.rglob("*") if path.is_file()]
            assert all(secret.encode() not in path.read_bytes() for path in files)
    assert (tmp_path / "app.log").stat().st_size
    # gradio and anyio hold on to the latest requests until the next ones come.
    wait_until(lambda: kept(token) <= 3)


def kept(token: str) -> int:
    """The sessions with that token that this process still holds."""
    gc.collect()
    sessions = [one for one in gc.get_objects() if isinstance(one, Session)]
    return sum(token in str(session) for session in sessions)


def test_the_client_secret_is_taken_from_the_environment() -> None:
    environment = SPACE | {"OAUTH_CLIENT_SECRET": CLIENT_SECRET}
    assert read_hub_login(environment) is None
    assert CLIENT_SECRET not in str(environment)


def test_names_keep_their_order_and_are_told_from_organisations() -> None:
    users = parse_users(" bob,ada, org:lab,bob ,")
    assert (users.names, users.orgs) == (("bob", "ada"), {"lab"})


def complete(hub: Hub, **changes: str) -> dict[str, str]:
    return {**SPACE, **PeopleHub(hub).environment, USERS: "ada", **changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"SPACE_ID": ""}, "is for a Hugging Face Space"),
        ({"OAUTH_CLIENT_SECRET": ""}, "needs OAUTH_CLIENT_SECRET"),
        ({"OAUTH_CLIENT_SECRET": " "}, "needs OAUTH_CLIENT_SECRET"),
        ({"OAUTH_CLIENT_ID": "", "OPENID_PROVIDER_URL": ""},
         "needs OAUTH_CLIENT_ID, OPENID_PROVIDER_URL"),
        ({"SPACE_HOST": ""}, "hf_oauth: true"),
        ({USERS: ","}, "names nobody"),
        ({USERS: "ada, group:lab"}, "names 'group:lab'"),
        ({USERS: "ada lovelace"}, "names 'ada lovelace'"),
        ({USERS: "org:"}, "names 'org:'"),
    ],
)  # fmt: skip
def test_an_app_where_nobody_could_log_in_does_not_start(
    changes: dict[str, str], said: str, hub: Hub
) -> None:
    with pytest.raises(FtlabError, match=said):
        read_hub_login(complete(hub, **changes))


def test_a_name_stands_for_one_person_so_passwords_and_the_hub_exclude_each_other(
    hub: Hub,
) -> None:
    environment = complete(hub) | {VARIABLE: "ada:correct horse"}
    accounts = read_accounts(None, environment)
    with pytest.raises(FtlabError, match="remove one of the two"):
        read_hub_login(environment, has_passwords=bool(accounts))


def test_no_app_runs_with_an_empty_client_secret() -> None:
    with pytest.raises(FtlabError, match="is empty"):
        HubLogin("id", "", "openid", "https://hub", HOST, parse_users("ada"))


def test_a_space_that_names_nobody_stays_a_demo_whatever_its_metadata_says(hub: Hub) -> None:
    for users in ("", " "):
        assert read_hub_login(complete(hub, **{USERS: users})) is None
    served = Serving(space="ada/ftlab", hub=None)
    assert served.is_demo
    assert served.gate.hub_login is False
    assert not served.access(Path()).pushes
