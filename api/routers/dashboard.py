"""The dashboard: static files, and the one library that it draws with."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FILES = Path(__file__).parents[2] / "dashboard"
PATH = "/dashboard"

PLOTLY_STYLES = (
    "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='",
    "'sha256-ji27qzEtxXZW+7dun6UwjHXJ18e6WAin1VvNtkzIE/o='",
)
"""Of the two elements for styles that it makes: one is empty, to be filled rule by rule."""

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        f"style-src 'self' {' '.join(PLOTLY_STYLES)}",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


class PageFiles(StaticFiles):
    """Files that are asked for anew each time: a release changes them under the same names."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        answer = super().file_response(full_path, stat_result, scope, status_code)
        answer.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        answer.headers["Cache-Control"] = "no-cache"
        return answer


@lru_cache
def _plotly() -> Path:
    """The script that comes with Plotly's package, which itself is not imported: that takes a second."""
    package = find_spec("plotly")
    assert package is not None
    assert package.submodule_search_locations is not None
    return Path(package.submodule_search_locations[0]) / "package_data" / "plotly.min.js"


async def _serve_plotly(_request: object) -> Response:
    headers = {"Cache-Control": "public, max-age=86400"}
    return FileResponse(_plotly(), media_type="text/javascript", headers=headers)


async def _to_page(_request: object) -> Response:
    return RedirectResponse(f"{PATH}/", status_code=307)


def routes() -> list[Route | Mount]:
    """Of the whole page; none of them is an interface for programs."""
    return [
        Route(PATH, _to_page, include_in_schema=False),
        Route(f"{PATH}/vendor/plotly.min.js", _serve_plotly, include_in_schema=False),
        Mount(PATH, PageFiles(directory=FILES, html=True)),
    ]
