"""Sending one firing to one channel. What goes wrong is said without the URL, which may hold a secret."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpcore

from models.alerts import WebhookBody
from services.alerts.mail import send_mail
from services.alerts.targets import CheckedBackend, TargetRefused

TIMEOUT_S = 8.0
"""For all of it, from the name to the answer: less than clients wait for the answer of a channel's test."""
FIXED_HOSTS = frozenset({"slack", "discord", "tgram", "dingtalk", "wecombot", "feishu", "lark", "pover"})
"""Apprise services that speak to a public host of their own."""
MAIL = frozenset({"mailto", "mailtos"})
_KEYS = frozenset({"pgp", "pgpkey", "pgppub", "pgpprv", "wkd"})
"""Of mail: each may name a URL that Apprise would fetch."""
OWN_HOSTS = frozenset({"json", "jsons", "xml", "xmls", "form", "forms", "gotify", "gotifys", "ntfy", "ntfys"})
"""Those whose URL names the host, and that connect by themselves: only where private targets are allowed."""


class SendError(Exception):
    """It was not delivered. `final`: and never will be."""

    def __init__(self, why: str, *, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


def check_url(kind: str, url: str, *, allow_private: bool) -> str | None:
    """Why a URL cannot be a channel; `None` if it can."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "it is no URL"
    if kind == "webhook":
        if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
            return "a webhook has a URL as https://host/path"
        return "put no user and password into the URL of a webhook" if parts.username is not None else None
    allowed = FIXED_HOSTS | MAIL | (OWN_HOSTS if allow_private else frozenset())
    if parts.scheme not in allowed:
        return f"of Apprise, these are accepted: {', '.join(sorted(allowed))}"
    if parts.scheme in MAIL and _KEYS & {name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)}:
        return "mail is sent without PGP: leave out pgp, pgppub, pgpprv and wkd, which may lead to other addresses"
    return None


def sign(secret: str, webhook_id: str, timestamp: int, body: bytes) -> str:
    """Signature of Standard Webhooks (https://www.standardwebhooks.com), with the secret's UTF-8 bytes as the key."""
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()


def send(channel: Mapping[str, Any], webhook_id: str, body: WebhookBody, *, allow_private: bool) -> str | None:
    """What there is to say of a message that was sent: who of several has not got it.

    Raises: SendError: also when it takes longer than `TIMEOUT_S`.
    """

    def deliver() -> str | None:
        if channel["kind"] == "webhook":
            _send_webhook(channel, webhook_id, body.model_dump_json().encode(), allow_private=allow_private)
            return None
        return _send_apprise(channel["url"], body, allow_private=allow_private)

    try:
        return _within(TIMEOUT_S, deliver)
    except TimeoutError:
        raise SendError(f"no answer within {TIMEOUT_S:g} s") from None


def _within(limit_s: float, call: Callable[[], str | None]) -> str | None:
    """What cannot be hurried, a resolver or a plugin, is left behind on its thread when it is late."""
    done: Future[str | None] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            done.set_exception(error)

    threading.Thread(target=run, name="alert-send", daemon=True).start()
    return done.result(limit_s)


def _send_webhook(channel: Mapping[str, Any], webhook_id: str, body: bytes, *, allow_private: bool) -> None:
    now = int(time.time())
    headers: dict[bytes | str, bytes | str] = {
        "content-type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(now),
    }
    if channel["secret"]:
        headers["webhook-signature"] = sign(channel["secret"], webhook_id, now, body)
    backend = CheckedBackend(allow_private=allow_private, until=time.monotonic() + TIMEOUT_S)
    try:
        with (
            httpcore.ConnectionPool(network_backend=backend) as pool,
            pool.stream("POST", channel["url"], headers=headers, content=body) as answer,
        ):
            status = answer.status
    except TargetRefused as error:
        raise SendError(str(error)) from None
    except Exception as error:  # noqa: BLE001 - whatever the other end does
        raise SendError(f"no answer ({type(error).__name__})") from None
    if not 200 <= status < 300:
        raise SendError(f"the receiver answered {status}", final=status == 410)


def _send_apprise(url: str, body: WebhookBody, *, allow_private: bool) -> str | None:
    import apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # it would log URLs
    try:
        plugin = apprise.Apprise.instantiate(url)
        if not plugin:
            raise SendError("Apprise does not take this URL", final=True)
        title = str(body.data.get("rule_name", "alert"))
        text = f"{body.data.get('task_id', '')}: {body.data.get('message', '')}"
        if urlsplit(url).scheme in MAIL:
            return send_mail(plugin, title, text, allow_private=allow_private, timeout_s=TIMEOUT_S)
        delivered = plugin.notify(body=text, title=title)
    except SendError:
        raise
    except TargetRefused as error:
        raise SendError(str(error)) from None
    except Exception as error:  # noqa: BLE001 - whatever a plugin does
        raise SendError(f"not sent ({type(error).__name__})") from None
    if not delivered:
        raise SendError("the service did not take it")
    return None
