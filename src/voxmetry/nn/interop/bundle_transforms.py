"""MONAI transforms that a model.yaml can say: an allow-list, in the order in which they may come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from voxmetry.config import Normalise
from voxmetry.errors import ModelError

Json: TypeAlias = dict[str, Any]

WITHOUT_EFFECT = (
    "LoadImaged",
    "EnsureChannelFirstd",
    "EnsureTyped",
    "CastToTyped",
    "ToTensord",
    "ToDeviced",
    "SelectItemsd",
    "CopyItemsd",
)
OUTPUT = ("SaveImaged", "DeleteItemsd")
ANY_VALUE = ("_target_", "_disabled_", "_desc_", "keys", "allow_missing_keys", "dtype", "labels", "align_corners")
"""Arguments whose value changes nothing here: MONAI resamples by affines, and labels name the same axes."""


@dataclass
class Prepared:
    """What the preprocessing of a bundle does.

    Parameters
    ----------
    orientation
        Axes of the network's grid.
    spacing_mm
        Its voxel size.
    intensities
        Steps from intensities to network input.
    """

    orientation: str = "RAS"
    spacing_mm: tuple[float, float, float] | None = None
    intensities: list[Normalise] = field(default_factory=list)


def read_preprocessing(given: Any, *, n_inputs: int) -> Prepared:
    """Understand a bundle's `preprocessing`, resolved.

    Raises
    ------
    ModelError
        If a transform or an argument is not on the list, or their order is another; it is named.
    """
    found, oriented = Prepared(), False
    for name, arguments in _transforms(given, "preprocessing"):
        if name in WITHOUT_EFFECT:
            continue
        if name == "Orientationd":
            _only(name, arguments, ("axcodes",))
            found.orientation, oriented = str(arguments["axcodes"]), True
            if found.spacing_mm or found.intensities:
                raise _refuse(f"{name} after Spacingd or after a change of intensities", "Orientationd first")
        elif name == "Spacingd":
            found.spacing_mm = _spacing(name, arguments)
            if found.intensities:
                raise _refuse("Spacingd after a change of intensities", "Spacingd first")
        elif name in _INTENSITIES:
            if found.spacing_mm is None:
                raise _refuse(f"{name} before Spacingd", "Spacingd first")
            found.intensities.append(_INTENSITIES[name](name, arguments, n_inputs))
        else:
            raise _unknown(name, "preprocessing", (*WITHOUT_EFFECT, "Orientationd", "Spacingd", *_INTENSITIES))
    if found.spacing_mm is None or not oriented:
        raise _refuse("preprocessing without Orientationd or Spacingd", "both, which say what grid the network is for")
    if not found.intensities:
        found.intensities.append(Normalise(method="shift"))
    return found


def read_postprocessing(given: Any) -> tuple[Literal["none", "softmax"], list[str]]:
    """Understand a bundle's `postprocessing`: what is done to the scores before they are interpolated, and notes.

    Raises
    ------
    ModelError
        If a transform is not on the list, or labels are made before the way back to the study's grid.
    """
    activation: Literal["none", "softmax"] = "none"
    inverted = chosen = False
    for name, arguments in _transforms(given, "postprocessing"):
        if name in (*WITHOUT_EFFECT, *OUTPUT):
            continue
        if name == "Activationsd" and arguments.get("softmax") and not arguments.get("sigmoid"):
            activation = activation if inverted else "softmax"
        elif name == "Invertd":
            if chosen:
                raise _refuse("Invertd after AsDiscreted", "scores on the way back, and then AsDiscreted")
            if arguments.get("nearest_interp", True) is not False:
                raise _refuse("Invertd with nearest_interp", "nearest_interp: false, for scores")
            inverted = True
        elif name == "AsDiscreted" and arguments.get("argmax"):
            chosen = True
        else:
            what = f"{name} with {', '.join(k for k, v in arguments.items() if v is True) or 'these arguments'}"
            raise _unknown(
                what, "postprocessing", ("Activationsd with softmax", "Invertd", "AsDiscreted with argmax", *OUTPUT)
            )
    notes = []
    if not inverted:
        notes.append("The bundle leaves its labels on the network's grid; this model brings them to the study's own.")
    return activation, notes


def _transforms(given: Any, where: str) -> list[tuple[str, Json]]:
    if isinstance(given, dict) and str(given.get("_target_", "")).rsplit(".", 1)[-1] == "Compose":
        given = given.get("transforms")
    if not isinstance(given, list):
        raise _refuse(f"{where} that is no Compose of transforms", "a Compose with its list of transforms")
    found = []
    for item in given:
        if not isinstance(item, dict) or "_target_" not in item:
            raise _refuse(f"{where} with {str(item)[:60]!r}", "transforms with a _target_")
        if item.get("_disabled_") in (True, "true"):
            continue
        target = str(item["_target_"])
        name = target.rsplit(".", 1)[-1]
        if "." in target and not target.startswith("monai.transforms."):
            raise _unknown(target, where, ("MONAI's own transforms",))
        found.append((name, item))
    return found


def _spacing(name: str, arguments: Json) -> tuple[float, float, float]:
    _only(name, arguments, ("pixdim", "mode"), padding_mode="border", scale_extent=False, diagonal=False)
    mode = arguments.get("mode", "bilinear")
    if (mode[0] if isinstance(mode, list) else mode) not in ("bilinear", 1):
        raise _refuse(f"{name} with mode {mode}", "mode bilinear")
    size = arguments["pixdim"]
    if isinstance(size, list) and len(size) == 3 and all(isinstance(mm, (int, float)) and mm > 0 for mm in size):
        return (float(size[0]), float(size[1]), float(size[2]))
    if isinstance(size, (int, float)) and size > 0:
        return (float(size),) * 3
    raise _refuse(f"{name} with pixdim {size}", "one positive size in mm, or three")


def _range(name: str, arguments: Json, _n_inputs: int) -> Normalise:
    _only(name, arguments, ("a_min", "a_max", "b_min", "b_max", "clip"))
    low, high = float(arguments["a_min"]), float(arguments["a_max"])
    bottom, top = arguments.get("b_min"), arguments.get("b_max")
    bottom, top = (0.0, 1.0) if bottom is None or top is None else (float(bottom), float(top))
    if not (low < high and bottom < top):
        raise _refuse(f"{name} from {low}..{high} to {bottom}..{top}", "rising ranges")
    sd = (high - low) / (top - bottom)
    if arguments.get("clip", False):
        return Normalise(method="window", low=low, high=high, mean=low - bottom * sd, sd=sd)
    return Normalise(method="shift", mean=low - bottom * sd, sd=sd)


def _scale(name: str, arguments: Json, n_inputs: int) -> Normalise:
    _only(name, arguments, ("minv", "maxv", "channel_wise"), factor=None)
    _require_channel_wise(name, arguments, n_inputs)
    return Normalise(method="minmax", low=arguments.get("minv", 0.0), high=arguments.get("maxv", 1.0))


def _zscore(name: str, arguments: Json, n_inputs: int) -> Normalise:
    _only(name, arguments, ("nonzero", "channel_wise"), subtrahend=None, divisor=None)
    _require_channel_wise(name, arguments, n_inputs)
    nonzero = bool(arguments.get("nonzero", False))
    return Normalise(method="zscore", percentiles=(0, 100), nonzero=nonzero, keep_zeros=nonzero)


_INTENSITIES: dict[str, Callable[[str, Json, int], Normalise]] = {
    "ScaleIntensityRanged": _range,
    "ScaleIntensityd": _scale,
    "NormalizeIntensityd": _zscore,
}


def _require_channel_wise(name: str, arguments: Json, n_inputs: int) -> None:
    if n_inputs > 1 and not arguments.get("channel_wise", False):
        raise _refuse(f"{name} over {n_inputs} channels together", "channel_wise: true")


def _only(name: str, arguments: Json, read: tuple[str, ...], **usual: object) -> None:
    for key, value in arguments.items():
        if key in read or key in ANY_VALUE or (key in usual and value == usual[key]):
            continue
        raise _refuse(f"{name} with {key}: {value}", f"{', '.join(read)} and MONAI's defaults")


def _unknown(name: str, where: str, known: tuple[str, ...]) -> ModelError:
    return _refuse(f"{where} with {name}", f"these: {', '.join(known)}")


def _refuse(found: str, expected: str) -> ModelError:
    return ModelError(found=found, expected=expected, fix="use MONAI for this bundle, or change its configuration")
