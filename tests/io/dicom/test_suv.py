"""PET activity to SUV: by hand, by each maker's way, and what is missing named."""

from __future__ import annotations

import math

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from voxmetry import read_volume
from voxmetry.errors import SeriesError

HALF_LIFE = 6586.2
DOSE = 370e6
WEIGHT_KG, HEIGHT_M = 80.0, 1.8


@pytest.fixture
def pet(files, edit):
    """The phantom as PET, scanned one hour after the injection; keyword arguments replace elements, None removes."""

    def make(*, dose=DOSE, half_life=HALF_LIFE, private=None, each=None, injected="100000", **elements):
        item = Dataset()
        for keyword, value in (
            ("RadionuclideTotalDose", dose),
            ("RadionuclideHalfLife", half_life),
            ("RadiopharmaceuticalStartTime", injected),
        ):
            if value is not None:
                setattr(item, keyword, value)
        whole = {
            "Modality": "PT",
            "SOPClassUID": "1.2.840.10008.5.1.4.1.1.128",
            "Units": "BQML",
            "CorrectedImage": ["ATTN", "DECY"],
            "DecayCorrection": "START",
            "PatientWeight": WEIGHT_KG,
            "PatientSize": HEIGHT_M,
            "PatientSex": "F",
            "SeriesDate": "20200101",
            "SeriesTime": "110000",
            "AcquisitionDate": "20200101",
            "RescaleSlope": "1",
            "RescaleIntercept": "0",
            "RadiopharmaceuticalInformationSequence": Sequence([item]),
        } | elements
        for index, file in enumerate(files):
            own = each(index) if each else {"AcquisitionTime": f"11{index:02}00"}
            present = {keyword: value for keyword, value in (whole | own).items() if value is not None}
            edit(file, private, **present)
        return files[0].parent

    return make


def stored(files):
    return np.stack([pydicom.dcmread(file).pixel_array.T for file in files], axis=2).astype(np.float64)


LEFT = DOSE * 2 ** (-3600 / HALF_LIFE)
LEAN_KG = 1.07 * WEIGHT_KG - 148 * (WEIGHT_KG / 180) ** 2
SURFACE_M2 = 0.007184 * WEIGHT_KG**0.425 * 180**0.725


@pytest.mark.parametrize(
    ("suv", "unit", "size"),
    [("bw", "SUVbw", WEIGHT_KG * 1000), ("lbm", "SUVlbm", LEAN_KG * 1000), ("bsa", "SUVbsa", SURFACE_M2 * 1e4)],
)
def test_activity_over_the_dose_left_at_the_start_of_the_scan(files, pet, suv, unit, size):
    volume = read_volume(pet(), suv=suv)
    np.testing.assert_allclose(volume.array, stored(files) * size / LEFT, rtol=1e-6)
    assert volume.unit == unit
    assert volume.source.processing == (f"{unit} from Bq/mL, dose decayed over 3600 s to the series' time",)


def test_a_dose_corrected_to_the_injection_is_not_decayed(files, pet):
    volume = read_volume(pet(DecayCorrection="ADMIN"))
    np.testing.assert_allclose(volume.array, stored(files) * WEIGHT_KG * 1000 / DOSE, rtol=1e-6)


def test_an_injection_before_midnight(files, pet):
    volume = read_volume(pet(injected="233000", SeriesTime="003000", each=lambda i: {"AcquisitionTime": f"0030{i:02}"}))
    np.testing.assert_allclose(volume.array, stored(files) * WEIGHT_KG * 1000 / LEFT, rtol=1e-6)


def test_ge_series_made_later_take_its_private_scan_time(files, pet):
    def private(dataset):
        dataset.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20200101110000.00")

    volume = read_volume(pet(private=private, SeriesTime="150000"))
    np.testing.assert_allclose(volume.array, stored(files) * WEIGHT_KG * 1000 / LEFT, rtol=1e-6)
    assert "GE's scan time" in volume.source.processing[0]


def test_a_series_made_later_takes_the_frames_times(files, pet):
    """Frames of 120 s, the reference time of each the moment of its mean activity since the start of the scan."""
    constant = math.log(2) / HALF_LIFE
    mean = math.log(constant * 120 / -math.expm1(-constant * 120)) / constant
    assert 59 < mean < 60

    def each(index):
        return {
            "AcquisitionTime": f"11{2 * index:02}00",
            "FrameReferenceTime": f"{(120 * index + mean) * 1000:.6f}",
            "ActualFrameDuration": "120000",
        }

    volume = read_volume(pet(each=each, SeriesTime="150000"))
    np.testing.assert_allclose(volume.array, stored(files) * WEIGHT_KG * 1000 / LEFT, rtol=1e-5)


@pytest.mark.parametrize(("element", "value"), [(0x00, "0.00025"), (0x09, "2.5")])
def test_philips_counts(files, pet, element, value):
    def private(dataset):
        dataset.private_block(0x7053, "Philips PET Private Group", create=True).add_new(element, "DS", value)

    volume = read_volume(pet(private=private, Units="CNTS"))
    factor = float(value) if element == 0 else float(value) * WEIGHT_KG * 1000 / LEFT
    np.testing.assert_allclose(volume.array, stored(files) * factor, rtol=1e-6)
    assert volume.unit == "SUVbw"


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"PatientWeight": None}, "without Patient's Weight"),
        ({"PatientWeight": 0}, "without Patient's Weight"),
        ({"dose": None, "half_life": None}, "without Radionuclide Total Dose; Radionuclide Half Life"),
        ({"injected": None}, "without Radiopharmaceutical Start Time"),
        ({"CorrectedImage": ["DECY"]}, "without ATTN in Corrected Image"),
        ({"DecayCorrection": "NONE"}, "without Decay Correction START or ADMIN"),
        ({"Units": "CNTS"}, "its values are counts, without the Philips SUV scale factor"),
        ({"Units": "PROPCPS"}, "its values are in PROPCPS, without Units BQML"),
        ({"Units": "GML", "SUVType": "LBM"}, "stored as SUV of type LBM, without SUVbw"),
        ({"SeriesTime": "150000"}, "the series' time is later than its acquisition"),
        ({"half_life": 60.0}, "the scan began 3600 s after the injection"),
    ],
)
def test_what_is_missing_is_named(pet, elements, words):
    folder = pet(**elements)
    with pytest.raises(SeriesError, match="SUV cannot be worked out") as caught:
        read_volume(folder)
    assert words in caught.value.found
    assert read_volume(folder, suv="none").unit in ("Bq/mL", "1")


def test_lean_body_mass_needs_height_and_sex(pet):
    with pytest.raises(SeriesError, match=r"Patient's Size; Patient's Sex"):
        read_volume(pet(PatientSize=None, PatientSex="O"), suv="lbm")


def test_no_date_and_no_patient_in_the_record(pet):
    text = read_volume(pet()).source.model_dump_json()
    assert not any(word in text for word in ("2020", "80.0", "370000000"))
