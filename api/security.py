"""Who may ask: checked before any route sees a request.

A service on loopback is still reachable by every web page its user opens. Host is therefore checked on
every request (DNS rebinding) and Origin and Sec-Fetch-Site on every one that changes something
(cross-site request forgery), those without a body included. A cookie, which a browser sends by itself, counts
only where both of them speak for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import BODY_TOO_LARGE, error_response
from api.session import Tokens

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN_PATHS = frozenset({"/api/v1/health", "/api/v1/health/live", "/api/v1/health/ready", "/dashboard"})
"""Answered without a token: for load balancers, and the page that asks for one. It is the same for everybody."""
OPEN_FOLDER = "/dashboard/"
SIGN_IN = ("POST", "/api/v1/session")
"""Wants the token itself: a session cannot prolong itself."""

ANSWER_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
"""An answer that a page shows in a frame, or embeds as something else, is of use to attackers only. A route that
answers with a page sets its own."""

_ANSWER_HEADERS = [(name.lower().encode(), value.encode()) for name, value in ANSWER_HEADERS.items()]
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:@/\[\]]+)(?::[0-9]{0,5})?", re.IGNORECASE)
_UNAUTHORIZED = (401, "Send a token of this service as 'Authorization: Bearer TOKEN'.", "token_required")
_FOREIGN = (403, "Requests from pages of other sites are refused; see ALLOWED_ORIGINS.", "origin_not_allowed")
_NO_PAGE = "With a cookie a change needs an Origin header. Outside of a browser send 'Authorization: Bearer TOKEN'."
_NAMELESS = (403, _NO_PAGE, "origin_not_allowed")

Refusal = tuple[int, str, str]


class RequestGuard:
    """ASGI middleware that refuses requests by host, origin, token and declared size.

    Args:
        app: what is guarded.
        hosts: host names, beside this machine's own, that a request may be addressed to.
        origins: origins of web pages, beside the service's own, that may change something.
        tokens: one of them, or a session made with one, must be sent; none: no token is asked for.
        max_body_bytes: largest body; FastAPI's own limit counts those that do not declare a size.
        on_refusal: told of each request that is refused, and with which status.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Sequence[str],
        origins: Sequence[str],
        tokens: Tokens,
        max_body_bytes: int,
        on_refusal: Callable[[Scope, int], None] = lambda _scope, _status: None,
    ) -> None:
        self._on_refusal = on_refusal
        self._app = app
        self._hosts = LOCAL_HOSTS | {_bracketed(host.lower()) for host in hosts}
        self._origins = frozenset(origins)
        self._max_body_bytes = max_body_bytes
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # there are none here, and none may pass unguarded
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                names = {name for name, _ in headers}
                message = {
                    **message,
                    "headers": [*headers, *(each for each in _ANSWER_HEADERS if each[0] not in names)],
                }
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            status, detail, code = refusal
            self._on_refusal(scope, status)
            headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
            await error_response(status, detail, code, headers=headers)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers = Headers(scope=scope)
        host = ", ".join(headers.getlist("host"))
        if not self._tokens and not _is_loopback(scope):
            return 403, "Beyond this machine the service asks for a token: set API_TOKENS.", "token_not_configured"
        if _host_name(host) not in self._hosts:
            return 403, f"This service does not answer for the host {host!r}; see ALLOWED_HOSTS.", "host_not_allowed"
        is_change = scope["method"] not in SAFE_METHODS
        if is_change and not self._is_own_or_allowed(headers, host):
            return _FOREIGN
        is_open = scope["path"] in OPEN_PATHS or (scope["path"].startswith(OPEN_FOLDER) and not is_change)
        if self._tokens and not is_open and not self._tokens.has_token(headers):
            if not self._tokens.has_session(headers) or (scope["method"], scope["path"]) == SIGN_IN:
                return _UNAUTHORIZED
            if not self._is_own_or_allowed(headers, host):
                return _FOREIGN
            if is_change and not _names_its_page(headers):
                return _NAMELESS
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length[:20]) > self._max_body_bytes:
            return 413, BODY_TOO_LARGE, "body_too_large"
        return None

    def _is_own_or_allowed(self, headers: Headers, host: str) -> bool:
        origins, sites = headers.getlist("origin"), headers.getlist("sec-fetch-site")
        if origins and all(origin in self._origins for origin in origins):
            return True
        own = (f"http://{host}".lower(), f"https://{host}".lower())
        if any(origin.lower() not in own for origin in origins):
            return False
        return all(site in {"same-origin", "none"} for site in sites)


def _names_its_page(headers: Headers) -> bool:
    """Whether the request says where it comes from, as those of browsers do that change something."""
    return "origin" in headers or "sec-fetch-site" in headers


def _is_loopback(scope: Scope) -> bool:
    """Whether the request has come in on this machine's own address; `uvicorn --host` does not ask the settings.

    Never by the client's address: that one a proxy's headers can change.
    """
    return _is_loopback_address((scope.get("server") or ("",))[0])


@lru_cache(64)
def _is_loopback_address(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:  # a Unix socket, or a test's name
        return True


def _bracketed(host: str) -> str:
    """An IPv6 address as a Host header writes it."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


@lru_cache(64)
def _host_name(host: str) -> str:
    """The name in a Host header, without its port: `[::1]:8000` gives `[::1]`; nothing, if it is no Host header."""
    match = _HOST.fullmatch(host)
    return match[1].lower() if match else ""
