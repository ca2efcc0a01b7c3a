"""OpenVINO as a runtime: the network converted once, compiled for this CPU, and kept on disk for the next start."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sys
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from voxmetry.errors import ModelError
from voxmetry.nn.cache import cache_root

SUM = ".sha256"
"""Suffix of the checksum beside a converted network."""
_DAY_S = 86_400


def import_openvino() -> ModuleType:
    """Import OpenVINO with its usage telemetry off: nothing leaves this machine.

    OpenVINO sends an event as soon as its converter is imported, unless the package `openvino_telemetry` is missing.
    It is made to seem so.
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@functools.cache
def openvino_has_bf16() -> bool:
    """Whether OpenVINO multiplies bf16 on this CPU in hardware, and `ONEDNN_MAX_CPU_ISA` lets it."""
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    # Its capabilities do not know of the variable, and it would find no way to compile the network.
    if most not in ("", "ALL", "DEFAULT") and not any(name in most for name in ("BF16", "FP16", "AMX", "AVX10")):
        return False
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class _Compiled:
    """A compiled network, which runs the patches of a batch one after the other."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Run the patches; the result holds until the next call."""
        parts = []
        for patch in patches:
            self._request.infer({0: patch[None].contiguous().numpy()}, share_inputs=True, share_outputs=True)
            parts.append(torch.from_numpy(self._request.get_output_tensor(0).data))
            if len(patches) > 1:
                parts[-1] = parts[-1].clone()
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class OpenVinoRuntime(_Compiled):
    """A network compiled for this CPU.

    Parameters
    ----------
    make
        Returns the network, in evaluation mode, on the CPU. It is not called where the network is in the cache, and
        the network is not kept.
    key
        Names the network and its weights; with the shape and the versions of the packages it is the place in the cache.
    shape
        (1, C, *patch); batches are run one patch after the other.
    example
        (1, C, I, J, K) of the zeros that the network is traced with, which runs it in torch. A network of nothing but
        convolutions gives the same graph for a small one, in less time and memory. None takes `shape`.
    precision
        "float32" or "bf16".
    """

    def __init__(
        self,
        make: Callable[[], nn.Module],
        key: str,
        *,
        shape: tuple[int, ...],
        precision: str,
        example: tuple[int, ...] | None = None,
    ) -> None:
        openvino = import_openvino()
        core = openvino.Core()
        folder = cache_folder(key, shape, openvino.__version__)
        converted = folder / "network.xml" if folder else None
        options = _options(precision, folder)
        if converted and is_whole(converted):
            # What cannot be read all the same is made anew.
            with contextlib.suppress(RuntimeError):
                super().__init__(core.compile_model(converted, "CPU", options))
                return
        model = convert(make(), shape, example or shape)
        if converted:
            # On a full disk it runs without, and is converted again at the next start.
            with contextlib.suppress(RuntimeError, OSError):
                save_network(model, converted, sealed=True)
                model = core.read_model(converted)
        super().__init__(core.compile_model(model, "CPU", options))


class StoredRuntime(_Compiled):
    """A network that lies converted in a file, such as one in 8 bits, compiled for this CPU.

    Parameters
    ----------
    path
        Its .xml, with the .bin beside it.
    key
        Names the content of both, for the cache of what was compiled.
    shape
        (1, C, *patch).
    precision
        "float32" or "bf16": of the products that are not in 8 bits.

    Raises
    ------
    ModelError
        If OpenVINO cannot read or compile it, as one of a later version.
    """

    def __init__(self, path: Path, key: str, *, shape: tuple[int, ...], precision: str) -> None:
        openvino = import_openvino()
        options = _options(precision, cache_folder(key, shape, openvino.__version__))
        try:
            super().__init__(openvino.Core().compile_model(path, "CPU", options))
        except RuntimeError as error:
            raise ModelError(
                found=f"{path.name}, which OpenVINO {openvino.__version__} cannot use",
                expected="a network that was converted by this version or an earlier one",
                fix="install the newer OpenVINO, or make it again: voxmetry models quantise",
            ) from error


def _options(precision: str, folder: Path | None) -> dict[str, Any]:
    hint = {"float32": "f32", "bf16": "bf16"}[precision]
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    return options | ({"CACHE_DIR": str(folder)} if folder else {})


def convert(network: nn.Module, shape: tuple[int, ...], example: tuple[int, ...]) -> Any:
    """Convert a network for patches of one shape, in float32; see `OpenVinoRuntime`."""
    openvino = import_openvino()
    with warnings.catch_warnings():
        # OpenVINO converts by way of torch.jit.trace, which warns of its deprecation and of fixed shapes.
        warnings.simplefilter("ignore")
        model = openvino.convert_model(network, example_input=torch.zeros(example))
    model.reshape(list(shape))
    return model


def cache_folder(key: str, shape: tuple[int, ...], version: str) -> Path | None:
    """Return the folder for this network's compiled form, or None where it cannot be written.

    It lies in VOXMETRY_CACHE, else in the user's cache folder. Its name is a hash of the key, the patch and the
    versions of the packages that build, trace and compile the network, so that what is there is what would be made.
    """
    versions = f"{version} {torch.__version__} {metadata.version('monai')}"
    known = hashlib.sha256(f"{versions} {shape} {key}".encode())
    folder = cache_root() / "openvino" / known.hexdigest()[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def save_network(model: Any, path: Path, *, sealed: bool = False) -> None:
    """Write a converted network; its .xml appears last, so that a half-written one is never read.

    With `sealed` its checksum is written beside it, for `is_whole`.

    Raises
    ------
    RuntimeError, OSError
        If there is no room for it; nothing of it is left.
    """
    openvino = import_openvino()
    _sweep(path.parent)
    part = path.with_name(f"part-{os.getpid()}.xml")
    parts = {suffix: part.with_suffix(suffix) for suffix in (".bin", SUM, ".xml")}
    try:
        openvino.save_model(model, part, compress_to_fp16=False)
        if sealed:
            parts[SUM].write_text(_checksum(part), encoding="ascii")
        for suffix, made in parts.items():
            if suffix != SUM or sealed:
                made.replace(path.with_suffix(suffix))
    finally:
        for made in parts.values():
            made.unlink(missing_ok=True)


def is_whole(path: Path) -> bool:
    """Whether a sealed network is there as it was written: OpenVINO runs whatever weights of that size lie there."""
    try:
        return path.with_suffix(SUM).read_text(encoding="ascii") == _checksum(path)
    except (OSError, UnicodeDecodeError):
        return False


def _checksum(path: Path) -> str:
    found = hashlib.sha256()
    for suffix in (".xml", ".bin"):
        with path.with_suffix(suffix).open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def _sweep(folder: Path) -> None:
    """Remove what runs that were killed left in a folder more than a day ago."""
    with contextlib.suppress(OSError):
        for left in folder.glob("part-*"):
            if left.stat().st_mtime < time.time() - _DAY_S:
                left.unlink(missing_ok=True)
