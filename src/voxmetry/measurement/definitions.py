"""Each number's definition in words: it goes into `result.json` and the report, beside the number."""

from __future__ import annotations

from voxmetry.errors import ConfigError
from voxmetry.measurement.distance import PercentileRule
from voxmetry.ops.surface import SurfaceKind, require_kind

_SURFACES = {
    "elements": "surface elements: the marching-cubes piece of surface in each 2 x 2 x 2 block of voxel centres, "
    "at the block's centre and weighted by its area in mm2 (as google-deepmind/surface-distance)",
    "border voxels": "border voxels: centres of the voxels that share a face with a voxel outside the structure, "
    "each counting one (as MONAI and MedPy)",
}
_PERCENTILES = {
    ("elements", "directed max"): "larger of the two directed 95th percentiles of area-weighted surface element "
    "distances: within it lies 95 % of the area of either surface (as google-deepmind/surface-distance)",
    ("elements", "pooled"): "95th percentile of the area-weighted surface element distances of both directions "
    "taken together",
    ("border voxels", "directed max"): "larger of the two directed 95th percentiles of border voxel distances, "
    "interpolated linearly between ranks (as MONAI)",
    ("border voxels", "pooled"): "95th percentile of the border voxel distances of both directions taken together, "
    "interpolated linearly between ranks (as MedPy)",
}
_MEASUREMENTS = {
    "n_voxels": "number of voxels of the structure",
    "volume_ml": "number of voxels times the volume of a voxel (the determinant of the affine), in mL",
    "extent_rl_mm": "size along the patient's right-left axis of the smallest box square to the patient's axes that "
    "holds all voxels, voxel edges included, in mm",
    "extent_ap_mm": "the same along the anterior-posterior axis",
    "extent_si_mm": "the same along the superior-inferior axis",
    "centroid_ras_mm": "mean position of the voxel centres, in mm towards the patient's right, anterior and superior",
    "mesh_volume_ml": "content of the closed marching-cubes mesh round the mask, through the middles between voxel "
    "centres inside and outside, in mL (IBSI: volume, mesh)",
    "surface_area_mm2": "area of that mesh in mm2 (IBSI: surface area, mesh)",
    "sphericity": "(36 pi V^2)^(1/3) / A with the mesh's volume V and area A; 1 is a sphere (IBSI: sphericity)",
    "max_diameter_mm": "largest distance between two points of that mesh, in mm (IBSI: maximum 3D diameter)",
    "max_diameter_ends_ras_mm": "the two points that it lies between, in mm towards the patient's right, anterior and "
    "superior",
    "share_percent": "share of the sum of structures that the model names (total), in per cent",
    "touches_border": "whether a voxel of the structure lies on a face of the image, so that it may be cut off",
    "border_sides": "the faces of the image that it touches, by the nearest patient direction",
    "intensity_mean": "mean over the structure's voxels, in the image's unit (intensity_unit)",
    "intensity_sd": "standard deviation over the structure's voxels (of the population, division by n)",
    "intensity_min": "smallest value",
    "intensity_p05": "5th percentile, interpolated linearly between ranks",
    "intensity_median": "50th percentile, interpolated linearly between ranks",
    "intensity_p95": "95th percentile, interpolated linearly between ranks",
    "intensity_max": "largest value",
}
_LESIONS = {
    "lesion": "connected component (26 neighbours) of a structure of kind 'lesion'; the largest of a structure is "
    "number 1",
    "long_axis_mm": "longest distance between two points of the lesion's outline in one slice of the plane of "
    "measurement (RECIST 1.1), in mm; the outline runs through the middles between pixel centres inside "
    "and outside",
    "short_axis_mm": "longest chord of the outline's convex hull at right angles to the long axis, in the same slice",
    "plane": "plane of measurement: across the axis along which voxels are more than 1.7 times as long as along the "
    "others, as slices were acquired; else the slices nearest to axial",
    "suv_peak": "largest mean SUV in a sphere of 1 mL (voxels whose centre is within 6.2 mm) round any voxel of the "
    "lesion (IBSI: global intensity peak)",
    "total_lesion_glycolysis_suv_ml": "mean SUV times volume in mL",
    "location": "organ that holds most of the lesion's voxels, or else the organ with the nearest voxel",
    "location_distance_mm": "0 inside the organ, else the distance between the nearest voxel centres in mm",
}
_INSTANCES = {
    "instance": "value of the instance in instances.nii.gz; what tells instances apart is said by instances_by: the "
    "network, connected components (26 neighbours), or the watershed of the distance to the structure's border, which "
    "cuts where a structure is narrow",
    "score": "the network's certainty of the instance, 0 to 1; undefined where no network found it",
    "box_low_ras_mm": "lowest corner of the instance's box along the patient's axes, in mm: the network's own, or the "
    "smallest that holds all voxels, voxel edges included",
    "box_high_ras_mm": "the highest corner of the same box",
    "panoptic": "value of a voxel in panoptic.nii.gz: label value times 65536, plus the value of the instance",
}
DETECTION = {
    "average_precision": "mean over the recalls 0, 0.01, ..., 1 of the largest precision at this recall or above, of "
    "the predictions of all cases from the most to the least certain (as COCO); predictions of one score, or without "
    "any, come in together",
    "froc": "sensitivity at so many false positives a case as the threshold of the score falls, interpolated linearly",
    "froc_score": "mean of the sensitivities at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives a case (as LUNA16)",
    "hits": "predictions take their turn from the most to the least certain; each takes the best instance that it hits "
    "and that is free, by IoU or by how near the centroids are; a second hit of an instance is a false one",
    "sq": "segmentation quality: mean IoU of matched pairs, of all cases together",
    "rq": "recognition quality: TP / (TP + FP / 2 + FN / 2), of all cases together",
    "pq": "panoptic quality: SQ times RQ",
    "all_found": "share of the cases in which each instance of the reference has a partner",
    "count_error": "mean absolute difference of the numbers of instances of a case",
    "count_bias": "mean of the prediction's number of instances minus the reference's",
}
"""The definitions of what is said about instances over many cases."""
_COMPARISONS = {
    "status": "'both': in prediction and reference; 'missed': in the reference only; 'extra': in the prediction only; "
    "'absent': in neither",
    "volume_difference_ml": "volume of the prediction minus volume of the reference, in mL",
    "dice": "2 |P and R| / (|P| + |R|) over voxels; 0 if missed or extra, nan if absent",
    "iou": "|P and R| / |P or R| over voxels; 0 if missed or extra, nan if absent",
    "hausdorff_mm": "largest distance from any point of either surface to the nearest point of the other, in mm",
    "assd_mm": "average symmetric surface distance: mean of the distances of both directions taken together, "
    "weighted by area for surface elements, in mm",
    "mean_prediction_to_reference_mm": "mean distance from the prediction's surface to the reference's, in mm",
    "mean_reference_to_prediction_mm": "mean distance from the reference's surface to the prediction's, in mm",
    "surface_dice": "share of both surfaces that lies within tolerance_mm of the other; 0 if missed or extra, nan if "
    "absent",
    "surface_dice_at_mm": "the same at further tolerances, by the tolerance in mm",
    "boundary_iou": "intersection of the two surfaces over their union, where they coincide exactly; 0 if missed or "
    "extra, nan if absent",
    "empty": "'nan': a distance is nan if one of the masks is empty; 'diagonal': it is the grid's diagonal in mm",
}


