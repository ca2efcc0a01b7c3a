"""The page at `/`: jobs, verdicts and uploads; and a page of the interface, both without a request to anywhere else."""

from __future__ import annotations

import asyncio
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from markupsafe import escape

from voxmetry.service.errors import not_found
from voxmetry.service.guard import COOKIE, SESSION_SECONDS, Sessions
from voxmetry.service.service import Service

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_PARTS = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_METHODS = ("get", "post", "put", "delete")


def page_router(service: Service, sessions: Sessions) -> APIRouter:
    """Return the routes of the pages."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    def page() -> Response:
        return HTMLResponse(_text("page.html"), headers={"content-security-policy": POLICY})

    @router.get("/favicon.ico")
    def icon() -> Response:
        return Response(_text("icon.svg"), media_type="image/svg+xml")

    @router.get("/v1/docs")
    def docs(request: Request) -> Response:
        return HTMLResponse(_docs(request.app.openapi()), headers={"content-security-policy": POLICY})

    @router.get("/page/who")
    def who(request: Request) -> Response:
        return JSONResponse({"asks": service.tokens is not None, "name": request.scope["state"].get("who")})

    @router.post("/page/login")
    async def login(request: Request) -> Response:
        token = (await request.body()).decode("utf-8", "replace").strip()
        known = await asyncio.to_thread(service.tokens.name_of, token) if service.tokens is not None else None
        if known is None:
            return JSONResponse({"found": "the token is not known"}, 401)
        answer = JSONResponse({"name": known})
        answer.set_cookie(
            COOKIE,
            sessions.begin(token),
            max_age=int(SESSION_SECONDS),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    @router.post("/page/logout")
    def logout(request: Request) -> Response:
        sessions.end(request.cookies.get(COOKIE, ""))
        answer = JSONResponse({})
        answer.delete_cookie(COOKIE)
        return answer

    @router.get("/page/{name}")
    def part(name: str) -> Response:
        if name not in _PARTS:
            raise not_found("part of the page", "load the page anew")
        return Response(_text(name), media_type=_PARTS[name], headers={"cache-control": "no-cache"})

    return router


def _text(name: str) -> str:
    return (files("voxmetry.service") / "page" / name).read_text(encoding="utf-8")


def _docs(spec: dict[str, object]) -> str:
    """Return a page of all operations: method, address, what it does, parameters and answers."""
    rows = []
    paths = spec["paths"]
    if not isinstance(paths, dict):
        paths = {}
    for path, methods in paths.items():
        for method in (name for name in _METHODS if name in methods):
            operation = methods[method]
            names = [each["name"] for each in operation.get("parameters", ())]
            kinds = ", ".join(operation.get("requestBody", {}).get("content", {}))
            rows.append(
                f"<tr><td><code>{escape(method.upper())}</code></td><td><code>{escape(path)}</code></td>"
                f"<td>{escape(operation.get('description', ''))}</td><td>{escape(', '.join(names))}</td>"
                f"<td>{escape(kinds)}</td><td>{escape(', '.join(operation['responses']))}</td></tr>"
            )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>voxmetry serve: interface</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="/page/page.css"></head><body class="docs"><main><h1>Interface</h1>'
        '<p>All of it, with every record, for programs: <a href="/v1/openapi.json">openapi.json</a>. '
        '<a href="/">Jobs</a></p><div class="scroll" role="region" aria-label="Operations" tabindex="0"><table>'
        "<thead><tr><th>Method</th><th>Address</th><th>What it does</th><th>Parameters</th><th>Body</th>"
        f"<th>Status</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div></main></body></html>"
    )
