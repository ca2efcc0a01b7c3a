"""What an nnU-Net model takes: channels, normalisation, modality and the order of axes."""

from __future__ import annotations

import re
from pathlib import Path

from voxmetry.config import (
    Normalise,
)
from voxmetry.errors import ModelError
from voxmetry.nn.interop.imported import ImportOptions
from voxmetry.nn.interop.known_axes import known_orientation
from voxmetry.nn.interop.nnunet_plans import Json, require_keys

STORED_READERS = ("SimpleITKIO", "NibabelIO")
RAS_READERS = ("SimpleITKIOWithReorient", "NibabelIOWithReorient")
AS_STORED = (
    "The axes of images are taken as they are stored: that the training images were stored so is an assumption, "
    "and each study is flagged for it."
)
_MODALITY_OF: dict[str, str] = {"ct": "CT", "pet": "PT", "pt": "PT", "suv": "PT"}
_MR_NAME = re.compile(r"(^|[^a-z])(mri?|t1|t2|t1c|t1ce|t1gd|t1w|t2w|flair|dwi|adc|tof|cine|dce)([^a-z0-9]|$)")


def read_channels(dataset: Json) -> Json:
    """Return the channels of dataset.json: name by index."""
    channels = dataset.get("channel_names", dataset.get("modality"))
    if not isinstance(channels, dict) or not channels:
        raise ModelError(
            found="dataset.json without channel_names",
            expected="the names of the input channels",
            fix="correct dataset.json to that of the training",
        )
    return dict(sorted(channels.items(), key=lambda item: int(item[0])))


def describe_inputs(names: list[str], configuration: Json, plans: Json, options: ImportOptions) -> list[Json]:
    """Describe each channel as an input of `ModelSpec`: name, modality and normalisation."""
    schemes, masks = configuration["normalization_schemes"], configuration.get("use_mask_for_norm")
    masks = masks or [False] * len(schemes)
    if not len(names) == len(schemes) == len(masks):
        raise ModelError(
            found=f"{len(names)} channel names, {len(schemes)} normalisation schemes",
            expected="one of each for each channel",
            fix="use the dataset.json and plans.json that belong together",
        )
    properties = plans.get("foreground_intensity_properties_per_channel") or plans.get(
        "foreground_intensity_properties_by_modality", {}
    )
    found = []
    for index, name in enumerate(names):
        how = _normalise(schemes[index], bool(masks[index]), properties.get(str(index), {}))
        label = name if names.count(name) == 1 else f"{name}-{index}"
        found.append({"name": label, "modality": _modality(name, index, options), "normalise": how})
    return found


def _normalise(scheme: str, masked: bool, properties: Json) -> Normalise:
    if scheme == "ZScoreNormalization":
        return Normalise(method="zscore", percentiles=(0, 100), nonzero=masked, keep_zeros=masked)
    if scheme == "CTNormalization":
        require_keys(properties, ("mean", "std", "percentile_00_5", "percentile_99_5"), "intensities in plans.json")
        return Normalise(
            method="window",
            low=properties["percentile_00_5"],
            high=properties["percentile_99_5"],
            mean=properties["mean"],
            sd=max(properties["std"], 1e-8),
        )
    if scheme == "NoNormalization":
        return Normalise(method="shift")
    if scheme == "RescaleTo01Normalization":
        return Normalise(method="minmax")
    raise ModelError(
        found=f"normalisation {scheme}",
        expected="ZScoreNormalization, CTNormalization, NoNormalization or RescaleTo01Normalization",
        fix="use nnU-Net for this model",
    )


def _modality(name: str, index: int, options: ImportOptions) -> str:
    if options.modalities:
        if index >= len(options.modalities):
            raise ModelError(
                found=f"{len(options.modalities)} modalities for more channels",
                expected="one for each channel, in their order",
                fix="repeat --modality for each channel (modalities=['CT', 'PT'])",
            )
        return options.modalities[index]
    plain = name.casefold()
    if plain in _MODALITY_OF:
        return _MODALITY_OF[plain]
    if _MR_NAME.search(plain):
        return "MR"
    raise ModelError(
        found=f"a channel named {name!r}, which does not tell its modality",
        expected="CT, MR or PT for each channel",
        fix="add --modality, once for each channel in their order (modalities=['CT', 'PT'])",
    )


def read_orientation(plans: Json, folder: Path, options: ImportOptions) -> tuple[str, list[str]]:
    """Return the network's axes: nnU-Net reads k, j, i and then transposes."""
    reader = str(plans.get("image_reader_writer", "SimpleITKIO"))
    if reader not in (*STORED_READERS, *RAS_READERS):
        raise ModelError(
            found=f"image reader {reader}",
            expected=f"one of {', '.join((*STORED_READERS, *RAS_READERS))}",
            fix="use nnU-Net for this model",
        )
    wanted, notes = _training_axes(reader, str(plans.get("dataset_name", "")), folder, options)
    axes = ("IJK" if wanted.lower() == "stored" else wanted.upper())[::-1]
    return "".join(axes[place] for place in plans["transpose_forward"]), notes


def _training_axes(reader: str, dataset: str, folder: Path, options: ImportOptions) -> tuple[str, list[str]]:
    """Return the axes of the training images, or "stored", and what a user should know about them."""
    if options.orientation is not None:
        stored = options.orientation.lower() == "stored"
        return options.orientation, [AS_STORED] if stored else []
    if reader in RAS_READERS:
        return "RAS", []
    for name in (dataset, folder.name, folder.parent.name):
        known = known_orientation(name)
        if known is not None:
            return known[0], [f"{known[1]}; so does this model. Name others with --orientation."]
    raise ModelError(
        found=f"{dataset or folder.name}, whose reader {reader} takes the axes of images as they are stored",
        expected="the orientation of its training images: a network that was trained on one finds little in another",
        fix="add --orientation RAS (orientation='RAS'), or LPS and so on, as its training images have it, and "
        "any image is turned to it; or --orientation stored, if images are stored as those were: each study is "
        "then flagged",
    )
