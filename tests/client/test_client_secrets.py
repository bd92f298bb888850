"""Tokens and passwords: sent to the service, and shown to nobody."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

import test_training_metrics as script
from client import ServiceError, ServiceUnreachable, TrainingClient
from client.commands.cli import main
from client.demo.local_service import NoServiceError, free_url, service_at
from client.secrets import UnusableToken, shown_address
from tests.client.log_server import Log, serving

SECRET = "supersecret"
Answering = Callable[[httpx.Request], httpx.Response]


def client_of(answering: Answering, url: str = f"http://me:{SECRET}@host:8000") -> TrainingClient:
    return TrainingClient(url, transport=httpx.MockTransport(answering), sleep=lambda _: None)


@pytest.mark.parametrize("around", [(" ", ""), ("", "\r"), ("", "\r\n"), ("\t", " ")])
def test_white_space_around_a_token_is_not_sent(around: tuple[str, str]) -> None:
    with TrainingClient(token=SECRET.join(around)) as client:
        assert client._http.headers["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("token", ["", " ", "\r"])
def test_a_token_of_white_space_is_none(token: str) -> None:
    with TrainingClient(token=token) as client:
        assert not client.has_token


@pytest.mark.parametrize("character", ["\r", "\n", "\0", "\x1b", "\x7f", "é", "令", "\u2028"])
def test_a_token_that_cannot_be_sent_is_refused_without_being_shown(character: str) -> None:
    with pytest.raises(UnusableToken, match="TRAINING_SERVICE_TOKEN") as caught:
        TrainingClient(token=f"{SECRET}{character}{SECRET}")
    assert SECRET not in str(caught.value)


def test_a_token_from_a_file_with_windows_line_ends_is_good(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRAINING_SERVICE_TOKEN", f"{SECRET}\r")
    assert main(["list", "--url", free_url()]) == 4
    said = capsys.readouterr()
    assert "does not answer" in said.err
    assert SECRET not in said.err + said.out


def test_a_token_that_cannot_be_sent_ends_a_command_as_one_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRAINING_SERVICE_TOKEN", f"{SECRET}é")
    assert main(["list", "--url", free_url()]) == 2
    said = capsys.readouterr()
    assert "TRAINING_SERVICE_TOKEN" in said.err
    assert SECRET not in said.err + said.out


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("Connection refused"),
        httpx.LocalProtocolError(f"Illegal header value b'Bearer {SECRET}'"),
        httpx.ReadTimeout(""),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_address_with_a_password_is_shown_without_it_where_nobody_answers(error: Exception) -> None:
    def fail(_request: httpx.Request) -> httpx.Response:
        raise error

    with client_of(fail) as client:
        for ask in (client.health, lambda: next(iter(client.follow("t"))), lambda: next(client.exported("t"))):
            with pytest.raises(ServiceUnreachable, match="http://host:8000 does not answer") as caught:
                ask()
            assert SECRET not in str(caught.value)


def test_an_address_with_a_password_is_shown_without_it_where_something_else_answers() -> None:
    with (
        client_of(lambda _: httpx.Response(200, text="<html>")) as client,
        pytest.raises(ServiceError, match="http://host:8000/api/v1/health answered") as caught,
    ):
        client.health()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"http://me:{SECRET}@host:99999",
        f"http://me:{SECRET}/more@host",
        f"http://me:{SECRET}#more@host",
        f"ftp://me:{SECRET}@host",
        f"me:{SECRET}@host:8000",
        f"http://me:{SECRET}@",
    ],
)
def test_an_address_that_is_none_is_shown_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="is not an address of a service") as caught:
        TrainingClient(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://host:8000/path", "http://host:8000/path"),
        ("http://me:a@b@host", "http://host"),
        ("me:pw@host", "host"),
        ("nonsense", "nonsense"),
    ],
)
def test_what_stands_before_the_last_at_sign_is_not_shown(text: str, shown: str) -> None:
    assert shown_address(text) == shown


def test_the_line_to_watch_with_has_no_password() -> None:
    with TrainingClient(f"https://me:{SECRET}@host/prefix/") as client:
        assert client.shown_url == "https://host/prefix"
        assert script.curl(client, "t") == "curl -N https://host/prefix/api/v2/training/t/logs"


def test_a_service_that_is_not_there_is_told_without_the_password(tmp_path: Path) -> None:
    with serving(Log(["a"])) as url:
        with (
            pytest.raises(NoServiceError, match="not the training service") as caught,
            service_at(url.replace("//", f"//me:{SECRET}@"), tmp_path),
        ):
            pass
        assert SECRET not in str(caught.value)
