from __future__ import annotations

import math

import numpy as np
import pytest

import phantoms
from voxmetry import Comparison, Geometry, LabelTable, Segmentation
from voxmetry.errors import ConfigError, GeometryError
from voxmetry.measurement import DEFINITIONS, compare, definitions, summarise
from voxmetry.measurement.overlap import overlaps


def segmentation(boxes: dict[int, tuple[slice, slice, slice]], names: dict[int, str], grid: Geometry) -> Segmentation:
    array = np.zeros(grid.shape, np.uint8)
    for value, box in boxes.items():
        array[box] = value
    return Segmentation(array, grid, LabelTable.from_names(names))


@pytest.fixture
def pair() -> tuple[Segmentation, Segmentation]:
    """'both' in both, one step of 0.9 mm along i apart; 'missed', 'extra' and 'absent' as they are called."""
    grid = phantoms.geometry()
    names = {1: "both", 2: "missed", 3: "extra", 4: "absent"}
    prediction = {1: np.s_[2:6, 2:6, 2:6], 3: np.s_[8:10, 8:10, 8:10]}
    reference = {1: np.s_[3:7, 2:6, 2:6], 2: np.s_[8:12, 12:14, 8:10]}
    return segmentation(prediction, names, grid), segmentation(reference, names, grid)


def test_a_row_by_hand(pair):
    prediction, reference = pair
    row = compare(prediction=prediction, reference=reference, tolerance_mm=0.5)[0]
    # 4 x 4 x 4 voxels each, 3 x 4 x 4 shared; a voxel has 0.9 * 1.3 * 2.6 mm3.
    assert (row.label, row.value, row.value_reference, row.status, row.reason) == ("both", 1, 1, "both", "")
    assert row.n_voxels_prediction == row.n_voxels_reference == 64
    assert row.volume_prediction_ml == pytest.approx(64 * 0.9 * 1.3 * 2.6 / 1000)
    assert (row.dice, row.iou) == (2 * 48 / 128, 48 / 80)
    assert row.volume_difference_ml == 0
    assert row.hausdorff_mm == row.hd95_mm == pytest.approx(0.9)
    assert 0 < row.assd_mm < 0.9
    assert row.mean_prediction_to_reference_mm == pytest.approx(row.mean_reference_to_prediction_mm)
    # Each surface is 5 x 5 x 5 block centres without the inner 3 x 3 x 3; along i the shared slab is 4 of them.
    assert 0 < row.surface_dice < 1
    assert compare(prediction=prediction, reference=reference, tolerance_mm=0.9)[0].surface_dice == 1
    assert (row.tolerance_mm, row.surface, row.percentile, row.empty) == (0.5, "elements", "directed max", "nan")


def test_empty_masks_are_counted_and_named(pair):
    prediction, reference = pair
    rows = {row.label: row for row in compare(prediction=prediction, reference=reference)}
    assert {name: row.status for name, row in rows.items()} == {name: name for name in rows}
    for name, dice in [("missed", 0), ("extra", 0), ("absent", math.nan)]:
        row = rows[name]
        assert (row.dice, row.iou, row.surface_dice, row.boundary_iou) == pytest.approx((dice,) * 4, nan_ok=True)
        assert all(math.isnan(x) for x in (row.hausdorff_mm, row.hd95_mm, row.assd_mm))
        assert row.reason
    assert rows["missed"].volume_difference_ml == pytest.approx(-16 * 0.9 * 1.3 * 2.6 / 1000)


def test_diagonal_policy(pair):
    prediction, reference = pair
    rows = {row.label: row for row in compare(prediction=prediction, reference=reference, empty="diagonal")}
    diagonal = math.sqrt((13 * 0.9) ** 2 + (17 * 1.3) ** 2 + (11 * 2.6) ** 2)
    for name in ("missed", "extra"):
        assert rows[name].hausdorff_mm == rows[name].hd95_mm == rows[name].assd_mm == pytest.approx(diagonal)
        assert "diagonal" in rows[name].reason
    assert math.isnan(rows["absent"].hausdorff_mm)
    assert rows["both"].hausdorff_mm == pytest.approx(0.9)


def test_a_mean_never_skips_a_missed_structure(pair):
    prediction, reference = pair
    summary = summarise(compare(prediction=prediction, reference=reference))
    assert (summary.n, summary.n_both, summary.n_missed, summary.n_extra, summary.n_absent) == (4, 1, 1, 1, 1)
    assert math.isnan(summary.mean["hd95_mm"])
    assert "1 missed and 1 invented" in summary.reason
    assert summary.mean_of_both["hd95_mm"] == pytest.approx(0.9)
    assert summary.mean["dice"] == pytest.approx(0.75 / 3)
    whole = summarise(compare(prediction=prediction, reference=reference, empty="diagonal"))
    assert whole.mean["hd95_mm"] > 20
    assert whole.reason == ""
    assert summarise([]).mean_of_both == pytest.approx(dict.fromkeys(summary.mean, math.nan), nan_ok=True)


def test_a_summary_refuses_mixed_definitions(pair):
    prediction, reference = pair
    both = {"prediction": prediction, "reference": reference}
    for other in ({"surface": "border voxels"}, {"percentile": "pooled"}, {"tolerance_mm": 2}, {"empty": "diagonal"}):
        with pytest.raises(ConfigError, match="different definitions"):
            summarise([*compare(**both), *compare(**both, **other)])


