"""Pictures for notebooks."""

import numpy as np
import pytest

import phantoms
from voxmetry import LabelTable, Segmentation, plot
from voxmetry.errors import GeometryError, InputError, LabelError
from voxmetry.measurement.agreement import bland_altman
from voxmetry.measurement.lesions import lesions as measure_lesions
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


class TestLesions:
    def test_a_row_each_with_both_axes_and_the_largest_first(self):
        segmentation = phantoms.segmentation()
        rows = measure_lesions(segmentation, phantoms.volume(), labels=segmentation.labels.names)
        figure = plot.lesions(phantoms.volume(), segmentation, rows, most=2)
        titles = [axes.get_title(loc="left") for axes in figure.axes][::3]
        largest = sorted(rows, key=lambda row: -row.volume_ml)[:2]
        assert [title.split(":")[0] for title in titles] == [row.id for row in largest]
        assert f"{largest[0].long_axis_mm:.1f} x" in titles[0]

    def test_none_is_refused(self):
        with pytest.raises(LabelError, match="no lesion to draw"):
            plot.lesions(phantoms.volume(), phantoms.segmentation(), [])


class TestCompare:
    def test_the_structure_that_is_most_wrong_is_shown(self):
        reference = phantoms.segmentation()
        names = reference.labels.names
        wrong = np.where(reference.array == reference.labels[names[1]].value, 0, reference.array).astype(np.uint8)
        prediction = type(reference)(wrong, reference.geometry, reference.labels)
        figure = plot.compare(phantoms.volume(), prediction=prediction, reference=reference)
        assert figure.texts[0].get_text() == f"{names[1]}: Dice 0.000"
        figure = plot.compare(None, prediction=prediction, reference=reference, label=names[0])
        assert figure.texts[0].get_text() == f"{names[0]}: Dice 1.000"

    def test_a_structure_in_neither_and_tables_without_a_common_name_are_refused(self):
        reference = phantoms.segmentation()
        empty = type(reference)(np.zeros_like(reference.array), reference.geometry, reference.labels)
        with pytest.raises(LabelError, match="in either label map"):
            plot.compare(None, prediction=empty, reference=empty, label=reference.labels.names[0])
        other = LabelTable.from_names({value: f"x{value}" for value in reference.labels.values})
        with pytest.raises(LabelError, match="without a common name"):
            plot.compare(
                None, prediction=type(reference)(reference.array, reference.geometry, other), reference=reference
            )


class TestSurfaces:
    def test_three_views_of_the_same_width(self):
        figure = plot.surfaces(phantoms.segmentation())
        assert [axes.get_title() for axes in figure.axes] == ["from the front", "from the left", "from above"]
        assert figure._repr_png_().startswith(b"\x89PNG")

    def test_the_surface_lies_where_the_voxels_are(self):
        grid = phantoms.geometry(shape=(90, 12, 10))
        array = np.zeros(grid.shape, np.uint8)
        array[5:80, 3:8, 2:6] = 1
        figure = plot.surfaces(Segmentation(array, grid, LabelTable.from_names({1: "a"})))
        corners = grid.to_mm(np.array([[i, j, k] for i in (5, 79) for j in (3, 7) for k in (2, 5)], float))
        drawn = figure.axes[0].collections[0]._faces.reshape(-1, 3)
        # Thinned out to every second voxel: within two voxels of the true box.
        assert np.abs(drawn.min(0) - corners.min(0)).max() < 2.5 * max(grid.spacing_mm)
        assert np.abs(drawn.max(0) - corners.max(0)).max() < 2.5 * max(grid.spacing_mm)

    def test_an_empty_map_is_refused(self):
        grid = phantoms.geometry(shape=(4, 5, 6))
        with pytest.raises(LabelError, match="no voxel"):
            plot.surfaces(Segmentation(np.zeros((4, 5, 6), np.uint8), grid, LabelTable.from_names({1: "a"})))


class TestCurves:
    def test_loss_and_dice_by_epoch(self, tmp_path):
        (tmp_path / "log.csv").write_text("epoch,loss,dice_liver\n1,2.0,\n2,1.0,0.5\n")
        loss, dice = plot.training_curve(tmp_path).axes
        assert loss.lines[0].get_xydata().tolist() == [[1, 2.0], [2, 1.0]]
        assert dice.lines[0].get_xydata().tolist() == [[2, 0.5]]

    def test_a_run_without_an_epoch_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="no finished epoch"):
            plot.training_curve(tmp_path)

    def test_curves_of_many_structures_in_training_and_held_out(self, tmp_path):
        names = [f"organ_{n}" for n in range(12)]
        head = ["epoch", "loss", *[f"overlap_{name}" for name in names], *[f"dice_{name}" for name in names]]
        lines = [",".join(head)]
        for epoch in (1, 2):
            dice = ["0.5"] * 12 if epoch == 2 else [""] * 12
            lines.append(",".join([str(epoch), "1.0", *["0.25"] * 11, "nan", *dice]))
        (tmp_path / "log.csv").write_text("\n".join(lines), encoding="utf-8")
        loss, overlap, held_out = plot.training_curve(tmp_path).axes
        assert [len(axes.lines) for axes in (loss, overlap, held_out)] == [1, 12, 12]
        looks = {(line.get_color(), line.get_linestyle()) for line in held_out.lines}
        assert len(looks) == 12
        assert list(held_out.lines[3].get_xdata()) == [2]

    def test_bland_altman_draws_the_bias_and_its_limits(self):
        axes = plot.bland_altman([1.0, 2.0, 3.0], [0.5, 2.5, 2.0]).axes[0]
        found = bland_altman([1.0, 2.0, 3.0], [0.5, 2.5, 2.0])
        assert [line.get_ydata()[0] for line in axes.lines] == [found.upper, found.bias, found.lower]
