"""Two time points that are one, of two patients, or in the wrong order."""

import dataclasses

import numpy as np
import pydicom
import pytest

import phantoms
from voxmetry import Segmentation, read_volume
from voxmetry.flags.time_points import flag_time_points
from voxmetry.io import write_series
from voxmetry.measurement.follow_up import TimePoint

GRID = phantoms.geometry(shape=(12, 14, 6), degrees=(0, 0, 0))


def image(folder, seed: int, **header):
    write_series(phantoms.volume(GRID, seed=seed), folder, modality="MR")
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        for name, value in header.items():
            setattr(dataset, name, value)
        dataset.save_as(path)
    return read_volume(folder)


def outlined(at: int) -> Segmentation:
    mask = np.zeros(GRID.shape, np.uint8)
    mask[at : at + 3, 4:8, 2:4] = 4
    return Segmentation(mask, GRID, phantoms.segmentation().labels)


@pytest.mark.parametrize(
    ("before", "now", "codes"),
    [
        ({"PatientID": "A", "StudyDate": "20250101"}, {"PatientID": "A", "StudyDate": "20250401"}, []),
        ({"PatientID": "A", "StudyDate": "20250401"}, {"PatientID": "a ", "StudyDate": "20250101"}, ["wrong_order"]),
        ({"PatientID": "Q7", "StudyDate": "20251231"}, {"PatientID": "Z9", "StudyDate": "20260101"}, ["other_patient"]),
        ({"PatientID": "", "StudyDate": ""}, {"PatientID": "Z9", "StudyDate": "20260101"}, []),
    ],
)
def test_headers_tell_patient_and_order_and_the_words_hold_none_of_it(before, now, codes, tmp_path):
    points = [
        TimePoint(outlined(number), image(tmp_path / str(number), number, **header))
        for number, header in enumerate((before, now))
    ]
    flags = flag_time_points(*points)
    assert [flag.code for flag in flags] == codes
    assert all(flag.severity == "review" for flag in flags)
    assert not any(value in flag.message for flag in flags for value in ("Q7", "Z9", "2025", "2026"))


def test_one_series_is_no_two_time_points(tmp_path):
    volume = image(tmp_path / "one", 1)
    (flag,) = flag_time_points(TimePoint(outlined(1), volume), TimePoint(outlined(3), volume))
    assert flag.code == "same_series"


def test_files_without_headers_are_compared_by_their_voxels():
    volume = phantoms.volume(GRID, seed=1)
    other = dataclasses.replace(volume, array=volume.array.copy())
    (flag,) = flag_time_points(TimePoint(outlined(1), volume), TimePoint(outlined(3), other))
    assert flag.code == "same_image"
    (flag,) = flag_time_points(TimePoint(outlined(1), None), TimePoint(outlined(1), None))
    assert flag.code == "same_segmentation"
    assert not flag_time_points(TimePoint(outlined(1), None), TimePoint(outlined(3), None))
