"""/docs: the API, by Swagger UI from a package; /docs/dbt: what `pulse docs` builds. No other host is asked."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

_OURS = Path(__file__).with_name("api_docs")
_INLINE = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)
_NOT_BUILT = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><title>Music Pulse: dbt docs</title><link rel="icon" href="/favicon.svg">
</head>
<body><main>
<h1>The dbt docs aren't built yet</h1>
<p>Build them with <code>pulse docs --no-serve</code>, then load this page again.</p>
<p><a href="/">Back to the page</a></p>
</main></body>
</html>
"""
_DBT_FILES = {"index.html": "text/html", "manifest.json": "application/json", "catalog.json": "application/json"}
"""What the site reads; the folder holds more."""


def add_documentation(app: FastAPI, dbt_docs: Path) -> None:
    """Add the routes; `dbt_docs` is the folder that dbt writes, which may not be there yet."""
    package = find_spec("fastapi_offline")
    assert package is not None
    assert package.origin is not None
    assets = StaticFiles(directory=Path(package.origin).with_name("static"))
    app.mount("/docs/assets", assets, name="swagger-ui")

    @app.get("/docs", include_in_schema=False)
    async def api() -> Response:
        return FileResponse(_OURS / "index.html")

    @app.get("/docs/start.js", include_in_schema=False)
    async def start() -> Response:
        return FileResponse(_OURS / "start.js")

    @app.get("/docs/dbt", include_in_schema=False)
    async def dbt() -> Response:
        return RedirectResponse("/docs/dbt/")

    @app.get("/docs/dbt/{name:path}", include_in_schema=False)
    async def dbt_file(name: str) -> Response:
        return _dbt_file(dbt_docs, name or "index.html")


def _dbt_file(folder: Path, name: str) -> Response:
    try:
        content = (folder / name).read_bytes() if name in _DBT_FILES else None
    except OSError:
        content = None
    if content is None:
        return HTMLResponse(_NOT_BUILT, 404) if name == "index.html" else Response(status_code=404)
    headers = {"content-security-policy": _policy(content)} if name == "index.html" else {}
    return Response(content, media_type=_DBT_FILES[name], headers=headers)


def _policy(page: bytes) -> str:
    """Allow the page's own inline scripts, each by its hash, and the styles that it sets while it runs."""
    hashes = {base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _INLINE.findall(page)}
    scripts = " ".join(f"'sha256-{each}'" for each in sorted(hashes))
    return (
        f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
