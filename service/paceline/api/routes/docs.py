"""`GET /docs`: Swagger UI for the OpenAPI document, from files served here, so that it works on a closed network.

The files are those of the package `fastapi-swagger`. The page names no other host, and its policy allows none.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response

_FILES = Path(str(files("fastapi_swagger.resources")))
_MEDIA_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
_VERSION = version("fastapi-swagger")
_SETTINGS: dict[str, Any] = {
    "validatorUrl": None,  # it would send the document's address to a service elsewhere
    "displayRequestDuration": True,
    "defaultModelExpandDepth": 3,
    "defaultModelsExpandDepth": 0,
}
_SAFETY_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
_FILE_HEADERS = {**_SAFETY_HEADERS, "cache-control": "max-age=31536000, immutable"}
"""A file never changes: the page names it with its version."""


def _build_page() -> bytes:
    """FastAPI's own page. Its addresses are relative, so that it also works below a proxy's prefix."""
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="Paceline",
        swagger_js_url=f"docs/swagger-ui-bundle.js?v={_VERSION}",
        swagger_css_url=f"docs/swagger-ui.css?v={_VERSION}",
        swagger_favicon_url=f"docs/favicon-32x32.png?v={_VERSION}",
        swagger_ui_parameters=_SETTINGS,
    )
    return bytes(page.body)


def _content_security_policy(page: bytes) -> str:
    """This host only, and of scripts on the page itself only the one that starts Swagger UI."""
    (script,) = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    script_hash = b64encode(sha256(script).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'self' 'sha256-{script_hash}'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


_PAGE = _build_page()
_PAGE_HEADERS = {
    **_SAFETY_HEADERS,
    "content-security-policy": _content_security_policy(_PAGE),
    "cache-control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def get_docs() -> Response:
    return Response(_PAGE, headers=_PAGE_HEADERS, media_type="text/html")


@router.get("/docs/{file}")
async def get_docs_file(file: str) -> Response:
    if file not in _MEDIA_TYPES:
        raise HTTPException(404)
    return FileResponse(_FILES / file, headers=_FILE_HEADERS, media_type=_MEDIA_TYPES[file])
