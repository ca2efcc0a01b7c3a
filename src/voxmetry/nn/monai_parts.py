"""A model in MONAI's own parts: `pre`, `network`, `inferer`, `post`, as any MONAI user puts them together.

It is the plain way of doing what the streamed engine does in bounded memory, and the reference that the engine is
compared with: the whole image is prepared, the whole score volume held, brought back to the study's grid, and the
largest score taken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SlidingWindowInferer
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    CopyItemsd,
    Invertd,
    Lambdad,
    MapTransform,
    Orientationd,
    Spacingd,
    SpatialResample,
    Transform,
)
from torch import nn

from voxmetry.config import InputSpec, ModelSpec
from voxmetry.core.axes import is_as_stored, reorientation
from voxmetry.core.geometry import Geometry
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import InferenceError
from voxmetry.nn.device_memory import OutOfMemory, out_of_memory
from voxmetry.nn.grids import interpolate, is_turned, restoring_positions
from voxmetry.nn.layers import exact_float32
from voxmetry.nn.mirroring import averaged, swapped_sides
from voxmetry.nn.monai_reader import LoadVolumed
from voxmetry.nn.preprocess import normalise, preprocess
from voxmetry.nn.window import window_scores
from voxmetry.ops.components import clean

IMAGE, PREDICTION = "image", "pred"


@dataclass(frozen=True, eq=False)
class MonaiParts:
    """A model as MONAI has models.

    Parameters
    ----------
    pre
        From paths under the names of the model's inputs to the network's input under "image", (C, I, J, K).
    network
        Patches (B, C, I, J, K) to scores (B, n_classes, I, J, K).
    inferer
        `SlidingWindowInferer` with the model's patch, overlap and weights.
    post
        From scores under "pred" to the label map on the study's own grid, (1, I, J, K).
    spec
        What it takes and returns.

    Examples
    --------
    >>> from voxmetry import load_model
    >>> parts = load_model("hippocampus-mr", device="cpu").as_monai()
    >>> data = parts.pre({"t1": "head.nii.gz"})  # doctest: +SKIP
    >>> data["pred"] = parts.inferer(data["image"][None], parts.network)[0]  # doctest: +SKIP
    >>> labels = parts.post(data)["pred"]  # doctest: +SKIP
    """

    pre: Compose
    network: nn.Module
    inferer: SlidingWindowInferer
    post: Compose
    spec: ModelSpec

    def segment(self, volumes: Sequence[Volume], *, device: str = "cpu") -> Segmentation:
        """Run the parts one after the other on volumes that were read, the network on a device.

        Raises
        ------
        VoxmetryError
            As `nn.preprocess.preprocess`.
        """
        named = zip(self.spec.inputs, volumes, strict=True)
        data: dict[Hashable, Any] = {item.name: as_tensor(volume) for item, volume in named}
        # The first step loads paths; these are loaded.
        for step in self.pre.transforms[1:]:
            data = step(data)
        with torch.inference_mode(), exact_float32():
            scores = self.inferer(data[IMAGE].as_tensor()[None].to(device), self.network)[0].cpu()
        data[PREDICTION] = MetaTensor(scores, meta=data[IMAGE].meta, applied_operations=data[IMAGE].applied_operations)
        labels = self.post(data)[PREDICTION]
        kind = np.uint8 if max(self.spec.labels.values) < 256 else np.uint16
        return Segmentation(np.asarray(labels)[0].astype(kind), volumes[0].geometry, self.spec.labels)


def monai_parts(spec: ModelSpec, members: Sequence[nn.Module], *, wide: bool = True) -> MonaiParts:
    """Put a model together from MONAI's parts, and small transforms where MONAI has none.

    Parameters
    ----------
    spec
        The model.
    members
        The networks of the ensemble, in evaluation mode, on their device.
    wide
        Whether MONAI resamples in float64, its default, or in float32.
    """
    names = [item.name for item in spec.inputs]
    load = LoadVolumed(names, modality=[item.modality for item in spec.inputs])
    pre: list[Transform]
    back: list[Transform]
    if spec.resampling.rule == "monai" and len(names) == 1 and not is_as_stored(spec.orientation):
        pre, back = _by_monai(spec, load, np.float64 if wide else np.float32)
    else:
        pre, back = [PrepareStudyd(spec)], [ToStudyGridd(spec), *_decided(spec)]
    return MonaiParts(
        pre=Compose([load, *pre]),
        network=Mean(members, spec),
        inferer=_windows(spec),
        post=Compose([*back, CleanUpd(spec)]),
        spec=spec,
    )


@contextlib.contextmanager
def out_of_memory_in_words(name: str, device: str) -> Iterator[None]:
    """Say in words that memory ran out."""
    try:
        with out_of_memory():
            yield
    except OutOfMemory as error:
        raise InferenceError(
            found=f"{name} ran out of memory on {device} with the engine monai, which holds all scores at once",
            expected="room for classes x voxels of float32, several times",
            fix="use --engine stream (engine='stream')",
        ) from error


def as_tensor(volume: Volume) -> MetaTensor:
    """Return a volume as `LoadVolumed` gives it: a MetaTensor (1, I, J, K) float32 with its affine in RAS+ mm."""
    array = torch.from_numpy(np.array(volume.array, dtype=np.float32, order="C"))[None]
    affine = torch.from_numpy(np.array(volume.geometry.affine))
    return MetaTensor(array, affine=affine, meta={"unit": volume.unit, "original_affine": affine})


def _volume(image: MetaTensor) -> Volume:
    i, j, k = image.shape[1:]
    affine = np.asarray(image.affine, dtype=np.float64)
    return Volume(image.as_tensor()[0].numpy(), Geometry(affine, (i, j, k)), image.meta.get("unit", "1"))


class PrepareStudyd(Transform):
    """Orient, resample and normalise the inputs of a model as it was trained, by `nn.preprocess`; "image" comes of it.

    Parameters
    ----------
    spec
        The model.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Prepare one study."""
        volumes = [_volume(data[item.name]) for item in self._spec.inputs]
        prepared = preprocess(volumes, self._spec)
        meta = {"grid": prepared.grid, "native": prepared.native}
        affine = torch.from_numpy(np.array(prepared.grid.affine))
        return {**data, IMAGE: MetaTensor(prepared.tensor[0], affine=affine, meta=meta)}


class ToStudyGridd(Transform):
    """Bring whole scores under "pred" from the model's grid onto the study's own; what was cropped away has scores 0.

    Parameters
    ----------
    spec
        The model.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Interpolate the scores of one study."""
        grid, native = data[IMAGE].meta["grid"], data[IMAGE].meta["native"]
        given = data[PREDICTION]
        scores = given.as_tensor() if isinstance(given, MetaTensor) else torch.as_tensor(given)
        scores = scores.softmax(0) if self._spec.activation == "softmax" else scores
        return {**data, PREDICTION: self._restored(scores, grid, native)}

    def _restored(self, scores: torch.Tensor, grid: Geometry, native: Geometry) -> torch.Tensor:
        if is_turned(native, self._spec):
            image = MetaTensor(scores, affine=torch.from_numpy(np.array(grid.affine)))
            back = SpatialResample(mode="bilinear", padding_mode="border", align_corners=True)
            affine = torch.from_numpy(np.array(native.affine))
            found: torch.Tensor = back(image, dst_affine=affine, spatial_size=native.shape).as_tensor()
            return found
        moved, oriented = reorientation(native, self._spec.orientation)
        at, box = restoring_positions(grid, oriented, self._spec)
        for axis, places in enumerate(at, start=1):
            scores = interpolate(scores, np.asarray(places, dtype=np.float64), axis)
        whole = np.zeros((len(scores), *oriented.shape), dtype=np.float32)
        whole[(slice(None), *box)] = scores.numpy()
        return torch.from_numpy(np.stack([moved.inverse(channel) for channel in whole]))


class Normalised(MapTransform):
    """Normalise one input as the model says; see `config.Normalise`."""

    def __init__(self, item: InputSpec) -> None:
        super().__init__([item.name])
        self._item = item

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Normalise one study."""
        image = data[self._item.name]
        values = torch.from_numpy(normalise(image.as_tensor()[0].numpy(), self._item))[None]
        made = MetaTensor(values, meta=image.meta, applied_operations=image.applied_operations)
        return {**data, self._item.name: made}


