"""Who may ask: checked before any route sees a request.

A service on loopback is still reachable by every web page its user opens. Host is therefore checked on
every request (DNS rebinding) and Origin and Sec-Fetch-Site on every one that changes something
(cross-site request forgery), those without a body included.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import BODY_TOO_LARGE, error_response

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN_PATHS = frozenset({"/api/v1/health"})
"""Answered without a token, for load balancers."""


class RequestGuard:
    """ASGI middleware that refuses requests by host, origin, token and declared size.

    Args:
        app: what is guarded.
        hosts: host names, beside this machine's own, that a request may be addressed to.
        origins: origins of web pages, beside the service's own, that may change something.
        tokens: accepted bearer tokens; none: no token is asked for.
        max_body_bytes: largest body; FastAPI's own limit counts those that do not declare a size.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Sequence[str], origins: Sequence[str], tokens: Sequence[str], max_body_bytes: int
    ) -> None:
        self._app = app
        self._hosts = LOCAL_HOSTS | {_bracketed(host.lower()) for host in hosts}
        self._origins = frozenset(origins)
        self._max_body_bytes = max_body_bytes
        self._tokens = [token.encode() for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            status, detail, code = refusal
            headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
            await error_response(status, detail, code, headers=headers)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._tokens and not _is_loopback(scope):
            return 403, "Beyond this machine the service asks for a token: set API_TOKENS.", "token_not_configured"
        if _host_name(host) not in self._hosts:
            return 403, f"This service does not answer for the host {host!r}; see ALLOWED_HOSTS.", "host_not_allowed"
        if scope["method"] not in SAFE_METHODS and not self._is_own_or_allowed(headers, host):
            return 403, "Requests from pages of other sites are refused; see ALLOWED_ORIGINS.", "origin_not_allowed"
        if self._needs_token(scope) and not self._has_token(headers):
            return 401, "Send a token of this service as 'Authorization: Bearer TOKEN'.", "token_required"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length[:20]) > self._max_body_bytes:
            return 413, BODY_TOO_LARGE, "body_too_large"
        return None

    def _is_own_or_allowed(self, headers: Headers, host: str) -> bool:
        origin = headers.get("origin")
        if origin in self._origins:
            return True
        if origin is not None and origin.partition("://")[2] != host:
            return False
        return headers.get("sec-fetch-site", "none") in {"same-origin", "none"}

    def _needs_token(self, scope: Scope) -> bool:
        return bool(self._tokens) and scope["path"] not in OPEN_PATHS

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        sent = given.strip().encode("latin-1")  # the bytes of the header, which Starlette reads as Latin-1
        matches = [secrets.compare_digest(sent, token) for token in self._tokens]
        return scheme.lower() == "bearer" and any(matches)


def _is_loopback(scope: Scope) -> bool:
    """Whether the request has come in on this machine's own address; `uvicorn --host` does not ask the settings."""
    address = (scope.get("server") or ("",))[0]
    try:
        return ip_address(address).is_loopback
    except ValueError:  # a Unix socket, or a test's name
        return True


def _bracketed(host: str) -> str:
    """An IPv6 address as a Host header writes it."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _host_name(host: str) -> str:
    """The name in a Host header, without its port: `[::1]:8000` gives `[::1]`."""
    end = host.find("]") + 1
    return (host[:end] if end else host.partition(":")[0]).lower()
