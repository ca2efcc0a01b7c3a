"""Pictures for notebooks."""

import pytest

import phantoms
from voxmetry.errors import GeometryError, LabelError
from voxmetry.plot import slices


def test_three_slices_with_their_names_below():
    figure = slices(phantoms.volume(), phantoms.segmentation(), reference=phantoms.segmentation())
    assert [axes.get_title().split()[0] for axes in figure.axes] == ["Axial", "Coronal", "Sagittal"]
    assert [text.get_text() for text in figure.texts] == ["■", "a", "■", "b"]
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_one_structure():
    figure = slices(phantoms.volume(), phantoms.segmentation(), label="b")
    assert [text.get_text() for text in figure.texts] == ["■", "b"]


def test_an_image_alone():
    assert len(slices(phantoms.volume()).axes) == 3


def test_another_grid_is_refused():
    other = phantoms.segmentation(phantoms.geometry(origin_mm=(0.0, 0.0, 0.0)))
    with pytest.raises(GeometryError, match="the image and the segmentation"):
        slices(phantoms.volume(), other)
    with pytest.raises(GeometryError, match="the image and the reference"):
        slices(phantoms.volume(), phantoms.segmentation(), reference=other)


def test_a_structure_that_is_not_there_is_refused():
    volume = phantoms.volume()
    empty = phantoms.segmentation()
    empty = type(empty)(empty.array * (empty.array == 1), empty.geometry, empty.labels)
    with pytest.raises(LabelError, match="no voxel of 'b'"):
        slices(volume, empty, label="b")
    with pytest.raises(LabelError, match="without a segmentation"):
        slices(volume, label="b")
    with pytest.raises(LabelError, match="no label named"):
        slices(volume, empty, label="liver")