class CleanUpd(Transform):
    """Post-process the label map under "pred"; see `config.CleanStep`."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Clean up the labels of one study."""
        source = data[self._spec.inputs[0].name]
        affine = source.meta.get("original_affine", source.affine)
        native = data[IMAGE].meta.get("native")
        labels = np.asarray(data[PREDICTION])[0].astype(np.uint16)
        i, j, k = labels.shape
        grid = native or Geometry(np.asarray(affine, dtype=np.float64), (i, j, k))
        cleaned = clean(Segmentation(labels, grid, self._spec.labels), self._spec.clean)
        return {**data, PREDICTION: torch.from_numpy(cleaned.array.astype(np.int32))[None]}


class Mean(nn.Module):
    """The mean of an ensemble's scores over mirror images, as one network."""

    def __init__(self, members: Sequence[nn.Module], spec: ModelSpec) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self._run = averaged(list(self.members), spec.window.mirror_axes, swapped=swapped_sides(spec))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run patches (B, C, I, J, K)."""
        return self._run(x)


class EvenWindows(Inferer):
    """nnU-Net's windows: as many as are needed, evenly spread, with its own weights; scores held whole."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self._window = spec.window

    def __call__(self, inputs: torch.Tensor, network: Any, *_: Any, **__: Any) -> torch.Tensor:
        """Return the scores (1, n, I, J, K) of an image (1, C, I, J, K)."""
        return window_scores(network, inputs, self._window.model_copy(update={"mirror_axes": ()}))


