"""DICOM objects out: read back here and by others, and compared with the standard by dciodvfy."""

from __future__ import annotations

import copy
import dataclasses
import subprocess

import highdicom
import imagecodecs
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.sr import _concepts_dict
from pydicom.uid import UID
from scipy.ndimage import gaussian_filter

import phantoms
from standard_tables import module_errors
from validators import assert_valid, dciodvfy_errors, tool
from voxmetry import Label, LabelTable, Segmentation, Volume, measure, read_segmentation, read_volume
from voxmetry.core.geometry import Geometry, swap_lps_ras
from voxmetry.core.labels import Code
from voxmetry.errors import FormatError, GeometryError, InputError, LabelError, OutputError
from voxmetry.io import write_series
from voxmetry.io.dicom.objects.deidentify import UidMap, deidentify, deidentify_files
from voxmetry.io.dicom.objects.encapsulated import write_encapsulated_pdf, write_secondary_capture
from voxmetry.io.dicom.objects.origin import Origin
from voxmetry.io.dicom.objects.source import read_source
from voxmetry.io.dicom.objects.structured_report import write_report_sr
from voxmetry.io.dicom.segmentations.rtstruct_write import write_rtstruct
from voxmetry.io.dicom.segmentations.seg_frames import SegmentOut, list_frames
from voxmetry.io.dicom.segmentations.seg_write import write_seg
from voxmetry.measurement import lesions
from voxmetry.models.structures import with_codes
from voxmetry.workflows.dicom_objects import lesions_apart

ORIGIN = Origin("automatic", "phantom-model", "1.2.3", serial="f" * 64, software="0.1.0")
TABLE = LabelTable(
    labels=(
        Label(
            value=2,
            name="left kidney",
            colour="#E69F00",
            code=Code(value="64033007", meaning="Kidney"),
            laterality="left",
        ),
        Label(
            value=7, name="tumour", colour="#56B4E9", kind="lesion", code=Code(value="108369006", meaning="Neoplasm")
        ),
        Label(value=9, name="absent", colour="#009E73"),
    )
)
# The pixels of a sagittal slice, 27 x 19, are no multiple of eight: frames begin within a byte.
SHAPE = (32, 27, 19)


COMPOSED = with_codes(LabelTable.from_names({2: "kidney_cyst_left", 7: "kidney_cyst_right", 9: "subcutaneous_fat"}))


def blobs(geometry):
    """A kidney with holes and islands, and a tumour beside it."""
    field = gaussian_filter(np.random.default_rng(4).normal(size=geometry.shape), 1.5)
    array = (field > np.quantile(field, 0.7)).astype(np.uint8) * 2
    array[field > np.quantile(field, 0.93)] = 7
    array[:, :, [0, 5]] = 0
    return Segmentation(array, geometry, TABLE)


@pytest.fixture(scope="module", params=["axial", "sagittal"])
def study(request, tmp_path_factory):
    """An oblique MR series with a patient, as volume and headers."""
    folder = tmp_path_factory.mktemp("study") / "series"
    grid = phantoms.geometry(shape=SHAPE, frame_uid="1.2.826.0.1.3680043.8.498.7")
    for path in write_series(phantoms.volume(grid), folder, modality="MR", plane=request.param):
        dataset = pydicom.dcmread(path)
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Doe^Jane", "ID-4711", "19700102"
        dataset.StudyDate, dataset.AccessionNumber, dataset.StudyDescription = "20240506", "A1", "Abdomen of Doe"
        dataset.InstitutionName = "St. Elsewhere"
        dataset.save_as(path)
    volume = read_volume(folder)
    return volume, read_source(volume)


@pytest.fixture
def written(study, tmp_path):
    """The segmentation and each object."""
    volume, source = study
    truth = blobs(volume.geometry)
    seg = write_seg(truth, source, tmp_path / "seg.dcm", origin=ORIGIN)
    write_rtstruct(truth, source, tmp_path / "rtstruct.dcm", origin=ORIGIN)
    write_report_sr(measure(truth, volume), TABLE, seg, source, tmp_path / "sr.dcm", origin=ORIGIN)
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.4\n1 0 obj <<>> endobj\ntrailer <<>>\n%%EOF\n")
    write_encapsulated_pdf(tmp_path / "report.pdf", source, tmp_path / "pdf.dcm", origin=ORIGIN)
    picture = np.zeros((9, 11, 3), np.uint8)
    write_secondary_capture(picture, source, tmp_path / "key.dcm", origin=ORIGIN)
    return tmp_path


OBJECTS = ("seg.dcm", "rtstruct.dcm", "sr.dcm", "pdf.dcm", "key.dcm")


