"""Request bodies that are JSON (RFC 8259), and text that UTF-8 can hold.

Python's parser also takes `NaN`, turns `1e400` into infinity and `"\\ud800"` into a lone surrogate; each
of them would break further in, where it can no longer be answered with a clear sentence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute


class InvalidJson(HTTPException):
    """An `HTTPException`, because FastAPI replaces every other error that reading a body raises by its own."""

    code = "invalid_json"

    def __init__(self, detail: str) -> None:
        super().__init__(400, detail)


class StrictJsonRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = strict_loads(await self.body())
        return self._json


class StrictJsonRoute(APIRoute):
    """Give a router `route_class=StrictJsonRoute` and its bodies are read by `strict_loads`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(StrictJsonRequest(request.scope, request.receive))

        return handle_strictly


def strict_loads(body: bytes) -> Any:
    """Raises: InvalidJson: `body` is no JSON, holds a number out of range, or text that is no Unicode."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite_float)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise InvalidJson("The body is nested too deeply.") from error
    except UnicodeError as error:
        raise InvalidJson(f"The body is not UTF-8 text: {error}.") from error
    except ValueError as error:
        raise InvalidJson(f"The body is not valid JSON: {error}.") from error
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large a number")
    return number
