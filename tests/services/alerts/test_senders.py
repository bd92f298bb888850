"""Deliveries to receivers that misbehave, over real connections."""

from __future__ import annotations

import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from models.alerts import WebhookBody
from services.alerts import senders
from services.alerts.senders import SendError, check_url, send

BODY = WebhookBody(type="alert.test", timestamp=datetime(2026, 1, 1, tzinfo=UTC), data={})
WAIT_S = 30
Listen = Callable[[Callable[[socket.socket], object]], str]
OLD_MODULE = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
"""Apprise imports it where it reads a URL of mail."""


@pytest.fixture
def listen() -> Iterator[Listen]:
    """A server that does with its first connection what the test says; answers its URL."""
    servers: list[tuple[socket.socket, threading.Thread]] = []

    def start(serve: Callable[[socket.socket], object]) -> str:
        server = socket.create_server(("127.0.0.1", 0))

        def accept() -> None:
            try:
                connection, _ = server.accept()
            except OSError:
                return  # nobody came
            with closing(connection):
                serve(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.getsockname()[1]}/"

    yield start
    for server, thread in servers:
        server.shutdown(socket.SHUT_RDWR)
        thread.join(WAIT_S)
        server.close()


def deliver(url: str, *, allow_private: bool = True) -> None:
    send({"kind": "webhook", "url": url, "secret": None}, "msg_1", BODY, allow_private=allow_private)


def test_a_receiver_that_answers_forever_is_left_and_its_connection_closed(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(senders, "TIMEOUT_S", 0.5)
    is_closed, stop = threading.Event(), threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
        while not stop.wait(0.05):
            try:
                connection.sendall(b"y")
            except OSError:
                is_closed.set()
                return

    try:
        url = listen(drip)
        with pytest.raises(SendError, match="no answer"):
            deliver(url)
        assert is_closed.wait(WAIT_S)
    finally:
        stop.set()


def test_a_name_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders, "TIMEOUT_S", 0.2)
    answered = threading.Event()

    def ask(*_: Any, **__: Any) -> list[Any]:
        answered.wait(WAIT_S)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    try:
        with pytest.raises(SendError, match=r"within 0\.2 s"):
            deliver("http://slow.example/")
    finally:
        answered.set()