def test_tolerances_by_name(pair):
    prediction, reference = pair
    names = ("both", "missed", "extra", "absent")
    tolerances = dict(zip(names, (0.5, 1, 2, 3), strict=True))
    rows = compare(prediction=prediction, reference=reference, tolerance_mm=tolerances)
    assert {row.label: row.tolerance_mm for row in rows} == tolerances
    with pytest.raises(ConfigError, match="tolerances for both"):
        compare(prediction=prediction, reference=reference, tolerance_mm={"both": 1})


def test_refusals(pair):
    prediction, reference = pair
    other = Segmentation(reference.array, phantoms.geometry(degrees=(0, 0, 0)), reference.labels)
    with pytest.raises(GeometryError, match="different grids"):
        compare(prediction=prediction, reference=other)
    with pytest.raises(ConfigError, match="empty="):
        compare(prediction=prediction, reference=reference, empty="zero")
    with pytest.raises(ConfigError, match="tolerance"):
        compare(prediction=prediction, reference=reference, tolerance_mm=-1)


def test_the_chosen_definition_stands_in_the_words():
    assert "border voxel" in definitions("border voxels")["hd95_mm"]
    assert definitions("border voxels", "pooled")["hd95_mm"] != definitions("border voxels")["hd95_mm"]
    with pytest.raises(ConfigError, match="surface="):
        definitions("mesh")
    with pytest.raises(ConfigError, match="percentile="):
        definitions(percentile="mean")


def test_each_number_has_a_definition():
    from voxmetry import Measurement

    unspoken = {"label", "value", "kind", "reason", "tolerance_mm", "value_reference", "percentile", "intensity_unit"}
    unspoken |= {"n_voxels_prediction", "n_voxels_reference", "volume_prediction_ml", "volume_reference_ml"}
    fields = {*Comparison.model_fields, *Measurement.model_fields} - unspoken
    assert fields <= set(DEFINITIONS)


def test_matched_names_on_other_values():
    grid = phantoms.geometry()
    boxes = {1: np.s_[2:4, 2:4, 2:4], 2: np.s_[6:9, 6:9, 6:9]}
    a = segmentation(boxes, {1: "liver", 2: "spleen"}, grid)
    b = segmentation({2: boxes[1], 1: boxes[2]}, {2: "Liver", 1: "Spleen"}, grid)
    rows = compare(prediction=a, reference=b)
    assert [(row.label, row.dice, row.value, row.value_reference) for row in rows] == [
        ("liver", 1, 1, 2),
        ("spleen", 1, 2, 1),
    ]


def test_a_structure_that_one_table_does_not_have(pair):
    _, reference = pair
    plain = segmentation({2: np.s_[1:3, 1:3, 1:3]}, {2: "label_2"}, reference.geometry)
    rows = {row.label: row for row in compare(prediction=plain, reference=reference)}
    assert (rows["both"].value, rows["both"].value_reference, rows["both"].status) == (1, 1, "missed")
    assert (rows["both"].n_voxels_prediction, rows["both"].n_voxels_reference) == (0, 64)
    assert (rows["extra"].status, rows["missed"].status) == ("absent", "both")
    rows = {row.label: row for row in compare(prediction=reference, reference=plain)}
    assert (rows["both"].value_reference, rows["both"].status, rows["both"].dice) == (None, "extra", 0)


def test_overlaps_do_not_depend_on_memory_order_or_type():
    rng = np.random.default_rng(0)
    grid = phantoms.geometry()
    table = LabelTable.from_names({1: "a", 2: "b", 3: "c"})
    p, r = rng.integers(0, 4, (2, *grid.shape)).astype(np.uint8)
    pairs = [(1, 1), (2, 3), (3, 0)]
    for order_p in "CF":
        for order_r in "CF":
            a = Segmentation(np.asarray(p, order=order_p), grid, table)
            b = Segmentation(np.asarray(r, np.uint16, order=order_r), grid, table)
            found = overlaps(prediction=a, reference=b, pairs=pairs)
            assert [x.n_prediction for x in found] == [int((p == v).sum()) for v, _ in pairs]
            assert [x.n_reference for x in found] == [int((r == w).sum()) if w else 0 for _, w in pairs]
            assert [x.n_both for x in found] == [int(((p == v) & (r == w) & (w > 0)).sum()) for v, w in pairs]


def test_boundary_iou_by_hand():
    # 5 x 5 x 5 voxels of 1 mm, moved by one along i. A rim of 1 mm is 125 - 27 voxels. Of the 100 inside both, the
    # prediction's inside is i 2..4 and the reference's 3..5, j and k 2..4: 9 * 4 voxels are not in both rims.
    grid = Geometry(np.eye(4), (9, 9, 9))
    names = {1: "a", 2: "b"}
    p = segmentation({1: np.s_[1:6, 1:6, 1:6]}, names, grid)
    r = segmentation({1: np.s_[2:7, 1:6, 1:6]}, names, grid)
    both = 4 * 25 - 9 * 4
    expected = both / (2 * 98 - both)
    row = compare(prediction=p, reference=r, surface="border voxels", labels=["a"])[0]
    assert row.boundary_iou == pytest.approx(expected)


def test_a_real_map_against_itself_moved(real_data):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.load(real_data / "ct-multiorgan" / "example_seg.nii.gz")
    array = np.asarray(image.dataobj).astype(np.uint8)
    grid = Geometry(image.affine, array.shape)
    table = LabelTable.from_names({int(v): f"label_{v}" for v in np.unique(array) if v})
    moved = np.zeros_like(array)
    moved[1:] = array[:-1]
    rows = compare(prediction=Segmentation(moved, grid, table), reference=Segmentation(array, grid, table))
    assert len(rows) == 41
    assert max(row.hausdorff_mm for row in rows if row.status == "both") == pytest.approx(3.0, abs=1e-5)
    assert summarise(rows).n_missed == 0