def _windows(spec: ModelSpec) -> Inferer:
    if spec.window.placement != "monai":
        return EvenWindows(spec)
    return SlidingWindowInferer(
        spec.window.patch,
        overlap=spec.window.overlap,
        mode=spec.window.blending,
        padding_mode="constant" if spec.window.padding == "zeros" else "replicate",
    )


def _by_monai(spec: ModelSpec, load: Transform, dtype: type) -> tuple[list[Transform], list[Transform]]:
    """Return preparation and way back in MONAI's transforms alone, for models that were made with these."""
    (item,) = spec.inputs
    pre = [
        Orientationd(item.name, axcodes=spec.orientation, labels=None),
        Spacingd(item.name, pixdim=spec.spacing_mm, mode="bilinear", dtype=dtype),
        Normalised(item),
        CopyItemsd(item.name, names=IMAGE),
    ]
    nearest = spec.resampling.score_order == 0
    inverse = Invertd(
        PREDICTION, transform=Compose([load, *pre]), orig_keys=item.name, nearest_interp=nearest, to_tensor=True
    )
    softmax = [Activationsd(PREDICTION, softmax=True)] if spec.activation == "softmax" else []
    decided = _decided(spec)
    return pre, [*softmax, *decided, inverse] if nearest else [*softmax, inverse, *decided]


def _decided(spec: ModelSpec) -> list[Transform]:
    """Return the steps from scores to label values."""
    if spec.regions is not None:
        return [Lambdad(PREDICTION, func=lambda scores: _painted(scores, spec.regions or ()))]
    values = torch.tensor([0, *spec.labels.values], dtype=torch.int32)
    return [AsDiscreted(PREDICTION, argmax=True), Lambdad(PREDICTION, func=lambda classes: values[classes.long()])]


def _painted(scores: torch.Tensor, regions: tuple[int, ...]) -> torch.Tensor:
    found = torch.zeros(scores.shape[1:], dtype=torch.int32)
    for value, score in zip(regions, torch.as_tensor(scores), strict=True):
        found[score > 0] = value
    return found[None]
