"""A service that does not own the store changes nothing, whatever the route: it says who does."""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import State
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import error_response

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""RFC 9110, 9.2.1."""
_CHANGES_NOTHING = frozenset({"/api/v1/session", "/api/v2/parsing/try", "/api/v2/training/check"})


class ReplicaGuard:
    """ASGI middleware, behind whatever decides who may ask.

    Args:
        on_refusal: told of each request that is refused, and with which status.
    """

    def __init__(self, app: ASGIApp, state: State, on_refusal: Callable[[Scope, int], None]) -> None:
        self._app = app
        self._state = state
        self._on_refusal = on_refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _SAFE and scope["path"] not in _CHANGES_NOTHING:
            service = self._state.service
            if not service.is_owner:
                refusal = service.database.read_replica()
                self._on_refusal(scope, refusal.status_code)
                headers = {"Retry-After": str(refusal.retry_after_s)}
                answer = error_response(refusal.status_code, refusal.detail, refusal.code, headers=headers)
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)
