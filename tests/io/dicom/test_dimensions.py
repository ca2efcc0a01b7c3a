"""Files that hold several volumes: told apart by the standard's dimensions and functional groups, each one stack."""

from __future__ import annotations

import copy
import itertools
import shutil

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage

from dcm2niix_oracle import DCM2NIIX, assert_same_volumes
from frames import item, merge, nested, stacked
from voxmetry import list_series, read_volume
from voxmetry.io import read_series


def mr_type(*values, component=None):
    more = {"ComplexImageComponent": component} if component else {}
    return item("MRImageFrameTypeSequence", FrameType=list(values), **more)


def echo(time):
    return item("MREchoSequence", EffectiveEchoTime=time)


def moment(number):
    return item("FrameContentSequence", TemporalPositionIndex=number)


def labelled(context):
    return item("MRArterialSpinLabelingSequence", ASLContext=context)


def diffusion(b_value, direction=None, how="DIRECTIONAL"):
    inner = Dataset()
    inner.DiffusionBValue, inner.DiffusionDirectionality = float(b_value), how
    if direction is not None:
        inner.DiffusionGradientDirectionSequence = [Dataset()]
        inner.DiffusionGradientDirectionSequence[0].DiffusionGradientOrientation = [float(x) for x in direction]
    return nested("MRDiffusionSequence", inner)


DIXON = ("WATER", "FAT", "IN_PHASE", "OUT_OF_PHASE")
DIRECTIONS = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
MAGNITUDE = ("ORIGINAL", "PRIMARY", "M", "NONE")

VOLUMES = {
    "Dixon": (
        [mr_type("DERIVED", "PRIMARY", "DIXON", kind) for kind in DIXON],
        [{"Frame Type": f"DERIVED\\PRIMARY\\DIXON\\{kind}"} for kind in DIXON],
    ),
    "magnitude, phase, real and imaginary": (
        [mr_type(*MAGNITUDE, component=x) for x in ("MAGNITUDE", "PHASE", "REAL", "IMAGINARY")],
        [{"Complex Component": x} for x in ("MAGNITUDE", "PHASE", "REAL", "IMAGINARY")],
    ),
    "directions": (
        [diffusion(0, how="NONE"), *(diffusion(1000, each) for each in DIRECTIONS), diffusion(1000, how="ISOTROPIC")],
        [
            {"b-value": "0.0", "Gradient Direction": "none"},
            *(
                {"b-value": "1000.0", "Gradient Direction": "\\".join(map(str, map(float, each)))}
                for each in DIRECTIONS
            ),
            {"b-value": "1000.0", "Gradient Direction": "none"},
        ],
    ),
    "label and control": (
        [merge(labelled(x), moment(n)) for n in (1, 2, 3) for x in ("LABEL", "CONTROL")],
        [{"Temporal Position": str(n), "ASL Context": x} for n in (1, 2, 3) for x in ("LABEL", "CONTROL")],
    ),
    "echoes of magnitude and phase at two times": (
        [
            merge(moment(n), echo(time), mr_type(*MAGNITUDE, component=x))
            for n in (1, 2)
            for time in (2.5, 5.0)
            for x in ("MAGNITUDE", "PHASE")
        ],
        [
            {"Temporal Position": str(n), "Echo Time": time, "Complex Component": x}
            for n in (1, 2)
            for time in ("2.5", "5.0")
            for x in ("MAGNITUDE", "PHASE")
        ],
    ),
}


@pytest.mark.parametrize("name", VOLUMES)
def test_what_the_functional_groups_say(files, tmp_path, name):
    groups, differs = VOLUMES[name]
    path = stacked(files, tmp_path / "e" / "x", [(group, ()) for group in groups])
    infos = list_series(path.parent)
    assert [info.differs for info in infos] == differs
    assert {(info.verdict, info.n_slices, info.n_volumes) for info in infos} == {("regular", 11, len(groups))}
    plain = read_volume(files[0].parent)
    for number, info in enumerate(infos):
        volume = read_series(info)
        np.testing.assert_array_equal(volume.array, plain.array + number)
        assert volume.geometry.is_same(plain.geometry)


@pytest.mark.skipif(DCM2NIIX is None, reason="dcm2niix is not installed")
@pytest.mark.parametrize("name", ["Dixon", "magnitude, phase, real and imaginary", "directions"])
def test_the_volumes_of_dcm2niix(files, tmp_path, name):
    """It stacks in one file what it cannot name, and leaves the average of the directions out: so four of each."""
    groups = VOLUMES[name][0][:4]
    index = [(number,) for number, _ in enumerate(groups, start=1)]
    path = stacked(
        files, tmp_path / "e" / "x", list(zip(groups, index, strict=True)), pointers=[(0x00209128, 0x00209111)]
    )
    assert_same_volumes(path.parent, tmp_path / "out", len(groups))