def as_stored(pixels):
    rows, columns = pixels.shape
    one = {"samples_per_pixel": 1, "photometric_interpretation": "MONOCHROME2", "number_of_frames": 1}
    return one | {"rows": rows, "columns": columns} | {"bits_allocated": 8, "bits_stored": 8, "pixel_representation": 0}


@pytest.mark.parametrize(
    ("syntax", "code"),
    [
        ("1.2.840.10008.1.2.5", lambda x: RLELosslessEncoder.encode(x, **as_stored(x), encoding_plugin="pydicom")),
        ("1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode),
        ("1.2.840.10008.1.2.4.90", lambda x: imagecodecs.jpeg2k_encode(x, level=0, codecformat="j2k", reversible=True)),
        ("1.2.840.10008.1.2.4.201", imagecodecs.htj2k_encode),
    ],
)
def test_a_compressed_segmentation_is_decoded_as_images_are(study, tmp_path, syntax, code):
    volume, source = study
    truth = blobs(volume.geometry)
    write_seg(truth, source, tmp_path / "seg.dcm", origin=ORIGIN, kind="labelmap")
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    frames = [code(np.ascontiguousarray(frame)) for frame in dataset.pixel_array]
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.save_as(tmp_path / "coded.dcm")
    assert np.array_equal(read_segmentation(tmp_path / "coded.dcm", image=volume).array, truth.array)
    dataset.PixelData = encapsulate([frame[: len(frame) // 2] for frame in frames])
    dataset.save_as(tmp_path / "coded.dcm")
    with pytest.raises(FormatError, match=r"coded\.dcm"):
        read_segmentation(tmp_path / "coded.dcm", image=volume)


class TestAllObjects:
    def test_the_validators_find_no_error_that_the_source_has_not(self, study, written):
        for name in OBJECTS:
            assert_valid(written / name, study[0].source.files)

    def test_dciodvfy_would_find_one(self, study, written):
        dataset = pydicom.dcmread(written / "seg.dcm")
        del dataset.SegmentSequence[0].SegmentLabel
        dataset.save_as(written / "bad.dcm")
        assert dciodvfy_errors(written / "bad.dcm") - dciodvfy_errors(study[0].source.files[0])

    @pytest.mark.parametrize(
        ("name", "spoil", "told"),
        [
            ("seg.dcm", lambda x: delattr(x, "SegmentationType"), "segmentation-image: (0062,0001): TagMissing"),
            (
                "seg.dcm",
                lambda x: delattr(x.SharedFunctionalGroupsSequence[0], "PlaneOrientationSequence"),
                "(0020,9116): TagMissing",
            ),
            ("rtstruct.dcm", lambda x: setattr(x, "StructureSetLabel", ""), "structure-set: (3006,0002): TagEmpty"),
            ("sr.dcm", lambda x: delattr(x, "CompletionFlag"), "sr-document-general: (0040,A491): TagMissing"),
            ("pdf.dcm", lambda x: delattr(x, "MIMETypeOfEncapsulatedDocument"), "(0042,0012): TagMissing"),
            ("key.dcm", lambda x: setattr(x, "EchoTime", "4.9"), "General: (0018,0081): TagUnexpected"),
        ],
    )
    def test_dicom_validator_would_find_one(self, written, name, spoil, told):
        dataset = pydicom.dcmread(written / name)
        spoil(dataset)
        dataset.save_as(written / "bad.dcm")
        assert any(told in error for error in module_errors(written / "bad.dcm"))

    def test_patient_study_and_frame_are_copied_and_the_rest_is_new(self, study, written):
        first = study[1].first
        seen = set()
        for name in OBJECTS:
            dataset = pydicom.dcmread(written / name)
            for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "AccessionNumber"):
                assert dataset[keyword].value == first[keyword].value
            assert dataset.Manufacturer == "Voxmetry"
            seen |= {dataset.SeriesInstanceUID, dataset.SOPInstanceUID}
        assert len(seen) == 2 * len(OBJECTS)
        assert first.SeriesInstanceUID not in seen
        for name in ("seg.dcm", "rtstruct.dcm"):
            assert pydicom.dcmread(written / name).FrameOfReferenceUID == first.FrameOfReferenceUID

    def test_each_code_says_what_the_standard_says(self, study, written, tmp_path):
        volume, source = study
        seg = pydicom.dcmread(written / "seg.dcm")
        rows = measure(blobs(volume.geometry), dataclasses.replace(volume, unit="SUVbw"))
        write_report_sr(rows, TABLE, seg, source, written / "suv.dcm", origin=ORIGIN)
        for name in (*OBJECTS, "suv.dcm"):
            for scheme, value, meaning in codes_in(pydicom.dcmread(written / name)):
                # Not in pydicom's table: languages, millilitre and millimetre in words, a name that TID 1411 shortens,
                # "Source" as TID 320 calls coordinates.
                if scheme != "RFC5646" and value not in ("ml", "mm", "276214006", "260753009"):
                    known = [words.lower() for _, (words, _) in _of_scheme(_concepts_dict, scheme, value)]
                    assert meaning.lower() in known, (name, scheme, value, meaning)

    def test_without_the_patient_they_still_refer_to_each_other(self, study, written, tmp_path):
        volume, _ = study
        out = tmp_path / "clean"
        out.mkdir()
        copies = deidentify_files([*volume.source.files, *(written / name for name in OBJECTS)], out, UidMap(b"k"))
        for path in copies:
            content = path.read_bytes()
            for word in (b"Doe", b"Jane", b"ID-4711", b"19700102", b"20240506", b"Elsewhere", b"Abdomen"):
                assert word not in content
            # References keep their form but not their values.
            assert volume.source.series_uid.encode() not in content
            assert volume.source.study_uid.encode() not in content
            assert pydicom.dcmread(path).PatientIdentityRemoved == "YES"
        seg, sr = copies[-5], copies[-3]
        image = read_volume(copies[0])
        assert np.array_equal(image.array, volume.array)
        assert np.array_equal(read_segmentation(seg, image=image).array > 0, blobs(volume.geometry).array > 0)
        reference = pydicom.dcmread(sr).CurrentRequestedProcedureEvidenceSequence
        named = {
            item.ReferencedSOPInstanceUID
            for s in reference
            for x in s.ReferencedSeriesSequence
            for item in x.ReferencedSOPSequence
        }
        assert pydicom.dcmread(seg).SOPInstanceUID in named
        for path in copies[-5:]:
            assert_valid(path, volume.source.files)


class TestSeg:
    @pytest.mark.parametrize("kind", ["binary", "labelmap"])
    @pytest.mark.parametrize("keep", [False, True])
    def test_it_comes_back_as_it_was(self, study, tmp_path, kind, keep):
        volume, source = study
        truth = blobs(volume.geometry)
        write_seg(truth, source, tmp_path / "seg.dcm", origin=ORIGIN, kind=kind, keep_empty_frames=keep)
        back = read_segmentation(tmp_path / "seg.dcm", TABLE, image=volume)
        assert np.array_equal(back.array, truth.array)
        dataset = pydicom.dcmread(tmp_path / "seg.dcm")
        slices = truth.array.shape[2]
        full = {"binary": 2 * slices, "labelmap": slices}[kind]
        assert dataset.NumberOfFrames == full if keep else dataset.NumberOfFrames < full
        assert_valid(tmp_path / "seg.dcm", volume.source.files)

    def test_codes_laterality_colour_and_algorithm(self, written):
        kidney, tumour = pydicom.dcmread(written / "seg.dcm").SegmentSequence
        kind = kidney.SegmentedPropertyTypeCodeSequence[0]
        assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("64033007", "SCT")
        assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "7771000"
        assert kidney.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "91723000"
        assert tumour.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
        assert kidney.SegmentAlgorithmType == "AUTOMATIC"
        assert kidney.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "phantom-model"
        back = read_segmentation(written / "seg.dcm").labels
        assert [(x.name, x.colour, x.kind, x.laterality) for x in back] == [
            ("left kidney", "#E69F00", "organ", "left"),
            ("tumour", "#56B4E9", "lesion", None),
        ]

    def test_a_cyst_lies_in_the_kidney_of_its_side_and_fat_is_tissue(self, study, tmp_path):
        volume, source = study
        truth = Segmentation(blobs(volume.geometry).array, volume.geometry, COMPOSED)
        path = tmp_path / "seg.dcm"
        seg = write_seg(truth, source, path, origin=ORIGIN)
        write_report_sr(measure(truth, volume), COMPOSED, seg, source, tmp_path / "sr.dcm", origin=ORIGIN)
        assert_valid(path, study[0].source.files)
        assert_valid(tmp_path / "sr.dcm", study[0].source.files)
        left, right, *_ = pydicom.dcmread(path).SegmentSequence
        for segment, side in ((left, "7771000"), (right, "24028007")):
            region = segment.AnatomicRegionSequence[0]
            assert (region.CodeValue, region.AnatomicRegionModifierSequence[0].CodeValue) == ("64033007", side)
            assert "SegmentedPropertyTypeModifierCodeSequence" not in segment.SegmentedPropertyTypeCodeSequence[0]
        report = str(pydicom.dcmread(tmp_path / "sr.dcm"))
        assert "7771000" in report
        assert "24028007" in report
        assert "64033007" in report
        back = read_segmentation(path, image=volume).labels
        for label in back:
            was = COMPOSED[label.name]
            for what in ("kind", "code", "laterality", "category", "region"):
                assert getattr(label, what) == getattr(was, what), (label.name, what)
        assert any(label.category for label in COMPOSED)

    def test_each_frame_names_its_slice_and_place(self, study, written):
        _, source = study
        dataset = pydicom.dcmread(written / "seg.dcm")
        places = {h.SOPInstanceUID: [float(x) for x in h.ImagePositionPatient] for h in source.headers}
        for group in dataset.PerFrameFunctionalGroupsSequence:
            image = group.DerivationImageSequence[0].SourceImageSequence[0]
            position = [float(x) for x in group.PlanePositionSequence[0].ImagePositionPatient]
            assert position == pytest.approx(places[image.ReferencedSOPInstanceUID], abs=1e-6)
        indices = [g.FrameContentSequence[0].DimensionIndexValues for g in dataset.PerFrameFunctionalGroupsSequence]
        assert {int(n) for n, _ in indices} == {1, 2}
        assert sorted({int(k) for _, k in indices}) == list(range(1, 1 + len({int(k) for _, k in indices})))

    def test_dcmqi_reads_the_same_masks(self, study, written):
        truth = blobs(study[0].geometry)
        arguments = ["--inputDICOM", written / "seg.dcm", "--outputDirectory", written, "-t", "nrrd", "-p", "dcmqi"]
        subprocess.run([tool("segimage2itkimage"), *map(str, arguments)], check=True, capture_output=True)
        for number, name in ((1, "left kidney"), (2, "tumour")):
            image = SimpleITK.ReadImage(str(written / f"dcmqi-{number}.nrrd"))
            assert_same_points(image, SimpleITK.GetArrayFromImage(image).transpose() > 0, truth, name)

    def test_simpleitk_reads_the_same_frames(self, study, written):
        volume, source = study
        columns, rows, _ = volume.geometry.shape
        if columns * rows % 8:
            pytest.skip("SimpleITK (GDCM) takes each frame to begin at a byte, which PS3.5 8.1.1 does not say")
        truth = blobs(volume.geometry)
        frames = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(written / "seg.dcm")))
        dataset = pydicom.dcmread(written / "seg.dcm")
        by_place = {h.SOPInstanceUID: k for k, h in enumerate(source.headers)}
        for frame, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
            image = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
            number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            expected = truth.array[:, :, by_place[image]] == {1: 2, 2: 7}[number]
            assert np.array_equal(frame.T > 0, expected)

    def test_a_grid_in_another_order_is_turned_and_another_grid_refused(self, study, tmp_path):
        volume, source = study
        truth = blobs(volume.geometry)
        affine = np.array(volume.geometry.affine)[:, [2, 0, 1, 3]]
        i, j, k = volume.geometry.shape
        turned = Segmentation(truth.array.transpose(2, 0, 1), Geometry(affine, (k, i, j)), TABLE)
        write_seg(turned, source, tmp_path / "seg.dcm", origin=ORIGIN)
        back = read_segmentation(tmp_path / "seg.dcm", TABLE, image=volume)
        assert np.array_equal(back.array, truth.array)
        affine[:3, 3] += 1.0
        with pytest.raises(GeometryError):
            write_seg(
                Segmentation(turned.array, Geometry(affine, (k, i, j)), TABLE),
                source,
                tmp_path / "x.dcm",
                origin=ORIGIN,
            )
        assert not (tmp_path / "x.dcm").exists()

    def test_an_empty_segmentation_is_refused(self, study, tmp_path):
        volume, source = study
        empty = Segmentation(np.zeros(volume.geometry.shape, np.uint8), volume.geometry, TABLE)
        for write in (write_seg, write_rtstruct):
            with pytest.raises(LabelError, match="without a voxel"):
                write(empty, source, tmp_path / "x.dcm", origin=ORIGIN)
        assert list(tmp_path.iterdir()) == []

    def test_nothing_half_written_is_left(self, study, tmp_path, monkeypatch):
        volume, source = study

        def full(self, path, **_):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(pydicom.Dataset, "save_as", full)
        for write in (write_seg, write_rtstruct):
            with pytest.raises(OutputError, match="the disk is full"):
                write(blobs(volume.geometry), source, tmp_path / "x.dcm", origin=ORIGIN)
        assert list(tmp_path.iterdir()) == []


def assert_same_points(image, mask, truth, name):
    """The voxels of an ITK image lie where those of the structure do."""
    found = np.array([swap_lps_ras(image.TransformIndexToPhysicalPoint(x.tolist())) for x in np.argwhere(mask)])
    places = np.rint(truth.geometry.to_ijk(found))
    assert np.abs(truth.geometry.to_ijk(found) - places).max() < 0.01
    expected = np.zeros(truth.geometry.shape, bool)
    expected[tuple(places.astype(int).T)] = True
    assert np.array_equal(expected, truth.mask(name))


@pytest.mark.parametrize(
    ("shape", "slices", "frames"),
    [
        # 202 x 198 pixels are 4999 bytes and a half: 31 frames take an odd number of bytes, 32 an even one.
        ((202, 198, 40), range(3, 34), 32),
        ((202, 198, 40), range(3, 31), 28),
        ((16, 8, 40), range(3, 34), 31),
        # 15 pixels: seven frames take 14 bytes; eight to fifteen 15, 17, ... 29; sixteen 30.
        ((5, 3, 40), range(2, 9), 7),
        ((5, 3, 40), range(2, 10), 16),
        # Too few slices are left that could have an empty frame.
        ((5, 3, 12), range(2, 10), 8),
        ((202, 198, 31), range(31), 31),
    ],
)
def test_frames_take_an_even_number_of_bytes_where_they_can(shape, slices, frames) -> None:
    array = np.zeros(shape, np.uint8, order="F")
    array[2, 1, list(slices)] = 7
    segment = SegmentOut(1, TABLE["tumour"], array, frozenset(slices))
    found = list_frames([segment], "binary", keep_empty=False)
    assert set(slices) <= {k for _, k in found}
    assert [k for _, k in found] == sorted(k for _, k in found)
    bits = shape[0] * shape[1] * len(found)
    assert len(found) == frames
    if frames not in (shape[2], 8):
        assert -(-bits // 8) % 2 == 0


class TestRtstruct:
    def test_it_comes_back_voxel_by_voxel(self, study, written):
        volume, _ = study
        truth = blobs(volume.geometry)
        back = read_segmentation(written / "rtstruct.dcm", TABLE, image=volume)
        # ROI numbers are 1 and 2, the values 2 and 7: what is read goes by the names.
        assert back.labels.names == TABLE.names
        # The bar is a Dice of 0.99; with centres on the right side of each outline not a voxel moves.
        assert np.array_equal(back.array, truth.array)

    def test_contours_are_closed_have_an_area_and_lie_in_their_slice(self, study, written):
        _, source = study
        dataset = pydicom.dcmread(written / "rtstruct.dcm")
        by_uid = {h.SOPInstanceUID: h for h in source.headers}
        rois = [(roi.ROINumber, roi.ROIName) for roi in dataset.StructureSetROISequence]
        assert rois == [(1, "left kidney"), (2, "tumour")]
        for found in (dataset.ROIContourSequence, dataset.RTROIObservationsSequence):
            assert [item.ReferencedROINumber for item in found] == [1, 2]
        assert [list(item.ROIDisplayColor) for item in dataset.ROIContourSequence] == [[230, 159, 0], [86, 180, 233]]
        for roi in dataset.ROIContourSequence:
            for contour in roi.ContourSequence:
                points = np.array(contour.ContourData, float).reshape(-1, 3)
                header = by_uid[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
                row, column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
                off = (points - np.array(header.ImagePositionPatient, float)) @ np.cross(row, column)
                assert np.abs(off).max() < 1e-3
                assert len(points) == contour.NumberOfContourPoints >= 4


class TestReport:
    def test_one_group_a_structure_with_units_and_the_segment(self, study, written):
        volume, _ = study
        rows = {row.label: row for row in measure(blobs(volume.geometry), volume)}
        groups = [group for group in groups_of(pydicom.dcmread(written / "sr.dcm")) if "segment" in group]
        assert [group["Tracking Identifier"] for group in groups] == ["left kidney", "tumour"]
        for number, group in enumerate(groups, start=1):
            row = rows[group["Tracking Identifier"]]
            assert group["segment"] == number
            value, unit = group["volume from voxel summation"]
            assert (value, unit) == (pytest.approx(row.volume_ml, rel=1e-8), "ml")
            value, unit = group["mr signal intensity, mean"]
            assert (value, unit) == (pytest.approx(row.intensity_mean, rel=1e-8), "1")
            assert group["Tracking Unique Identifier"].startswith("2.25.")

    def test_a_lesion_has_its_axes_and_the_tracking_uid_of_its_segment(self, study, tmp_path):
        volume, source = study
        array = np.zeros(volume.geometry.shape, np.uint8)
        array[4:12, 4:9, 3:6] = 7
        node = Segmentation(array, volume.geometry, TABLE)
        (row,) = lesions(node, volume)
        one = LabelTable(labels=(Label(**{**TABLE["tumour"].model_dump(), "name": row.id}),))
        uids = {row.id: "2.25.123456"}
        apart = Segmentation(array, volume.geometry, one)
        seg = write_seg(apart, source, tmp_path / "seg.dcm", origin=ORIGIN, tracking=uids)
        write_report_sr([row], TABLE, seg, source, tmp_path / "sr.dcm", origin=ORIGIN, tracking=uids)
        drawn, group = groups_of(pydicom.dcmread(tmp_path / "sr.dcm"))
        assert {group["Tracking Unique Identifier"], drawn["Tracking Unique Identifier"]} == {"2.25.123456"}
        assert pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence[0].TrackingUID == "2.25.123456"
        assert group["long axis"] == (pytest.approx(row.long_axis_mm), "mm")
        assert group["short axis"] == (pytest.approx(row.short_axis_mm), "mm")
        assert_valid(tmp_path / "sr.dcm", volume.source.files)

    def test_viewers_find_the_line_of_each_diameter_in_the_patient(self, study, tmp_path):
        volume, source = study
        array = np.zeros(volume.geometry.shape, np.uint8)
        array[4:12, 4:9, 3:6], array[15, 15, 10] = 7, 7
        node = Segmentation(array, volume.geometry, TABLE)
        rows = lesions(node, volume)
        apart = lesions_apart(node, rows)
        seg = write_seg(apart, source, tmp_path / "seg.dcm", origin=ORIGIN)
        write_report_sr(rows, TABLE, seg, source, tmp_path / "sr.dcm", origin=ORIGIN)
        # As a viewer looks for them: groups of TID 1501, numbers inferred from coordinates, those of a slice first.
        found = highdicom.sr.srread(tmp_path / "sr.dcm").content.get_image_measurement_groups()
        by_id = {group.tracking_identifier: group for group in found}
        assert set(by_id) == {"tumour-1", "tumour-2"}
        for row in rows:
            for measurement, length, ends in zip(
                by_id[row.id].get_measurements(),
                (row.long_axis_mm, row.short_axis_mm),
                (row.long_axis_ends_ras_mm, row.short_axis_ends_ras_mm),
                strict=True,
            ):
                *drawn, line = measurement.referenced_coordinates
                assert_line(line, length, ends, source)
                # RECIST measures in the axial plane: of a sagittal series, across its slices, but for a line along one.
                places = volume.geometry.to_ijk(np.array(ends))[:, 2]
                in_one = bool(np.abs(places - np.rint(places[0])).max() < 1e-6)
                assert len(drawn) == in_one
                assert in_one or row.slice_axis != 2
                for image in drawn:
                    assert in_patient(image, source) == pytest.approx(line.value, abs=1e-3)
                assert measurement.value == pytest.approx(length)
        assert_valid(tmp_path / "sr.dcm", volume.source.files)

    def test_each_structure_has_coordinates_without_which_a_viewer_shows_none(self, study, written):
        volume, source = study
        content = highdicom.sr.srread(written / "sr.dcm").content
        drawn = {group.tracking_uid: group for group in content.get_image_measurement_groups()}
        whole = {group.tracking_uid: group for group in content.get_volumetric_roi_measurement_groups()}
        assert list(drawn) == list(whole)
        for row, group in zip(measure(blobs(volume.geometry), volume), drawn.values(), strict=False):
            (diameter,) = group.get_measurements()
            (line,) = diameter.referenced_coordinates
            assert_line(line, row.max_diameter_mm, row.max_diameter_ends_ras_mm, source)
            assert diameter.value == pytest.approx(row.max_diameter_mm)
            abnormal = group.finding_category.meaning == "Morphologically Abnormal Structure"
            assert abnormal == (row.kind == "lesion")

    @pytest.mark.parametrize(
        ("unit", "header", "concept", "ucum"),
        [
            ("SUVbw", {}, "126401", "g/ml{SUVbw}"),
            ("SUVlbm", {}, "126406", "g/ml{SUVlbm(James128)}"),
            ("SUVlbm", {"SUVType": "LBM"}, "126402", "g/ml{SUVlbm}"),
            ("SUVbsa", {}, "126403", "cm2/ml{SUVbsa}"),
            ("Bq/mL", {}, "110821", "Bq/ml"),
            ("HU", {}, "112031", "[hnsf'U]"),
            ("1", {"Modality": "PT"}, "110821", "1"),
            ("1", {"Modality": "CT"}, "112031", "1"),
        ],
    )
    def test_intensities_of_every_unit_have_their_codes(self, study, written, tmp_path, unit, header, concept, ucum):
        volume, source = study
        first = copy.copy(source.first)
        for keyword, value in header.items():
            setattr(first, keyword, value)
        source = dataclasses.replace(source, headers=(first, *source.headers[1:]))
        rows = measure(blobs(volume.geometry), dataclasses.replace(volume, unit=unit))
        seg = pydicom.dcmread(written / "seg.dcm")
        write_report_sr(rows, TABLE, seg, source, tmp_path / "unit.dcm", origin=ORIGIN)
        group = next(group for group in groups_of(pydicom.dcmread(tmp_path / "unit.dcm")) if "segment" in group)
        names = {meaning.lower() for _, (meaning, _) in _of_scheme(_concepts_dict, "DCM", concept)}
        (mean,) = [value for key, value in group.items() if key.endswith(", mean")]
        assert mean == (pytest.approx(rows[0].intensity_mean, rel=1e-8), ucum)
        assert any(f"{name}, mean" in group for name in names)
        if not header:
            assert_valid(tmp_path / "unit.dcm", volume.source.files)
            assert _of_scheme(_concepts_dict, "UCUM", ucum)

    def test_intensities_in_a_unit_without_a_code_are_refused_and_not_left_out(self, study, written, tmp_path):
        volume, source = study
        rows = [
            row.model_copy(update={"intensity_unit": "furlongs"}) for row in measure(blobs(volume.geometry), volume)
        ]
        seg = pydicom.dcmread(written / "seg.dcm")
        with pytest.raises(InputError, match="intensities in furlongs"):
            write_report_sr(rows, TABLE, seg, source, tmp_path / "x.dcm", origin=ORIGIN)

    def test_rows_of_another_segmentation_are_refused(self, study, written, tmp_path):
        _, source = study
        other = phantoms.segmentation(phantoms.geometry())
        with pytest.raises(LabelError, match="no measurement of a segment"):
            write_report_sr(
                measure(other),
                other.labels,
                pydicom.dcmread(written / "seg.dcm"),
                source,
                tmp_path / "x.dcm",
                origin=ORIGIN,
            )


def assert_line(line, length, ends, source):
    """A line in the patient joins two ends."""
    assert line.value == pytest.approx(swap_lps_ras(ends), abs=1e-4)
    assert np.linalg.norm(np.diff(line.value, axis=0)) == pytest.approx(length, abs=1e-4)
    assert line.GraphicType == "POLYLINE"
    assert line.ReferencedFrameOfReferenceUID == source.first.FrameOfReferenceUID


def in_patient(line, source):
    """A line of one image in LPS+ mm, by that image's own header (PS3.3 C.7.6.2.1.1, C.18.6.1.1)."""
    (image,) = line.ContentSequence
    uid = image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    (header,) = (h for h in source.headers if h.SOPInstanceUID == uid)
    right, down = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    step_down, step_right = map(float, header.PixelSpacing)
    columns, rows = (line.value - 0.5).T
    origin = np.array(header.ImagePositionPatient, float)
    return origin + np.outer(columns * step_right, right) + np.outer(rows * step_down, down)


def codes_in(dataset):
    """Scheme, value and meaning of every code, at every level."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                if "CodingSchemeDesignator" in item and item.get("CodeMeaning"):
                    value = item.get("CodeValue") or item.LongCodeValue
                    yield item.CodingSchemeDesignator, str(value), item.CodeMeaning
                yield from codes_in(item)


def _of_scheme(table, scheme, code):
    return [(key, values[code]) for key, values in table.concepts[scheme].items() if code in values]


def groups_of(dataset):
    """The measurement groups of a report, by the words of their concepts."""
    found = []

    def words(item):
        return item.ConceptNameCodeSequence[0].CodeMeaning

    def walk(item):
        if item.get("ConceptNameCodeSequence") and words(item) == "Measurement Group":
            group = {}
            for part in item.ContentSequence:
                if part.ValueType == "NUM":
                    measured = part.MeasuredValueSequence[0]
                    how = [
                        words2.ConceptCodeSequence[0].CodeMeaning
                        for words2 in part.get("ContentSequence", [])
                        if words2.ValueType == "CODE"
                    ]
                    unit = measured.MeasurementUnitsCodeSequence[0]
                    assert unit.CodingSchemeDesignator == "UCUM"
                    key = ", ".join([words(part), *how]).lower()
                    # Code Value has room for 16 characters.
                    group[key] = (float(measured.NumericValue), unit.get("CodeValue") or unit.LongCodeValue)
                elif part.ValueType == "IMAGE" and "ReferencedSegmentNumber" in part.ReferencedSOPSequence[0]:
                    group["segment"] = part.ReferencedSOPSequence[0].ReferencedSegmentNumber
                else:
                    group[words(part)] = part.get("TextValue", part.get("UID"))
            found.append(group)
        for part in item.get("ContentSequence", []):
            walk(part)

    walk(dataset)
    return found


def test_names_that_an_element_cannot_hold_come_back_whole(study, tmp_path):
    """Cut to 64 characters two names are one, and a backslash would separate two values."""
    volume, source = study
    long = "lesion of the posterior segment of the right lobe of the liver, number "
    names = {2: long + "1", 7: long + "2", 9: "tumour\\left"}
    array = np.zeros(volume.geometry.shape, np.uint8)
    array[2:6, 2:6, 3:5], array[8:12, 2:6, 3:5], array[2:6, 8:12, 3:5] = 2, 7, 9
    truth = Segmentation(array, volume.geometry, LabelTable.from_names(names))
    seg = write_seg(truth, source, tmp_path / "seg.dcm", origin=ORIGIN)
    write_seg(truth, source, tmp_path / "map.dcm", origin=ORIGIN, kind="labelmap")
    write_rtstruct(truth, source, tmp_path / "rtstruct.dcm", origin=ORIGIN)
    shown = (names[2], names[7], "tumour/left")
    for name in ("seg.dcm", "map.dcm", "rtstruct.dcm"):
        back = read_segmentation(tmp_path / name, image=volume)
        assert back.labels.names == shown
        assert [int(np.count_nonzero(back.mask(x))) for x in shown] == [32, 32, 32]
        assert_valid(tmp_path / name, volume.source.files)
    labels = [str(item.SegmentLabel) for item in seg.SegmentSequence]
    assert len(set(labels)) == 3
    assert max(map(len, labels)) <= 64
    # Each keeps its measurements: rows are found by the name in full.
    rows = measure(truth, volume)
    write_report_sr(rows, truth.labels, seg, source, tmp_path / "sr.dcm", origin=ORIGIN)
    groups = [group for group in groups_of(pydicom.dcmread(tmp_path / "sr.dcm")) if "segment" in group]
    assert len(groups) == 3


class TestRefusals:
    def test_an_image_without_a_patient_is_told_what_it_lacks(self):
        with pytest.raises(InputError, match="no patient, no study and no frame of reference"):
            read_source(phantoms.volume())

    def test_a_series_without_a_frame_of_reference_is_its_own(self, tmp_path):
        for path in write_series(phantoms.volume(), tmp_path / "s", modality="MR"):
            dataset = pydicom.dcmread(path)
            del dataset.FrameOfReferenceUID
            dataset.save_as(path)
        volume = read_volume(tmp_path / "s")
        truth = blobs(volume.geometry)
        seen = set()
        for name, write in (("seg.dcm", write_seg), ("rtstruct.dcm", write_rtstruct), ("again.dcm", write_seg)):
            write(truth, read_source(volume), tmp_path / name, origin=ORIGIN)
            seen.add(pydicom.dcmread(tmp_path / name).FrameOfReferenceUID)
            assert np.array_equal(read_segmentation(tmp_path / name, TABLE, image=volume).array, truth.array)
        assert len(seen) == 1

    def test_a_series_without_its_identifiers_is_refused(self, tmp_path):
        for path in write_series(phantoms.volume(), tmp_path / "s", modality="MR"):
            dataset = pydicom.dcmread(path)
            del dataset.StudyInstanceUID
            dataset.save_as(path)
        with pytest.raises(InputError, match="no Study Instance UID"):
            read_source(read_volume(tmp_path / "s"))

    def test_an_algorithm_needs_a_name_and_a_version(self):
        with pytest.raises(InputError, match="without the name and version"):
            Origin("automatic", "model")
        assert Origin("manual").identification is None

    def test_a_file_that_is_no_pdf_is_refused(self, study, tmp_path):
        (tmp_path / "a.pdf").write_bytes(b"<html>")
        with pytest.raises(FormatError, match="as a PDF file does"):
            write_encapsulated_pdf(tmp_path / "a.pdf", study[1], tmp_path / "x.dcm", origin=ORIGIN)
        with pytest.raises(InputError, match="cannot be read"):
            write_encapsulated_pdf(tmp_path / "b.pdf", study[1], tmp_path / "x.dcm", origin=ORIGIN)

    def test_a_picture_is_red_green_and_blue_bytes(self, study, tmp_path):
        with pytest.raises(InputError, match="a picture of type float64"):
            write_secondary_capture(np.zeros((4, 4, 3)), study[1], tmp_path / "x.dcm", origin=ORIGIN)

    def test_words_in_the_pixels_are_refused(self, study):
        dataset = pydicom.dcmread(study[0].source.files[0])
        dataset.BurnedInAnnotation = "YES"
        with pytest.raises(InputError, match="burned into its pixels"):
            deidentify(dataset, UidMap())


@pytest.mark.real_data
@pytest.mark.parametrize("series", ["CT", "PET"])
def test_a_scanner_series_with_its_expert_contours(real_data, tmp_path, series):
    folder = real_data / "sarcoma-dicom/STS_003" / series
    volume = read_volume(folder / "image")
    expert = read_segmentation(folder / "mask", image=volume)
    source = read_source(volume)
    write_seg(expert, source, tmp_path / "seg.dcm", origin=Origin("manual"))
    write_rtstruct(expert, source, tmp_path / "rs.dcm", origin=Origin("manual"))
    for name in ("seg.dcm", "rs.dcm"):
        back = read_segmentation(tmp_path / name, image=volume)
        assert np.array_equal(back.array > 0, expert.array > 0)
        assert_valid(tmp_path / name, volume.source.files)
    assert isinstance(volume, Volume)
