"""How the nouns show themselves in a notebook."""

import base64
import io
import re

import numpy as np
from PIL import Image

import phantoms
from voxmetry import Geometry, Label, LabelTable, Segmentation, Volume
from voxmetry.core.notebook import table


def pictures(html):
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(x)))) for x in re.findall(r"base64,([^']+)", html)]


def marked(axes_sign):
    """An image with one bright voxel at the patient's right, front and top, on a grid that runs with or against RAS."""
    affine = np.diag([axes_sign * 2.0, axes_sign * 2.0, axes_sign * 2.0, 1.0])
    array = np.zeros((20, 20, 20), np.float32)
    place = 15 if axes_sign > 0 else 4
    array[place, 10, 10] = array[10, place, 10] = array[10, 10, place] = 100.0
    return Volume(array, Geometry(affine, array.shape))


def test_right_is_on_the_left_and_anterior_and_superior_are_up_however_the_grid_runs():
    for sign in (1, -1):
        axial, coronal, sagittal = pictures(marked(sign)._repr_html_())
        half = axial.shape[0] // 2
        assert axial[:, :half].max() > 200 > axial[:, half + 20 :].max()  # right
        assert axial[: half - 20].max() > 200 > axial[half + 20 :].max()  # anterior
        assert coronal[: half - 20].max() > 200 > coronal[half + 20 :].max()  # superior
        assert sagittal[:, : half - 20].max() > 200 > sagittal[:, half + 20 :].max()  # anterior


def test_pixels_have_the_patients_aspect():
    volume = phantoms.volume()
    size = dict(zip(volume.geometry.closest_axes[0], volume.geometry.extent_mm, strict=True))
    axial = pictures(volume._repr_html_())[0]
    assert abs(axial.shape[1] / axial.shape[0] - size[0] / size[1]) < 0.03


def test_a_segmentation_is_shown_in_the_colours_of_its_labels_with_its_volumes():
    segmentation = phantoms.segmentation()
    html = segmentation._repr_html_()
    colours = {tuple(rgb) for rgb in np.concatenate([p.reshape(-1, 3) for p in pictures(html)]).tolist()}
    assert (0, 0, 0) in colours
    assert len(colours) >= 2
    volume = float((segmentation.array == 1).sum() * segmentation.geometry.voxel_ml)
    assert f"{volume:.4g}" in html


def test_names_are_escaped():
    grid = Geometry(np.eye(4), (3, 3, 3))
    labels = LabelTable(labels=(Label(value=1, name="<script>x</script>", colour="#112233"),))
    html = Segmentation(np.ones((3, 3, 3), np.uint8), grid, labels)._repr_html_()
    assert "<script>" not in html
    assert table([]) == "<p>nothing</p>"


def test_an_empty_segmentation_shows_itself():
    grid = Geometry(np.eye(4), (3, 3, 3))
    assert "<img" in Segmentation(np.zeros((3, 3, 3), np.uint8), grid, LabelTable.from_names({1: "a"}))._repr_html_()
