"""A service that cannot start says why in one sentence, not in a traceback."""

from __future__ import annotations

import sys

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.errors import ServiceError


class PlainStart:
    """Puts the words of a `ServiceError` in the place of the traceback that Starlette sends of a failed start.

    The server logs them and ends; `lifespan.startup.failed` of the ASGI specification carries them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def tell(message: Message) -> None:
            error = sys.exception()
            if message["type"] == "lifespan.startup.failed" and isinstance(error, ServiceError):
                message = {**message, "message": str(error)}
            await send(message)

        await self._app(scope, receive, tell if scope["type"] == "lifespan" else send)
