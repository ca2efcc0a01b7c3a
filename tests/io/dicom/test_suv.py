"""PET activity to SUV: by hand, by each maker's way, and what is missing named."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from voxmetry import read_volume
from voxmetry.errors import SeriesError
from voxmetry.flags.study import flag_source
from voxmetry.io.dicom.read.moments import both_of, clock_of, day_of, offset_of
from voxmetry.workflows.inputs import describe

HALF_LIFE = 6586.2
DOSE = 370e6
WEIGHT_KG, HEIGHT_M = 80.0, 1.8


@pytest.fixture
def pet(files, edit):
    """The phantom as PET, scanned one hour after the injection; keyword arguments replace elements, None removes."""

    def make(
        *,
        dose=DOSE,
        half_life=HALF_LIFE,
        nuclide=None,
        private=None,
        each=None,
        injected="100000",
        moment=None,
        **elements,
    ):
        item = Dataset()
        for keyword, value in (
            ("RadionuclideTotalDose", dose),
            ("RadionuclideHalfLife", half_life),
            ("RadiopharmaceuticalStartTime", injected),
            ("RadiopharmaceuticalStartDateTime", moment),
        ):
            if value is not None:
                setattr(item, keyword, value)
        if nuclide is not None:
            item.RadionuclideCodeSequence = [Dataset()]
            item.RadionuclideCodeSequence[0].CodeMeaning = nuclide
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


EXPECTED = WEIGHT_KG * 1000 / LEFT
NO_DATES = {"SeriesDate": "", "AcquisitionDate": ""}


@pytest.mark.parametrize(
    ("elements", "source", "assumed"),
    [
        ({"injected": "1000"}, "Radiopharmaceutical Start Time", ()),
        ({"injected": "10"}, "Radiopharmaceutical Start Time", ()),
        ({"injected": None, "moment": "20200101100000"}, "Radiopharmaceutical Start DateTime", ()),
        ({"injected": None, "moment": "202001011000"}, "Radiopharmaceutical Start DateTime", ()),
        (
            {"injected": None, "moment": "20200101080000+0000", "TimezoneOffsetFromUTC": "+0200"},
            "Radiopharmaceutical Start DateTime",
            (),
        ),
        (
            {"moment": "20200101080000.00+0000", "TimezoneOffsetFromUTC": "+0200"},
            "Radiopharmaceutical Start DateTime",
            (),
        ),
        (
            {"injected": None, "moment": "20191231223000-1130", "TimezoneOffsetFromUTC": "+0000"},
            "Radiopharmaceutical Start DateTime",
            (),
        ),
        # The same injection on both clocks says how far they are apart.
        ({"moment": "20200101080000+0000"}, "Radiopharmaceutical Start DateTime", ()),
        (
            {"injected": None, "moment": "20200101100000+0200"},
            "Radiopharmaceutical Start DateTime",
            ("the offset from UTC of Radiopharmaceutical Start DateTime for the scan as well",),
        ),
        (
            NO_DATES,
            "Radiopharmaceutical Start Time",
            ("the times of day alone, since Radiopharmaceutical Start Time and Series Time has no usable date",),
        ),
        ({"AcquisitionDate": ""}, "Radiopharmaceutical Start Time", ()),
        (
            {"injected": None, "moment": "19000101100000"},
            "Radiopharmaceutical Start DateTime",
            ("the times of day alone, since Radiopharmaceutical Start DateTime has no usable date",),
        ),
        (
            {"AcquisitionDate": None, "each": lambda i: {"AcquisitionDateTime": f"2020010111{i:02}00"}},
            "Radiopharmaceutical Start Time",
            (),
        ),
        ({"PatientWeight": 80000}, "Radiopharmaceutical Start Time", ("Patient's Weight taken as g in place of kg",)),
        ({"dose": 370}, "Radiopharmaceutical Start Time", ("Radionuclide Total Dose taken as MBq in place of Bq",)),
        ({"dose": 370e3}, "Radiopharmaceutical Start Time", ("Radionuclide Total Dose taken as kBq in place of Bq",)),
        ({"PatientSize": 180}, "Radiopharmaceutical Start Time", ()),
        ({"half_life": 6588.0 - 1.8, "nuclide": "^18^Fluorine"}, "Radiopharmaceutical Start Time", ()),
        (
            {"half_life": HALF_LIFE / 60, "nuclide": "F-18"},
            "Radiopharmaceutical Start Time",
            ("Radionuclide Half Life taken as min in place of s",),
        ),
        (
            {"half_life": HALF_LIFE * 1000, "nuclide": "18F"},
            "Radiopharmaceutical Start Time",
            ("Radionuclide Half Life taken as ms in place of s",),
        ),
    ],
)
def test_one_hour_however_it_is_written(files, pet, elements, source, assumed):
    volume = read_volume(pet(**elements))
    np.testing.assert_allclose(volume.array, stored(files) * EXPECTED, rtol=1e-6)
    basis = volume.source.suv
    assert (basis.elapsed_s, basis.sources["injection"], basis.assumptions) == (3600, source, assumed)
    assert basis.factor == pytest.approx(EXPECTED)
    assert [flag.code for flag in flag_source(volume.source)] == ["suv_assumption"] * len(assumed)
    assert all(words in volume.source.processing[0] for words in assumed)


def test_a_size_in_centimetres(files, pet):
    volume = read_volume(pet(PatientSize=180), suv="bsa")
    np.testing.assert_allclose(volume.array, stored(files) * SURFACE_M2 * 1e4 / LEFT, rtol=1e-6)
    assert volume.source.suv.assumptions == ("Patient's Size taken as cm in place of m",)


def test_an_acquisition_after_midnight_without_its_date(files, pet):
    """Its clock shows less than the series' does; it is later all the same."""
    folder = pet(
        injected="225900",
        SeriesTime="235900",
        AcquisitionDate="",
        each=lambda i: {"AcquisitionTime": f"00{i:02}00" if i else "235900"},
    )
    np.testing.assert_allclose(read_volume(folder).array, stored(files) * EXPECTED, rtol=1e-6)


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        (
            {"injected": None, "moment": "20200101080000+0000"},
            "is in UTC, and nothing says the time zone of the scan (Timezone Offset From UTC)",
        ),
        ({"moment": "20200101103000"}, "Start DateTime and Radiopharmaceutical Start Time are 1800 s apart"),
        ({"moment": "20200101081700+0000"}, "are 120 s apart"),
        (
            NO_DATES | {"injected": "230000"},
            "43200 s after the injection by the times of day alone, which is longer",
        ),
        (
            NO_DATES | {"half_life": 282276.0},
            "3600 s after the injection by the times of day alone, which may be days",
        ),
        ({"half_life": 282276.0}, "which may be days longer"),
        ({"injected": None, "moment": "20191230100000"}, "the scan began 176400 s after the injection"),
        ({"PatientWeight": 0.08}, "Patient's Weight 0.08 is implausible in kg"),
        ({"PatientWeight": 9e6}, "Patient's Weight 9e+06 is implausible in kg"),
        ({"PatientWeight": 12, "PatientSize": 1.8}, "Patient's Weight 12 is implausible in kg"),
        ({"dose": 10}, "Radionuclide Total Dose 10 is implausible in Bq and could be MBq or mCi"),
        ({"half_life": 4062.6, "nuclide": "^18^Fluorine"}, "Half Life of ^18^Fluorine 4062.6 is implausible in s"),
        ({"dose": 1e12}, "Radionuclide Total Dose 1e+12 is implausible in Bq"),
        ({"RescaleSlope": "1000000"}, "times the activity that was left of the injected dose"),
    ],
)
def test_what_cannot_be_is_refused(pet, elements, words):
    folder = pet(**elements)
    with pytest.raises(SeriesError) as caught:
        read_volume(folder)
    assert words in caught.value.found
    assert read_volume(folder, suv="none").unit == "Bq/mL"


