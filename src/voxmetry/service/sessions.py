"""Sessions of MONAI Label's protocol: images that a client sends once and names in later requests."""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request

from voxmetry.errors import FormatError
from voxmetry.service.errors import not_found
from voxmetry.service.forms import received
from voxmetry.service.service import Service

SESSIONS = "sessions"
"""Folder inside the data folder of images that a client keeps for a while without a name."""
SESSION_SECONDS = 24 * 3600.0
_SESSION = re.compile(r"[0-9a-f]{32}")


def add_sessions(router: APIRouter, service: Service) -> None:
    """Add the routes of sessions."""
    folder = service.queue.root / SESSIONS

    @router.put("/session/")
    async def create(request: Request) -> dict[str, Any]:
        async with received(request, service) as (form, _):
            file = form.file("files", "file", "image")
            if file is None:
                raise FormatError(found="no file", expected="a form with a file", fix="send the image as files=@IMAGE")
            service.queue.require_room()
            name = secrets.token_hex(16)

            def move() -> None:
                _forget_sessions(folder)
                place = folder / name
                place.mkdir(parents=True)
                shutil.move(file.path, place / f"image{file.suffix}")

            await asyncio.to_thread(move)
        return {"session_id": name, "expiry": int(SESSION_SECONDS)}

    @router.get("/session/{session_id}")
    def get(session_id: str) -> dict[str, Any]:
        session_image(service, session_id)
        return {"session_id": session_id, "name": session_id, "expiry": int(SESSION_SECONDS)}

    @router.delete("/session/{session_id}")
    def delete(session_id: str) -> dict[str, Any]:
        shutil.rmtree(session_image(service, session_id).parent, ignore_errors=True)
        return {"session_id": session_id}


def session_image(service: Service, session_id: str) -> Path:
    """Return the image of a session.

    Raises
    ------
    NotFoundError
        If there is no such session.
    """
    place = service.queue.root / SESSIONS / session_id
    files = sorted(place.iterdir()) if _SESSION.fullmatch(session_id) and place.is_dir() else []
    if not files:
        raise not_found("session", "begin one: PUT /session/ with the image")
    return files[0]


def _forget_sessions(folder: Path) -> None:
    """Delete the images of sessions that are over."""
    now = time.time()
    for place in folder.glob("*"):
        if now - place.stat().st_mtime > SESSION_SECONDS:
            shutil.rmtree(place, ignore_errors=True)
