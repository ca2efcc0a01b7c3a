"""Put a model into the user's folder: whole or not at all, one program at a time."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from voxmetry.errors import ConfigError, LockedError, OutputExistsError
from voxmetry.io.atomic import make_folder, output_error
from voxmetry.models import BUNDLED
from voxmetry.models.store import MODEL_NAME, user_folder

_STAGE = ".part-"


@contextlib.contextmanager
def store_locked() -> Iterator[Path]:
    """Hold the user's folder of models, made where it is missing; what a killed program left there is removed.

    Yields
    ------
    Path
        The folder.

    Raises
    ------
    LockedError
        If another program holds it.
    OutputError
        If it cannot be written to.
    """
    root = make_folder(user_folder())
    lock = FileLock(root / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise LockedError(
            found="another program is installing a model",
            expected="one at a time",
            fix="wait until it has ended",
        ) from error
    try:
        for left in root.glob(f"{_STAGE}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield root
    finally:
        lock.release()


@contextlib.contextmanager
def installing(root: Path, name: str, *, overwrite: bool) -> Iterator[Path]:
    """Yield a hidden folder to write a model to; it becomes `root/name` if the block ends well.

    Raises
    ------
    ConfigError
        If the name cannot be that of a model, or is that of a bundled one.
    OutputExistsError
        If there is a model of this name and `overwrite` is off.
    OutputError
        If the folder cannot be written.
    """
    if not MODEL_NAME.fullmatch(name):
        raise ConfigError(
            found=f"the name {name!r}",
            expected="small letters, digits, dots, dashes and underscores, a letter or digit first",
            fix="name the model otherwise: --name",
        )
    if (BUNDLED / name / "model.yaml").is_file():
        raise ConfigError(
            found=f"the name {name}, which a bundled model has",
            expected="a name of its own: the bundled model would be found in its place",
            fix="name the model otherwise: --name",
        )
    target = root / name
    if target.exists() and not overwrite:
        raise OutputExistsError(
            found=f"a model {name} is installed already",
            expected="another name",
            fix="add --overwrite to replace it, or --name for another",
        )
    stage = root / f"{_STAGE}{secrets.token_hex(6)}"
    try:
        stage.mkdir()
        yield stage
        if target.exists():
            # A folder cannot be renamed onto another: the earlier one steps aside for a moment.
            target.rename(root / f"{_STAGE}{secrets.token_hex(6)}-earlier")
        stage.rename(target)
    except OSError as error:
        raise output_error(target, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        for left in root.glob(f"{_STAGE}*-earlier"):
            shutil.rmtree(left, ignore_errors=True)
