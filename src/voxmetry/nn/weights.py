"""Weights as data: safetensors with a checksum, never a pickle."""

from __future__ import annotations

import errno
import hashlib
import stat
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from voxmetry.core.memory import free_bytes
from voxmetry.errors import ModelError


def sha256_of(data: bytes) -> str:
    """Return the SHA-256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def to_bytes(network: nn.Module) -> bytes:
    """Serialise a network's parameters as float16 safetensors.

    float16 halves the file; `docs/reference/models.md` says what that costs in Dice.
    """
    state = distinct_tensors(network)
    return save({name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in state.items()})


def distinct_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of a network with each tensor once.

    DynUNet registers its blocks twice, as levels and as nested skip layers, so that its state names each tensor twice.
    """
    seen: set[int] = set()
    found = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor
    return found


def read_checked(path: Path, *, sha256: str) -> bytes:
    """Read a file of weights whose checksum must be `sha256`.

    Raises
    ------
    ModelError
        If the file is missing or its checksum is another.
    """
    try:
        # A device or a pipe would be read without an end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        _require_room(path)
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(
            found=f"the weights {path.name} of the model in {path.parent.name} cannot be read: {error.strerror}",
            expected="the file that model.yaml names",
            fix="copy the whole model folder again",
        ) from error
    found = sha256_of(data)
    if found != sha256:
        raise ModelError(
            found=f"{path.name} has the SHA-256 {found}",
            expected=f"{sha256}, as model.yaml says",
            fix="copy the model folder again: the file is damaged, incomplete or of another version",
        )
    return data


def _require_room(path: Path) -> None:
    size, free = path.stat().st_size, free_bytes()
    if free is not None and size > free / 2:
        raise ModelError(
            found=f"{path.name} of {size / 1e9:.2f} GB, and {free / 1e9:.2f} GB of memory are free",
            expected="half of the free memory at most: the network is built from it",
            fix="use a machine with more memory, or close other programs",
        )


def load_into(network: nn.Module, path: Path, *, sha256: str) -> None:
    """Fill a network with the weights of a file whose checksum must be `sha256`.

    Raises
    ------
    ModelError
        If the file is missing, its checksum is another, it is no safetensors file, or its tensors are not those of
        this network (the first that differs is named).
    """
    fill(network, read_checked(path, sha256=sha256), path.name)


def fill(network: nn.Module, data: bytes, name: str) -> None:
    """Fill a network with the weights in the bytes of a safetensors file, which is called `name` in errors.

    Raises
    ------
    ModelError
        If they are no safetensors file, or its tensors are not those of this network (the first that differs is named).
    """
    try:
        state = load(data)
    except SafetensorError as error:
        raise ModelError(
            found=f"{name} is no safetensors file: {error}",
            expected="weights in safetensors format",
            fix="export the model again",
        ) from error
    want = distinct_tensors(network)
    require_fit(state, want, name)
    with torch.no_grad():
        for key, tensor in want.items():
            tensor.copy_(state[key].float())


def require_fit(have: dict[str, torch.Tensor], want: dict[str, torch.Tensor], name: str) -> None:
    """See that tensors are those that a network wants, by name and shape.

    Raises
    ------
    ModelError
        If one is missing, too many or of another shape; the first is named.
    """
    for key in sorted(have.keys() | want.keys()):
        shapes = [tuple(state[key].shape) if key in state else None for state in (have, want)]
        if shapes[0] != shapes[1]:
            raise ModelError(
                found=f"{name} holds {key} with shape {shapes[0]}",
                expected=f"shape {shapes[1]}, as the network of model.yaml has it (None: no such tensor)",
                fix="use the weights that were trained with this model.yaml",
            )
