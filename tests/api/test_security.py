"""Who may ask: hosts, pages of other sites, tokens, and the folders that a request may name."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.types import Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from api.security import RequestGuard
from api.session import Tokens
from settings import Settings
from tests.api.conftest import Dictate, Start, Watch
from tests.running_server import RunningServer

Body = dict[str, Any]
ServeModule = Callable[..., RunningServer]

PAGE = "https://lab.example"
TOKEN = "correct horse/battery=staple+1"
ROUTES = [
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/api/v1/health"),
    ("GET", "/api/v1/health/live"),
    ("GET", "/api/v1/health/ready"),
    ("GET", "/metrics"),
    ("POST", "/api/v1/session"),
    ("DELETE", "/api/v1/session"),
    ("GET", "/api/v2/models"),
    ("POST", "/api/v2/training/start"),
    ("POST", "/api/v2/training/check"),
    ("GET", "/api/v2/training"),
    ("GET", "/api/v2/training/some"),
    ("GET", "/api/v2/training/some/logs"),
    ("GET", "/api/v2/training/some/logs/history"),
    ("POST", "/api/v2/parsing/try"),
    ("POST", "/api/v2/training/import"),
    ("POST", "/api/v2/training/some/stop"),
    ("POST", "/api/v2/training/some/resume"),
    ("POST", "/api/v2/training/some/reparse"),
    ("PATCH", "/api/v2/training/some"),
    ("DELETE", "/api/v2/training/some"),
    ("GET", "/api/v2/resources"),
    ("POST", "/api/v2/resources"),
    ("GET", "/api/v2/training/compare"),
    ("GET", "/api/v2/training/events"),
    ("GET", "/api/v2/training/some/metrics"),
    ("GET", "/api/v2/training/some/metrics/export"),
    ("GET", "/api/v2/training/some/request"),
    ("GET", "/api/v2/training/some/provenance"),
    ("GET", "/api/v2/training/some/evaluation"),
    ("GET", "/api/v2/training/some/artifacts"),
    ("GET", "/api/v2/training/some/artifacts/some"),
    ("GET", "/api/v2/alerts"),
    ("GET", "/api/v2/alerts/rules"),
    ("POST", "/api/v2/alerts/rules"),
    ("GET", "/api/v2/alerts/rules/1"),
    ("PATCH", "/api/v2/alerts/rules/1"),
    ("DELETE", "/api/v2/alerts/rules/1"),
    ("GET", "/api/v2/alerts/channels"),
    ("POST", "/api/v2/alerts/channels"),
    ("GET", "/api/v2/alerts/channels/1"),
    ("DELETE", "/api/v2/alerts/channels/1"),
    ("POST", "/api/v2/alerts/channels/1/test"),
    ("GET", "/nowhere"),
]
CHANGING = [route for route in ROUTES if route[0] != "GET"]


def client_of(server: RunningServer) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=30)


def refused(answer: httpx.Response, status: int, code: str) -> bool:
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"detail", "code"}
    return bool(answer.json()["code"] == code)


def _number(place: re.Match[str]) -> str:
    return place[0] if place[0] == "{task_id}" else "1"


def test_every_route_is_among_those_tested_here(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    filled = {path: re.sub(r"\{(task_id|name)\}", "some", re.sub(r"\{\w+_id\}", _number, path)) for path in paths}
    documented = {(m.upper(), filled[path]) for path, methods in paths.items() for m in methods}

    assert documented == set(ROUTES) - {("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/nowhere")}


# --- Host: a name that an attacker points to this machine (DNS rebinding) ----------------------------------------


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_route_answers_for_a_foreign_host(http: httpx.Client, method: str, path: str) -> None:
    assert refused(http.request(method, path, headers={"Host": "evil.example"}), 403, "host_not_allowed")


@pytest.mark.parametrize("host", ["localhost", "LocalHost:8000", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8000"])
def test_this_machine_is_answered_by_any_of_its_own_names(http: httpx.Client, host: str) -> None:
    assert http.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *("localhost.evil.example", "127.0.0.1.evil.example:8000", "evil.example:127.0.0.1", "10.0.0.1", "[::2]", ""),
        *(
            "localhost:8000@evil.example",
            "localhost@evil.example",
            "evil.example@localhost",
            "localhost:x",
            "localhost:1:2",
        ),
        *("localhost.", "[::1", "::1", "[::1]evil.example", "[::1]@evil.example", "[::ffff:127.0.0.1]", "[::1%lo]"),
        *("127.1", "2130706433", "0x7f.0.0.1", "0.0.0.0", "localhost, evil.example", "localhost evil.example"),
        *("localhost/evil.example", "localhost\\evil.example", "http://localhost", "*", "localhost\t:8000"),
    ],
)
def test_names_that_only_look_like_this_machine_are_refused(http: httpx.Client, host: str) -> None:
    assert refused(http.get("/", headers={"Host": host}), 403, "host_not_allowed")


def test_a_request_without_a_host_is_refused(server: RunningServer) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(b"GET /api/v1/health HTTP/1.0\r\n\r\n")
        assert connection.makefile("rb").readline().split()[1] == b"403"


@pytest.mark.parametrize(
    "lines",
    [
        (b"Host: localhost", b"Host: evil.example"),
        (b"Host: evil.example", b"Host: localhost"),
        (b"Host: localhost", b"Host: localhost"),
        (b"Host: evil.example", b"X-Forwarded-Host: localhost", b"Forwarded: host=localhost"),
    ],
)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_second_host_is_none(server: RunningServer, lines: tuple[bytes, ...], version: bytes) -> None:
    status, _ = ask_raw(server, b"GET /api/v2/models HTTP/" + version, *lines)

    assert status in {400, 403}


@pytest.mark.parametrize("target", [b"http://evil.example/api/v2/models", b"//evil.example/api/v2/models", b"*"])
@pytest.mark.parametrize("method", [b"GET", b"OPTIONS", b"DELETE", b"CONNECT"])
def test_a_target_that_is_no_path_reaches_no_route(server: RunningServer, method: bytes, target: bytes) -> None:
    status, _ = ask_raw(server, method + b" " + target + b" HTTP/1.1", b"Host: localhost")

    assert status in {400, 404, 405}


def ask_raw(server: RunningServer, *lines: bytes) -> tuple[int, bytes]:
    """Status and rest of the answer to a request that no client would send."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"\r\n".join([*lines, b"Connection: close", b"", b""]))
        answer = connection.makefile("rb").read()
    return int(answer.split()[1]), answer


