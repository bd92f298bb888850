"""The page to try the routes on: Swagger UI, of which one known version alone can run.

The page can do all that its reader can, so a script that a server elsewhere hands out may not simply run on it: each
file must have the digest that it had when this was written (W3C, Subresource Integrity), and the page says
what else it may load (W3C, Content Security Policy).
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

_PLACE = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.35.0"
_SCRIPT = f"{_PLACE}/swagger-ui-bundle.js"
_SCRIPT_DIGEST = "sha384-gjRm0bEPMeTmMh5jT2cHccIwCUZSTd8YC+j0d0sXw0MdGEfScduGpSyF3ZSSLkX9"
_STYLE = f"{_PLACE}/swagger-ui.css"
_STYLE_DIGEST = "sha384-WlYgdmXYOOBWL5apwjDEZwN+U3HmXSSu5R6V5aGxEcf7z+KuRNwBhoxKVN1i3D5I"
_BEGIN = 'SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true });'
_BEGIN_DIGEST = f"sha256-{b64encode(sha256(_BEGIN.encode()).digest()).decode()}"

_POLICY = {
    "default-src": "'none'",
    "script-src": f"{_SCRIPT} '{_BEGIN_DIGEST}'",
    "style-src": f"{_STYLE} 'unsafe-inline'",  # of its elements; a style runs nothing
    "img-src": "data:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
_PAGE = f"""\
<!doctype html>
<html lang="zh">
<head>
<meta charset="utf-8">
<title>图像分类训练服务 Image Training Service</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{_STYLE}" integrity="{_STYLE_DIGEST}" crossorigin="anonymous">
</head>
<body>
<div id="swagger-ui">The page needs a script from cdn.jsdelivr.net.
<a href="/openapi.json">/openapi.json</a> describes the routes without it.</div>
<script src="{_SCRIPT}" integrity="{_SCRIPT_DIGEST}" crossorigin="anonymous"></script>
<script>{_BEGIN}</script>
</body>
</html>
"""

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def get_docs() -> HTMLResponse:
    policy = "; ".join(f"{name} {value}" for name, value in _POLICY.items())
    return HTMLResponse(_PAGE, headers={"Content-Security-Policy": policy})
