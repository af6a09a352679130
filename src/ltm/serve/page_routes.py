"""The page at /: three files and an icon in the wheel, which load nothing from anywhere else and need no build."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

PAGE = Path(__file__).with_name("page")
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
"""Nothing runs or loads but what this server sends, also where a memory's words hold markup."""
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


async def page(_: Request) -> Response:
    """GET /"""
    return _file(PAGE / "index.html")


async def page_file(request: Request) -> Response:
    """GET /page.css, /page.js, /icon.svg"""
    return _file(PAGE / request.url.path.rpartition("/")[2])


def _file(path: Path) -> Response:
    return FileResponse(path, headers=HEADERS, media_type=KINDS[path.suffix])


PAGE_ROUTES = [
    Route("/", page),
    *(Route(f"/{name}", page_file) for name in ("page.css", "page.js", "icon.svg")),
]
