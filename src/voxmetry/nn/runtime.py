"""Where a network runs and in which precision: torch on the CPU, CUDA or MPS, or OpenVINO.

A runtime is a function of a batch of patches. Everything else - windows, blending, restoring - is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, get_args

import torch
from torch import nn

from voxmetry.config import ModelSpec
from voxmetry.core.devices import Device
from voxmetry.errors import ConfigError, InferenceError
from voxmetry.nn.execution import Compiled, Graph, Run, require_execution
from voxmetry.nn.layers import exact_float32, last_layer_in_float32, normalise_channels_last
from voxmetry.nn.openvino import OpenVinoRuntime, openvino_has_bf16

if TYPE_CHECKING:
    from voxmetry.nn.networks.mask_rcnn import Found

DEVICES = get_args(Device)
PRECISIONS = ("auto", "float32", "bf16", "fp16")
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

WORTH_COMPILING_GFLOP = 20.0
"""A window of fewer operations is done in torch before OpenVINO has compiled the network."""


class Runtime(Protocol):
    """What runs a network."""

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Turn patches (B, C, *patch) float32 on `tensor_device` into logits (B, n_classes, *patch) on it."""


@dataclass(frozen=True)
class RuntimeChoice:
    """Where and how, and why.

    Parameters
    ----------
    device
        "cpu", "cuda", "mps" or "openvino".
    precision
        "float32", "bf16", "fp16" or "int8": of the network's products. Scores are blended in float32 all the same.
    why
        In words.
    execution
        "eager", "compile" or "graph": see `nn.execution`.
    """

    device: str
    precision: str
    why: str
    execution: str = "eager"

    @property
    def tensor_device(self) -> str:
        """Where torch tensors for the runtime must be."""
        return "cpu" if self.device == "openvino" else self.device

    def __str__(self) -> str:
        how = "" if self.execution == "eager" else f" by {self.execution}"
        return f"{self.device} in {self.precision}{how} ({self.why})"


def choose_runtime(
    device: str = "auto", precision: str = "auto", *, gflop: float = 0.0, execution: str = "eager"
) -> RuntimeChoice:
    """Turn "auto" into what there is and what suits a network of `gflop` 10^9 operations a window.

    Raises
    ------
    ConfigError
        If a name is unknown, or the device has no such precision or way of execution.
    InferenceError
        If the device is not there.

    Examples
    --------
    >>> choose_runtime("cpu").precision
    'float32'
    """
    for what, name, known in (("device", device, DEVICES), ("precision", precision, PRECISIONS)):
        if name not in known:
            raise ConfigError(found=f"{what} {name!r}", expected=f"one of {', '.join(known)}", fix="name one of these")
    why = "as asked for"
    if device == "auto":
        device, why = _best_device(gflop)
    require_device(device)
    if precision == "fp16" and device in ("cpu", "openvino"):
        raise ConfigError(
            found=f"precision fp16 on {device}",
            expected="float32 or bf16, which CPUs multiply",
            fix="use --precision bf16 (precision='bf16'), or auto",
        )
    if precision == "bf16" and device == "openvino" and not openvino_has_bf16():
        raise ConfigError(
            found="precision bf16 on openvino, on a CPU that does not multiply it: it would compute in float32",
            expected="float32 on this CPU",
            fix="use --precision float32 (precision='float32'), or auto",
        )
    require_execution(execution, device)
    return RuntimeChoice(device, _best_precision(device) if precision == "auto" else precision, why, execution)


def choose_device(requested: str) -> str:
    """Turn "auto" into what torch has, for training: CUDA if there is a device that can be used, else the CPU.

    Raises
    ------
    ConfigError
        If the name is unknown.
    InferenceError
        If the device is not there.

    Examples
    --------
    >>> choose_device("cpu")
    'cpu'
    """
    if requested == "auto":
        return "cuda" if torch.cuda.is_available() and not cuda_trouble() else "cpu"
    return choose_runtime(requested).device


def multiplies_bf16(device: str) -> bool:
    """Say whether the hardware multiplies bf16 itself; where it is emulated, it is many times slower than float32.

    Parameters
    ----------
    device
        "cpu" (torch), "openvino" (the same processor), "cuda" or "mps".
    """
    if device == "cuda":
        # Before Ampere (compute capability 8) torch computes bf16 in float32, and says that it is supported.
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        # torch can be kept from using what the processor has: by its build, or by ATEN_CPU_CAPABILITY.
        return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and openvino_has_bf16()
    return device == "openvino" and openvino_has_bf16()


