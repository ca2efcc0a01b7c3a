"""DICOM objects of sources that hold many slices in one file: each frame is named where the source has frames."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from scipy.ndimage import gaussian_filter

from frames import enhance, mosaics
from validators import assert_valid
from voxmetry import Label, LabelTable, Segmentation, list_series, measure, read_segmentation, read_volume
from voxmetry.core.labels import Code
from voxmetry.io import read_series
from voxmetry.io.dicom.objects.origin import Origin
from voxmetry.io.dicom.objects.source import read_source
from voxmetry.io.dicom.objects.structured_report import write_report_sr
from voxmetry.io.dicom.segmentations.rtstruct_write import write_rtstruct
from voxmetry.io.dicom.segmentations.seg_write import write_seg

ORIGIN = Origin("automatic", "phantom-model", "1.2.3", serial="f" * 64, software="0.1.0")
TABLE = LabelTable(
    labels=(
        Label(value=1, name="liver", colour="#E69F00", code=Code(value="10200004", meaning="Liver")),
        Label(value=2, name="spleen", colour="#56B4E9", code=Code(value="78961009", meaning="Spleen")),
    )
)


def two_structures(geometry):
    """Two structures that no symmetry maps onto themselves, of few pieces however large the grid is."""
    field = gaussian_filter(np.random.default_rng(7).normal(size=geometry.shape), max(1.5, max(geometry.shape) / 20))
    array = (field > np.quantile(field, 0.8)).astype(np.uint8)
    array[field < np.quantile(field, 0.1)] = 2
    return Segmentation(array, geometry, TABLE)


def write_all(volume, out):
    truth, source = two_structures(volume.geometry), read_source(volume)
    seg = write_seg(truth, source, out / "seg.dcm", origin=ORIGIN)
    write_seg(truth, source, out / "labelmap.dcm", origin=ORIGIN, kind="labelmap")
    write_rtstruct(truth, source, out / "rtstruct.dcm", origin=ORIGIN)
    write_report_sr(measure(truth, volume), TABLE, seg, source, out / "sr.dcm", origin=ORIGIN)
    for name in ("seg.dcm", "labelmap.dcm", "rtstruct.dcm"):
        back = read_segmentation(out / name, TABLE, image=volume)
        np.testing.assert_array_equal(back.array, truth.array, err_msg=name)
    for name in ("seg.dcm", "labelmap.dcm", "rtstruct.dcm", "sr.dcm"):
        assert_valid(out / name, volume.source.files)
    assert [str(header) for header in source.headers] == [str(header) for header in read_source(volume).headers]


def referenced(path):
    """Instance and frame number that each frame of a segmentation was made from, with the frame's position."""
    for group in pydicom.dcmread(path).PerFrameFunctionalGroupsSequence:
        image = group.DerivationImageSequence[0].SourceImageSequence[0]
        position = [float(x) for x in group.PlanePositionSequence[0].ImagePositionPatient]
        yield image.ReferencedSOPInstanceUID, image.get("ReferencedFrameNumber"), position


def test_an_enhanced_source_is_referred_to_frame_by_frame(files, tmp_path):
    # Frames out of order: the third slice is not the third frame.
    path = enhance(files, tmp_path / "e" / "x")
    write_all(read_volume(path), tmp_path)
    source = pydicom.dcmread(path)
    places = [g.PlanePositionSequence[0].ImagePositionPatient for g in source.PerFrameFunctionalGroupsSequence]
    numbers = []
    for instance, number, position in referenced(tmp_path / "seg.dcm"):
        assert instance == source.SOPInstanceUID
        assert position == pytest.approx([float(x) for x in places[number - 1]], abs=1e-6)
        numbers.append(number)
    assert len(set(numbers)) > 5
    contours = pydicom.dcmread(tmp_path / "rtstruct.dcm").ROIContourSequence[0].ContourSequence
    for contour in contours:
        image = contour.ContourImageSequence[0]
        height = np.array(contour.ContourData[:3], float) - np.array(places[image.ReferencedFrameNumber - 1], float)
        normal = np.cross(*np.reshape(_orientation(source), (2, 3)))
        assert abs(height @ normal) < 1e-3


def _orientation(source):
    shared = source.SharedFunctionalGroupsSequence[0]
    return [float(x) for x in shared.PlaneOrientationSequence[0].ImageOrientationPatient]


def test_a_mosaic_has_no_frames_to_name(tmp_path):
    first, _ = list_series(mosaics(tmp_path / "study"))
    volume = read_series(first)
    write_all(volume, tmp_path)
    uid = pydicom.dcmread(first.files[0], stop_before_pixels=True).SOPInstanceUID
    for instance, number, position in referenced(tmp_path / "seg.dcm"):
        assert (instance, number) == (uid, None)
        ijk = volume.geometry.to_ijk(np.array([-position[0], -position[1], position[2]]))
        np.testing.assert_allclose(ijk, np.rint(ijk), atol=1e-3)


@pytest.mark.real_data
def test_an_enhanced_file_of_another_writer(real_data, tmp_path):
    volume = read_volume(real_data / "dicom-seg/data/segmentations/24x38x3/multiframe")
    write_all(volume, tmp_path)
    assert all(number for _, number, _ in referenced(tmp_path / "seg.dcm"))
