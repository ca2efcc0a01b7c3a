"""The service's own interface, under /v1: jobs, their files, and what happens to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, Field

from voxmetry.config import parse_record
from voxmetry.core.text import clean
from voxmetry.errors import ConfigError, FormatError
from voxmetry.service.datastore import Image
from voxmetry.service.errors import BusyError, not_found
from voxmetry.service.forms import keep, received
from voxmetry.service.infer import JobOptions, path_below, source_of_upload
from voxmetry.service.records import Job, JobState
from voxmetry.service.service import RECEIVED, Service
from voxmetry.service.views import EventList, FileEntry, JobList, JobView, ModelView, NewJob, Refusal

MOST_WAIT_SECONDS = 30.0
REPORT_POLICY = "sandbox allow-scripts allow-downloads allow-modals allow-popups; frame-ancestors 'self'"
"""A report has a policy of its own; besides, it is kept apart from this service's pages and their cookie."""

JobId = Annotated[str, InPath(pattern=r"^[0-9a-f]{16}$", description="Id of a job")]

After = Annotated[int, Query(ge=0, le=2**62, description="Number of the last event that is known")]
Wait = Annotated[float, Query(ge=0, le=MOST_WAIT_SECONDS, description="Seconds to wait for one")]


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Refusal} for status in statuses}


COMMON = _refusals(400, 401, 403, 422)


def v1_router(service: Service) -> APIRouter:
    """Return the routes under /v1."""
    router = APIRouter(prefix="/v1", tags=["jobs"], responses=COMMON)
    _add_submit(router, service)
    _add_upload(router, service)
    _add_jobs(router, service)
    _add_files(router, service)
    _add_events(router, service)
    return router


def _add_submit(router: APIRouter, service: Service) -> None:
    @router.post("/jobs", status_code=201, responses=_refusals(404, 413, 429, 507))
    def submit(request: Request, new: NewJob) -> JobView:
        """Submit a study that lies below a root, in the datastore, or on a peer."""
        name = service.queue.model_name(new.model)
        settings, source = new.options.over(service.settings.settings), _sources(service, new)
        if new.uid is not None:
            require_order(source, [item.modality for item in service.queue.models[name].spec.inputs])
        series = next((image.series for image in source if image.series), None)
        if len(source) == 1 and series is not None:
            settings = settings.model_copy(update={"series": series})
        job = service.submit(
            tuple(image.path for image in source),
            name,
            settings=settings,
            priority=new.priority,
            origin="uid" if new.uid else "datastore" if new.image else "path",
            label=clean(new.label),
            image=new.image or (service.images.id_of(source[0].path) if len(source) == 1 else None),
            # Fetched for this job, it goes with it.
            owned=any(image.kind == RECEIVED for image in source),
            once=new.once,
        )
        request.scope["state"]["job"] = job.id
        return JobView.of(job)


def _add_upload(router: APIRouter, service: Service) -> None:
    @router.post(
        "/jobs/upload",
        status_code=201,
        responses=_refusals(404, 408, 413, 429, 507),
        openapi_extra={"requestBody": _UPLOAD_BODY},
    )
    async def upload(request: Request) -> JobView:
        """Submit a study by upload: DICOM files, a zip of them, or an image file for each input of the model."""
        await asyncio.to_thread(service.queue.require_place)
        async with received(request, service) as (form, folder):
            fields = dict(form.fields)
            unknown = sorted(set(fields) - {"model", "options", "priority", "label"})
            if unknown:
                raise FormatError(
                    found=f"{len(unknown)} unknown fields in the form",
                    expected="files, model, options, priority, label",
                    fix="leave the others out",
                )
            new = _parsed(fields)
            name = service.queue.model_name(new.model)
            inputs = len(service.queue.models[name].spec.inputs)
            files = source_of_upload([(file.path, file.suffix) for file in form.files], inputs)
            settings = new.options.over(service.settings.settings)

            def submit() -> Job:
                kept = keep(folder)
                source = tuple(kept if path == folder else kept / path.name for path in files)
                return service.submit(
                    source,
                    name,
                    settings=settings,
                    priority=new.priority,
                    origin="upload",
                    label=clean(new.label),
                    owned=True,
                )

            job = await asyncio.to_thread(submit)
        request.scope["state"]["job"] = job.id
        return JobView.of(job)


_UPLOAD_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["model", "files"],
                "additionalProperties": False,
                "properties": {
                    "model": {"type": "string", "minLength": 1, "maxLength": 200},
                    "files": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}},
                    "options": {"type": "string", "description": "JSON, as options of POST /v1/jobs"},
                    "priority": {"type": "integer", "minimum": 0, "maximum": 8},
                    "label": {"type": "string", "maxLength": 100},
                },
            }
        }
    },
}


