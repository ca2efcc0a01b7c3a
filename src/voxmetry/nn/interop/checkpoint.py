"""Checkpoints as data: torch's own unpickler, which runs no code, and the few numpy scalars that nnU-Net writes."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voxmetry.errors import ModelError

SLACK_BYTES = 1_000_000

MAY_PREFIX = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before the names of parameters."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a `torch.save` file that holds tensors, plain containers and numbers, and nothing else.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict
        Its content, tensors on the CPU.

    Raises
    ------
    ModelError
        If it cannot be read, holds code or objects that are not on the list, or is no dictionary.

    Notes
    -----
    A pickle is a program. `weights_only` runs the part of it that builds tensors and containers; to its list are
    added numpy's scalars of numbers, under a function that takes no other type.
    """
    _require_plain_size(path)
    try:
        with torch.serialization.safe_globals(_allowed()), warnings.catch_warnings():
            # torch warns of pickles that another program wrote, and then reads or refuses them.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            found=f"{path.name} holds more than numbers: {_first_line(error)}",
            expected="tensors, containers, numbers and text; a pickle with code is never run",
            fix="get the weights from their authors as a state dictionary or as safetensors",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(
            found=f"{path.name} cannot be read as a torch checkpoint: {_first_line(error)}",
            expected="a file that torch.save wrote",
            fix="copy the file again: it is missing, damaged, or of another kind",
        ) from error
    if not isinstance(content, dict):
        raise ModelError(
            found=f"{path.name} holds a {type(content).__name__}",
            expected="a dictionary of tensors, or one that holds it",
            fix="save the network's state_dict() instead of the network",
        )
    return content


def plain_names(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the tensors of a state dictionary without the prefixes of DataParallel and torch.compile.

    Examples
    --------
    >>> list(plain_names({"module.conv.weight": torch.zeros(1), "epoch": 3}))
    ['conv.weight']
    """
    found = {}
    for name, value in state.items():
        while name.startswith(MAY_PREFIX):
            name = name.split(".", 1)[1]
        if isinstance(value, torch.Tensor):
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise ModelError(
                    found=f"the tensor {name} of shape {tuple(value.shape)}, whose memory holds fewer values",
                    expected="tensors of a network, each with its values",
                    fix="get the weights from their authors again: this file was made to take memory",
                )
            found[name] = value
    return found


def _require_plain_size(path: Path) -> None:
    """Refuse an archive that unpacks to more than it is: torch stores tensors as they are."""
    try:
        size = path.stat().st_size
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        # torch says in its own words that it cannot be read.
        return
    if unpacked > size + SLACK_BYTES:
        raise ModelError(
            found=f"{path.name} of {size / 1e6:.1f} MB, which unpacks to {unpacked / 1e6:.1f} MB",
            expected="a file of torch.save, which packs nothing",
            fix="get the weights from their authors again: this file was made to take memory",
        )


def _allowed() -> list[Any]:
    kinds = (bool, "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
    types = {type(np.dtype(kind)) for kind in kinds}
    scalars = [(_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [np.dtype, *types, *scalars]


def _number(dtype: object, data: object = None) -> object:
    """Stand for numpy's `scalar`, which would also take objects."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biuf" or not isinstance(data, bytes):
        raise pickle.UnpicklingError("a numpy scalar that is no number")
    if len(data) != dtype.itemsize:
        raise pickle.UnpicklingError("a numpy scalar of another length")
    return np.frombuffer(data, dtype)[0].item()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line]
    text = lines[0] if lines else (str(error).strip().splitlines() or [type(error).__name__])[0]
    return text[:300]
