"""The readers for MONAI users: an `ImageReader`, and a dictionary transform on top of it."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from monai.config import DtypeLike, KeysCollection
from monai.data import ImageReader, MetaTensor
from monai.transforms import EnsureChannelFirst, MapTransform
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys, ensure_tuple, ensure_tuple_rep
from numpy.typing import NDArray

from voxmetry.core.volume import Volume
from voxmetry.errors import InputError
from voxmetry.io.read import Modality, read_volume
from voxmetry.io.suffixes import ITK, NIFTI, suffix_of

PathLike: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True)
class _Unread:
    """Paths that are still to be read."""

    paths: tuple[PathLike, ...]


class VoxmetryReader(ImageReader):
    """Reader of DICOM folders, NIfTI, NRRD and MetaImage files for `monai.transforms.LoadImage`.

    The affine is in RAS+ mm, and what `voxmetry.read_volume` refuses is refused here.

    Parameters
    ----------
    modality
        Take only DICOM series of this modality, "CT", "MR" or "PT".

    Notes
    -----
    `LoadImage` answers an error in `read` by trying its other readers, one of which would load the series that was
    refused. Files are therefore read in `get_data`, where an error ends the loading.

    Examples
    --------
    >>> import monai
    >>> load = monai.transforms.LoadImage(reader=VoxmetryReader(modality="CT"))  # doctest: +SKIP
    """

    def __init__(self, modality: Modality | None = None) -> None:
        self.modality = modality

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Say whether all paths are of a kind that can be read: a folder, or a file of a known suffix."""
        paths = [Path(name) for name in ensure_tuple(filename)]
        return all(path.is_dir() or suffix_of(path) in (*NIFTI, *ITK, ".dcm", "") for path in paths)

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> _Unread:
        """Note what is to be read; `get_data` reads it.

        Raises
        ------
        InputError
            If there are keyword arguments, of which this reader has none.
        """
        if kwargs:
            raise InputError(
                found=f"reading options {', '.join(sorted(kwargs))}",
                expected="no options: the file decides how it is read",
                fix="leave them out",
            )
        return _Unread(tuple(ensure_tuple(data)))

    def get_data(self, img: _Unread) -> tuple[NDArray[Any], dict[str, Any]]:
        """Read the images.

        Returns
        -------
        array
            (I, J, K) of one image, or (C, I, J, K) of several on one grid.
        meta
            MONAI's keys: `affine` and `original_affine` (4, 4) in RAS+ mm, `space` "RAS", `spatial_shape`,
            `original_channel_dim`; and `unit` of the first image.

        Raises
        ------
        VoxmetryError
            Whatever `voxmetry.read_volume` raises; GeometryError if several images lie on different grids.
        """
        volumes = [read_volume(path, modality=self.modality) for path in img.paths]
        first = volumes[0]
        _check_together(volumes)
        # A copy that can be written to: torch warns about sharing the volume's read-only memory.
        array = np.array(first.array) if len(volumes) == 1 else np.stack([volume.array for volume in volumes])
        meta = {
            MetaKeys.AFFINE.value: np.array(first.geometry.affine),
            MetaKeys.ORIGINAL_AFFINE.value: np.array(first.geometry.affine),
            MetaKeys.SPACE.value: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE.value: np.array(first.geometry.shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM.value: float("nan") if len(volumes) == 1 else 0,
            "unit": first.unit,
        }
        return array, meta


class LoadVolumed(MapTransform):
    """Replace paths in a dictionary by the images at them, as `MetaTensor` of shape (C, I, J, K).

    Parameters
    ----------
    keys
        Keys whose values are paths: a DICOM folder, a NIfTI, NRRD or MetaImage file; or a list of paths, whose images
        become the channels.
    modality
        Take only DICOM series of this modality; one for all keys, or one a key.
    dtype
        Type of the tensors; None keeps the type of the files.
    allow_missing_keys
        Whether a key may be absent.

    Examples
    --------
    >>> from monai.transforms import Compose, Orientationd, Spacingd
    >>> pipeline = Compose([
    ...     LoadVolumed(["image", "label"], modality=("CT", None)),
    ...     Orientationd(["image", "label"], axcodes="RAS", labels=None),
    ...     Spacingd(["image", "label"], pixdim=1.5, mode=("bilinear", "nearest")),
    ... ])
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        modality: Modality | Sequence[Modality | None] | None = None,
        dtype: DtypeLike = np.float32,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.dtype = dtype
        self._readers = [VoxmetryReader(one) for one in ensure_tuple_rep(modality, len(self.keys))]
        self._channel_first = EnsureChannelFirst()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load the image of each key."""
        loaded = dict(data)
        for key, reader in self.key_iterator(loaded, self._readers):
            paths = reader.read(loaded[key])
            array, meta = reader.get_data(paths)
            meta[ImageMetaKey.FILENAME_OR_OBJ] = str(paths.paths[0])
            image = MetaTensor.ensure_torch_and_prune_meta(np.asarray(array, self.dtype), meta)
            loaded[key] = self._channel_first(image)
        return loaded


def _check_together(volumes: Sequence[Volume]) -> None:
    series = [volume.source.series_uid for volume in volumes if volume.source is not None]
    if len(set(series)) < len(series):
        raise InputError(
            found="several paths of one DICOM series",
            expected="one path for each image; each DICOM file stands for its whole series",
            fix="pass the folder of the series",
        )
    for volume in volumes[1:]:
        volumes[0].geometry.require_same(volume.geometry, what="the images of one list")