class _Fields(BaseModel):
    model: Annotated[str, Field(min_length=1, max_length=200)]
    options: JobOptions = JobOptions()
    priority: Annotated[int, Field(ge=0, le=8)] = 5
    label: Annotated[str, Field(max_length=100)] = ""


def _parsed(fields: dict[str, str]) -> _Fields:
    """Read the text fields of an upload."""
    values: dict[str, Any] = dict(fields)
    try:
        options = json.loads(values.pop("options", "") or "{}")
        values["priority"] = int(values.get("priority") or 5)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            found="options that are no JSON, or a priority that is no number",
            expected='options={"structures": ["liver"]}, priority=5',
            fix="correct the fields of the form",
        ) from error
    record = parse_record(options, JobOptions, where="options")
    if not 1 <= len(values.get("model", "")) <= 200:
        raise ConfigError(found="no model", expected="a field model", fix="name one: GET /v1/models")
    if not 0 <= values["priority"] <= 8 or len(values.get("label", "")) > 100:
        raise ConfigError(
            found="a priority or a label that is not taken",
            expected="a priority of 0 to 8, a label of at most 100 characters",
            fix="correct the fields of the form",
        )
    return _Fields(options=record, **{name: values[name] for name in ("model", "priority", "label") if name in values})


def _sources(service: Service, new: NewJob) -> list[Image]:
    """Return the images that a request names.

    Raises
    ------
    ConfigError
        If it names none, or in two ways.
    VoxmetryError
        If there is no such image.
    """
    given = [bool(new.path or new.paths), new.image is not None, new.uid is not None]
    if sum(given) != 1 or (new.path is not None and new.paths) or (new.peer is not None and new.uid is None):
        raise ConfigError(
            found=f"{sum(given)} ways in which the study is named",
            expected="one of path (or paths), image, and uid (with a peer, where it is fetched from one)",
            fix="name the study in one way",
        )
    if new.image is not None:
        return [service.images.find(new.image)]
    if new.uid is None:
        return [Image("", path_below(service.roots, name)) for name in new.paths or (new.path or "",)]
    found = list(_of_peer(service, new.peer, new.uid)) if new.peer else service.images.of_uid(new.uid)
    if not found:
        raise not_found("study or series", "check the UID, or name the peer that it is fetched from")
    folders = {image.path: image.kind for image in found}
    # All series of a study: the folder that holds them, for a model of several inputs.
    return [found[0]] if len(found) == 1 else [Image("", path, kind=kind) for path, kind in sorted(folders.items())]


def require_order(folders: Sequence[Image], modalities: Sequence[str]) -> None:
    """Refuse the folders of one study for inputs of one modality: which is for which nobody said, and none would show.

    Raises
    ------
    ConfigError
        If that is so.
    """
    if len(folders) > 1 and len(set(modalities)) < len(modalities):
        raise ConfigError(
            found=f"a study in {len(folders)} folders, for inputs of {', '.join(modalities)}",
            expected="a folder for each input, in the order of the model",
            fix="name them as paths, in this order",
        )


def _of_peer(service: Service, peer: str, uid: str) -> list[Image]:
    if service.hooks.fetch is None or peer not in service.settings.peers:
        raise not_found(
            "peer", f"name one of {', '.join(service.settings.peers) or 'none: the settings have no peers'}"
        )
    return list(service.hooks.fetch(peer, uid))


def _add_jobs(router: APIRouter, service: Service) -> None:
    @router.get("/jobs")
    def jobs(
        state: Annotated[list[JobState], Query()] = [],  # noqa: B006  (never changed)
        q: Annotated[str, Query(max_length=100, description="In the id, the model or the label")] = "",
        flagged: bool | None = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        offset: Annotated[int, Query(ge=0, le=1_000_000_000)] = 0,
    ) -> JobList:
        """List jobs, the newest first."""
        store = service.queue.store
        last = store.last_event()
        found = store.listed(states=state, words=q, flagged=flagged, after=offset, most=limit)
        counts = store.counts()
        return JobList(
            jobs=[JobView.of(job) for job in found], counts=counts.states | {"flagged": counts.flagged}, last_event=last
        )

    @router.get("/jobs/{job}", responses=_refusals(404))
    def job(job: JobId) -> JobView:
        """Return a job."""
        return JobView.of(service.queue.get(job))

    @router.post("/jobs/{job}/cancel", responses=_refusals(404))
    def cancel(job: JobId) -> JobView:
        """Give a job up; what it has done is dropped."""
        return JobView.of(service.queue.cancel(job))

    @router.post("/jobs/{job}/deliver", responses=_refusals(404, 409))
    def deliver(job: JobId) -> JobView:
        """Send again what a peer has not taken of the results, now."""
        return JobView.of(service.queue.deliver_again(job))

    @router.delete("/jobs/{job}", status_code=204, responses=_refusals(404, 409), response_class=Response)
    def remove(job: JobId) -> Response:
        """Delete a job that is over, with its results and what was uploaded for it."""
        service.queue.remove(job)
        return Response(status_code=204)

    @router.get("/models", tags=["service"])
    def models() -> list[ModelView]:
        """List the models that jobs can name."""
        return [
            ModelView(
                name=name,
                summary=model.spec.summary,
                inputs=[item.modality for item in model.spec.inputs],
                structures=list(model.spec.labels.names),
            )
            for name, model in service.queue.models.items()
        ]


