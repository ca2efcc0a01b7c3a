"""Health and numbers of the service: `/health` for a supervisor, `/metrics` for Prometheus."""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Iterable, Mapping

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel

from voxmetry._version import __version__
from voxmetry.core.memory import resident_bytes
from voxmetry.service.guard import Audit
from voxmetry.service.service import Service

STATES = ("waiting", "running", "done", "failed", "set aside", "cancelled")


class HealthView(BaseModel):
    """How the service is."""

    ok: bool
    words: str
    version: str
    workers_lost: int


def metrics_router(service: Service, audit: Audit) -> APIRouter:
    """Return the routes of health and numbers."""
    router = APIRouter(tags=["service"])

    @router.get("/health", responses={503: {"model": HealthView}})
    def health() -> Response:
        """Say whether jobs are accepted and run; 503 where they are not."""
        found = service.queue.health()
        view = HealthView(ok=found.ok, words=found.words, version=__version__, workers_lost=found.n_lost)
        return JSONResponse(view.model_dump(), 200 if found.ok else 503)

    @router.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> PlainTextResponse:
        """Return numbers in the text format of Prometheus."""
        return PlainTextResponse(prometheus(service, audit), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def prometheus(service: Service, audit: Audit) -> str:
    """Spell the numbers out, as https://prometheus.io/docs/instrumenting/exposition_formats/ says."""
    queue, lines = service.queue, list[str]()
    counts, numbers = queue.counts(), queue.store.numbers()
    free = shutil.disk_usage(queue.root).free
    waits = numbers.oldest_waiting
    waited = (datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(waits)) if waits else None

    def add(name: str, kind: str, help_text: str, values: Iterable[tuple[Mapping[str, str], float]]) -> None:
        lines.extend((f"# HELP voxmetry_{name} {help_text}", f"# TYPE voxmetry_{name} {kind}"))
        for labels, value in values:
            inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            lines.append(f"voxmetry_{name}{{{inside}}} {value:.12g}" if inside else f"voxmetry_{name} {value:.12g}")

    add("info", "gauge", "Version of the service.", [({"version": __version__}, 1)])
    add("up", "gauge", "Whether jobs are accepted and run.", [({}, float(queue.health().ok))])
    add("jobs", "gauge", "Jobs in the record by state.", [({"state": s}, counts.states.get(s, 0)) for s in STATES])
    add("jobs_flagged", "gauge", "Jobs that are done and flagged for review.", [({}, counts.flagged)])
    add("job_seconds_sum", "gauge", "Seconds that the jobs in the record took that are done.", [({}, numbers.seconds)])
    add(
        "oldest_wait_seconds",
        "gauge",
        "Since when the oldest job waits.",
        [({}, waited.total_seconds() if waited else 0)],
    )
    add(
        "deliveries",
        "gauge",
        "Jobs in the record by delivery.",
        [({"state": k}, v) for k, v in numbers.deliveries.items()],
    )
    if service.hooks.network is not None:
        came = [({"what": words}, n) for words, n in sorted(service.hooks.network().items())]
        add("dicom", "gauge", "Associations, objects and series since the start, by what became of them.", came)
    add("workers_lost_total", "counter", "Workers that died since the start.", [({}, queue.health().n_lost)])
    add("disk_free_bytes", "gauge", "Room on the disk of the data folder.", [({}, free)])
    add("resident_bytes", "gauge", "Memory of this process, without its workers.", [({}, resident_bytes() or 0)])
    add("uptime_seconds", "gauge", "Since the start.", [({}, time.time() - service.started)])
    add("received_bytes_total", "counter", "Bytes of requests since the start.", [({}, audit.bytes_in)])
    requests = [
        ({"method": method, "route": route, "status": str(status)}, n)
        for (method, route, status), n in sorted(audit.requests.copy().items())
    ]
    add("requests_total", "counter", "Requests since the start.", requests)
    seconds = [({"route": route}, float(n)) for route, n in sorted(audit.seconds.copy().items())]
    add("request_seconds_total", "counter", "Seconds of requests since the start.", seconds)
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