def choose_for_training(device: str, precision: str = "auto", *, begun_in: str | None = None) -> RuntimeChoice:
    """Turn "auto" into a precision that a device trains fast in.

    It is bf16 where the device multiplies it; else fp16 on CUDA, and float32 on a processor.

    Parameters
    ----------
    device
        "cpu" or "cuda", as `choose_device` returns it.
    precision
        "auto", "bf16", "fp16" or "float32". bf16 is done where it is asked for, however slowly.
    begun_in
        The precision of a run that goes on: "auto" stays with it, unless that is one that this device does not have.

    Raises
    ------
    InferenceError
        If fp16 is asked for on a processor.

    Examples
    --------
    >>> str(choose_for_training("cpu", "float32"))
    'cpu in float32 (as asked for)'
    """
    if precision == "fp16" and device != "cuda":
        raise InferenceError(
            found=f"a training in fp16 on {device}",
            expected="bf16 or float32, which processors multiply",
            fix="use --precision auto (precision='auto')",
        )
    if precision != "auto":
        slow = precision == "bf16" and not multiplies_bf16(device)
        why = "as asked for" + ("; it does not multiply bf16, so float32 would be many times faster" if slow else "")
        return RuntimeChoice(device, precision, why)
    has = multiplies_bf16(device)
    if begun_in == "float32" or (begun_in == "bf16" and has) or (begun_in == "fp16" and device == "cuda"):
        return RuntimeChoice(device, begun_in, "auto: as the run began")
    why = "auto: it multiplies bf16" if has else "auto: it does not multiply bf16"
    if begun_in is not None:
        why += ", in which the run began: its weights will not be those of one processor"
    return RuntimeChoice(device, "bf16" if has else "fp16" if device == "cuda" else "float32", why)


def require_device(device: str) -> None:
    """Raise `InferenceError` where a device is not there, or is there and cannot be used."""
    if device == "cuda":
        require_cuda()
    if device == "mps" and not torch.backends.mps.is_available():
        raise InferenceError(
            found="no MPS device, or a torch without MPS",
            expected="a MPS device that torch can use",
            fix="use --device cpu (device='cpu'), or install a build of torch with MPS",
        )


def require_cuda() -> None:
    """Raise `InferenceError` unless torch can compute on a CUDA device."""
    expected = "a CUDA device that torch can use"
    if not torch.cuda.is_available():
        built = torch.version.cuda is not None or torch.version.hip is not None
        raise InferenceError(
            found="no CUDA device: its driver is missing or too old, or shows none"
            if built
            else f"no CUDA device for this build of torch ({torch.__version__}), which is for processors",
            expected=expected,
            fix="use --device cpu (device='cpu'); else see what nvidia-smi says, and CUDA_VISIBLE_DEVICES"
            if built
            else "use --device cpu (device='cpu'), or install a build of torch with CUDA and the driver",
        )
    said = cuda_trouble()
    if said:
        raise InferenceError(
            found=f"a CUDA device that cannot be used: {said}",
            expected=expected,
            fix="end the programs that nvidia-smi shows on it, choose another by CUDA_VISIBLE_DEVICES, or use "
            "--device cpu (device='cpu')",
        )


def cuda_trouble() -> str:
    """Try a CUDA device that is there; return what it says: another process may hold it alone, or all its memory."""
    try:
        torch.cuda.synchronize()
        torch.cuda.mem_get_info()
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return ""


def build_runtime(make: Callable[[], nn.Module], key: str, spec: ModelSpec, choice: RuntimeChoice) -> Runtime:
    """Return a network as a runtime.

    Parameters
    ----------
    make
        Returns the network with its weights, in evaluation mode. OpenVINO does without it where it has the compiled
        network in its cache.
    key
        Names the network and its weights.
    spec, choice
        The model, and where it runs.
    """
    if choice.device != "openvino":
        return TorchRuntime(make(), choice, n_outputs=spec.n_classes)
    channels, patch = (1, spec.n_channels), spec.window.patch
    example = None
    if spec.network.kind in ("dynunet", "nnunet"):
        # Two voxels an axis at the coarsest level: fewer leave instance normalisation nothing to normalise.
        small = (min(size, 2 * by) for size, by in zip(patch, spec.network.divisor, strict=True))
        example = (*channels, *small)
    return OpenVinoRuntime(make, key, shape=(*channels, *patch), precision=choice.precision, example=example)


