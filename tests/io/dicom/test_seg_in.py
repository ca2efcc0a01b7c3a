"""DICOM segmentations in, against what other programs wrote beside them."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from voxmetry import read_segmentation, read_volume
from voxmetry.errors import FormatError, GeometryError, LabelError, VoxmetryError
from voxmetry.io import read_layers

pytestmark = pytest.mark.real_data


@pytest.fixture
def folder(real_data):
    return real_data / "dicom-seg/data/segmentations"


@pytest.fixture
def spoil(tmp_path, folder):
    """A copy of the liver with something changed."""

    def change(function, name="liver.dcm"):
        dataset = pydicom.dcmread(folder / name)
        function(dataset)
        dataset.save_as(tmp_path / "seg.dcm")
        return tmp_path / "seg.dcm"

    return change


def test_liver_equals_its_nrrd_with_codes_and_colour(folder):
    liver, truth = read_segmentation(folder / "liver.dcm"), read_segmentation(folder / "liver_seg.nrrd")
    assert liver.geometry.is_same(truth.geometry)
    assert np.array_equal(liver.array, truth.array)
    assert int(liver.array.sum()) == 107098
    label = liver.labels["Liver"]
    assert (label.value, label.colour, label.kind, label.code.meaning) == (1, "#DD8265", "organ", "Liver")


def test_a_segmentation_lies_on_its_image(folder):
    image = read_volume(folder / "ct-3slice")
    liver = read_segmentation(folder / "liver.dcm", image=image)
    assert liver.geometry is image.geometry
    assert np.array_equal(liver.array, read_segmentation(folder / "liver_seg.nrrd").array)


def test_overlapping_segments_come_in_the_layers_that_dcmqi_makes(folder):
    layers = read_layers(folder / "partial_overlaps.dcm")
    assert len(layers) == 3
    for number, layer in enumerate(layers, start=1):
        truth = read_segmentation(folder / f"partial_overlaps-{number}.nrrd")
        assert layer.geometry.is_same(truth.geometry)
        assert np.array_equal(layer.array, truth.array)


def test_overlapping_segments_are_refused_as_one_map_unless_a_rule_is_named(folder):
    path = folder / "partial_overlaps.dcm"
    with pytest.raises(LabelError, match=r"overlap: GREEN and ORANGE, GREEN and PURPLE, ORANGE and PURPLE"):
        read_segmentation(path)
    masks = {label.name: layer.mask(label.name) for layer in read_layers(path) for label in layer.labels}
    first, last = read_segmentation(path, overlap="first"), read_segmentation(path, overlap="last")
    assert np.array_equal(first.mask("GREEN"), masks["GREEN"])
    assert np.array_equal(last.mask("PURPLE"), masks["PURPLE"])
    assert np.array_equal(first.mask("PURPLE"), masks["PURPLE"] & ~masks["GREEN"] & ~masks["ORANGE"])
    assert np.array_equal(first.array > 0, last.array > 0)


@pytest.mark.parametrize("name", ["noppv", "ppv5"])
def test_a_sparse_label_map_fills_the_slices_that_were_left_out(folder, name):
    image = read_volume(folder / "24x38x3/image")
    found = read_segmentation(folder / f"sparse-labelmap-{name}.dcm", image=image)
    truth = read_segmentation(folder / f"sparse_labelmap_{name}_seg.nrrd")
    # The second NRRD marks by 5, the padding value, where no frame was.
    assert np.array_equal(found.array, np.where(truth.array == 5, 0, truth.array))
    assert found.geometry.is_same(truth.geometry)
    assert found.geometry.is_same(read_segmentation(folder / f"sparse-labelmap-{name}.dcm").geometry)


def test_frames_that_begin_within_a_byte_are_unpacked(folder):
    # 23 x 38 pixels are 109 bytes and 2 bits.
    found = read_segmentation(folder / "23x38x3/seg/label.seg")
    assert np.array_equal(found.array, read_segmentation(folder / "23x38x3/nrrd/label.nrrd").array)


def test_a_fractional_segmentation_holds_what_reaches_half(real_data):
    folder = real_data / "dicom-seg-sr"
    path = folder / "seg_image_ct_true_fractional.dcm"
    stored = pydicom.dcmread(path).pixel_array.transpose(2, 1, 0)
    assert np.count_nonzero((stored > 0) & (stored < 255)) > 0
    half, high = read_layers(path)[0], read_layers(path, threshold=0.9)[0]
    assert np.array_equal(np.sort(half.array.sum(axis=(0, 1))), np.sort((stored >= 127.5).sum(axis=(0, 1))))
    assert np.array_equal(np.sort(high.array.sum(axis=(0, 1))), np.sort((stored >= 229.5).sum(axis=(0, 1))))
    assert np.array_equal(
        read_segmentation(folder / "seg_image_ct_binary.dcm").array,
        read_segmentation(folder / "seg_image_ct_binary_fractional.dcm").array,
    )


def test_segments_of_slides_and_projections_are_refused(real_data):
    paths = sorted((real_data / "dicom-seg-sr").glob("seg_image_[sc][mr]_*.dcm"))
    assert len(paths) == 7
    for path in paths:
        with pytest.raises(FormatError):
            read_segmentation(path)


def test_another_image_is_refused(folder):
    image = read_volume(folder / "24x38x3/image")
    with pytest.raises(GeometryError, match=r"frame 2 of liver\.dcm lies 1 mm off the grid"):
        read_segmentation(folder / "liver.dcm", image=image)


def test_labelled_voxels_outside_the_image_are_refused(folder):
    image = read_volume(folder / "ct-3slice")
    grid = type(image.geometry)(image.geometry.affine, (512, 512, 2), image.geometry.frame_uid)
    with pytest.raises(GeometryError, match="labelled voxels outside"):
        read_segmentation(folder / "liver.dcm", image=grid)


def test_a_frame_off_the_grid_is_refused(spoil):
    def shift(dataset):
        dataset.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient[0] += 0.3

    with pytest.raises(GeometryError, match=r"frame 2 of seg.dcm lies 0.3 mm off"):
        read_segmentation(spoil(shift))


def test_a_turned_frame_is_refused(spoil):
    def turn(dataset):
        item = pydicom.Dataset()
        item.ImageOrientationPatient = [1, 0, 0, 0, 0, 1]
        dataset.PerFrameFunctionalGroupsSequence[2].PlaneOrientationSequence = [item]

    with pytest.raises(GeometryError, match=r"frame 3 with another orientation"):
        read_segmentation(spoil(turn))


def test_a_segment_that_is_not_described_is_refused(spoil):
    def rename(dataset):
        frame = dataset.PerFrameFunctionalGroupsSequence[0]
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 7

    with pytest.raises(LabelError, match=r"segments \[7\]"):
        read_segmentation(spoil(rename))


@pytest.mark.parametrize(
    "function",
    [
        lambda dataset: setattr(dataset, "PixelData", dataset.PixelData[:20000]),
        lambda dataset: delattr(dataset, "PixelData"),
        lambda dataset: setattr(dataset, "NumberOfFrames", 9),
        lambda dataset: setattr(dataset, "SegmentationType", "SOFT"),
        lambda dataset: delattr(dataset.PerFrameFunctionalGroupsSequence[0], "PlanePositionSequence"),
        lambda dataset: setattr(dataset.SegmentSequence[0], "SegmentNumber", None),
    ],
)
def test_damage_is_told(spoil, function):
    with pytest.raises(VoxmetryError, match=r"seg\.dcm"):
        read_segmentation(spoil(function))


def test_an_image_is_no_segmentation(folder):
    with pytest.raises(FormatError, match="without structures"):
        read_segmentation(folder / "ct-3slice/01.dcm")


@pytest.mark.parametrize("shift", [0, 30])
def test_two_frames_of_a_segment_at_one_place_are_one_or_refused(spoil, folder, shift):
    def twice(dataset):
        frames = dataset.pixel_array
        both = np.concatenate([frames, np.roll(frames, shift, axis=2)])
        dataset.PixelData = np.packbits(both.ravel(), bitorder="little").tobytes()
        dataset.PerFrameFunctionalGroupsSequence = [*dataset.PerFrameFunctionalGroupsSequence] * 2
        dataset.NumberOfFrames = len(both)

    path = spoil(twice)
    if not shift:
        assert int(read_segmentation(path).array.sum()) == 107098
        return
    with pytest.raises(FormatError, match="several frames of the segment Liver at one place, which differ"):
        read_segmentation(path)
