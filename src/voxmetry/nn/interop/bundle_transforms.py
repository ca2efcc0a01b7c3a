"""MONAI transforms that a model.yaml can say: an allow-list, in the order in which they may come."""

from __future__ import annotations

import ast
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
class BundlePreparation:
    """What the preprocessing of a bundle does.

    Parameters
    ----------
    orientation
        Axes of the network's grid; None where it takes them as they are stored.
    spacing_mm
        Its voxel size; None where it takes the image's own.
    intensities
        Steps from intensities to network input.
    """

    orientation: str | None = None
    spacing_mm: tuple[float, float, float] | None = None
    intensities: list[Normalise] = field(default_factory=list)


@dataclass
class Finished:
    """What the postprocessing of a bundle does.

    Parameters
    ----------
    activation
        What is done to the scores before they are interpolated.
    painted
        For a bundle of regions: (output, label value) in the order in which they paint over each other; else empty.
    on_model_grid
        Whether labels are chosen on the network's grid, and those of the nearest voxel taken.
    largest
        Label values of which the largest component stays, and whether they count as one; None for no such step. An
        empty tuple stands for all.
    notes
        What a user should know.
    """

    activation: Literal["none", "softmax"] = "none"
    painted: tuple[tuple[int, int], ...] = ()
    on_model_grid: bool = False
    largest: tuple[tuple[int, ...], bool] | None = None
    notes: list[str] = field(default_factory=list)


def read_preprocessing(given: Any, *, n_inputs: int) -> BundlePreparation:
    """Understand a bundle's `preprocessing`, resolved.

    Raises
    ------
    ModelError
        If a transform or an argument is not on the list, or their order is another; it is named.
    """
    found = BundlePreparation()
    for name, arguments in _transforms(given, "preprocessing"):
        if name in WITHOUT_EFFECT:
            continue
        if name == "Orientationd":
            _only(name, arguments, ("axcodes",))
            found.orientation = str(arguments["axcodes"])
            if found.spacing_mm or found.intensities:
                raise _refuse(f"{name} after Spacingd or after a change of intensities", "Orientationd first")
        elif name == "Spacingd":
            found.spacing_mm = _spacing(name, arguments)
            if found.intensities:
                raise _refuse("Spacingd after a change of intensities", "Spacingd first")
        elif name in _INTENSITIES:
            found.intensities.append(_INTENSITIES[name](name, arguments, n_inputs))
        else:
            raise _unknown(name, "preprocessing", (*WITHOUT_EFFECT, "Orientationd", "Spacingd", *_INTENSITIES))
    if not found.intensities:
        found.intensities.append(Normalise(method="shift"))
    return found


def read_postprocessing(given: Any, *, resampled: bool) -> Finished:
    """Understand a bundle's `postprocessing`.

    Parameters
    ----------
    given
        A Compose of transforms.
    resampled
        Whether the preprocessing resamples, so that Invertd interpolates.

    Raises
    ------
    ModelError
        If a transform is not on the list, or does what this package does in another way.
    """
    found = Finished()
    inverted = chosen = sigmoid = False
    for name, arguments in _transforms(given, "postprocessing"):
        if name in (*WITHOUT_EFFECT, *OUTPUT):
            continue
        if name == "Activationsd" and bool(arguments.get("softmax")) != bool(arguments.get("sigmoid")):
            sigmoid = bool(arguments.get("sigmoid"))
            found.activation = "none" if inverted or chosen or sigmoid else "softmax"
        elif name == "Invertd":
            inverted = True
            found.on_model_grid = chosen and resampled
            _note_inverse(found, nearest=arguments.get("nearest_interp", True) is not False, resampled=resampled)
        elif name == "AsDiscreted" and (
            (arguments.get("argmax") and not sigmoid) or (sigmoid and arguments.get("threshold") == 0.5)
        ):
            chosen = True
        elif name == "KeepLargestConnectedComponentd" and chosen and not sigmoid:
            found.largest = _largest(name, arguments)
        elif name == "Lambdad" and chosen and sigmoid:
            found.painted = read_painting(str(arguments.get("func", "")))
        else:
            what = f"{name} with {', '.join(k for k, v in arguments.items() if v is True) or 'these arguments'}"
            known = ("Activationsd", "Invertd", "AsDiscreted", "KeepLargestConnectedComponentd", *OUTPUT)
            raise _unknown(what, "postprocessing", known)
    _require_possible(found, sigmoid=sigmoid, resampled=resampled)
    if found.on_model_grid:
        found.activation = "none"
    if not inverted:
        found.notes.append(
            "The bundle leaves its labels on the network's grid; this model brings them to the study's own."
        )
    return found


