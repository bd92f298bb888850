"""What a client is given and nobody else should read: its token, and a password that an address may hold."""

from __future__ import annotations

import httpx


class UnusableToken(ValueError):
    """A token that no request can carry. The message says which setting to correct; it does not quote the token."""

    def __init__(self) -> None:
        super().__init__(
            "The token has a character that cannot be sent, one that is not ASCII or a control character: "
            "correct TRAINING_SERVICE_TOKEN or --token"
        )


def usable_token(token: str | None) -> str | None:
    """The token as it is sent: a file with Windows line ends, or a copy, brings white space along with it.

    Raises:
        UnusableToken: what is left is more than printable ASCII.
    """
    token = (token or "").strip()
    if not (token.isascii() and token.isprintable()):
        raise UnusableToken
    return token or None


def shown_url(url: httpx.URL) -> str:
    """An address for messages and logs, which others read too: without a name and a password."""
    return str(url.copy_with(userinfo=b"")).rstrip("/")


def shown_address(text: str) -> str:
    """As `shown_url`, of what may be no address at all: whatever stands before the last `@` may be a password."""
    before, at, after = text.rpartition("@")
    scheme, slashes, _ = before.partition("://")
    return f"{scheme}{slashes}{after}" if at and slashes else after
