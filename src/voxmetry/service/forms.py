"""Forms of a request, received into a folder that is gone afterwards unless it is kept."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs

from starlette.requests import Request

from voxmetry.io.atomic import output_error
from voxmetry.service.multipart import Form, new_folder, receive_form
from voxmetry.service.retention import UPLOAD
from voxmetry.service.service import Service


@asynccontextmanager
async def received(request: Request, service: Service) -> AsyncIterator[tuple[Form, Path]]:
    """Receive a form, and give it with the folder of its files; the folder is deleted at the end of the block.

    Raises
    ------
    VoxmetryError
        As `receive_form`.
    """
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        yield await _plain_form(request), Path()
        return
    async with service.one_upload():
        folder = await asyncio.to_thread(new_folder, service.uploads)
        try:
            form = await receive_form(request.stream(), kind, folder, service.form_limits)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    try:
        yield form, folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _plain_form(request: Request) -> Form:
    """Read the fields of a form without files, whatever it calls itself."""
    text = (await request.body()).decode("utf-8", "replace")
    if text.lstrip().startswith("{"):
        return Form(fields={"params": text})
    return Form(fields={name: values[-1] for name, values in parse_qs(text).items()})


def keep(folder: Path) -> Path:
    """Give the folder of an upload a name that stays, and return it.

    Raises
    ------
    OutputError
        If it cannot be renamed.
    """
    kept = folder.with_name(folder.name.replace(".part-", UPLOAD))
    try:
        return folder.rename(kept)
    except OSError as error:
        raise output_error(kept, error) from error
