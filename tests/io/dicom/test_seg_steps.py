"""The slice step of a segmentation that is read without its image: positions decide, headers fill what was left out."""

from __future__ import annotations

import warnings

import numpy as np
import pydicom
import pytest

import phantoms
from voxmetry import Segmentation, list_series, read_segmentation
from voxmetry.errors import FormatError, ReadingWarning
from voxmetry.io import write_series
from voxmetry.io.dicom.objects.origin import Origin
from voxmetry.io.dicom.objects.source import read_source
from voxmetry.io.dicom.segmentations.seg_write import write_seg


@pytest.fixture
def seg(tmp_path):
    """A box of 3 x 4 pixels in the slices that are named, at steps of 3 mm, and what the header says of them."""

    def make(slices=(1, 2, 3, 4), *, step=3.0, spacing=None, thickness=None, rounded=None):
        grid = phantoms.geometry(
            spacing_mm=(1.1, 1.1, step), degrees=(0, 0, 0), frame_uid="1.2.826.0.1.3680043.8.498.7"
        )
        write_series(phantoms.volume(grid), tmp_path / "image", modality="MR", series_uid="1.2.3")
        array = np.zeros(grid.shape, np.uint8)
        for index in slices:
            array[2:5, 3:7, index] = 1
        given = Segmentation(array, grid, phantoms.segmentation(grid).labels)
        (info,) = list_series(tmp_path / "image")
        path = tmp_path / "seg.dcm"
        write_seg(given, read_source(info), path, origin=Origin("manual"))
        dataset = pydicom.dcmread(path)
        measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        for keyword, value in (("SpacingBetweenSlices", spacing), ("SliceThickness", thickness)):
            if value is not None:
                setattr(measures, keyword, value)
            elif keyword in measures:
                delattr(measures, keyword)
        if rounded is not None:
            for frame in dataset.PerFrameFunctionalGroupsSequence:
                place = frame.PlanePositionSequence[0]
                place.ImagePositionPatient = [f"{float(x):.{rounded}f}" for x in place.ImagePositionPatient]
        dataset.save_as(path)
        return path

    return make


@pytest.mark.parametrize(
    ("slices", "spacing", "thickness", "flagged"),
    [
        ((1, 2, 3, 4), 1.0, 1.0, True),
        ((1, 2, 3, 4), None, 1.0, False),
        ((1, 2, 3, 4), 3.0, 1.0, False),
        ((1, 2, 3, 4), 6.0, None, True),
        ((1, 2), 1.0, 3.0, True),
        ((1, 2), None, 1.0, False),
        # Slices that were left out as empty: the header fills in what the gaps confirm.
        ((1, 3, 6), 3.0, 3.0, False),
        ((1, 3, 6), None, 3.0, False),
        ((1, 3), 3.0, 3.0, False),
        ((1, 3, 4, 9), 1.0, None, True),
    ],
)
def test_the_step(seg, slices, spacing, thickness, flagged):
    path = seg(slices, spacing=spacing, thickness=thickness)
    if flagged:
        with pytest.warns(ReadingWarning, match=rf"says {spacing:.4g} mm, and its frames lie 3 mm apart"):
            found = read_segmentation(path)
    else:
        found = read_segmentation(path)
    assert found.geometry.spacing_mm[2] == pytest.approx(3.0)
    assert found.geometry.voxel_ml * np.count_nonzero(found.array) == pytest.approx(len(slices) * 12 * 1.1 * 1.1 * 3e-3)


@pytest.mark.parametrize("step", [1.25, 0.625])
def test_positions_in_tenths_of_a_millimetre(seg, step, tmp_path):
    """What counts as regular for an image does for the frames on it, read alone or on the image."""
    path = seg(tuple(range(1, 10)), step=step, rounded=1)
    alone = read_segmentation(path)
    assert alone.geometry.spacing_mm[2] == pytest.approx(step, abs=0.01)
    assert np.count_nonzero(alone.array) == 9 * 12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        on_image = read_segmentation(path, image=phantoms.geometry(spacing_mm=(1.1, 1.1, step), degrees=(0, 0, 0)))
    assert np.count_nonzero(on_image.array[2:5, 3:7, 1:10]) == 9 * 12


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "BitsAllocated"])
def test_a_frame_of_no_size(seg, keyword):
    path = seg()
    dataset = pydicom.dcmread(path)
    delattr(dataset, keyword)
    dataset.save_as(path)
    with pytest.raises(FormatError, match="no usable Rows, Columns or Bits Allocated"):
        read_segmentation(path)


@pytest.mark.parametrize("error", [OSError("No tag to read"), MemoryError(), ValueError("x")])
def test_what_pydicom_raises_while_it_goes_through_a_file(seg, monkeypatch, error):
    """It parses sequences only when asked for, with errors of its own kinds; it takes memory for what a length says."""
    path = seg()

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(pydicom, "dcmread", fail)
    with pytest.raises(FormatError, match=r"seg\.dcm cannot be parsed as DICOM"):
        read_segmentation(path)


def test_a_label_map_of_two_frames_at_a_place(seg):
    path = seg()
    dataset = pydicom.dcmread(path)
    dataset.SegmentationType = "LABELMAP"
    first, second, *rest = dataset.PerFrameFunctionalGroupsSequence
    second.PlanePositionSequence = first.PlanePositionSequence
    dataset.save_as(path)
    n = 2 + len(rest)
    with pytest.raises(FormatError, match=f"a label map with {n} frames at {n - 1} places"):
        read_segmentation(path)
