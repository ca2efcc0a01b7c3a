"""Records that are read from files hold no value that a run cannot have written."""

from __future__ import annotations

import json

import pytest

from voxmetry.core.records import Comparison, StudyResult
from voxmetry.errors import FormatError
from voxmetry.workflows.run_folder import read_result
from voxmetry.workflows.segment import segment_study

WRONG = {
    ("source", "shape"): ([-5, 27, 11], [0, 27, 11], [21, 27]),
    ("source", "spacing_mm"): ([0.0, 1.0, 1.0], [1.0, -1.0, 1.0], [1.0, float("nan"), 1.0], [1.0, 1.0, float("inf")]),
    ("source", "modality"): ("<b>", "XX", "mr", ""),
    ("source", "unit"): ("litres", ""),
    ("source", "axcodes"): ("RAX", "RA", "<b>"),
    ("measurements", 0, "n_voxels"): (-1,),
    ("measurements", 0, "volume_ml"): (-0.5, float("nan"), float("inf")),
    ("measurements", 0, "value"): (0, -3, 70000),
}


def changed(content, path, value):
    content = json.loads(json.dumps(content))
    *way, last = path
    place = content
    for step in way:
        place = place[step]
    place[last] = value
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import models
    import phantoms
    from voxmetry import save

    root = tmp_path_factory.mktemp("records")
    save(phantoms.volume(phantoms.geometry(shape=(21, 27, 11))), root / "image.nii.gz")
    segment_study(root / "image.nii.gz", root / "out", models.write(root / "tiny"))
    return root / "out"


@pytest.mark.parametrize("path", WRONG, ids=lambda path: ".".join(map(str, path)))
def test_a_result_that_no_run_wrote_is_refused_by_the_place_of_the_fault(folder, path, tmp_path):
    content = json.loads((folder / "result.json").read_text())
    for value in WRONG[path]:
        (tmp_path / "result.json").write_text(json.dumps(changed(content, path, value)))
        with pytest.raises(FormatError, match=path[-1]):
            read_result(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps(content))
    assert isinstance(read_result(tmp_path), StudyResult)


def test_counts_and_volumes_of_a_comparison_are_none_below_zero():
    from pydantic import ValidationError

    good = dict.fromkeys(
        ("volume_prediction_ml", "volume_reference_ml", "volume_difference_ml", "dice", "iou", "hausdorff_mm"), 0.0
    ) | dict.fromkeys(("hd95_mm", "assd_mm", "surface_dice", "tolerance_mm"), 1.0)
    good |= {"label": "a", "value": 1, "status": "both", "n_voxels_prediction": 1, "n_voxels_reference": 1}
    assert Comparison.model_validate(good).dice == 0
    for name in ("n_voxels_prediction", "n_voxels_reference", "volume_prediction_ml", "volume_reference_ml"):
        with pytest.raises(ValidationError, match=name):
            Comparison.model_validate(good | {name: -1})
