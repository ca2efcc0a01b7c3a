"""A model that is ready to run: specification, checked weights, runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from voxmetry.config import FAST_OVERLAP, MaskRcnnNetwork, ModelSpec, Weights, fast_spec
from voxmetry.core.records import FastRun
from voxmetry.errors import ConfigError, ModelError
from voxmetry.models import find_model, read_spec
from voxmetry.models.eight_bits import EightBits, lowest_dice
from voxmetry.nn.eight_bits import find_eight_bits, in_eight_bits, stored_members
from voxmetry.nn.fewer_windows import takes_fewer_windows
from voxmetry.nn.network_cost import NetworkCost, known_cost
from voxmetry.nn.networks.build import Ensemble, build_network, require_size
from voxmetry.nn.runtime import Runtime, RuntimeChoice, build_runtime, choose_runtime
from voxmetry.nn.weights import fill, read_checked, sha256_of

if TYPE_CHECKING:
    from voxmetry.nn.monai_parts import MonaiParts

BUILDERS = tuple(
    f"{name}.py"
    for name in ("build", "clicks", "dynunet", "fcn", "intensity_model", "mask_rcnn", "nnunet", "roi_align")
)


@dataclass(frozen=True, eq=False)
class Model:
    """A model that is ready to run.

    Parameters
    ----------
    spec
        What it takes and returns.
    weights
        File and SHA-256 of its parameters, which were checked.
    members
        One runtime for each network of the ensemble, mostly one: patches (B, C, I, J, K) float32 on `tensor_device`
        to logits (B, n_classes, I, J, K).
    choice
        Where and in which precision they run, and why.
    cost
        Operations and memory of one window.
    torch_member
        Returns one of the networks in torch, whatever runs the members; None where there is none.
    folder
        Where it was loaded from; its `split.json` names the cases that it was trained on.
    fast
        What it trades for time; None where it was loaded for full runs.
    """

    spec: ModelSpec
    weights: Weights
    members: tuple[Runtime, ...]
    choice: RuntimeChoice
    cost: NetworkCost
    torch_member: Callable[[int], nn.Module] | None = None
    folder: Path | None = None
    fast: FastRun | None = None

    @property
    def device(self) -> str:
        """What it runs on, as it is reported: "cpu", "cuda", "mps" or "openvino"."""
        return self.choice.device

    @property
    def tensor_device(self) -> str:
        """Where torch tensors for the members must be."""
        return self.choice.tensor_device

    def as_monai(self, *, wide: bool = True) -> MonaiParts:
        """Return the model in MONAI's own parts: transforms, network in torch, sliding window, transforms back.

        Parameters
        ----------
        wide
            Whether MONAI resamples in float64, its default, or in float32.

        Raises
        ------
        ModelError
            If there is no network in torch.

        Examples
        --------
        >>> parts = load_model("hippocampus-mr", device="cpu").as_monai()
        >>> type(parts.pre.transforms[0]).__name__, type(parts.inferer).__name__
        ('LoadVolumed', 'SlidingWindowInferer')
        """
        from voxmetry.nn.monai_parts import monai_parts

        if self.torch_member is None:
            raise ModelError(
                found=f"{self.spec.name} without a network in torch",
                expected="a model that was loaded from its folder",
                fix="load it with voxmetry.load_model",
            )
        if self.spec.previous:
            raise ModelError(
                found=f"{self.spec.name}, the second network of a cascade",
                expected="a model that takes images alone",
                fix="run the cascade by voxmetry.segment or `voxmetry segment`, with the engine stream",
            )
        if isinstance(self.spec.network, MaskRcnnNetwork):
            raise ModelError(
                found=f"{self.spec.name}, a network of kind 'maskrcnn'",
                expected="a network that returns scores and nothing else, as MONAI's sliding window takes",
                fix="run it by voxmetry.Predictor, which returns its instances",
            )
        members = [self.torch_member(place) for place in range(self.spec.members)]
        return monai_parts(overlapping_less(self).spec, members, wide=wide)


def load_model(
    name: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    execution: str = "eager",
    fast: bool = False,
) -> Model:
    """Load a model and check its weights.

    Parameters
    ----------
    name
        A bundled model's name or a model folder.
    device
        "auto" (a GPU where there is one, else OpenVINO for a large network and torch for a small one), "cpu", "cuda",
        "mps" or "openvino".
    precision
        "auto" (the fastest that the device computes and that leaves labels unchanged, see
        docs/reference/performance.md), "float32", "bf16" or "fp16".
    execution
        "eager", "compile" (torch's compiler: CPU and CUDA) or "graph" (a CUDA graph).
    fast
        Trade accuracy for time: a part of the windows is run, see `nn.fewer_windows`, or windows overlap by a quarter
        at most; on a processor the network runs in 8 bits where `voxmetry models quantise` stored it so with the model.
        `Model.fast` says what that changed.

    Raises
    ------
    ModelError
        If the folder, the specification or the weights cannot be used, or the checksum differs.
    ConfigError
        If model.yaml has an unknown, missing or unusable key, or the device lacks the precision or the execution.
    InferenceError
        If the device is not there.
    """
    folder = find_model(name)
    spec = read_spec(folder)
    if spec.weights is None:
        raise ModelError(
            found=f"{folder.name}/model.yaml names no weights",
            expected="`weights` with `file` and `sha256`",
            fix="train it first: voxmetry train",
        )
    weights, full = spec.weights, spec
    spec = fast_spec(full) if fast and not takes_fewer_windows(full) else full
    networks = _Networks(spec, weights, folder)
    cost = known_cost(partial(networks.member, 0), spec)
    if isinstance(spec.network, MaskRcnnNetwork):
        require_for_instances(spec, device, execution)
    # Proposals and masks run in torch alone, however large the network is; so do clicks, which change the input.
    only_torch = isinstance(spec.network, MaskRcnnNetwork) or spec.clicks is not None
    gflop = 0.0 if only_torch else cost.gflop
    choice = choose_runtime(device, precision, gflop=gflop, execution=execution)
    made, why_not = find_eight_bits(spec, folder, choice, precision) if fast else (None, "")
    traded = fast_run(spec, full, why_not, made) if fast else None
    members: tuple[Runtime, ...]
    if made is not None:
        members, choice = stored_members(spec, folder, made), in_eight_bits(choice)
    else:
        members = tuple(
            build_runtime(partial(networks.member, place), f"{networks.key} {place}", spec, choice)
            for place in range(spec.members)
        )
    return Model(spec, weights, members, choice, cost, networks.member, folder, traded)


def overlapping_less(model: Model) -> Model:
    """Return a model whose windows overlap by less in place of fewer of them, for what runs all windows there are."""
    if model.fast is None or not model.fast.fewer_windows:
        return model
    own, few = model.spec.window.overlap, fast_spec(model.spec)
    traded = {"fewer_windows": False, "overlap": few.window.overlap, "full_overlap": own}
    return replace(model, spec=few, fast=model.fast.model_copy(update=traded))


def fast_runs_together(runs: Sequence[FastRun]) -> FastRun:
    """Say what the members of a model of models do otherwise than in a full run."""
    own = [run.full_overlap for run in runs if run.full_overlap is not None]
    return FastRun(
        overlap=FAST_OVERLAP if own else None,
        full_overlap=max(own, default=None),
        fewer_windows=any(run.fewer_windows for run in runs),
        eight_bits=tuple(dict.fromkeys(name for run in runs for name in run.eight_bits)),
        eight_bits_dice={name: dice for run in runs for name, dice in run.eight_bits_dice.items()},
        no_eight_bits="; ".join(dict.fromkeys(run.no_eight_bits for run in runs if run.no_eight_bits)),
    )


def fast_run(spec: ModelSpec, full: ModelSpec, why_not: str, made: EightBits | None = None) -> FastRun:
    """Say what a model for fast runs does otherwise than the full one; `why_not` it is not in 8 bits, or ""."""
    few, own = spec.window.overlap, full.window.overlap
    return FastRun(
        overlap=few if few < own else None,
        full_overlap=own if few < own else None,
        fewer_windows=few == own and takes_fewer_windows(full),
        eight_bits=() if why_not else (spec.name,),
        eight_bits_dice={} if made is None else {spec.name: lowest_dice(made)},
        no_eight_bits=why_not,
    )


def require_for_instances(spec: ModelSpec, device: str, execution: str) -> None:
    """Raise `ConfigError` where a network that tells instances apart cannot run as asked for."""
    if device in ("openvino", "mps") or execution != "eager":
        raise ConfigError(
            found=f"{spec.name} on {device}, {execution}",
            expected="cpu or cuda, eager: how many boxes a network of kind 'maskrcnn' has follows from the image",
            fix="use --device cpu or cuda (device='cpu'), and --execution eager (execution='eager')",
        )


class _Networks:
    """The networks of a model folder, built and filled when the first of them is asked for.

    The file of weights is read and compared with its checksum at once.
    """

    def __init__(self, spec: ModelSpec, weights: Weights, folder: Path) -> None:
        self._spec, self._name = spec, weights.file
        self._data = read_checked(folder / weights.file, sha256=weights.sha256)
        what = (weights.sha256, spec.architecture, _builders())
        self.key = " ".join(map(str, what))
        """Names the networks, their weights and the code that builds them."""
        self._built: list[nn.Module] = []

    def member(self, place: int) -> nn.Module:
        """Return one of them, in evaluation mode.

        Raises
        ------
        ModelError, ConfigError, MissingExtraError
            If it cannot be built or the weights are not its own.
        """
        if not self._built:
            require_size(self._spec, len(self._data), self._name)
            network = build_network(self._spec).eval()
            fill(network, self._data, self._name)
            self._built = list(network.members) if isinstance(network, Ensemble) else [network]
        return self._built[place]


def _builders() -> str:
    """Return a checksum of the code that builds networks: with other code, weights may mean another network."""
    code = resources.files("voxmetry.nn.networks")
    return sha256_of(b"".join(code.joinpath(name).read_bytes() for name in BUILDERS))