class TorchRuntime:
    """torch, in float32 or with automatic casts to a shorter type.

    float32 is float32: convolutions do not fall to TF32, as torch lets them on CUDA. In a shorter type the last layer
    is in float32 all the same, so that scores are not rounded.

    Parameters
    ----------
    network
        In evaluation mode; it is moved to the device.
    choice
        Device and precision.
    n_outputs
        Of the network, by which its last layer is known; None leaves that to the casts.
    """

    def __init__(self, network: nn.Module, choice: RuntimeChoice, *, n_outputs: int | None = None) -> None:
        if choice.precision != "float32" and n_outputs is not None:
            network = last_layer_in_float32(network, n_outputs)
        if choice.device == "cuda":
            network = normalise_channels_last(network)
        self.network = network.to(choice.device)
        if choice.device == "cuda":
            # Tensor cores read channels last; the conversion costs less than what it saves.
            self.network = self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
            # cuDNN tries its algorithms once: all windows have one size. In float32 the choice stays a fixed one.
            torch.backends.cudnn.benchmark = choice.precision != "float32"
        self._choice = choice
        self._forward: Run = Compiled(self.network) if choice.execution == "compile" else self.network
        self._run: Run = Graph(self._cast) if choice.execution == "graph" else self._cast

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Run one batch; the result holds until the next call."""
        if self._choice.device == "cuda":
            patches = patches.contiguous(memory_format=torch.channels_last_3d)
        return self._run(patches)

    def detect(self, patches: torch.Tensor) -> tuple[torch.Tensor, list[Found]]:
        """Run one batch through a network that tells instances apart: scores, and the instances of each patch."""
        from voxmetry.nn.networks.mask_rcnn import MaskRcnn

        if not isinstance(self.network, MaskRcnn):
            raise TypeError(f"{type(self.network).__name__} tells no instances apart")
        if self._choice.precision == "float32":
            with exact_float32():
                return self.network.detect(patches)
        with torch.autocast(self._choice.device, dtype=DTYPES[self._choice.precision]):
            return self.network.detect(patches)

    def by_layers(self, patches: torch.Tensor) -> torch.Tensor:
        """Run one batch operation by operation, whatever the choice, so that hooks on layers see it."""
        return self.network(patches)

    def _cast(self, patches: torch.Tensor) -> torch.Tensor:
        if self._choice.precision == "float32":
            with exact_float32():
                return self._forward(patches)
        # A graph records the casts of weights; kept from an earlier call they would be missing in it.
        kept = self._choice.execution != "graph"
        with torch.autocast(self._choice.device, dtype=DTYPES[self._choice.precision], cache_enabled=kept):
            return self._forward(patches)


def first_layer_not_finite(members: Sequence[Runtime], patch: torch.Tensor) -> str:
    """Say in which layer of which network a patch (1, C, *patch) first gives NaN or infinity; "" where none does."""
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if not found and isinstance(output, torch.Tensor) and not bool(torch.isfinite(output).all()):
                found.append(name)

        return hook

    for index, member in enumerate(members, start=1):
        if not isinstance(member, TorchRuntime):
            continue
        layers = [(name, layer) for name, layer in member.network.named_modules() if not list(layer.children())]
        handles = [layer.register_forward_hook(look(name)) for name, layer in layers]
        try:
            member.by_layers(patch)
        finally:
            for handle in handles:
                handle.remove()
        if found:
            return f", first in layer {found[0]} of network {index} of {len(members)}"
    return ""


def _best_device(gflop: float) -> tuple[str, str]:
    said = ""
    if torch.cuda.is_available():
        said = cuda_trouble()
        if not said:
            return "cuda", f"auto: torch finds {torch.cuda.get_device_name(0)}"
    none = f"the GPU cannot be used ({said})" if said else "no GPU"
    if torch.backends.mps.is_available():
        return "mps", "auto: torch finds Metal"
    if gflop >= WORTH_COMPILING_GFLOP:
        return "openvino", f"auto: {none}, {gflop:.0f} GFLOP a window"
    return "cpu", f"auto: {none}, {gflop:.1f} GFLOP a window are too few to compile for"


def _best_precision(device: str) -> str:
    if device == "cuda":
        return "bf16" if multiplies_bf16(device) else "fp16"
    # torch on a processor is for small networks, which bf16 does not make faster.
    return "bf16" if device == "openvino" and multiplies_bf16(device) else "float32"
