"""What the OpenAPI document says beside what FastAPI reads from the routes: who may ask."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from api.security import OPEN_PATHS
from api.session import Tokens

_BEARER = "token"


def name_scheme(app: FastAPI, tokens: Tokens) -> None:
    """Where the service asks for a token, let the document say how to send one (OpenAPI 3.1, Security Scheme Object).

    For whoever reads it, and tools: that a token is asked for is no route's business, but that of `RequestGuard`.
    """
    if not tokens:
        return
    read_routes = app.openapi

    def openapi() -> dict[str, Any]:
        document = read_routes()
        scheme = {"type": "http", "scheme": "bearer", "description": "one of API_TOKENS"}
        document.setdefault("components", {})["securitySchemes"] = {_BEARER: scheme}
        document["security"] = [{_BEARER: []}]
        for path in OPEN_PATHS & document["paths"].keys():
            for operation in document["paths"][path].values():
                operation["security"] = []
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to change it