def test_allowed_hosts_adds_names(serve_module: ServeModule) -> None:
    with client_of(serve_module(allowed_hosts="train.lab, proxy.lab")) as http:
        assert http.get("/", headers={"Host": "Train.lab:443"}).status_code == 200
        assert http.get("/", headers={"Host": "proxy.lab"}).status_code == 200
        assert http.get("/", headers={"Host": "other.lab"}).status_code == 403


def test_the_address_that_the_service_listens_on_is_one_of_its_names(serve_module: ServeModule, tmp_path: Path) -> None:
    beyond = serve_module(host="192.0.2.7", api_tokens=TOKEN, data_roots=str(tmp_path), save_roots=str(tmp_path))
    with client_of(beyond) as http:
        assert http.get("/api/v1/health", headers={"Host": "192.0.2.7:8000"}).status_code == 200
        assert http.get("/api/v1/health", headers={"Host": "192.0.2.8:8000"}).status_code == 403


# --- Origin: a page of another site, open in a browser on this machine -------------------------------------------

FOREIGN: dict[str, dict[str, str]] = {
    "another site": {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    "another site, without fetch metadata": {"Origin": "https://evil.example"},
    "another port of this machine": {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"},
    "a sandboxed page or a file": {"Origin": "null"},
    "a form without an origin": {"Sec-Fetch-Site": "cross-site"},
    "a sibling without an origin": {"Sec-Fetch-Site": "same-site"},
    "an origin that is no URL": {"Origin": "http://[evil"},
    "an empty origin": {"Origin": ""},
    "its host as another scheme": {"Origin": "ftp://127.0.0.1:{port}"},
    "its host within a name": {"Origin": "http://127.0.0.1:{port}.evil.example"},
    "its host as user": {"Origin": "http://127.0.0.1:{port}@evil.example"},
    "its host alone": {"Origin": "127.0.0.1:{port}"},
    "its origin, with a path": {"Origin": "http://127.0.0.1:{port}/"},
    "its origin, seen from elsewhere": {"Origin": "http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-site"},
    "two origins in one": {"Origin": "http://127.0.0.1:{port} https://evil.example"},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize(("method", "path"), CHANGING)
def test_a_foreign_page_cannot_change_anything(
    server: RunningServer, http: httpx.Client, method: str, path: str, headers: dict[str, str]
) -> None:
    sent = {name: value.replace("{port}", str(server.port)) for name, value in headers.items()}
    assert refused(http.request(method, path, headers=sent), 403, "origin_not_allowed")


@pytest.mark.parametrize("name", ["Origin", "Sec-Fetch-Site"])
@pytest.mark.parametrize("reverse", [False, True])
def test_one_of_two_headers_that_is_foreign_is_enough(server: RunningServer, name: str, reverse: bool) -> None:
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}[name]
    foreign = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}[name]
    values = [foreign, own] if reverse else [own, foreign]
    sent = [("Host", f"127.0.0.1:{server.port}"), *((name, value) for value in values)]
    answer = httpx.post(f"{server.url}/api/v2/training/some/stop", headers=sent)

    assert refused(answer, 403, "origin_not_allowed")


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
def test_a_header_makes_no_other_method_of_a_safe_one(
    http: httpx.Client, dictate: Dictate, start: Start, name: str
) -> None:
    dictate().end()
    task_id = start()
    assert '"status":"completed"' in http.get(f"/api/v2/training/{task_id}/logs").text
    http.get(f"/api/v2/training/{task_id}", params={"_method": "DELETE"}, headers={name: "DELETE"})

    assert http.get(f"/api/v2/training/{task_id}").status_code == 200


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "PROPFIND"])
def test_other_methods_do_nothing(http: httpx.Client, method: str) -> None:
    for path in ("/api/v2/training", "/api/v2/training/some/stop", "/api/v1/session"):
        assert http.request(method, path).status_code == 405


