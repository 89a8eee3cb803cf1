"""The operator's page: files that are served as they are, and hold nothing that is secret.

They need no token: the page asks for it, and brings it with its calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from aiohttp import web

from relay.api.describe import Operation, describes
from relay.errors import RequestError

routes = web.RouteTableDef()

FOLDER = Path(__file__).parents[1] / "page"
PATH = "/page/"
INDEX = "index.html"
CONTENT_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
HEADERS = {
    # Nothing but our own files, nothing inline, and no other page around it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Kept, but asked for each time: modules of two versions do not fit.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One of the page's files."""

    body: bytes
    content_type: str
    etag: str


@cache
def page_files() -> Mapping[str, PageFile]:
    """The page's files by name, read once."""
    return {
        path.name: PageFile(
            body := path.read_bytes(),
            CONTENT_TYPES[path.suffix],
            hashlib.sha256(body).hexdigest()[:16],
        )
        for path in sorted(FOLDER.iterdir())
        if path.suffix in CONTENT_TYPES
    }


def wants_page(request: web.Request) -> bool:
    """Whether it is a browser that asks for `/`; programs get a plain list of the sessions."""
    return request.path == "/" and "text/html" in request.headers.get("Accept", "")


def is_open(request: web.Request) -> bool:
    """Whether the request is for one of the page's files, which anyone may see."""
    return request.method in ("GET", "HEAD") and (
        wants_page(request) or request.path.startswith(PATH)
    )


@routes.get("/page/{name}")
@describes(Operation(content_type="text/html", errors=(404,)))
async def page_file(request: web.Request) -> web.StreamResponse:
    """A file of the page at `/`."""
    return send_file(request, request.match_info["name"])


def send_file(request: web.Request, name: str) -> web.StreamResponse:
    """One of the page's files.

    Raises:
        RequestError: 404 `route_not_found`.
    """
    found = page_files().get(name)
    if found is None:
        raise RequestError("the page has no such file", code="route_not_found", http_status=404)
    vary = {"Vary": "Accept"} if name == INDEX else {}
    etags = request.if_none_match or ()
    if any(etag.value == found.etag for etag in etags):
        response = web.Response(status=304, headers=HEADERS | vary)
    else:
        response = web.Response(
            body=found.body,
            content_type=found.content_type,
            charset="utf-8",
            headers=HEADERS | vary,
        )
    response.etag = found.etag
    return response