def test_a_size_that_nobody_has(pet):
    folder = pet(PatientSize=4)
    assert read_volume(folder).unit == "SUVbw"
    with pytest.raises(SeriesError, match=r"Patient's Size 4 is implausible in m"):
        read_volume(folder, suv="lbm")


def test_the_result_says_what_was_taken_from_where(pet, tmp_path):
    volume = read_volume(pet())
    told = describe(volume, tmp_path / "study", SimpleNamespace(name="pet", modality="PT"))
    record = told.model_dump(mode="json")["suv"]
    assert record["sources"] == {
        "activity": "Units BQML",
        "dose": "Radionuclide Total Dose",
        "body": "Patient's Weight",
        "half-life": "Radionuclide Half Life",
        "injection": "Radiopharmaceutical Start Time",
        "scan": "Series Date and Time",
    }
    assert (record["kind"], record["elapsed_s"], record["half_life_s"]) == ("bw", 3600, HALF_LIFE)
    assert read_volume(pet(), suv="none").source.suv is None


@pytest.mark.parametrize("value", ["", "24", "1260", "9:00", "abc", "090061.5", "0900000"])
def test_what_is_no_time_of_day(value):
    assert clock_of(value) is None


@pytest.mark.parametrize("value", ["20200230", "2020", "18991231", "00000000", "2020-01-01"])
def test_what_is_no_date(value):
    assert day_of(value) is None


def test_a_date_alone_is_no_moment():
    assert both_of("20200101", None, "x") is None
    assert both_of("20200101+0200", None, "x") is None
    assert offset_of("+02") is None
    assert both_of("2020010109-0330", 7200.0, "x").offset_s == -12600