def test_as_many_elements_as_it_takes(files, tmp_path):
    choices = [
        [moment(n) for n in (1, 2)],
        [echo(time) for time in (2.5, 5.0)],
        [mr_type(*MAGNITUDE, component=x) for x in ("MAGNITUDE", "PHASE")],
        [labelled(x) for x in ("LABEL", "CONTROL")],
        [diffusion(b, (0, 0, 1)) for b in (0, 50)],
    ]
    volumes = [(merge(*chosen), ()) for chosen in itertools.product(*choices)]
    infos = list_series(stacked(files, tmp_path / "e" / "x", volumes).parent)
    assert len(infos) == 32
    assert {(info.verdict, info.n_slices, len(info.differs)) for info in infos} == {("regular", 11, 5)}
    assert len({tuple(info.differs.items()) for info in infos}) == 32
    assert sorted(int(read_series(info).array.min()) for info in infos) == list(range(32))


def test_a_private_dimension_with_no_element_of_its_own(files, tmp_path):
    """Some makers index a dimension that only they know: the index alone tells the volumes apart."""
    volumes = [(Dataset(), (number,)) for number in (1, 4, 2)]
    path = stacked(files, tmp_path / "e" / "x", volumes, pointers=[(0x20051011, 0x2005140F)])
    infos = list_series(path.parent)
    assert [info.differs for info in infos] == [{"Dimension 2": "1"}, {"Dimension 2": "4"}, {"Dimension 2": "2"}]
    assert [int(read_series(info).array.min()) for info in infos] == [0, 1, 2]


def test_a_dimension_is_named_by_what_changes_as_it_does(files, tmp_path):
    volumes = [(echo(time), (number,)) for number, time in enumerate((2.5, 5.0, 7.5))]
    path = stacked(files, tmp_path / "e" / "x", volumes, pointers=[(0x20051011, 0x2005140F)])
    assert [info.differs for info in list_series(path.parent)] == [
        {"Echo Time": time} for time in ("2.5", "5.0", "7.5")
    ]


def test_files_that_each_hold_two_echoes_of_a_time_point(files, tmp_path):
    for number in (1, 2):
        stacked(
            files,
            tmp_path / "e" / f"{number}",
            [(echo(2.5), (1,)), (echo(5.0), (2,))],
            pointers=[(0x00189082, 0x00189114)],
            InstanceNumber=number,
            SOPInstanceUID=f"1.9.{number}",
        )
    infos = list_series(tmp_path / "e")
    assert sorted(tuple(info.differs.items()) for info in infos) == [
        (("Echo Time", time), ("Instance Number", number)) for time in ("2.5", "5.0") for number in ("1", "2")
    ]
    assert {(info.verdict, info.n_files) for info in infos} == {("regular", 1)}


def test_two_stacks_that_lie_between_each_other(files, tmp_path):
    """Half a step apart they would make one regular grid; the standard says that a stack is a volume of its own."""
    shift = np.subtract(*(pydicom.dcmread(file).ImagePositionPatient for file in files[1::-1])) / 2
    first = stacked(files, tmp_path / "e" / "1", [(item("FrameContentSequence", StackID="1"), ())])
    second = stacked(files, tmp_path / "f" / "2", [(item("FrameContentSequence", StackID="2"), ())])
    dataset = pydicom.dcmread(second)
    dataset.SOPInstanceUID = "1.9.2"
    for group in dataset.PerFrameFunctionalGroupsSequence:
        place = group.PlanePositionSequence[0]
        place.ImagePositionPatient = [f"{x:.6f}" for x in np.add(place.ImagePositionPatient, shift)]
    dataset.save_as(first.with_name("2"))
    infos = list_series(first.parent)
    assert [(info.differs, info.n_slices, info.spacing_mm[2]) for info in infos] == [
        ({"Stack ID": "1"}, 11, 2.6),
        ({"Stack ID": "2"}, 11, 2.6),
    ]


def test_energies_and_kernels_of_an_enhanced_ct(files, tmp_path):
    kinds = [("Qr40", 70.0), ("Qr40", 140.0), ("Br64", 70.0)]
    volumes = [
        (
            merge(
                item("CTReconstructionSequence", ConvolutionKernel=kernel),
                item("CTXRayDetailsSequence", KVP=kvp),
                item("CTImageFrameTypeSequence", FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]),
            ),
            (),
        )
        for kernel, kvp in kinds
    ]
    path = stacked(files, tmp_path / "e" / "x", volumes, sop_class=EnhancedCTImageStorage, Modality="CT")
    assert [info.differs for info in list_series(path.parent)] == [
        {"Convolution Kernel": kernel, "KVP": str(kvp)} for kernel, kvp in kinds
    ]


