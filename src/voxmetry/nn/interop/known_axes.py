"""Public nnU-Net models whose axes are known: which dataset means which orientation of the images it was trained on."""

from __future__ import annotations

import re

TOTALSEGMENTATOR: dict[int, str] = {
    8: "HepaticVessel",
    113: "ToothFairy3",
    115: "mandible",
    117: "lung_airways_arteries_veins",
    150: "icb_v0",
    258: "lung_vessels",
    260: "hip_implant",
    291: "TotalSegmentator_part1_organs",
    292: "TotalSegmentator_part2_vertebrae",
    293: "TotalSegmentator_part3_cardiac",
    294: "TotalSegmentator_part4_muscles",
    295: "TotalSegmentator_part5_ribs",
    297: "TotalSegmentator_total_3mm",
    298: "TotalSegmentator_total_6mm",
    299: "body",
    300: "body_6mm",
    301: "heart_highres",
    303: "face",
    304: "appendicular_bones_ext",
    305: "vertebrae_discs",
    315: "thoraxCT",
    343: "mediastinum",
    351: "oculomotor_muscles",
    409: "neuro",
    481: "tissue",
    485: "tissue_4types",
    507: "coronary_arteries_cm_nativ",
    509: "coronary_arteries_cm_nativ_SKELETON",
    514: "annulus_pulmonary",
    527: "breasts",
    552: "ventricle_parts",
    570: "ct_liver_segments",
    576: "mri_liver_segments",
    589: "ct_mri_liver_lesions",
    591: "ct_liver_lesions",
    597: "mri_body",
    598: "mri_body_6mm",
    615: "MAXIMUS",
    710: "renal_arteries",
    713: "annulus_proper",
    716: "aorta_true_false_lumen",
    756: "mri_vertebrae",
    775: "head_glands_cavities",
    776: "headneck_bones_vessels",
    777: "head_muscles",
    778: "headneck_muscles_part1",
    779: "headneck_muscles_part2",
    789: "kidney_cyst",
    803: "TotalSegmentator_vertebrae_inner",
    831: "TotalSegmentator_part1_organs",
    832: "TotalSegmentator_part2_vertebrae",
    833: "TotalSegmentator_part3_cardiac",
    834: "TotalSegmentator_part4_muscles",
    835: "TotalSegmentator_part5_ribs",
    836: "TotalSegmentator_total_3mm",
    837: "TotalSegmentator_total_6mm",
    850: "TotalSegMRI_part1_organs",
    851: "TotalSegMRI_part2_muscles",
    852: "TotalSegMRI_total_3mm",
    853: "TotalSegMRI_total_6mm",
    855: "TotalSegMRI_appendicular_bones",
    856: "TotalSegMRI_face",
    857: "TotalSegMRI_thigh_shoulder",
    913: "lung_nodules",
    920: "aortic_sinuses_cm_nativ",
    925: "MRI_tissue_subset",
    952: "abdominal_muscles",
    955: "TotalSegmentator_highres_part1_organs",
    956: "TotalSegmentator_highres_part1_organs_cascade",
    957: "TotalSegmentator_highres_part1_organs_cropBody",
}
"""Datasets of TotalSegmentator by number, without the number of subjects that ends their names. Before nnU-Net sees an
image of any of its tasks, TotalSegmentator turns it to RAS (nibabel's `as_closest_canonical`). Source: the tables of
github.com/wasserth/TotalSegmentator (Apache-2.0) at 0e65a448d557: map_tasks_config.py, libs.py, nnunet.py."""

_DATASET = re.compile(r"(?:Dataset|Task)0*(\d+)_(.+)", re.IGNORECASE)
_SUBJECTS = re.compile(r"_\d+subj", re.IGNORECASE)
_RAS_IN_NAME = re.compile(r"(^|[_-])ras([_-]|$)", re.IGNORECASE)
_TOTALSEGMENTATOR_NAME = re.compile(r"totalseg", re.IGNORECASE)


def known_orientation(dataset_name: str) -> tuple[str, str] | None:
    """Return the orientation that a public model's images are brought to, and how that is known; None if it is not.

    Parameters
    ----------
    dataset_name
        As plans.json or the folder of the weights has it.

    Examples
    --------
    >>> known_orientation("Dataset299_body_1559subj")[0]
    'RAS'
    >>> known_orientation("Dataset299_liver") is None
    True
    """
    parts = _DATASET.fullmatch(dataset_name.strip())
    if parts:
        name = TOTALSEGMENTATOR.get(int(parts[1]))
        if name is not None and name.casefold() == _SUBJECTS.sub("", parts[2]).casefold():
            return "RAS", f"{dataset_name} is TotalSegmentator's, which turns images to RAS before nnU-Net sees them"
    if _TOTALSEGMENTATOR_NAME.search(dataset_name):
        return "RAS", f"{dataset_name} is TotalSegmentator's, which turns images to RAS before nnU-Net sees them"
    if _RAS_IN_NAME.search(dataset_name):
        return "RAS", f"{dataset_name} names RAS as the axes of its images"
    return None
