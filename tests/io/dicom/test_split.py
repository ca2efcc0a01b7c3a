"""Series that mix several volumes: each becomes one, and what is one volume stays whole."""

from __future__ import annotations

import shutil

import numpy as np
import pydicom
import pytest

from voxmetry import list_series, read_volume
from voxmetry.errors import SeriesError
from voxmetry.io.dicom.read.split import in_words

NORMAL_STEP = 2.6


@pytest.fixture
def double(files, edit):
    """Copy the eleven slices into the same series; a function of (copy, index) gives what is set in each slice."""

    def make(change, copies=2, shift=0.0):
        original = [pydicom.dcmread(file) for file in files]
        normal = np.subtract(original[1].ImagePositionPatient, original[0].ImagePositionPatient) / NORMAL_STEP
        for copy in range(copies):
            for index, file in enumerate(files):
                path = file if copy == 0 else file.with_name(f"copy{copy}-{file.name}")
                shutil.copy(file, path) if copy else None
                place = np.add(original[index].ImagePositionPatient, copy * shift * normal)
                edit(
                    path,
                    lambda data, copy=copy: data.__setitem__("PixelData", _brighter(data, copy)),
                    SOPInstanceUID=f"1.9.{copy}.{index}",
                    ImagePositionPatient=[f"{x:.6f}" for x in place],
                    **change(copy, index),
                )
        return files[0].parent

    return make


def _brighter(data, copy):
    element = data["PixelData"]
    element.value = (np.frombuffer(data.PixelData, "<i2") + copy).astype("<i2").tobytes()
    return element


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (lambda copy, _: {"AcquisitionNumber": copy + 1}, [{"Acquisition Number": "1"}, {"Acquisition Number": "2"}]),
        (lambda copy, _: {"EchoTime": (4.92, 7.38)[copy]}, [{"Echo Time": "4.92"}, {"Echo Time": "7.38"}]),
        (lambda copy, _: {"DiffusionBValue": (0.0, 1000.0)[copy]}, [{"b-value": "0.0"}, {"b-value": "1000.0"}]),
        (lambda copy, _: {"TriggerTime": copy * 40}, [{"Trigger Time": "0.0"}, {"Trigger Time": "40.0"}]),
        (
            lambda copy, _: {"TemporalPositionIdentifier": copy},
            [{"Temporal Position": "0"}, {"Temporal Position": "1"}],
        ),
        (
            lambda copy, _: {"ImageType": ["ORIGINAL", "PRIMARY", "MP"[copy]]},
            [{"Image Type": "ORIGINAL\\PRIMARY\\M"}, {"Image Type": "ORIGINAL\\PRIMARY\\P"}],
        ),
        (
            lambda copy, index: {"AcquisitionDate": "20200101", "AcquisitionTime": f"1200{copy * 30 + index:02}"},
            [{"Acquisition Time": "+0 s"}, {"Acquisition Time": "+30 s"}],
        ),
    ],
)
def test_two_volumes_at_the_same_places(double, change, differs):
    folder = double(change)
    infos = list_series(folder)
    assert [info.differs for info in infos] == differs
    assert [(info.verdict, info.n_slices, info.n_files, info.n_volumes) for info in infos] == [
        ("regular", 11, 11, 2)
    ] * 2
    with pytest.raises(SeriesError, match="2 series that could be taken") as caught:
        read_volume(folder)
    assert in_words(differs[1]).split()[-1] in caught.value.found.replace("\\", "/")
    first, second = (read_volume(folder, series=f"1.2.3#{number}") for number in (1, 2))
    np.testing.assert_array_equal(second.array, first.array + 1)
    assert first.geometry.is_same(second.geometry)


def test_echoes_of_several_time_points_take_two_elements(double):
    folder = double(lambda copy, _: {"EchoTime": (3, 3, 6, 6)[copy], "AcquisitionNumber": copy % 2}, copies=4)
    infos = list_series(folder)
    assert len(infos) == 4
    assert [info.differs for info in infos] == [
        {"Acquisition Number": str(number), "Echo Time": time} for time in ("3.0", "6.0") for number in (0, 1)
    ]


def test_phases_that_lie_between_each_other_are_not_one_volume(double):
    """Half a step apart, two phases would make one regular grid, with every other slice from another time."""
    folder = double(lambda copy, _: {"ContrastBolusAgent": ("none", "iodine")[copy]}, shift=NORMAL_STEP / 2)
    infos = list_series(folder)
    assert [(info.differs["Contrast Agent"], info.n_slices, info.spacing_mm[2]) for info in infos] == [
        ("none", 11, 2.6),
        ("iodine", 11, 2.6),
    ]


@pytest.mark.parametrize(("modality", "count"), [("CT", 2), ("MR", 1)])
def test_every_other_slice_of_its_own_acquisition(double, modality, count):
    """In CT a second pass; in MR the usual way to acquire one volume."""
    folder = double(
        lambda copy, _: {"AcquisitionNumber": copy, "Modality": modality, "SOPClassUID": CLASSES[modality]},
        shift=NORMAL_STEP / 2,
    )
    assert [info.verdict for info in list_series(folder)] == ["regular"] * count


CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}


def test_acquisitions_one_after_the_other_stay_one_volume(files, edit):
    for index, file in enumerate(files):
        edit(file, AcquisitionNumber=index // 3, InstanceNumber=11 - index)
    (info,) = list_series(files[0].parent)
    assert (info.verdict, info.n_slices, info.volume, info.key) == ("regular", 11, None, "1.2.3")


def test_two_stacks_with_a_gap_between_them(files, edit):
    for index, file in enumerate(files):
        edit(file, AcquisitionNumber=index // 5)
    files[4].unlink()
    files[10].unlink()
    infos = list_series(files[0].parent)
    assert [(info.verdict, info.n_slices) for info in infos] == [("regular", 4), ("regular", 5)]


def test_a_phase_that_lost_a_slice_keeps_its_verdict(double):
    folder = double(lambda copy, _: {"AcquisitionNumber": copy})
    (folder / "copy1-0004.dcm").unlink()
    infos = list_series(folder)
    assert [info.verdict for info in infos] == ["regular", "missing"]
    with pytest.raises(SeriesError, match=r"one of the 2 volumes that series 1\.2\.3 mixes; others cannot be read"):
        read_volume(folder)
    assert read_volume(folder, series="1.2.3#1").array.shape == (13, 17, 11)


def test_times_that_overlap_tell_nothing(double):
    folder = double(
        lambda copy, index: {"AcquisitionDate": "20200101", "AcquisitionTime": f"1200{copy * 5 + index:02}"}
    )
    (info,) = list_series(folder)
    assert info.verdict == "duplicate"


def test_two_orientations(files, tmp_path, volume):
    from voxmetry.io import write_series

    for file in write_series(volume, tmp_path / "s", modality="MR", plane="coronal", series_uid="1.2.3"):
        shutil.copy(file, files[0].parent / f"c{file.name}")
    infos = list_series(files[0].parent)
    assert [(info.verdict, info.n_slices) for info in infos] == [("regular", 11), ("regular", 17)]
    assert [info.plane for info in infos] == ["oblique axial", "oblique coronal"]
