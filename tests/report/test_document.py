"""What a report says."""

import math

import numpy as np
import pytest

import phantoms
from voxmetry import Flag, Geometry, Label, LabelTable, Segmentation, Volume
from voxmetry.errors import GeometryError, LabelError
from voxmetry.report import build_document
from voxmetry.report.pictures.plan import MOST_STRUCTURES
from voxmetry.report.tables import EMPTY_ROWS, STATUS


def without(segmentation, name):
    array = np.where(segmentation.mask(name), 0, segmentation.array).astype(np.uint8)
    return Segmentation(array, segmentation.geometry, segmentation.labels)


def forty(labels):
    """Forty structures of growing size, on a grid that they do not fill."""
    grid = Geometry(np.diag([1.0, 1.5, 2.0, 1.0]), (84, 20, 14))
    array = np.zeros(grid.shape, np.uint8)
    for value in labels.values:
        array[2 * value : 2 * value + 2, 3 : 5 + value // 4, 3:9] = value
    return Volume(np.random.default_rng(0).normal(100, 20, grid.shape), grid), Segmentation(array, grid, labels)


def cells(table, label):
    row = next(row for row in table.rows if row.label == label)
    heads = [column.head.replace("\u2060", "") for column in table.columns]
    return dict(zip(heads, row.cells, strict=True))


def test_a_study_without_a_flag(make_result):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    result = make_result(volume, segmentation, description="T1 sag")
    document = build_document(result, volume, segmentation)
    assert document.verdict.state == "accept"
    assert document.summary == ("2 of 2 structures found.",)
    assert document.description == "T1 sag"
    row = cells(document.findings, "a")
    # 24 voxels of 0.9 x 1.3 x 2.6 mm.
    assert row["Volume"].text == "0.07"
    assert row["Extent R–L"].text == f"{result.measurements[0].extent_rl_mm:.1f}"
    assert [column.unit for column in document.findings.columns] == ["mL", "mm", "mm", "mm", "a.u."]
    assert document.flags == ()
    assert document.comparison is None
    assert [i.id for i in document.illustrations] == ["overview", "structure-1", "structure-4"]
    assert document.not_pictured == ()
    assert document.notice == "Research use only. Not a medical device."


def test_every_number_of_the_table_is_the_results_own(make_result):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    result = make_result(volume, segmentation)
    document = build_document(result, volume, segmentation)
    for m in result.measurements:
        values = [float(cell.text) for cell in cells(document.intensities, m.label).values()]
        expected = [m.intensity_mean, m.intensity_sd, m.intensity_min, m.intensity_p05, m.intensity_median]
        expected += [m.intensity_p95, m.intensity_max]
        assert values == pytest.approx(expected, abs=0.0501)
        assert [cell.text for cell in cells(document.findings, m.label).values()][1:4] == [
            f"{x:.1f}" for x in (m.extent_rl_mm, m.extent_ap_mm, m.extent_si_mm)
        ]


def test_an_empty_structure_is_not_found_and_says_why_it_has_no_size(make_result):
    volume = phantoms.volume()
    segmentation = without(phantoms.segmentation(), "b")
    flag = Flag(code="empty", severity="review", message="No voxel was assigned.", label="b")
    document = build_document(make_result(volume, segmentation, flags=(flag,)), volume, segmentation)
    assert document.summary == ("1 of 2 structures found.",)
    row = cells(document.findings, "b")
    assert (row["Volume"].text, row["Extent S–I"].text, row["Remarks"].text) == ("0.00", "n/a", "not found")
    assert row["Remarks"].tone == "review"
    assert document.findings.notes[row["Extent S–I"].note - 1] == "The structure has no voxel"
    assert "b" not in [row.label for row in document.intensities.rows]
    assert "structure-4" not in [i.id for i in document.illustrations]


def test_a_study_in_which_nothing_was_found(make_result):
    volume = phantoms.volume()
    segmentation = without(without(phantoms.segmentation(), "a"), "b")
    document = build_document(make_result(volume, segmentation), volume, segmentation)
    assert document.summary == ("0 of 2 structures found.",)
    assert document.intensities is None
    assert [i.id for i in document.illustrations] == ["overview"]
    assert "middle of the image" in document.illustrations[0].caption


def test_a_model_without_labels(make_result):
    volume = phantoms.volume()
    segmentation = Segmentation(np.zeros(phantoms.SHAPE, np.uint8), volume.geometry, LabelTable(labels=()))
    document = build_document(make_result(volume, segmentation), volume, segmentation)
    assert document.summary == ("No structure was measured.",)
    assert document.findings.rows == ()


def test_flags_for_review_come_first_and_set_the_verdict(make_result):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    flags = (
        Flag(code="spacing_out_of_domain", severity="note", message="Spacing is new to the model."),
        Flag(code="volume_out_of_range", severity="review", message="0.07 mL is below 1 mL.", label="a"),
    )
    document = build_document(make_result(volume, segmentation, flags=flags), volume, segmentation)
    assert document.verdict.state == "review"
    assert document.verdict.headline == "Review recommended: 1 automatic check failed"
    assert document.verdict.detail.startswith("Look at the pictures")
    assert "1 more flag is a note." in document.verdict.detail
    assert [(f.severity, f.label) for f in document.flags] == [("review", "a"), ("note", "")]
    assert document.flags[0].colour == segmentation.labels["a"].colour
    assert cells(document.findings, "a")["Remarks"].text == "volume out of range"
    assert cells(document.findings, "b")["Remarks"].text == ""


def test_notes_alone_do_not_ask_for_review(make_result):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    flags = (Flag(code="spacing_out_of_domain", severity="note", message="Spacing is new to the model."),)
    verdict = build_document(make_result(volume, segmentation, flags=flags), volume, segmentation).verdict
    assert verdict.state == "accept"
    assert "1 flag is a note." in verdict.detail


def test_a_structure_at_the_edge_says_which(make_result):
    volume = phantoms.volume()
    array = np.zeros(phantoms.SHAPE, np.uint8)
    array[3:6, 3:6, 8:] = 1
    segmentation = Segmentation(array, volume.geometry, LabelTable.from_names({1: "a"}))
    document = build_document(make_result(volume, segmentation), volume, segmentation)
    assert cells(document.findings, "a")["Remarks"].text == "at the image's edge: superior"


def test_a_missed_structure_is_spelled_out_and_shown_where_the_reference_has_it(make_result):
    volume, reference = phantoms.volume(), phantoms.segmentation()
    segmentation = without(reference, "b")
    document = build_document(make_result(volume, segmentation, reference), volume, segmentation, reference)
    assert document.comparison_summary == (
        "2 structures: 1 in both, 1 missed, 0 extra, 0 in neither.",
        "Lowest Dice among those in both: 1.000 (a).",
        "Missed, in the reference and not in the prediction: b.",
    )
    row = cells(document.comparison, "b")
    assert (row["Status"].text, row["Status"].tone) == (STATUS["missed"], "review")
    assert (row["Dice"].text, row["HD95"].text, row["Difference"].text) == ("0.000", "n/a", "−0.05")
    assert document.comparison.notes[row["HD95"].note - 1] == "A distance needs the structure on both sides"
    missed = next(i for i in document.illustrations if i.label == "b")
    assert missed.caption.startswith("Missed: only the reference holds it.")
    assert missed.pictures[0].panel.index in (4, 5)
    assert "the reference dashed" in missed.pictures[0].alt


def test_an_extra_structure_is_spelled_out(make_result):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    reference = without(segmentation, "b")
    document = build_document(make_result(volume, segmentation, reference), volume, segmentation, reference)
    assert cells(document.comparison, "b")["Status"].text == STATUS["extra"]
    assert document.comparison_summary[-1] == "Extra, in the prediction and not in the reference: b."
    extra = next(i for i in document.illustrations if i.label == "b")
    assert "Extra: the reference does not hold it." in extra.caption


def test_of_forty_structures_some_have_pictures_and_the_rest_are_named(make_result, many_labels):
    volume, segmentation = forty(many_labels)
    flag = Flag(code="truncated", severity="review", message="Cut.", label="structure 3")
    document = build_document(make_result(volume, segmentation, flags=(flag,)), volume, segmentation)
    pictured = [i.label for i in document.illustrations if i.label]
    assert len(pictured) == MOST_STRUCTURES
    # The flagged one although it is small, and the largest; of 28 to 31, which are equal, the first two.
    assert pictured == [f"structure {n}" for n in (3, 28, 29, *range(32, 41))]
    assert len(document.findings.rows) == 40
    assert document.not_pictured[0].startswith("12 of 40 structures have pictures of their own")
    for name in many_labels.names:
        assert (f"{name}," in document.not_pictured[0] or f"{name}." in document.not_pictured[0]) == (
            name not in pictured
        )
    assert document.illustrations[0].keys == ()


def test_the_worst_of_many_compared_structures_are_pictured(make_result, many_labels):
    volume, segmentation = forty(many_labels)
    array = segmentation.array.copy()
    array[4:6] = 0  # structure 2 is missed
    array[10:12, 3:4] = 0  # structure 5 has lost a part
    prediction = Segmentation(array, segmentation.geometry, many_labels)
    document = build_document(make_result(volume, prediction, segmentation), volume, prediction, segmentation)
    pictured = [i.label for i in document.illustrations if i.label]
    assert {"structure 2", "structure 5"} <= set(pictured)


def test_lesions_are_pictured_before_organs(make_result, many_labels):
    table = LabelTable(
        labels=tuple(
            label.model_copy(update={"kind": "lesion"}) if label.value == 1 else label for label in many_labels
        )
    )
    volume, segmentation = forty(table)
    document = build_document(make_result(volume, segmentation), volume, segmentation)
    assert "structure 1" in [i.label for i in document.illustrations]


def test_many_absent_structures_are_named_in_one_sentence(make_result):
    names = {1: "a", 4: "b"} | {value: f"absent {value}" for value in range(10, 10 + EMPTY_ROWS + 1)}
    volume = phantoms.volume()
    segmentation = Segmentation(phantoms.segmentation().array, volume.geometry, LabelTable.from_names(names))
    document = build_document(make_result(volume, segmentation, segmentation), volume, segmentation, segmentation)
    assert [row.label for row in document.findings.rows] == ["a", "b"]
    assert [row.label for row in document.comparison.rows] == ["a", "b"]
    assert document.not_found.startswith(f"Not found ({EMPTY_ROWS + 1}): absent 10, ")
    assert f"{EMPTY_ROWS + 1} in neither" in document.comparison_summary[0]


def test_a_volume_of_one_slice(make_result):
    grid = Geometry(np.diag([1.0, 1.5, 5.0, 1.0]), (30, 40, 1))
    array = np.zeros(grid.shape, np.uint8)
    array[10:20, 10:20] = 1
    segmentation = Segmentation(array, grid, LabelTable.from_names({1: "a"}))
    volume = Volume(np.arange(1200.0).reshape(grid.shape), grid)
    document = build_document(make_result(volume, segmentation), volume, segmentation)
    assert document.illustrations[1].pictures[0].caption == "Axial, slice 1 of 1"
    assert cells(document.findings, "a")["Remarks"].text == "at the image's edge: inferior, superior"


def test_an_oblique_grid_says_so_and_a_straight_one_does_not(make_result):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    facts = {f.term: f.detail for f in build_document(make_result(volume, segmentation), volume, segmentation).examined}
    assert "oblique by up to 22°" in facts["Field of view"]
    grid = phantoms.geometry(degrees=(0, 0, 0))
    volume, segmentation = phantoms.volume(grid), phantoms.segmentation(grid)
    facts = {f.term: f.detail for f in build_document(make_result(volume, segmentation), volume, segmentation).examined}
    assert facts == {
        "Image": "MR, arbitrary units, NIfTI",
        "Model": "hippocampus-mr 0.1.0",
        "Run": "2026-11-22 10:15 UTC",
        "Matrix": "13 × 17 × 11 voxels",
        "Voxel size": "0.90 × 1.30 × 2.60 mm",
        "Field of view": "12 × 22 × 29 mm, axes RAS",
    }


def test_a_lung_is_shown_in_its_own_window_and_says_so(make_result):
    grid = phantoms.geometry()
    segmentation = phantoms.segmentation()
    array = np.where(segmentation.mask("b"), -850, 40)
    volume = Volume(array, grid, "HU")
    document = build_document(make_result(volume, segmentation, modality="CT"), volume, segmentation)
    captions = {i.label: i.caption for i in document.illustrations}
    assert captions[None].endswith("Black to white: −160 to 240 HU.")
    assert "Black to white" not in captions["a"]
    assert captions["b"].endswith("Black to white: −1350 to 150 HU.")
    assert cells(document.findings, "b")["Mean value"].text == "−850"


def test_definitions_and_provenance_are_complete(make_result):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    result = make_result(volume, segmentation, segmentation)
    document = build_document(result, volume, segmentation, segmentation)
    details = {fact.term: fact.detail for fact in document.definitions}
    assert list(details) == ["Volume (mL)", "Extent right–left (mm)", "Mean value", "Dice", "HD95 (mm)"]
    assert details["Extent right–left (mm)"].startswith("Size along the patient's right-left axis")
    assert details["Dice"] == result.definitions["dice"]
    groups = {group.heading: {f.term: f.detail for f in group.facts} for group in document.provenance}
    assert groups["Model"]["Weights SHA-256"] == result.provenance.weights_sha256
    assert groups["Seconds"] == {"read": "0.02", "infer": "1.34", "measure": "0.06", "total": "1.42"}
    assert groups["Settings"] == {
        "device": "auto",
        "tolerance_mm": "1.0",
        "overwrite": "no",
        "window.overlap": "0.5",
        "series": "not set",
    }
    assert groups["Software"]["torch"] == "2.13.0"
    assert groups["Run"]["Peak memory"] == "812 MB"


def test_definitions_of_a_comparison_that_was_not_made_are_left_out(make_result):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    document = build_document(make_result(volume, segmentation), volume, segmentation)
    assert [fact.term for fact in document.definitions] == ["Volume (mL)", "Extent right–left (mm)", "Mean value"]


def test_an_unknown_peak_memory_is_left_out(make_result):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    document = build_document(
        make_result(volume, segmentation, peak_memory_mb=math.nan, settings={}), volume, segmentation
    )
    terms = {group.heading: [fact.term for fact in group.facts] for group in document.provenance}
    assert "Peak memory" not in terms["Run"]
    assert "Settings" not in terms


def test_a_path_among_the_settings_is_cut_to_its_last_part(make_result):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    settings = {"out": "/scans/DOE_JANE_19500101/out", "inputs": ["C:\\DOE_JANE\\t1.nii.gz"]}
    text = repr(build_document(make_result(volume, segmentation, settings=settings), volume, segmentation))
    assert "DOE_JANE" not in text
    assert "t1.nii.gz" in text


def test_another_grid_is_refused(make_result):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    result = make_result(volume, segmentation)
    other = phantoms.segmentation(phantoms.geometry(origin_mm=(0.0, 0.0, 0.0)))
    with pytest.raises(GeometryError, match="the image and its segmentation"):
        build_document(result, volume, other)
    with pytest.raises(GeometryError, match="the image and the reference"):
        build_document(result, volume, segmentation, other)


def test_a_result_of_another_image_is_refused(make_result):
    result = make_result(phantoms.volume(), phantoms.segmentation())
    grid = phantoms.geometry(shape=(14, 17, 11))
    with pytest.raises(GeometryError, match="a result of a study of shape"):
        build_document(result, phantoms.volume(grid), phantoms.segmentation(grid))


def test_a_measurement_of_an_unknown_value_is_refused(make_result):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    table = LabelTable(labels=(Label(value=1, name="a", colour="#E69F00"),))
    result = make_result(volume, segmentation).model_copy(update={"labels": table})
    with pytest.raises(LabelError, match="no label of value 4"):
        build_document(result, volume, segmentation)