def test_a_refused_stop_or_delete_has_no_effect(http: httpx.Client, dictate: Dictate, start: Start) -> None:
    dictate()
    task_id = start()
    http.post(f"/api/v2/training/{task_id}/stop", headers=FOREIGN["another site"])
    http.delete(f"/api/v2/training/{task_id}", headers=FOREIGN["another site"])

    assert http.get(f"/api/v2/training/{task_id}").json()["status"] == "running"


def test_a_refused_start_leaves_nothing(http: httpx.Client, body: Body) -> None:
    answer = http.post("/api/v2/training/start", json=body, headers=FOREIGN["another site"])

    assert refused(answer, 403, "origin_not_allowed")
    assert not Path(body["save_path"]).exists()


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_the_services_own_pages_and_the_address_bar_may_change_things(
    server: RunningServer, http: httpx.Client, dictate: Dictate, body: Body, site: str
) -> None:
    dictate()
    own = {"Origin": server.url, "Sec-Fetch-Site": site}
    answer = http.post("/api/v2/training/start", json=body, headers=own)

    assert answer.status_code == 200
    assert http.post(f"/api/v2/training/{answer.json()['task_id']}/stop", headers=own).status_code == 200


def test_a_foreign_page_gets_no_permission_to_read(http: httpx.Client) -> None:
    answer = http.get("/api/v2/training", headers={"Origin": PAGE, "Sec-Fetch-Site": "cross-site"})

    assert "access-control-allow-origin" not in answer.headers


# --- Frames and embedding: a page that shows an answer as something else -----------------------------------------


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/api/v2/models", "/nowhere", "/api/v2/training"])
def test_no_page_can_frame_or_embed_an_answer(http: httpx.Client, path: str) -> None:
    for answer in (http.get(path), http.get(path, headers={"Host": "evil.example"})):
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


# --- CORS: pages of one's own ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_http(serve_module: ServeModule) -> Iterator[httpx.Client]:
    """A service with tokens whose answers one page may read."""
    with client_of(serve_module(allowed_origins=f"{PAGE}, https://other.example", api_tokens=TOKEN)) as client:
        yield client


WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}
FROM_PAGE = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route[1].startswith("/api")])
def test_preflight_lets_the_page_ask_with_token_body_and_last_event_id(
    shared_http: httpx.Client, method: str, path: str
) -> None:
    wanted = {"Access-Control-Request-Method": method}
    wanted["Access-Control-Request-Headers"] = "authorization,content-type,last-event-id"
    answer = shared_http.options(path, headers=FROM_PAGE | wanted)

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert method in answer.headers["access-control-allow-methods"]
    allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert {"authorization", "content-type", "last-event-id"} <= allowed


def test_preflight_of_another_page_is_refused(shared_http: httpx.Client) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = shared_http.options("/api/v2/training/start", headers=headers)

    assert answer.status_code >= 400
    assert "access-control-allow-origin" not in answer.headers


def test_the_page_can_start_watch_and_stop(shared_http: httpx.Client, body: Body, dictate: Dictate) -> None:
    dictate()
    headers = FROM_PAGE | WITH_TOKEN
    started = shared_http.post("/api/v2/training/start", json=body, headers=headers)
    task_id = started.json()["task_id"]
    stopped = shared_http.post(f"/api/v2/training/{task_id}/stop", headers=headers)
    stream = shared_http.get(f"/api/v2/training/{task_id}/logs", headers=headers)

    for answer in (started, stopped, stream):
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == PAGE
    assert '"status":"cancelled"' in stream.text


def test_the_page_can_read_why_it_was_refused(shared_http: httpx.Client) -> None:
    unknown = shared_http.get("/api/v2/training/nobody", headers=FROM_PAGE | WITH_TOKEN)
    without_token = shared_http.get("/api/v2/training", headers=FROM_PAGE)
    too_large = shared_http.post("/api/v2/training/start", content=b" " * 1_048_577, headers=FROM_PAGE | WITH_TOKEN)

    for answer, status in ((unknown, 404), (without_token, 401), (too_large, 413)):
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == PAGE


def test_an_allowed_page_is_allowed_by_name_alone(shared_http: httpx.Client, body: Body) -> None:
    near = [
        "http://lab.example",
        "https://lab.example:8443",
        "https://lab.example.evil.example",
        "https://evil-lab.example",
    ]
    for origin in near:
        answer = shared_http.post("/api/v2/training/start", json=body, headers=WITH_TOKEN | {"Origin": origin})
        assert refused(answer, 403, "origin_not_allowed")


# --- Tokens ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded_http(serve_module: ServeModule) -> Iterator[httpx.Client]:
    with client_of(serve_module(api_tokens=f"{TOKEN}, second, 钥匙")) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path"),
    [*(route for route in ROUTES if not route[1].startswith("/api/v1/health")), ("OPTIONS", "/api/v2/models")],
)
def test_without_a_token_every_route_is_closed(guarded_http: httpx.Client, method: str, path: str) -> None:
    answer = guarded_http.request(method, path)

    assert refused(answer, 401, "token_required")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_the_document_says_how_a_token_is_sent_and_where_none_is_asked_for(guarded_http: httpx.Client) -> None:
    document = guarded_http.get("/openapi.json", headers=WITH_TOKEN).json()
    (name,) = document["components"]["securitySchemes"]
    scheme = document["components"]["securitySchemes"][name]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")

    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            is_asked_for = operation.get("security", document["security"]) == [{name: []}]
            answer = guarded_http.request(method, path.replace("{", "").replace("}", ""))
            assert is_asked_for == (answer.status_code == 401), (method, path)