def test_elements_of_a_converted_file(files, tmp_path):
    """Legacy Converted Enhanced MR keeps Echo Number where no functional group has it."""
    volumes = [(item("UnassignedPerFrameConvertedAttributesSequence", EchoNumbers=number), ()) for number in (1, 2)]
    path = stacked(files, tmp_path / "e" / "x", volumes, sop_class="1.2.840.10008.5.1.4.1.1.4.4")
    assert [info.differs for info in list_series(path.parent)] == [{"Echo Number": "1"}, {"Echo Number": "2"}]


def copies(files, change):
    """Copy the classic slices into several volumes; `change` sets what is in each (volume, place)."""
    originals = [pydicom.dcmread(file) for file in files]
    for file in files:
        file.unlink()
    for number, (place, original) in itertools.product(range(3), enumerate(originals)):
        dataset = copy.deepcopy(original)
        dataset.SOPInstanceUID = f"1.9.{number}.{place}"
        dataset.PixelData = (np.frombuffer(original.PixelData, "<i2") + number).astype("<i2").tobytes()
        change(dataset, number, place)
        dataset.save_as(files[0].parent / f"{number}-{place:02}.dcm", enforce_file_format=True)
    return files[0].parent


def ge_diffusion(dataset, number, _place):
    block = dataset.private_block(0x0043, "GEMS_PARM_01", create=True)
    block.add_new(0x39, "IS", [0 if number == 0 else 1_000_000_800, 8, 0, 0])
    block = dataset.private_block(0x0019, "GEMS_ACQU_01", create=True)
    for element, value in zip((0xBB, 0xBC, 0xBD), (0, number == 1, number == 2), strict=True):
        block.add_new(element, "DS", str(float(value)))


def ge_b_values(dataset, number, _place):
    block = dataset.private_block(0x0043, "GEMS_PARM_01", create=True)
    block.add_new(0x39, "IS", [(0, 50, 1_000_000_800)[number], 8, 0, 0])


def philips_labelling(dataset, number, _place):
    block = dataset.private_block(0x2005, "Philips MR Imaging DD 005", create=True)
    block.add_new(0x29, "CS", ("LABEL", "CONTROL", "LABEL")[number])
    dataset.TemporalPositionIdentifier = 1 + number // 2


def ge_phases(dataset, number, _place):
    dataset.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x2F, "SS", number)


def uih_repetitions(dataset, number, _place):
    dataset.private_block(0x0065, "Image Private Header", create=True).add_new(0x2C, "IS", str(number))


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (
            ge_diffusion,
            [
                {"Gradient Direction": "0\\0\\0"},
                {"Gradient Direction": "0\\1\\0"},
                {"Gradient Direction": "0\\0\\1"},
            ],
        ),
        (ge_b_values, [{"b-value": x} for x in ("0", "50", "800")]),
        (
            philips_labelling,
            [
                {"Temporal Position": "1", "ASL Context": "LABEL"},
                {"Temporal Position": "1", "ASL Context": "CONTROL"},
                {"Temporal Position": "2", "ASL Context": "LABEL"},
            ],
        ),
        (ge_phases, [{"Complex Component": x} for x in ("MAGNITUDE", "PHASE", "REAL")]),
        (uih_repetitions, [{"Repetition": x} for x in "012"]),
        (
            lambda dataset, number, place: setattr(dataset, "InstanceNumber", number * 11 + place + 1),
            [{"Order of Instance Number": x} for x in "123"],
        ),
        (
            lambda dataset, number, place: setattr(dataset, "InstanceNumber", place * 3 + number + 1),
            [{"Order of Instance Number": x} for x in "123"],
        ),
    ],
    ids=[
        "GE directions",
        "GE b-values",
        "Philips pCASL",
        "GE phases",
        "UIH repetitions",
        "GE fMRI by volume",
        "GE fMRI by place",
    ],
)
def test_what_makers_file_in_elements_of_their_own(files, change, differs):
    plain = read_volume(files[0].parent).array
    infos = list_series(copies(files, change))
    assert [info.differs for info in infos] == differs
    assert {(info.verdict, info.n_slices) for info in infos} == {("regular", 11)}
    for number, info in enumerate(infos):
        np.testing.assert_array_equal(read_series(info).array, plain + number)


def test_instance_numbers_without_an_order_tell_nothing(files):
    numbers = np.random.default_rng(0).permutation(33) + 1
    folder = copies(
        files, lambda dataset, number, place: setattr(dataset, "InstanceNumber", int(numbers[number * 11 + place]))
    )
    (info,) = list_series(folder)
    assert info.verdict == "duplicate"


def test_a_gap_between_two_files_is_no_second_volume(files, tmp_path):
    """Each file has an Instance Number of its own; a slice that is missing between them is still missing."""
    first = stacked(files[:5], tmp_path / "e" / "1", [(Dataset(), ())], InstanceNumber=1)
    second = stacked(files[6:], tmp_path / "f" / "2", [(Dataset(), ())], InstanceNumber=2, SOPInstanceUID="1.9.2")
    shutil.move(second, first.with_name("2"))
    (info,) = list_series(first.parent)
    assert info.verdict == "missing"
