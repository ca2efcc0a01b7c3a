"""A GPU's memory: what of a study fits on it, and how it is said that there is none left."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from voxmetry.errors import InferenceError

DEVICE_MARGIN = 0.85
DEVICE_WINDOW = 1.5
"""Bytes on a GPU over the float32 tensors of a window that live at once: activations are of half the size, but cuDNN's
workspace and copies in another layout come on top. An estimate: no GPU was at hand."""

MOST_WINDOWS = 16
BUSY_GFLOP = 1000.0
"""A batch of this many operations keeps a GPU busy; more windows at once take memory for nothing."""


@dataclass(frozen=True)
class Room:
    """What fits into a device's memory.

    Parameters
    ----------
    batch
        Windows at once.
    ring, image
        Where the ring buffer and the prepared image live: the device, or "cpu".
    """

    batch: int
    ring: str
    image: str


def fit_device(gflop: float, *, window: int, ring: int, image: int, device: str) -> Room:
    """Say how many windows a GPU takes at once, and what of a study lives on it.

    Parameters
    ----------
    gflop
        10^9 operations of one window.
    window, ring, image
        Bytes of one window in the network; of the ring buffer with what restoring takes beside it; of the image.
    device
        "cuda" or "mps".

    Raises
    ------
    InferenceError
        If one window does not fit.
    """
    if device != "cuda":
        return Room(1, device, device)
    free = free_on_device()
    places = ((device, device), (device, "cpu"), ("cpu", device), ("cpu", "cpu"))
    for ring_place, image_place in places:
        taken = (ring if ring_place == device else 0) + (image if image_place == device else 0)
        if taken + window <= free:
            enough = math.ceil(BUSY_GFLOP / max(gflop, 1e-9))
            return Room(min(MOST_WINDOWS, enough, max(1, (free - taken) // window)), ring_place, image_place)
    raise InferenceError(
        found=f"{free / 1e9:.2f} GB of free memory on the GPU",
        expected=f"{window / 1e9:.2f} GB for one window of the network, image and scores on the host",
        fix="end other programs that use the GPU, or run with --device cpu (device='cpu')",
    )


def free_on_device() -> int:
    """Return how much of the current CUDA device's memory this process may take in bytes.

    What the driver has left, and what torch holds and does not use; a margin for fragments and the libraries' workspace
    left out. Of several processes on one device each takes its share (VOXMETRY_DEVICE_SHARE).
    """
    left, total = torch.cuda.mem_get_info()
    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    share = float(os.environ.get("VOXMETRY_DEVICE_SHARE") or 1)
    return int(min(left + unused, share * total - torch.cuda.memory_allocated()) * DEVICE_MARGIN)


class OutOfMemory(Exception):  # noqa: N818  (it is caught, never shown)
    """The device or the system has no memory left."""


OUT_OF_MEMORY = (
    "allocate memory",
    "out of memory",
    "out_of_memory",
    "bad_alloc",
    "not enough memory",
    "insufficient memory",
    "memoryallocation",
    "status_alloc_failed",
    "cublas_status_not_initialized",
    "unable to find an engine",
    "failed to allocate",
    "unable to allocate",
)
"""What torch, CUDA, cuDNN, cuBLAS, Metal, oneDNN and OpenVINO say when memory runs out, in small letters. Without room
for their workspace, cuDNN finds no engine and cuBLAS is not initialised."""


@contextlib.contextmanager
def out_of_memory() -> Iterator[None]:
    """Turn what torch, numpy and OpenVINO raise when memory runs out into `OutOfMemory`."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OutOfMemory from error
    except RuntimeError as error:
        if any(sign in str(error).casefold() for sign in OUT_OF_MEMORY):
            raise OutOfMemory from error
        raise


def release_device(device: str) -> None:
    """Give back what torch keeps of a device's memory, before less of it is asked for again."""
    if device == "cuda":
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()
