"""Who has a token, and how a browser keeps that up: an EventSource sends no header, but it sends a cookie.

A cookie says until when it is good, and proves with a signature (HMAC, RFC 2104) that somebody with a token
had it made. The key is made of that token, so that nothing needs to be stored: cookies outlast a restart of the
service, and end with the token that they were made for.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import scrypt, sha256

from starlette.datastructures import Headers

COOKIE = "training_session"
LIFETIME_S = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Session:
    """A cookie's value, and the moment (seconds since 1970) from which on it is worth nothing."""

    cookie: str
    expires: int


class Tokens:
    """The tokens of the service; false where there are none and nobody is asked for one."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = [token.encode() for token in tokens]
        self._keys = [_key(token) for token in self._tokens]

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def has_token(self, headers: Headers) -> bool:
        """Whether a request carries a token itself."""
        return self._index(headers) is not None

    def has_session(self, headers: Headers) -> bool:
        """Whether a request carries a session's cookie. (One of the name may also be another program's.)"""
        pairs = [pair.strip() for line in headers.getlist("cookie") for pair in line.split(";")]
        prefix = f"{COOKIE}="
        return any(self._is_good(pair.removeprefix(prefix)) for pair in pairs if pair.startswith(prefix))

    def open_session(self, headers: Headers) -> Session | None:
        """A session for whoever sends this request, if it carries a token itself."""
        index = self._index(headers)
        if index is None:
            return None
        expires = int(time.time()) + LIFETIME_S
        return Session(f"{expires}.{_signature(self._keys[index], str(expires))}", expires)

    def _index(self, headers: Headers) -> int | None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        sent = given.strip().encode("latin-1")  # the bytes of the header, which Starlette reads as Latin-1
        matches = [secrets.compare_digest(sent, token) for token in self._tokens]
        return matches.index(True) if scheme.lower() == "bearer" and any(matches) else None

    def _is_good(self, cookie: str) -> bool:
        expires, _, signature = cookie.partition(".")
        sent = signature.encode("latin-1", "replace")
        matches = [secrets.compare_digest(sent, _signature(key, expires).encode()) for key in self._keys]
        return any(matches) and int(expires) > time.time()


def _key(token: bytes) -> bytes:
    """Slow to compute (50 ms), so that a cookie is of no use for guessing a token that is short."""
    return scrypt(token, salt=b"training-service session", n=2**14, r=8, p=1)


def _signature(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode(), sha256).hexdigest()
