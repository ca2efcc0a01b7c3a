import json
import math
import pickle

import numpy as np
import pytest
from pydantic import ValidationError

import phantoms
from voxmetry import Label, LabelTable, Segmentation, Volume
from voxmetry.core.records import Comparison
from voxmetry.errors import InputError, LabelError, SeriesError


class TestVolume:
    def test_array_is_read_only(self):
        with pytest.raises(ValueError, match="read-only"):
            phantoms.volume().array[0, 0, 0] = 1

    def test_the_callers_array_stays_writable(self):
        array = np.zeros(phantoms.SHAPE)
        Volume(array, phantoms.geometry())
        array[0, 0, 0] = 1

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_refuses_voxels_that_are_not_finite_and_counts_them(self, bad):
        array = np.zeros(phantoms.SHAPE, np.float32)
        array[1, 2, 3] = array[2, 2, 3] = bad
        with pytest.raises(InputError, match="2 of 2431 voxels"):
            Volume(array, phantoms.geometry())

    def test_refuses_another_shape_complex_numbers_and_unknown_units(self):
        grid = phantoms.geometry()
        with pytest.raises(InputError, match="shape"):
            Volume(np.zeros((2, 3, 4)), grid)
        with pytest.raises(InputError, match="complex"):
            Volume(np.zeros(grid.shape, complex), grid)
        with pytest.raises(InputError, match="unit"):
            Volume(np.zeros(grid.shape), grid, unit="mg")


class TestSegmentation:
    def test_mask_takes_the_value_of_the_name(self):
        segmentation = phantoms.segmentation()
        assert segmentation.mask("a").sum() == 3 * 4 * 2
        assert segmentation.mask("b").sum() == 2 * 4 * 2

    def test_unknown_name_lists_the_names(self):
        with pytest.raises(LabelError, match="a, b"):
            phantoms.segmentation().mask("spleen")

    @pytest.mark.parametrize("dtype", [np.int16, np.float32, bool])
    def test_refuses_other_types(self, dtype):
        with pytest.raises(LabelError, match="uint8 or uint16"):
            Segmentation(np.zeros(phantoms.SHAPE, dtype), phantoms.geometry(), LabelTable.from_names({1: "a"}))

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_refuses_values_that_the_table_does_not_name(self, dtype):
        array = np.zeros(phantoms.SHAPE, dtype)
        array[1, 1, 1] = 7
        with pytest.raises(LabelError, match=r"\[7\]"):
            Segmentation(array, phantoms.geometry(), LabelTable.from_names({1: "a"}))


class TestLabelTable:
    def test_refuses_a_value_or_a_name_used_twice(self):
        label = Label(value=1, name="a", colour="#000000")
        with pytest.raises(ValidationError, match="values used more than once: 1"):
            LabelTable(labels=(label, Label(value=1, name="b", colour="#000000")))
        with pytest.raises(ValidationError, match="names used more than once: a"):
            LabelTable(labels=(label, Label(value=2, name="a", colour="#000000")))

    def test_round_trip_through_json(self):
        table = phantoms.segmentation().labels
        assert LabelTable.model_validate_json(table.model_dump_json()) == table

    def test_iterates_over_labels(self):
        assert [label.name for label in phantoms.segmentation().labels] == ["a", "b"]


def test_undefined_numbers_are_null_in_json_and_nan_again_when_read():
    row = Comparison(
        label="a",
        value=1,
        status="missed",
        n_voxels_prediction=0,
        n_voxels_reference=5,
        volume_prediction_ml=0,
        volume_reference_ml=1,
        volume_difference_ml=-1,
        dice=0,
        iou=0,
        hausdorff_mm=math.nan,
        hd95_mm=math.nan,
        assd_mm=math.nan,
        surface_dice=0,
        tolerance_mm=1,
        reason="the prediction is empty",
    )
    text = row.model_dump_json()
    assert json.loads(text)["hd95_mm"] is None
    assert math.isnan(Comparison.model_validate_json(text).hd95_mm)


def test_errors_survive_pickling_and_say_the_three_things():
    error = pickle.loads(pickle.dumps(SeriesError(found="f", expected="e", fix="x")))
    assert isinstance(error, SeriesError)
    assert (error.found, error.expected, error.fix) == ("f", "e", "x")
    assert str(error).split() == ["f", "expected:", "e", "to", "do:", "x"]