_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}
_HTML: dict[int | str, dict[str, Any]] = {200: {"content": {"text/html": {"schema": {"type": "string"}}}}}
_PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
}


def _add_files(router: APIRouter, service: Service) -> None:
    def done(job: str) -> tuple[Job, Path]:
        found = service.queue.get(job)
        if found.state != "done":
            raise BusyError(
                found=f"a job that is {found.state}", expected="one that is done", fix=f"look at GET /v1/jobs/{job}"
            )
        return found, service.queue.folder(job)

    def file_of(job: str, name: str) -> Path:
        found, folder = done(job)
        path = folder / name
        # Only names that the record has are opened.
        if name not in found.files or not path.is_file():
            raise not_found("file", f"list them: GET /v1/jobs/{job}/files")
        return path

    @router.get("/jobs/{job}/files", tags=["results"], responses=_refusals(404, 409))
    def files(job: JobId) -> list[FileEntry]:
        """List the files of a result."""
        found, folder = done(job)
        paths = [(name, folder / name) for name in found.files]
        return [FileEntry(name=name, n_bytes=path.stat().st_size) for name, path in paths if path.is_file()]

    @router.get(
        "/jobs/{job}/files/{name}",
        tags=["results"],
        response_class=FileResponse,
        responses=_FILE | _refusals(404, 409),
    )
    def file(job: JobId, name: Annotated[str, InPath(max_length=100)]) -> FileResponse:
        """Return a file of a result."""
        path = file_of(job, name)
        return FileResponse(path, media_type="application/octet-stream", filename=f"{job}-{path.name}")

    @router.get(
        "/jobs/{job}/report",
        tags=["results"],
        response_class=FileResponse,
        responses=_HTML | _refusals(404, 409),
    )
    def report(job: JobId) -> FileResponse:
        """Return the report, with its viewer, to be opened in a browser."""
        headers = {"content-security-policy": REPORT_POLICY}
        return FileResponse(file_of(job, "report.html"), media_type="text/html", headers=headers)

    @router.get(
        "/jobs/{job}/thumbnail",
        tags=["results"],
        response_class=FileResponse,
        responses=_PNG | _refusals(404, 409),
    )
    def thumbnail(job: JobId) -> FileResponse:
        """Return a small picture of the result."""
        found, _ = done(job)
        name = next((name for name in ("preview.png", "thumbnail.png") if name in found.files), "preview.png")
        return FileResponse(file_of(job, name), media_type="image/png")


def _add_events(router: APIRouter, service: Service) -> None:
    async def events_after(after: int, wait: float, job: str | None) -> EventList:
        async with service.changes() as changed:
            loop = asyncio.get_running_loop()
            end = loop.time() + wait
            while True:
                changed.clear()
                found = await asyncio.to_thread(service.queue.events, after=after, job=job)
                left = end - loop.time()
                if found or left <= 0 or service.is_ending:
                    return EventList(events=found, last=found[-1].number if found else after)
                try:
                    await asyncio.wait_for(changed.wait(), left)
                except TimeoutError:
                    continue

    @router.get("/events", tags=["events"])
    async def all_events(after: After = 0, wait: Wait = 0) -> EventList:
        """Return what happened to all jobs after an event; with `wait`, wait for something to happen."""
        return await events_after(after, wait, None)

    @router.get("/jobs/{job}/events", tags=["events"], responses=_refusals(404))
    async def job_events(job: JobId, after: After = 0, wait: Wait = 0) -> EventList:
        """Return what happened to a job after an event; with `wait`, wait for something to happen."""
        await asyncio.to_thread(service.queue.get, job)
        return await events_after(after, wait, job)
