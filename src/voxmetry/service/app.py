"""The application: routes, the guard before them, and refusals in words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from voxmetry._version import __version__
from voxmetry.errors import VoxmetryError
from voxmetry.service.api import v1_router
from voxmetry.service.errors import QueueFullError, status_of
from voxmetry.service.guard import Audit, Guard, Sessions
from voxmetry.service.metrics import metrics_router
from voxmetry.service.monai import monai_router
from voxmetry.service.page import page_router
from voxmetry.service.service import Service

AUDIT = "audit.log"
_WORDS = {404: "no such address", 405: "a method that this address does not have"}


def create_app(service: Service) -> FastAPI:
    """Return the application of a service whose queue has been started.

    Parameters
    ----------
    service
        Its parts. The queue is stopped by whoever started it.
    """
    audit, sessions = Audit(service.queue.root / AUDIT), Sessions()

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        audit.close()

    app = FastAPI(
        title="voxmetry serve",
        version=__version__,
        description="Segmentation and measurements of CT, MR and PET/CT studies. Research use only.",
        # The pages of FastAPI load scripts from elsewhere; this service has its own.
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        lifespan=life,
    )
    app.add_middleware(Guard, settings=service.settings, tokens=service.tokens, sessions=sessions, audit=audit)
    for router in (
        v1_router(service),
        metrics_router(service, audit),
        monai_router(service),
        page_router(service, sessions),
    ):
        app.include_router(router)
    _add_refusals(app)
    return app


def _add_refusals(app: FastAPI) -> None:
    @app.exception_handler(VoxmetryError)
    async def refused(_: Request, error: VoxmetryError) -> Response:
        status = status_of(error)
        headers = {"retry-after": "30"} if isinstance(error, QueueFullError) else {}
        if status in (408, 413):
            headers["connection"] = "close"
        return JSONResponse(error.to_dict(), status, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        # Where and why, and not what: a value may hold anything.
        words = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:10])
        return _words(422, words, "a request as /v1/openapi.json describes it", "correct what is named")

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        found = _WORDS.get(error.status_code, str(error.detail))
        return _words(
            error.status_code,
            found,
            "an address of /v1/openapi.json",
            "look at /v1/docs",
            headers=dict(error.headers or {}),
        )

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return _words(400, "the client went away", "a whole request", "send it again")


def _words(status: int, found: str, expected: str, fix: str, headers: dict[str, str] | None = None) -> Response:
    content = {"error": "RequestError", "found": found, "expected": expected, "fix": fix}
    return JSONResponse(content, status, headers=headers)
