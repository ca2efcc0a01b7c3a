"""Networks by what model.yaml says: this package's own, or one that another framework trained."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import torch
from torch import nn

from voxmetry.config import ModelSpec, NetworkSpec
from voxmetry.config.networks import FcnNetwork, MaskRcnnNetwork, MonaiNetwork, NnunetNetwork
from voxmetry.errors import ConfigError, MissingExtraError, ModelError
from voxmetry.nn.networks.clicks import ClickNetwork
from voxmetry.nn.networks.fcn import Fcn
from voxmetry.nn.networks.intensity_model import IntensityModel
from voxmetry.nn.networks.nnunet import NnunetUNet

HARMLESS = 20_000_000
"""Parameters of a network that is built without a look: that its weights are others is then said by name."""

SET_BY_THE_MODEL = ("spatial_dims", "in_channels", "out_channels")


class Ensemble(nn.Module):
    """Several networks of one architecture, whose scores are averaged."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean of the members' scores for patches (B, C, I, J, K)."""
        total = self.members[0](x)
        for member in list(self.members)[1:]:
            total = total + member(x)
        return total / len(self.members)


def build_network(spec: ModelSpec) -> nn.Module:
    """Build a model's network with random weights.

    Parameters
    ----------
    spec
        Names the network, its inputs and its outputs; several `members` become an `Ensemble`.

    Returns
    -------
    Module
        In evaluation mode: (B, C, I, J, K) with I, J, K divisible by `spec.network.divisor` to logits
        (B, n_classes, I, J, K).

    Raises
    ------
    ConfigError
        If an argument of a MONAI network is unknown or unusable.
    MissingExtraError
        If the network needs a package that is not installed.
    """
    if spec.members > 1:
        return Ensemble([_build_one(spec, spec.n_channels) for _ in range(spec.members)])
    if spec.clicks is not None:
        network = _build_one(spec, spec.n_channels + spec.n_classes)
        return ClickNetwork(network, n_images=spec.n_channels, n_classes=spec.n_classes)
    return _build_one(spec, spec.n_channels)


def _build_one(spec: ModelSpec, n_inputs: int) -> nn.Module:
    network = _build_plain(spec, n_inputs)
    if not spec.intensity_model:
        return network
    places = {name: place for place, name in enumerate(spec.labels.names, start=1)}
    alike = [(places[one], places[other]) for one, other in spec.window.swap_on_mirror]
    return IntensityModel(network, n_images=len(spec.inputs), n_classes=spec.n_classes, alike=alike)


def _build_plain(spec: ModelSpec, n_inputs: int) -> nn.Module:
    network = spec.network
    if isinstance(network, NetworkSpec):
        # MONAI takes seconds to import, and a network that OpenVINO has in its cache is not built at all.
        from voxmetry.nn.networks.dynunet import build_unet

        return build_unet(network, n_inputs=n_inputs, n_classes=spec.n_classes)
    if isinstance(network, NnunetNetwork):
        return NnunetUNet(network, n_inputs=n_inputs, n_outputs=spec.n_classes)
    if isinstance(network, FcnNetwork):
        from voxmetry.nn.networks.dynunet import SpaceToDepth

        voxels = math.prod(network.space_to_depth)
        fcn = Fcn(network, n_inputs=n_inputs * voxels, n_outputs=spec.n_classes * voxels)
        return fcn if voxels == 1 else SpaceToDepth(fcn, network.space_to_depth)
    if isinstance(network, MaskRcnnNetwork):
        from voxmetry.nn.networks.mask_rcnn import MaskRcnn

        return MaskRcnn(
            network, n_inputs=n_inputs, n_classes=spec.n_classes, things=thing_classes(spec), spacing_mm=spec.spacing_mm
        )
    return _build_monai(network, n_inputs, spec.n_classes)


def thing_classes(spec: ModelSpec) -> tuple[int, ...]:
    """Return the class indices of the structures whose instances a model tells apart; none but for 'maskrcnn'."""
    if not isinstance(spec.network, MaskRcnnNetwork):
        return ()
    wanted = spec.network.things or spec.labels.names
    return tuple(1 + spec.labels.names.index(name) for name in wanted)


def _build_monai(network: MonaiNetwork, n_inputs: int, n_outputs: int) -> nn.Module:
    from monai.networks import nets

    make: Callable[..., nn.Module] = getattr(nets, network.name)
    known = set(inspect.signature(make).parameters)
    refused = sorted((set(network.arguments) - known) | (set(network.arguments) & set(SET_BY_THE_MODEL)))
    if refused:
        raise ConfigError(
            found=f"network.arguments names {', '.join(refused)}",
            expected=f"arguments of MONAI's {network.name} other than {', '.join(SET_BY_THE_MODEL)}",
            fix="correct model.yaml, or install a version of MONAI that has them",
        )
    fixed = {"spatial_dims": 3, "in_channels": n_inputs, "out_channels": n_outputs}
    try:
        return make(**{name: value for name, value in fixed.items() if name in known}, **network.arguments)
    except ImportError as error:
        raise MissingExtraError(
            found=f"MONAI's {network.name} needs a package that is not installed: {error}",
            expected="the packages of the extra 'interop'",
            fix='pip install "voxmetry[interop]"',
        ) from error
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(
            found=f"MONAI's {network.name} cannot be built from network.arguments: {error}",
            expected="arguments that its documentation allows",
            fix="correct model.yaml",
        ) from error


def require_size(spec: ModelSpec, n_bytes: int, name: str) -> None:
    """Raise `ModelError` where weights of so many bytes cannot be a network's, before that network takes any memory.

    A typo in its channels would otherwise ask for more than there is. The network is first made without memory; one
    that cannot be made so is let through.

    Parameters
    ----------
    spec
        The model.
    n_bytes
        Of the weights, two bytes a value at least.
    name
        Of the file, for the error.
    """
    try:
        with torch.device("meta"):
            shadow = build_network(spec)
    except (RuntimeError, NotImplementedError, ConfigError):
        return
    n_values = sum(tensor.numel() for tensor in shadow.parameters())
    if n_values > HARMLESS and 2 * n_values > n_bytes:
        raise ModelError(
            found=f"{name} of {n_bytes / 1e6:.1f} MB for a network of {n_values / 1e6:.1f} million parameters",
            expected="the weights of the network that is described",
            fix="use the weights that were trained with it",
        )
