"""A selection of `tests/round_trips.py`: DICOM objects come back through other readers with mL, mm, names and codes."""

from __future__ import annotations

import pytest

import round_trips
from round_trips import MADE, READERS, TOLERANCE_ML, TOLERANCE_MM, at_hand, trips, truth_of

SELECTION = (
    "CT, spacing left out, thickness thin",
    "MR, spacing wrong, thickness left out",
    "rounded, 0.625 mm, sagittal",
    "rounded, 2.727 mm, axial",
    "single slice",
    "enhanced",
    "mosaic 1",
    "characters ''",
    "characters 'ISO_IR 144'",
    "characters 'ISO_IR 203'",
    "characters 'ISO_IR 13'",
    "characters 'GB18030'",
    "characters '\\\\ISO 2022 IR 87'",
    "characters 'ISO 2022 IR 100\\\\ISO 2022 IR 126'",
)


def compare(name, volume, structure, patient, out):
    found = list(trips(name, truth_of(volume, structure, patient), out))
    told = [f"{trip.writer} by {trip.reader}: {fault}" for trip in found for fault in trip.faults]
    assert not told, "\n".join(told)
    # SimpleITK takes the thickness for the step of a single slice, as all do.
    assert max(trip.ml for trip in found) <= TOLERANCE_ML
    assert max(trip.mm for trip in found) <= TOLERANCE_MM
    return {(trip.writer, trip.reader) for trip in found}


@pytest.mark.parametrize("name", SELECTION)
def test_every_reader_finds_what_was_written(name, tmp_path):
    volume, structure, patient = MADE[name](tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    read = compare(name, volume, structure, patient, out)
    assert {writer for writer, _ in read} == set(round_trips.WRITERS)
    assert ("seg", "dcmqi") in read
    assert ("sr", "highdicom") in read


def test_all_kinds_of_reader_are_asked():
    assert {reader for readers in READERS.values() for reader in readers} >= {
        *("voxmetry", "voxmetry alone", "dcmqi", "highdicom", "SimpleITK", "matplotlib", "pydicom"),
    }


@pytest.mark.real_data
@pytest.mark.parametrize("folder", ["dicom-conversion/philips", "dicom-conversion/siemens", "dicom-rtstruct"])
def test_real_series_too(folder, real_data, tmp_path):
    for number, (name, volume) in enumerate(at_hand(real_data / folder)):
        out = tmp_path / str(number)
        out.mkdir()
        compare(name, volume, "liver", "", out)
