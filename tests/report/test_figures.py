"""What is drawn, read from matplotlib's own objects and from a few pixels."""

import dataclasses
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import phantoms
import voxmetry
from voxmetry import Geometry, LabelTable, Segmentation, Volume
from voxmetry.report.pictures.figures import draw_panel, render_png, scale_bar_mm
from voxmetry.report.pictures.panels import find_structures, overview_panels, structure_panels
from voxmetry.report.pictures.planes import PLANES, plane_of


@pytest.fixture
def axes():
    return Figure(figsize=(3, 3)).add_axes((0, 0, 1, 1))


def outlines(axes):
    """Box in mm (left, right, top, bottom) of each outline, with its colour and whether it is dashed."""
    found = []
    for lines in axes.collections:
        points = np.concatenate([path.vertices for path in lines.get_paths()])
        (_, dashes) = lines.get_linestyle()[0]
        colour = "#{:02X}{:02X}{:02X}".format(*(round(255 * x) for x in lines.get_edgecolor()[0][:3]))
        low, high = points.min(axis=0), points.max(axis=0)
        found.append(((low[0], high[0], low[1], high[1]), colour, dashes is not None))
    return found


@pytest.mark.parametrize("place", range(3))
def test_an_outline_runs_along_the_edges_of_its_voxels(axes, place):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    structure = find_structures(segmentation)[1]
    panel = structure_panels(volume, structure)[place]
    draw_panel(axes, panel, volume, segmentation)
    plane = plane_of(volume.geometry, PLANES[place])
    wanted = [seen for seen in outlines(axes) if seen[1] == segmentation.labels["a"].colour]
    assert len(wanted) == 1
    assert wanted[0][0] == pytest.approx(plane.bounds_mm(structure.box))


def test_an_outline_at_the_edge_of_the_image_is_closed_along_it(axes):
    grid = phantoms.geometry()
    array = np.zeros(grid.shape, np.uint8)
    array[:4, :5, :6] = 1
    segmentation = Segmentation(array, grid, LabelTable.from_names({1: "a"}))
    structure = find_structures(segmentation)[1]
    draw_panel(axes, structure_panels(phantoms.volume(), structure)[0], phantoms.volume(), segmentation)
    ((bounds, _, _),) = outlines(axes)
    assert bounds == pytest.approx(plane_of(grid, "axial").bounds_mm(structure.box))


def test_the_reference_is_dashed_and_only_of_the_structure_shown(axes):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    panel = structure_panels(volume, find_structures(segmentation)[1])[0]
    draw_panel(axes, panel, volume, segmentation, segmentation)
    dashed = [seen for seen in outlines(axes) if seen[2]]
    solid = [seen for seen in outlines(axes) if not seen[2]]
    assert len(dashed) == 1
    assert len(solid) == 2
    assert dashed[0][1] == "#FFFFFF"
    assert dashed[0][0] == pytest.approx(next(s[0] for s in solid if s[1] == segmentation.labels["a"].colour))


def test_letters_stand_at_the_sides_that_they_name(axes):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    draw_panel(axes, overview_panels(volume, find_structures(segmentation))[2], volume, segmentation)
    at = {text.get_text(): text.get_position() for text in axes.texts}
    assert at["A"][0] < 0.1 < 0.9 < at["P"][0]
    assert at["I"][1] < 0.1 < 0.9 < at["S"][1]


def test_the_picture_has_the_patients_proportions(axes):
    volume = phantoms.volume()
    panel = overview_panels(volume, {})[0]
    draw_panel(axes, panel, volume)
    left, right, bottom, top = axes.images[0].get_extent()
    rows, columns = axes.images[0].get_array().shape
    assert (right - left) / columns == pytest.approx(0.9)
    assert (bottom - top) / rows == pytest.approx(1.3)
    assert axes.get_aspect() == 1.0
    assert (*axes.get_xlim(), *axes.get_ylim()[::-1]) == pytest.approx(panel.view_mm)


def test_the_scale_bar_is_as_long_as_it_says(axes):
    volume = phantoms.volume()
    panel = overview_panels(volume, {})[0]
    draw_panel(axes, panel, volume)
    start, stop = axes.lines[0].get_xdata()
    bar = scale_bar_mm(panel.view_mm[1] - panel.view_mm[0])
    assert (stop - start) * (panel.view_mm[1] - panel.view_mm[0]) == pytest.approx(bar)
    assert f"{bar} mm" in [text.get_text() for text in axes.texts]


def test_the_bright_voxel_is_bright_in_the_png_where_it_lies():
    # Large enough for an overview of the whole: 60 x 60 mm, the mark in the patient's right anterior quarter.
    grid = Geometry(np.diag([2.0, 3.0, 4.0, 1.0]), (30, 20, 15))
    array = np.zeros(grid.shape)
    array[24:27, 15:17, 7] = 100.0
    array[0, 0, 0] = 1.0
    volume = Volume(array, grid)
    panel = dataclasses.replace(overview_panels(volume, {})[0], window=(0.0, 100.0))
    nothing = Segmentation(np.zeros(grid.shape, np.uint8), grid, LabelTable(labels=()))
    png = render_png(panel, volume, nothing, pixels=300)
    grey = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    assert grey.shape == (300, 300)
    # i 24..26 is 48 to 54 mm from the left edge of the array, which is the picture's right edge.
    row, column = (60 - 3 * 16) * 5, (60 - 2 * 25.5) * 5
    assert grey[int(row), int(column)] > 200
    assert grey[300 - int(row), int(column)] < 30
    assert grey[int(row) + 10, 300 - int(column)] < 30


def test_the_same_panel_gives_the_same_bytes():
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    panel = structure_panels(volume, find_structures(segmentation)[1])[0]
    assert render_png(panel, volume, segmentation, pixels=120) == render_png(panel, volume, segmentation, pixels=120)


def test_the_overview_shows_small_structures_as_well_as_large_ones():
    grid = Geometry(np.diag([1.0, 1.0, 1.0, 1.0]), (40, 42, 44))
    array = np.zeros(grid.shape, np.uint8)
    array[5:30, 5:30, 5:40] = 1
    array[5:31, 5:31, 20:40] = 1  # the large structure's own largest slices are elsewhere
    array[33:36, 33:36, 10:12] = 2
    segmentation = Segmentation(array, grid, LabelTable.from_names({1: "large", 2: "small"}))
    volume = Volume(np.zeros(grid.shape), grid)
    axial = overview_panels(volume, find_structures(segmentation))[0]
    assert axial.index in (10, 11)


def test_a_single_slice_is_drawn(axes):
    grid = Geometry(np.diag([1.0, 1.5, 5.0, 1.0]), (30, 40, 1))
    array = np.zeros(grid.shape, np.uint8)
    array[10:20, 10:20] = 1
    segmentation = Segmentation(array, grid, LabelTable.from_names({1: "a"}))
    volume = Volume(np.arange(1200.0).reshape(grid.shape), grid)
    for panel in structure_panels(volume, find_structures(segmentation)[1]):
        assert render_png(panel, volume, segmentation, pixels=100).startswith(b"\x89PNG")


def test_no_global_state_of_matplotlib_is_touched():
    code = "import sys, voxmetry.report, voxmetry.plot; sys.exit('matplotlib.pyplot' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(voxmetry.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0