MEASURED = {**_MEASUREMENTS, **_LESIONS}
"""The definitions of what is measured of one label map."""


FOLLOW_UP = {
    "matrix_ras_mm": "4 x 4 matrix that takes a place at follow-up to the same place at baseline, both in mm"
    " towards the patient's right, anterior and superior",
    "status": "'matched': one lesion then and now; 'new': only now; 'gone': only then; 'merged': several "
    "then, one now; 'split': one then, several now; 'regrouped': several then and now that hang together; 'not "
    "covered': its place lies outside the follow-up image",
    "rule": "what linked them: 'overlap', at least min_overlap of the voxels of one lies in the other after "
    "the registration; 'distance', neither overlaps any lesion and the centroids are within max_distance_mm, "
    "paired one to one with the smallest sum of distances",
    "overlap": "largest share of the voxels of one of two linked lesions that lies in the other",
    "centroid_distance_mm": "distance of the centroids after the registration, of all voxels of either side together",
    "volume_change_ml": "volume at follow-up minus volume at baseline, each on its own grid, in mL",
    "volume_change_percent": "the same in percent of the baseline",
    "diameter_change_mm": "change of the long axis (of a lymph node: of the short axis), of several lesions "
    "of their sum, in mm",
    "diameter_change_percent": "the same in percent of the baseline",
    "trend": "'larger': the diameter grew by 5 mm and 20 % at least; 'smaller': it fell by 30 % at least; "
    "else 'stable' (thresholds that RECIST 1.1 has for the sum, borrowed for one lesion)",
    "sum_baseline_mm": "sum of the diameters of the target lesions at baseline: long axes, of lymph nodes short axes",
    "sum_nadir_mm": "smallest sum of diameters so far, the baseline's included",
    "sum_follow_up_mm": "sum of the diameters of the target lesions at follow-up; one that is gone counts 0,"
    " parts of one that split are added up, of targets that merged the merged lesion counts once",
    "category": "RECIST 1.1. PD: the sum grew by 20 % and 5 mm at least over the smallest so far, or there "
    "is a new lesion that can be measured; CR: all lesions are gone, lymph nodes below 10 mm; PR: the sum fell by"
    " 30 % at least from the baseline; SD: neither; NE: a target lesion was not covered, or there is none to "
    "evaluate",
    "targets": "five lesions at most, two at most in one organ, the largest first: long axis of 10 mm at "
    "least (or twice the slice distance where that is above 5 mm), lymph nodes 15 mm in the short axis",
}
"""The definitions of what is said about two time points."""


def definitions(surface: SurfaceKind = "elements", percentile: PercentileRule = "directed max") -> dict[str, str]:
    """Return the definition of each number, by its field's name, for the chosen surface and percentile rule.

    Raises
    ------
    ConfigError
        If one of the two is unknown.

    Examples
    --------
    >>> definitions("border voxels", "pooled")["hd95_mm"].split(",")[0]
    '95th percentile of the border voxel distances of both directions taken together'
    """
    require_kind(surface)
    if (surface, percentile) not in _PERCENTILES:
        raise ConfigError(
            found=f"percentile={percentile!r}", expected="'directed max' or 'pooled'", fix="choose one of the two"
        )
    return {
        **_MEASUREMENTS,
        **_LESIONS,
        **_INSTANCES,
        **_COMPARISONS,
        "hd95_mm": _PERCENTILES[surface, percentile],
        "surface": _SURFACES[surface],
    }


DEFINITIONS = definitions()
"""The definitions of the default settings."""
