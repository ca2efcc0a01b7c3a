"""Results made by hand, so that the report is tested without the rooms that measure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from voxmetry import Comparison, Flag, LabelTable, Measurement, Segmentation, StudyResult, Volume
from voxmetry.core.records import Provenance, SourceInfo

SIDES = ("LR", "PA", "IS")


def measurement(volume: Volume, segmentation: Segmentation, name: str) -> Measurement:
    label = segmentation.labels[name]
    mask = segmentation.mask(name)
    common: dict[str, Any] = {"label": name, "value": label.value, "kind": label.kind}
    ijk = np.argwhere(mask)
    if not len(ijk):
        nan = math.nan
        return Measurement(
            **common,
            n_voxels=0,
            volume_ml=0.0,
            extent_rl_mm=nan,
            extent_ap_mm=nan,
            extent_si_mm=nan,
            centroid_ras_mm=(nan, nan, nan),
            touches_border=False,
            reason="the structure has no voxel",
        )
    grid = volume.geometry
    mm = grid.to_mm(ijk)
    extent = np.ptp(mm, axis=0) + np.abs(grid.affine[:3, :3]).sum(axis=1)
    sides = []
    permutation, signs = grid.closest_axes
    for axis in range(3):
        names = SIDES[permutation[axis]][:: signs[axis]]
        for at, side in zip((0, grid.shape[axis] - 1), names, strict=True):
            if (ijk[:, axis] == at).any():
                sides.append(side)
    x = volume.array[mask].astype(float)
    p05, median, p95 = np.percentile(x, (5, 50, 95))
    return Measurement(
        **common,
        n_voxels=len(ijk),
        volume_ml=len(ijk) * grid.voxel_ml,
        extent_rl_mm=extent[0],
        extent_ap_mm=extent[1],
        extent_si_mm=extent[2],
        centroid_ras_mm=tuple(mm.mean(axis=0)),
        touches_border=bool(sides),
        border_sides=tuple(sides),
        intensity_unit=volume.unit,
        intensity_mean=x.mean(),
        intensity_sd=x.std(),
        intensity_min=x.min(),
        intensity_p05=p05,
        intensity_median=median,
        intensity_p95=p95,
        intensity_max=x.max(),
    )


def comparison(prediction: Segmentation, reference: Segmentation, name: str) -> Comparison:
    """Overlap as it is; distances are stand-ins."""
    value = prediction.labels[name].value
    p, r = prediction.array == value, reference.array == value
    n_p, n_r, n_both = int(p.sum()), int(r.sum()), int((p & r).sum())
    status = {(True, True): "both", (False, True): "missed", (True, False): "extra", (False, False): "absent"}
    both = bool(n_p and n_r)
    ml = prediction.geometry.voxel_ml
    return Comparison(
        label=name,
        value=value,
        status=status[bool(n_p), bool(n_r)],
        n_voxels_prediction=n_p,
        n_voxels_reference=n_r,
        volume_prediction_ml=n_p * ml,
        volume_reference_ml=n_r * ml,
        volume_difference_ml=(n_p - n_r) * ml,
        dice=2 * n_both / (n_p + n_r) if n_p + n_r else math.nan,
        iou=n_both / (n_p + n_r - n_both) if n_p + n_r else math.nan,
        hausdorff_mm=3.2 if both else math.nan,
        hd95_mm=1.4 if both else math.nan,
        assd_mm=0.4 if both else math.nan,
        surface_dice=0.951 if both else math.nan,
        tolerance_mm=1.0,
        reason="" if both else "a distance needs the structure on both sides",
    )


DEFINITIONS = {
    "volume_ml": "Number of voxels times the volume of one voxel, the absolute determinant of the affine.",
    "extent_rl_mm": "size along the patient's right-left axis of the box that holds every voxel with its full size",
    "intensity_mean": "Arithmetic mean of the image's values in the structure.",
    "dice": "Twice the volume in both, divided by the sum of both volumes.",
    "hd95_mm": "The larger of the two directed 95th percentiles of the distances between the surfaces.",
}

PROVENANCE = Provenance(
    voxmetry_version="0.1.0",
    packages={"torch": "2.13.0", "monai": "1.6.1", "numpy": "2.4.6"},
    python="3.11.2",
    platform="Linux x86_64",
    model="hippocampus-mr",
    model_version="0.1.0",
    weights_sha256="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    settings={"device": "auto", "tolerance_mm": 1.0, "overwrite": False, "window": {"overlap": 0.5}, "series": None},
    device="cpu",
    started="2026-11-22T10:15:42Z",
    seconds={"read": 0.02, "infer": 1.34, "measure": 0.06, "total": 1.42},
    peak_memory_mb=812.0,
)


@pytest.fixture
def make_result() -> Callable[..., StudyResult]:
    """Measure a segmentation crudely and wrap it up as a result."""

    def make(
        volume: Volume,
        segmentation: Segmentation,
        reference: Segmentation | None = None,
        *,
        flags: tuple[Flag, ...] = (),
        modality: str | None = "MR",
        description: str = "",
        **provenance: Any,
    ) -> StudyResult:
        grid = volume.geometry
        names = segmentation.labels.names
        comparisons = [comparison(segmentation, reference, name) for name in names] if reference else []
        return StudyResult(
            source=SourceInfo(
                format="NIfTI",
                modality=modality,
                unit=volume.unit,
                shape=grid.shape,
                spacing_mm=grid.spacing_mm,
                axcodes=grid.axcodes,
                description=description,
            ),
            labels=segmentation.labels,
            measurements=tuple(measurement(volume, segmentation, name) for name in names),
            comparisons=tuple(comparisons),
            flags=flags,
            definitions=DEFINITIONS,
            provenance=PROVENANCE.model_copy(update=provenance),
        )

    return make


@pytest.fixture
def many_labels() -> LabelTable:
    """Forty structures."""
    return LabelTable.from_names({value: f"structure {value}" for value in range(1, 41)})