@pytest.mark.parametrize(
    "addresses",
    [["93.184.216.34", "127.0.0.1"], ["::ffff:127.0.0.1"], ["127.0.0.1"]],
    ids=["one of two", "IPv4 within IPv6", "at once"],
)
def test_a_name_that_leads_inside_is_not_connected_to(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    reached = threading.Event()
    url = listen(lambda connection: reached.set() if connection.recv(1) else None)
    name_server(monkeypatch, addresses)
    with pytest.raises(SendError, match="ALERT_PRIVATE_TARGETS"):
        deliver(url.replace("127.0.0.1", "public.example"), allow_private=False)
    assert not reached.is_set()


def test_a_name_that_changes_between_check_and_use_leads_to_what_was_checked(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the first answer is harmless, and every later one leads elsewhere."""

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    url = listen(answer)
    asked = name_server(monkeypatch, ["127.0.0.1"], ["192.0.2.1"])
    deliver(url.replace("127.0.0.1", "rebound.example"))
    assert asked == ["rebound.example"]


@OLD_MODULE
def test_mail_goes_to_the_address_that_was_checked(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    mail: list[str] = []
    port = port_of(listen(lambda connection: take_by_smtp(connection, mail)))
    asked = name_server(monkeypatch, ["127.0.0.1"], ["192.0.2.1"])
    post(f"mailto://mail.example:{port}/you@there.net?from=me@here.net&mode=insecure")
    assert asked == ["mail.example"]
    assert mail[:2] == ["FROM:<me@here.net>", "TO:<you@there.net>"]
    assert "the loss is no number" in mail[2]


@OLD_MODULE
def test_mail_is_not_sent_inside(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = threading.Event()
    port = port_of(listen(lambda connection: reached.set() if connection.recv(1) else None))
    name_server(monkeypatch, ["127.0.0.1"])
    with pytest.raises(SendError, match="ALERT_PRIVATE_TARGETS"):
        post(f"mailto://mail.example:{port}/you@there.net?from=me@here.net&mode=insecure", allow_private=False)
    assert not reached.is_set()


@OLD_MODULE
@pytest.mark.parametrize("code", [b"550", b"421"])
def test_mail_that_is_refused_is_not_delivered(listen: Listen, code: bytes) -> None:
    port = port_of(listen(lambda connection: take_by_smtp(connection, [], {"RCPT": code})))
    with pytest.raises(SendError, match="SMTPRecipientsRefused"):
        post(f"mailto://127.0.0.1:{port}/you@there.net?from=me@here.net&mode=insecure")


@OLD_MODULE
@pytest.mark.parametrize(
    "answers",
    [
        {"RCPT TO:<b@": b"550"},
        {"RCPT TO:<b@": b"450"},
        {"RCPT TO:<b@": b"421"},
        {"MAIL 2": b"452"},
        {"DATA 2": b"451"},
        {"MAIL 2": b""},
    ],
    ids=["no such one", "greylisted", "closes", "too much mail", "no room", "is gone"],
)
def test_mail_that_one_of_its_recipients_gets_is_not_tried_again_and_what_became_of_the_others_is_told(
    listen: Listen, caplog: pytest.LogCaptureFixture, answers: dict[str, bytes]
) -> None:
    mail: list[str] = []
    port = port_of(listen(lambda connection: take_by_smtp(connection, mail, answers)))
    said = post(f"mailto://127.0.0.1:{port}/a@there.net/b@there.net?from=me@here.net&mode=insecure")
    assert said == "1 of 2 recipients did not get it"
    assert [part for part in mail if "the loss is no number" in part] == mail[2:3]
    (logged,) = [record.getMessage() for record in caplog.records if record.name == "services.alerts.mail"]
    assert "b@there.net" in logged
    assert "a@there.net" not in logged


@OLD_MODULE
@pytest.mark.parametrize("goodbye", [b"250", b"451", b""])
def test_mail_is_sent_however_the_server_says_goodbye(listen: Listen, goodbye: bytes) -> None:
    mail: list[str] = []
    port = port_of(listen(lambda connection: take_by_smtp(connection, mail, {"QUIT": goodbye})))
    assert post(f"mailto://127.0.0.1:{port}/you@there.net?from=me@here.net&mode=insecure") is None
    assert "the loss is no number" in mail[2]


@OLD_MODULE
@pytest.mark.parametrize("mode", ["ssl", "starttls"])
def test_mail_by_tls_goes_to_the_address_that_was_checked_under_the_name_that_was_asked_for(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, certificate: Path, mode: str
) -> None:
    mail: list[str] = []
    port = port_of(listen(lambda connection: take_by_tls(connection, mail, certificate, mode)))
    asked = name_server(monkeypatch, ["127.0.0.1"], ["192.0.2.1"])
    post(f"mailtos://mail.example:{port}/you@there.net?from=me@here.net&mode={mode}")
    assert asked == ["mail.example"]
    assert mail[:2] == ["FROM:<me@here.net>", "TO:<you@there.net>"]


@OLD_MODULE
@pytest.mark.parametrize("mode", ["ssl", "starttls"])
@pytest.mark.parametrize(("wish", "is_sent"), [("", False), ("&verify=no", True)])
def test_a_mail_server_of_another_name_gets_no_mail_unless_nobody_asks_it(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, certificate: Path, mode: str, wish: str, is_sent: bool
) -> None:
    mail: list[str] = []

    def serve(connection: socket.socket) -> None:
        with suppress(OSError):  # whoever does not trust this server says so, and goes
            take_by_tls(connection, mail, certificate, mode)

    port = port_of(listen(serve))
    name_server(monkeypatch, ["127.0.0.1"])
    with nullcontext() if is_sent else pytest.raises(SendError, match="SSLCertVerificationError"):
        post(f"mailtos://other.example:{port}/you@there.net?from=me@here.net&mode={mode}{wish}")
    assert bool(mail) is is_sent


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of `mail.example`, with its key; this process trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail.example")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(hours=1), now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("mail.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path / "mail.pem"
    path.write_bytes(made.public_bytes(encoding) + private)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return path


@pytest.mark.parametrize("key", ["pgppub=http://10.0.0.1/", "PGPPRV=http://10.0.0.1/", "wkd=yes", "pgp=encrypt"])
def test_mail_reads_no_keys_from_elsewhere(key: str) -> None:
    assert "PGP" in (check_url("apprise", f"mailtos://me:secret@here.net?{key}", allow_private=True) or "")
    assert check_url("apprise", "mailtos://me:secret@here.net?to=you@there.net", allow_private=False) is None


def post(url: str, *, allow_private: bool = True) -> str | None:
    body = BODY.model_copy(update={"data": {"rule_name": "nan", "message": "the loss is no number"}})
    return send({"kind": "apprise", "url": url, "secret": None}, "msg_1", body, allow_private=allow_private)


def port_of(url: str) -> int:
    return int(url.rstrip("/").rpartition(":")[2])


def take_by_tls(connection: socket.socket, mail: list[str], certificate: Path, mode: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if mode == "starttls":  # RFC 3207: two greetings, the second one within TLS
        with connection.makefile("rwb", buffering=0) as stream:
            stream.write(b"220 here\r\n")
            for answer in (b"250-here\r\n250 STARTTLS\r\n", b"220 go ahead\r\n"):
                stream.readline()
                stream.write(answer)
    with context.wrap_socket(connection, server_side=True) as secured:
        take_by_smtp(secured, mail, greets=mode == "ssl")


def take_by_smtp(
    connection: socket.socket, mail: list[str], answers: dict[str, bytes] | None = None, *, greets: bool = True
) -> None:
    """Add sender, recipients and text to `mail`, as far as this server takes it (RFC 5321), before it says so.

    `answers` are codes to what begins so, or to the n-th command of a kind; to none of it the connection is closed.
    """
    codes = (answers or {}) | {"DATA": b"354", "QUIT": b"221"} | (answers or {})  # what is asked for comes first
    counts: Counter[str] = Counter()
    with connection.makefile("rwb", buffering=0) as stream:
        if greets:
            stream.write(b"220 here\r\n")
        for line in stream:
            verb, _, rest = line.decode().strip().partition(" ")
            verb = verb.upper()
            counts[verb] += 1
            if verb in ("MAIL", "RCPT"):
                mail.append(rest.split()[0])
            said = [f"{verb} {rest}", f"{verb} {counts[verb]}"]
            code = next((code for key, code in codes.items() if any(each.startswith(key) for each in said)), b"250")
            if not code:
                break
            stream.write(code + b" so be it\r\n")
            if verb == "DATA" and code == b"354":
                mail.append("".join(each.decode() for each in iter(stream.readline, b".\r\n")))
                stream.write(b"250 taken\r\n")
            elif verb == "QUIT" or code == b"421":
                break


def name_server(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """These answers to names, in turn; addresses stand for themselves. Returns what was asked, as it comes."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def ask(host: str, port: int, *arguments: Any, **options: Any) -> list[Any]:
        if not host.endswith(".example"):
            return list(real(host, port, *arguments, **options))
        asked.append(host)
        found = answers[len(asked) - 1]
        return [each for address in found for each in real(address, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    return asked