def _note_inverse(found: Finished, *, nearest: bool, resampled: bool) -> None:
    if found.on_model_grid and not nearest:
        found.notes.append(
            "The bundle interpolates label values, which invents values between structures; this model takes the "
            "nearest voxel's label."
        )
    if resampled and nearest and not found.on_model_grid:
        raise _refuse("Invertd of scores with nearest_interp", "nearest_interp: false, for scores")


def _require_possible(found: Finished, *, sigmoid: bool, resampled: bool) -> None:
    if sigmoid and not found.painted:
        raise _refuse(
            "postprocessing with sigmoid and no order in which regions paint labels",
            "a Lambdad of torch.where, region by region, after AsDiscreted",
        )
    if sigmoid and resampled:
        raise _refuse("postprocessing that interpolates probabilities of regions", "a bundle without Spacingd")
    if found.largest is not None and found.on_model_grid:
        found.notes.append(
            "The bundle keeps the largest component on the network's grid; this model does so on the study's own."
        )


def _largest(name: str, arguments: Json) -> tuple[tuple[int, ...], bool]:
    _only(
        name, arguments, ("applied_labels", "independent"), is_onehot=None, connectivity=None, num_components=1
    )  # fmt: skip
    given = arguments.get("applied_labels")
    values = given if isinstance(given, list) else [] if given is None else [given]
    return tuple(int(value) for value in values), arguments.get("independent", True) is False


def read_painting(text: str) -> tuple[tuple[int, int], ...]:
    """Read the order in which regions paint labels from a nest of `torch.where`, without running it.

    Parameters
    ----------
    text
        Such as "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, 0))".

    Returns
    -------
    tuple of (int, int)
        Output and label value, the first painted first.

    Examples
    --------
    >>> read_painting("$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, 0))")
    ((0, 1), (2, 4))
    """
    found: list[tuple[int, int]] = []
    try:
        tree = ast.parse(text.removeprefix("$").strip(), mode="eval").body
        if not isinstance(tree, ast.Lambda) or len(tree.args.args) != 1:
            raise ValueError("no function of one argument")
        step: ast.expr = tree.body
        while not isinstance(step, ast.Constant):
            condition, value, step = _where(step)
            found.append((_region(condition, tree.args.args[0].arg), int(ast.literal_eval(value))))
        if step.value != 0 or not found:
            raise ValueError("the rest is no background")
    except (SyntaxError, ValueError, TypeError, RecursionError) as error:
        raise _refuse(
            f"postprocessing with Lambdad {text[:80]!r}", "torch.where(x[[n]] > 0, value, ...), region by region"
        ) from error
    return tuple(reversed(found))


def _where(step: ast.expr) -> tuple[ast.expr, ast.expr, ast.expr]:
    if not isinstance(step, ast.Call) or ast.unparse(step.func) != "torch.where" or step.keywords:
        raise ValueError("no torch.where")
    condition, value, rest = step.args
    return condition, value, rest


def _region(condition: ast.expr, argument: str) -> int:
    if (
        not isinstance(condition, ast.Compare)
        or ast.unparse(condition).split(">")[-1].strip() not in ("0", "0.5")
        or not isinstance(condition.left, ast.Subscript)
        or ast.unparse(condition.left.value) != argument
        or not isinstance(condition.ops[0], ast.Gt)
    ):
        raise ValueError("no region above 0")
    index = ast.literal_eval(condition.left.slice)
    return int(index[0] if isinstance(index, list) else index)


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