def test_where_no_token_is_asked_for_the_document_names_none(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert "security" not in document
    assert "securitySchemes" not in document["components"]


def test_health_is_open_for_load_balancers(guarded_http: httpx.Client) -> None:
    for path in ("/api/v1/health", "/api/v1/health/live", "/api/v1/health/ready"):
        assert guarded_http.get(path).status_code == 200


@pytest.mark.parametrize("value", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Bearer   {TOKEN}", "Bearer second"])
def test_any_of_the_tokens_opens(guarded_http: httpx.Client, value: str) -> None:
    assert guarded_http.get("/api/v2/training", headers={"Authorization": value}).status_code == 200


def test_a_token_beyond_ascii_is_sent_as_utf_8(guarded_http: httpx.Client) -> None:
    headers = {b"Authorization": "Bearer 钥匙".encode()}

    assert guarded_http.get("/api/v2/training", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        TOKEN,
        f"Basic {TOKEN}",
        f"Token {TOKEN}",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {TOKEN}, second",
        "Bearer 钥",
    ],
)
def test_a_wrong_token_is_none(guarded_http: httpx.Client, value: str) -> None:
    answer = guarded_http.get("/api/v2/training", headers={b"Authorization": value.encode()})

    assert refused(answer, 401, "token_required")


@settings(max_examples=100, deadline=None)
@given(value=st.binary(min_size=1, max_size=40).filter(lambda value: not set(value) & {*range(33), 127}))
def test_no_bytes_in_a_token_are_answered_with_a_500(guarded_http: httpx.Client, value: bytes) -> None:
    answer = guarded_http.get("/api/v2/training", headers={b"Authorization": b"Bearer " + value})

    assert refused(answer, 401, "token_required")


def test_a_token_in_the_url_is_none(guarded_http: httpx.Client) -> None:
    assert guarded_http.get("/api/v2/training", params={"token": "second"}).status_code == 401


def test_a_token_does_not_excuse_a_foreign_page(guarded_http: httpx.Client, body: Body) -> None:
    headers = {"Authorization": "Bearer second", "Origin": "https://evil.example"}

    assert refused(guarded_http.post("/api/v2/training/start", json=body, headers=headers), 403, "origin_not_allowed")


# --- Folders -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("roots")
    for name in ("data", "data2", "more", "saves", "secret"):
        (root / name).mkdir()
    (root / "link_to_data").symlink_to(root / "data")
    return root


@pytest.fixture(scope="module")
def confined_http(serve_module: ServeModule, roots: Path) -> Iterator[httpx.Client]:
    data_roots = f"{roots / 'link_to_data'}:{roots / 'more'}"
    with client_of(serve_module(data_roots=data_roots, save_roots=str(roots / "saves"))) as client:
        yield client


@pytest.fixture
def confined_body(body: Body, roots: Path, image_folders: Path) -> Body:
    for split in ("train", "val"):
        folder = roots / "data" / split
        if not folder.exists():
            for image in (image_folders / split).rglob("*.png"):
                copy = folder / image.relative_to(image_folders / split)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(image.read_bytes())
    return body | {
        "train_path": str(roots / "data" / "train"),
        "val_path": str(roots / "link_to_data" / "val"),
        "save_path": str(roots / "saves" / "deep" / "er"),
    }


def test_paths_inside_the_roots_are_accepted(confined_http: httpx.Client, confined_body: Body) -> None:
    assert confined_http.post("/api/v2/training/start", json=confined_body).status_code == 200


def linked(link: str, to: str) -> Callable[[Path], str]:
    def path(roots: Path) -> str:
        if not (roots / link).is_symlink():
            (roots / link).symlink_to(roots / to)
        return str(roots / link)

    return path


OUTSIDE: dict[str, tuple[str, Callable[[Path], str]]] = {
    "train_path elsewhere": ("train_path", lambda roots: str(roots / "secret")),
    "train_path that is not there": ("train_path", lambda _: "/no/such/folder"),
    "val_path upwards": ("val_path", lambda roots: str(roots / "data" / "val" / ".." / ".." / "secret")),
    "val_path in a sibling of like name": ("val_path", lambda roots: str(roots / "data2")),
    "val_path in the save root": ("val_path", lambda roots: str(roots / "saves")),
    "weight_path elsewhere": ("weight_path", lambda _: "/etc/passwd"),
    "train_path through a link": ("train_path", linked("data/link_out", "secret")),
    "train_path below a link": ("train_path", lambda roots: linked("data/link_out", "secret")(roots) + "/deeper"),
    "train_path in a loop of links": ("train_path", linked("loop", "loop")),
    "save_path elsewhere": ("save_path", lambda roots: str(roots / "secret")),
    "save_path in a data root": ("save_path", lambda roots: str(roots / "data")),
    "save_path upwards": ("save_path", lambda roots: str(roots / "saves" / ".." / "secret")),
    "save_path through a link": ("save_path", linked("saves/link_out", "secret")),
    "relative save_path": ("save_path", lambda _: "runs"),
}


@pytest.mark.parametrize(("field", "path"), OUTSIDE.values(), ids=OUTSIDE)
def test_paths_outside_the_roots_are_forbidden(
    confined_http: httpx.Client, confined_body: Body, roots: Path, field: str, path: Callable[[Path], str]
) -> None:
    answer = confined_http.post("/api/v2/training/start", json=confined_body | {field: path(roots)})

    assert refused(answer, 403, "path_forbidden")
    assert answer.json()["detail"].startswith(field)
    assert list((roots / "secret").iterdir()) == []


def test_nothing_is_said_about_what_lies_outside(confined_http: httpx.Client, confined_body: Body) -> None:
    def answer_for(path: str) -> str:
        answer = confined_http.post("/api/v2/training/start", json=confined_body | {"weight_path": path})
        assert answer.status_code == 403
        return answer.text.replace(path, "")

    assert answer_for("/etc/passwd") == answer_for("/etc/no-such-file")


# --- Settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "lab.example"])
def test_beyond_loopback_tokens_and_roots_are_required_and_named(host: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        Settings(host=host)
    for name in (f"HOST={host}", "API_TOKENS", "DATA_ROOTS", "SAVE_ROOTS"):
        assert name in str(refusal.value)


@pytest.mark.parametrize("missing", ["api_tokens", "data_roots", "save_roots"])
def test_what_is_missing_beyond_loopback_is_named_alone(missing: str) -> None:
    given_settings = {"api_tokens": "t", "data_roots": "/data", "save_roots": "/runs"}
    del given_settings[missing]

    with pytest.raises(ValidationError) as refusal:
        Settings(host="0.0.0.0", **given_settings)  # type: ignore[arg-type]  # text, as in the environment
    message = str(refusal.value)
    assert missing.upper() in message
    assert not any(name.upper() in message for name in given_settings)


def test_beyond_loopback_with_tokens_and_roots_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HOST": "0.0.0.0", "API_TOKENS": "a, b,", "DATA_ROOTS": "/d:/e", "SAVE_ROOTS": "/s"}.items():
        monkeypatch.setenv(name, value)
    configured = Settings()

    assert [token.get_secret_value() for token in configured.api_tokens] == ["a", "b"]
    assert configured.data_roots == (Path("/d"), Path("/e"))
    assert configured.save_roots == (Path("/s"),)


def test_what_is_seldom_meant_is_said(tmp_path: Path) -> None:
    beyond = Settings(host="0.0.0.0", api_tokens="abc", data_roots=str(tmp_path), save_roots=str(tmp_path / "no"))
    [folder, token] = beyond.doubts
    assert folder.startswith(f"SAVE_ROOTS has {tmp_path / 'no'}, which is no folder")
    assert "fewer than 16 characters" in token
    assert "abc" not in token
    assert Settings(api_tokens="abc", data_roots=str(tmp_path)).doubts == []


@pytest.mark.parametrize("tokens", ["", " ", ",", " , "])
def test_tokens_that_are_blank_are_none(tokens: str) -> None:
    with pytest.raises(ValidationError, match="API_TOKENS"):
        Settings(host="0.0.0.0", api_tokens=tokens, data_roots="/d", save_roots="/s")


@pytest.mark.parametrize(
    "origin", ["*", "null", "lab.example", "https://lab.example/", "https://lab.example/page", "x"]
)
def test_an_origin_that_would_match_nothing_or_everything_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(ValidationError, match="is no origin of web pages"):
        Settings(allowed_origins=f"https://other.example:8443, {origin}")


@pytest.mark.parametrize("address", ["head:6379", "auto", "ray://head:10001", "http://me:secret@head:8265", ""])
def test_what_is_no_address_of_a_ray_dashboard_is_refused_at_the_start(address: str) -> None:
    with pytest.raises(ValidationError, match="is not the address of a Ray dashboard"):
        Settings(ray_address=address)


def test_ray_for_everything_needs_a_cluster() -> None:
    with pytest.raises(ValidationError, match="RAY_ADDRESS"):
        Settings(executor="ray")
    assert Settings(executor="ray", ray_address="http://head:8265").ray_address == "http://head:8265"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_loopback_needs_nothing(host: str) -> None:
    assert Settings(host=host).is_loopback


def test_settings_never_show_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKENS", "hush-hush")
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://me:pass-word@db/training")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "not-a-word")
    assert "hush-hush" not in repr(Settings())
    assert "not-a-word" not in repr(Settings())
    assert "pass-word" not in repr(Settings())

    monkeypatch.setenv("HOST", "0.0.0.0")
    with pytest.raises(ValidationError) as refusal:
        Settings()
    assert "hush-hush" not in str(refusal.value)


def test_the_body_limit_can_be_set(serve_module: ServeModule, body: Body) -> None:
    with client_of(serve_module(max_body_bytes=1024)) as http:
        assert http.post("/api/v2/training/start", json=body).status_code == 200
        answer = http.post("/api/v2/training/start", json=body | {"description": "x" * 1024})
        assert refused(answer, 413, "body_too_large")
        assert "MAX_BODY_BYTES" in answer.json()["detail"]


def test_a_viewer_needs_a_token_like_anyone(guarded_http: httpx.Client, watch: Watch) -> None:
    viewer = watch("some", url=str(guarded_http.base_url))

    assert viewer.status == 401


@pytest.mark.parametrize(
    ("address", "status"), [("127.0.0.1", 200), ("::1", 200), ("192.0.2.7", 403), ("fd00::7", 403)]
)
async def test_without_tokens_only_this_machines_own_addresses_are_answered(address: str, status: int) -> None:
    """`uvicorn app_refactored:app --host 0.0.0.0` does not ask the settings."""

    async def route(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    guard = RequestGuard(route, hosts=(), origins=(), tokens=Tokens(()), max_body_bytes=1024)
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/v1/health",
        "headers": [(b"host", b"localhost")],
        "server": (address, 8000),
    }
    answers: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        answers.append(message)

    await guard(scope, receive, send)

    assert answers[0]["status"] == status


async def test_a_proxys_headers_do_not_make_this_machine_of_another_address() -> None:
    """`uvicorn --host 0.0.0.0 --forwarded-allow-ips '*'` believes them of everybody."""
    guard = RequestGuard(lambda *_: None, hosts=(), origins=(), tokens=Tokens(()), max_body_bytes=1024)  # type: ignore[arg-type]
    trusting = ProxyHeadersMiddleware(guard, trusted_hosts="*")  # type: ignore[arg-type]
    forged = [(b"x-forwarded-for", b"127.0.0.1"), (b"x-forwarded-host", b"localhost"), (b"x-real-ip", b"127.0.0.1")]
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/v2/training",
        "headers": [(b"host", b"localhost"), *forged],
        "client": ("192.0.2.9", 1234),
        "server": ("192.0.2.7", 8000),
        "scheme": "http",
    }
    answers: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        answers.append(message)

    await trusting(scope, receive, send)  # type: ignore[arg-type]

    assert answers[0]["status"] == 403


async def test_a_websocket_is_refused() -> None:
    guard = RequestGuard(lambda *_: None, hosts=(), origins=(), tokens=Tokens(()), max_body_bytes=1024)  # type: ignore[arg-type]
    answers: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        answers.append(message)

    scope = {"type": "websocket", "path": "/", "headers": [(b"host", b"localhost")], "server": ("127.0.0.1", 8000)}
    await guard(scope, receive, send)

    assert [answer["type"] for answer in answers] == ["websocket.close"]


def test_an_ipv6_address_to_listen_on_is_one_to_be_addressed_by() -> None:
    guard = RequestGuard(lambda *_: None, hosts=("fd00::1",), origins=(), tokens=Tokens(("t",)), max_body_bytes=1024)  # type: ignore[arg-type]
    headers = [(b"host", b"[fd00::1]:8000"), (b"authorization", b"Bearer t")]

    assert guard._refusal({"type": "http", "method": "GET", "path": "/", "headers": headers}) is None
