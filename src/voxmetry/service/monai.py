"""The protocol of MONAI Label, as the modules of 3D Slicer and OHIF speak it."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from voxmetry import io
from voxmetry._version import __version__
from voxmetry.config import DicomOutput, StudySettings
from voxmetry.core.text import clean
from voxmetry.errors import FormatError
from voxmetry.service.answer import (
    ENCODINGS,
    by_position,
    centroids,
    encode,
    label_names,
    parse_params,
    read_label,
    sent_labels,
)
from voxmetry.service.datastore import FINAL, Image
from voxmetry.service.errors import BusyError, DeniedError, TooSlowError, not_found
from voxmetry.service.forms import keep, received
from voxmetry.service.infer import options_of_params, takes_clicks
from voxmetry.service.records import Job
from voxmetry.service.service import RECEIVED, Service
from voxmetry.service.sessions import add_sessions, session_image

PRIORITY = 9
"""Somebody sits and waits."""

ImageId = Annotated[str, Query(min_length=1, max_length=400)]
Tag = Annotated[str, Query(max_length=32)]


def monai_router(service: Service) -> APIRouter:
    """Return the routes of the protocol."""
    router = APIRouter(include_in_schema=False)
    _add_auth(router, service)
    _add_info(router, service)
    _add_datastore(router, service)
    _add_labels(router, service)
    add_sessions(router, service)
    _add_infer(router, service)
    _add_training(router, service)
    return router


def _add_auth(router: APIRouter, service: Service) -> None:
    @router.get("/auth/")
    def auth() -> Response:
        if service.tokens is None:
            return JSONResponse({"detail": "no login"}, 404)
        return JSONResponse({"enabled": True, "client_id": "voxmetry", "realm": "voxmetry"})

    @router.post("/auth/token")
    async def token(request: Request) -> Response:
        fields = parse_qs((await request.body()).decode("utf-8", "replace"))
        given = fields.get("password", [""])[-1]
        known = await asyncio.to_thread(service.tokens.name_of, given) if service.tokens is not None else None
        if known is None:
            return JSONResponse({"detail": "the password is no token of this service"}, 401)
        return JSONResponse({"access_token": given, "token_type": "bearer"})

    @router.get("/auth/token/valid")
    def valid() -> Response:
        return JSONResponse({"valid": True})


def _add_info(router: APIRouter, service: Service) -> None:
    # 3D Slicer takes a top-level "config" for that of an old server, and stops.
    @router.get("/info/")
    def info() -> dict[str, Any]:
        models, names = {}, dict[str, None]()
        for name, model in service.queue.models.items():
            labels = {label.name: place for place, label in enumerate(model.spec.labels, start=1)}
            names |= dict.fromkeys(labels)
            models[name] = {
                "type": "deepedit" if takes_clicks(model.spec) else "segmentation",
                "labels": labels,
                "dimension": 3,
                "description": model.spec.summary,
                "config": {},
            }
        trainer = service.hooks.trainer
        strategies = service.hooks.strategies.items()
        return {
            "name": "voxmetry",
            "description": "Segmentation and measurements with quality checks. Research use only.",
            "version": __version__,
            "labels": list(names),
            "models": models,
            "trainers": trainer.describe() if trainer is not None else {},
            "strategies": {name: {"description": how.description} for name, how in strategies},
            "scoring": {},
            "train_stats": {},
            "datastore": service.images.facts(),
        }

    @router.post("/activelearning/{strategy}")
    def next_sample(strategy: str) -> dict[str, Any]:
        how = service.hooks.strategies.get(strategy)
        if how is None:
            raise not_found("strategy", f"name one of {', '.join(service.hooks.strategies)}")
        waiting = [image for image in service.images.images() if not image.is_done]
        chosen = how.choose(waiting, service.results([image.id for image in waiting]))
        if chosen is None:
            return {}
        return {"id": chosen.id, "name": _file_name(chosen), "ts": int(time.time()), "strategy": strategy}


def _file_name(image: Image) -> str:
    """Return a name by whose suffix a client reads what it gets: a DICOM series comes as NIfTI."""
    return image.path.name if image.series is None and image.path.is_file() else "image.nii.gz"


def _add_datastore(router: APIRouter, service: Service) -> None:
    @router.put("/datastore/")
    @router.put("/datastore/image")
    async def put_image(request: Request, image: Annotated[str, Query(max_length=400)] = "") -> dict[str, str]:
        async with received(request, service) as (form, _):
            file = form.file("file", "image", "files")
            if file is None:
                raise FormatError(found="no file", expected="a form with a file", fix="send the image as file=@IMAGE")
            name = clean(image) or file.stem
            if not name:
                raise FormatError(found="an image without a name", expected="?image=NAME", fix="give it a name")
            service.queue.require_room()
            added = await asyncio.to_thread(service.images.add, name, file)
        return {"image": added.id}

    @router.get("/datastore/")
    def datastore(output: str = "") -> dict[str, Any]:
        if output != "all":
            return service.images.facts()
        objects = {
            image.id: {
                "image": {"info": {"name": _file_name(image)}, "ext": ""},
                "labels": {tag: {"ext": "", "info": dict(info)} for tag, info in image.labels.items()},
            }
            for image in service.images.images()
        }
        return {"name": "voxmetry", "description": "", "objects": objects}

    @router.delete("/datastore/")
    def remove(id: ImageId) -> dict[str, str]:  # noqa: A002  (the protocol's name)
        service.images.remove(id)
        return {}

    @router.get("/datastore/image")
    def get_image(image: ImageId) -> FileResponse:
        found = service.images.find(image)
        try:
            path = service.images.image_file(found)
        finally:
            service.release(found)
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)

    @router.get("/datastore/image/info")
    def image_info(image: ImageId) -> dict[str, Any]:
        found = service.images.find(image)
        return {"id": found.id, "name": _file_name(found), "labels": sorted(found.labels)}


def _add_labels(router: APIRouter, service: Service) -> None:
    @router.put("/datastore/label")
    async def put_label(request: Request, image: ImageId, tag: Tag = "") -> dict[str, str]:
        async with received(request, service) as (form, _):
            file = form.file("label", "file")
            if file is None:
                raise FormatError(found="no label", expected="a form with the file label", fix="send label=@LABEL")
            params = parse_params(form.fields.get("params"))
            who = request.scope["state"].get("who")

            def save() -> str:
                found = service.images.find(image)
                try:
                    layers = read_label(file, service.images.grid(found), sent_labels(params))
                finally:
                    service.release(found)
                names = {label.name: label.value for layer in layers for label in layer.labels}
                listed = [{"name": name, "idx": value} for name, value in names.items()]
                said = {
                    "params": {"label_names": names, "label_info": listed},
                    "model": clean(str(params.get("model", "")))[:200],
                    # Whose token it is is known; what a client calls itself is only said.
                    "client_id": who or clean(str(params.get("client_id", "")))[:200],
                }
                service.queue.require_room()
                return service.images.save_label(found, tag or FINAL, layers, said)

            await asyncio.to_thread(save)
        return {"image": image, "label": image}

    @router.get("/datastore/label")
    def get_label(label: ImageId, tag: Tag = FINAL) -> FileResponse:
        path = service.images.label_file(label, tag or FINAL)
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)


def _add_infer(router: APIRouter, service: Service) -> None:
    @router.post("/infer/{model}")
    async def infer(
        request: Request,
        model: str,
        image: Annotated[str, Query(max_length=400)] = "",
        session_id: str = "",
        output: str = "",
    ) -> Response:
        name = service.queue.model_name(model)
        await asyncio.to_thread(service.queue.require_place)
        async with received(request, service) as (form, folder):
            params = parse_params(form.fields.get("params"))
            sent = form.file("file")
            spec = service.queue.models[name].spec
            # Before anything is fetched for it, which nobody would delete then.
            settings = _settings(service, params, output, spec.labels.names if takes_clicks(spec) else ())
            source = await asyncio.to_thread(_source, service, image, session_id, sent.path if sent else None)
            if source.series is not None:
                settings = settings.model_copy(update={"series": source.series})
            if source.path.parent == folder:
                # The job may go on for longer than this request.
                source = Image("", keep(folder) / source.path.name, kind=RECEIVED)
            job = await asyncio.to_thread(
                service.submit,
                source.path,
                name,
                settings=settings,
                priority=PRIORITY,
                origin="monai",
                image=None if session_id or sent else source.id,
                owned=source.kind == RECEIVED,
            )
        request.scope["state"]["job"] = job.id
        done = await service.over(job.id, service.settings.limits.wait_seconds)
        if done.is_over:
            await asyncio.to_thread(service.queue.remove_source, done)
        if done.state != "done":
            return _not_done(done)
        if output == "dicom_seg":
            return FileResponse(service.queue.folder(job.id) / "seg.dcm", media_type="application/dicom")
        return await asyncio.to_thread(_answer, service, done, params, output)

    @router.get("/infer/")
    def jobs() -> dict[str, Any]:
        return {}


def _source(service: Service, image: str, session_id: str, sent: Path | None) -> Image:
    """Return the image that is meant: of a session, sent along, or of an id."""
    if session_id:
        return Image(session_id, session_image(service, session_id))
    if sent is not None:
        return Image("", sent)
    if not image:
        raise FormatError(found="no image", expected="?image=ID, or session_id", fix="upload one: PUT /datastore/")
    return service.images.find(image)


def _settings(service: Service, params: dict[str, Any], output: str, clickable: Sequence[str]) -> StudySettings:
    settings = options_of_params(params, clickable).over(service.settings.settings)
    # Nobody waits for a report: a thumbnail for the page, and a report where it is flagged.
    update: dict[str, object] = {"report": "brief" if settings.report == "full" else settings.report}
    if output == "dicom_seg":
        update["dicom"] = DicomOutput(seg=True)
    return settings.model_copy(update=update)


def _not_done(job: Job) -> Response:
    if not job.is_over:
        late = TooSlowError(
            found=f"job {job.id} is not over yet",
            expected="a job that ends within limits.wait_seconds",
            fix=f"look at GET /v1/jobs/{job.id}, which goes on",
        )
        return JSONResponse(late.to_dict(), 504)
    if job.fault is None:
        denied = DeniedError(found="the job was cancelled", expected="a job that runs", fix="ask again")
        return JSONResponse(denied.to_dict(), 409)
    return JSONResponse(job.fault.model_dump(), 422)


def _answer(service: Service, job: Job, params: dict[str, Any], output: str) -> Response:
    """Return the segmentation of a job: a form of parameters and file, or one of the two."""
    folder = service.queue.folder(job.id)
    numbered = by_position(io.read_segmentation(folder / "seg.nii.gz"))
    extension = str(params.get("result_extension") or ".nrrd")
    extension = extension if extension in ENCODINGS else ".nrrd"
    packed = params.get("result_compress") is not False
    said: dict[str, Any] = {
        "label_names": label_names(numbered),
        "job": job.id,
        "model": job.model,
        "needs_review": job.needs_review,
        "flags": [flag.message for flag in job.flags],
    }
    if output == "json":
        return JSONResponse({"params": said})
    wide = params.get("result_dtype") in ("uint16", "int16")
    data = encode(numbered, folder, extension=extension, packed=packed, wide=wide)
    name = f"{job.id}{extension}"
    if output == "image":
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(data, media_type="application/octet-stream", headers=headers)
    if not packed:
        said["centroids"] = centroids(numbered)
    return multipart_answer(said, name, data)


def multipart_answer(params: dict[str, Any], name: str, data: bytes) -> Response:
    """Return a form of `params`, without a file name, and `image`, with one."""
    boundary = f"voxmetry{secrets.token_hex(16)}"
    parts = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n',
        json.dumps(params),
        f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n",
    )
    body = b"".join([*(part.encode("utf-8") for part in parts), data, f"\r\n--{boundary}--\r\n".encode("ascii")])
    return Response(body, headers={"content-type": f"multipart/form-data; boundary={boundary}"})


def _add_training(router: APIRouter, service: Service) -> None:
    no_trainer = {
        "detail": "this service does not train: its settings name no folder of corrections (training.work) and no "
        "model to start from (training.start_from)"
    }

    @router.get("/train/")
    def status(check_if_running: bool = False) -> Response:
        task = service.hooks.trainer.status() if service.hooks.trainer is not None else None
        if task is None or (check_if_running and task.get("status") != "RUNNING"):
            return JSONResponse({"detail": "no training runs"}, 404)
        return JSONResponse(task)

    @router.post("/train/")
    @router.post("/train/{model}")
    async def start(request: Request, model: str = "") -> Response:
        trainer = service.hooks.trainer
        if trainer is None:
            return JSONResponse(no_trainer, 501)
        params = parse_params((await request.body()).decode("utf-8", "replace"))
        service.queue.require_room()
        try:
            return JSONResponse(await asyncio.to_thread(trainer.start, model or None, params))
        except BusyError as error:
            # What clients of the protocol expect of a training that runs.
            return JSONResponse({"detail": error.found, **error.to_dict()}, 429)

    @router.delete("/train/")
    @router.delete("/train/{model}")
    def stop(model: str = "") -> Response:  # noqa: ARG001  (part of the address)
        if service.hooks.trainer is None:
            return JSONResponse(no_trainer, 404)
        return JSONResponse(service.hooks.trainer.stop())
