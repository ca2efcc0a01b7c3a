"""Real World Value Mapping: applied by choice, taken for SUV where nothing else gives it, named otherwise."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from frames import enhance
from voxmetry import list_series, read_volume
from voxmetry.errors import SeriesError
from voxmetry.io import read_series


def mapping(slope, intercept, unit, *, first=0, last=4095, label="", floating=False):
    code, item = Dataset(), Dataset()
    setattr(code, "LongCodeValue" if len(unit) > 16 else "CodeValue", unit)
    code.CodingSchemeDesignator, code.CodeMeaning = "UCUM", unit
    prefix = "DoubleFloat" if floating else ""
    for which, value in (("First", first), ("Last", last)):
        setattr(item, f"{prefix}RealWorldValue{which}ValueMapped", float(value) if floating else value)
    item.LUTLabel, item.MeasurementUnitsCodeSequence = label, Sequence([code])
    if slope is None:
        item.RealWorldValueLUTData = [float(x) for x in range(last - first + 1)]
    else:
        item.RealWorldValueSlope, item.RealWorldValueIntercept = slope, intercept
    return item


def put(files, edit, *items, **elements):
    for file in files:
        edit(file, RealWorldValueMappingSequence=Sequence(list(items)), **elements)
    return files[0].parent


def stored(files):
    return np.stack([pydicom.dcmread(file).pixel_array.T for file in files], axis=2).astype(np.float64)


def test_it_is_named_and_not_applied_unasked(files, edit):
    expected = read_volume(files[0].parent)
    volume = read_volume(put(files, edit, mapping(0.001, 0.0, "mm2/s", label="ADC")))
    np.testing.assert_array_equal(volume.array, expected.array)
    assert volume.source.processing == ("not applied: a Real World Value Mapping to mm2/s (ADC)",)


def test_what_only_repeats_the_rescaling_is_not_worth_a_word(files, edit):
    assert read_volume(put(files, edit, mapping(1.0, 0.0, "1"))).source.processing == ()


@pytest.mark.parametrize("floating", [False, True])
def test_by_choice_it_goes_from_stored_values_and_not_from_rescaled_ones(files, edit, floating):
    folder = put(
        files,
        edit,
        mapping(0.001, 0.5, "mm2/s", label="ADC", floating=floating),
        RescaleSlope="2",
        RescaleIntercept="7",
    )
    (info,) = list_series(folder)
    volume = read_series(info, real_world=True)
    np.testing.assert_allclose(volume.array, stored(files) * 0.001 + 0.5, rtol=1e-6)
    assert (volume.unit, volume.source.processing) == ("1", ("real-world values in mm2/s (ADC)",))


def test_values_from_outside_its_range_are_refused(files, edit):
    top = int(stored(files).max())
    (info,) = list_series(put(files, edit, mapping(0.001, 0.0, "mm2/s", last=top)))
    read_series(info, real_world=True)
    (info,) = list_series(put(files, edit, mapping(0.001, 0.0, "mm2/s", last=top - 2)))
    with pytest.raises(SeriesError, match="mapped from outside 0 to"):
        read_series(info, real_world=True)


@pytest.mark.parametrize(
    "items",
    [(), (mapping(1.0, 0.0, "mm2/s"), mapping(2.0, 0.0, "s")), (mapping(None, None, "mm2/s", last=9),)],
    ids=["none", "two", "a table"],
)
def test_without_one_linear_mapping_the_choice_is_refused(files, edit, items):
    (info,) = list_series(put(files, edit, *items))
    with pytest.raises(SeriesError, match="without one linear Real World Value Mapping"):
        read_series(info, real_world=True)


@pytest.mark.parametrize(
    ("suv", "unit", "code"),
    [
        ("bw", "SUVbw", "g/ml{SUVbw}"),
        ("bw", "SUVbw", "{SUVbw}g/ml"),
        ("lbm", "SUVlbm", "g/ml{SUVlbm(James128)}"),
        ("bsa", "SUVbsa", "cm2/ml{SUVbsa}"),
    ],
)
def test_a_pet_that_says_nothing_else_takes_its_mapping_to_suv(files, edit, suv, unit, code):
    folder = put(files, edit, mapping(0.004, 0.0, code), Modality="PT", SOPClassUID="1.2.840.10008.5.1.4.1.1.128")
    volume = read_volume(folder, suv=suv)
    np.testing.assert_allclose(volume.array, stored(files) * 0.004, rtol=1e-6)
    assert volume.unit == unit
    assert volume.source.processing == (f"{unit} from stored values by the Real World Value Mapping",)
    other = "bsa" if suv != "bsa" else "bw"
    with pytest.raises(SeriesError, match="SUV cannot be worked out"):
        read_volume(folder, suv=other)
    assert read_volume(folder, suv="none").source.processing[0].startswith("not applied")


def test_each_frame_of_an_enhanced_file_has_its_own(files, tmp_path):
    path = enhance(files, tmp_path / "e" / "x", order=tuple(range(11)))
    dataset = pydicom.dcmread(path)
    for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence, start=1):
        group.RealWorldValueMappingSequence = Sequence([mapping(0.1 * number, 1.0, "ms")])
    dataset.save_as(path)
    (info,) = list_series(path)
    expected = stored(files) * (0.1 * np.arange(1, 12)) + 1
    np.testing.assert_allclose(read_series(info, real_world=True).array, expected, rtol=1e-6)
