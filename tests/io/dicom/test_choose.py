"""One series among several, never the first that comes."""

from __future__ import annotations

import pytest

from voxmetry.config import Range, SeriesRules
from voxmetry.core.records import SeriesInfo
from voxmetry.errors import SeriesError
from voxmetry.io import choose_series


def info(uid: str, modality: str | None = "MR", verdict: str = "regular", **more) -> SeriesInfo:
    return SeriesInfo(series_uid=uid, modality=modality, n_files=9, n_slices=9, verdict=verdict, **more)


CT, MR = info("1.1", "CT", spacing_mm=(0.976562, 0.976562, 3.27), description="abdomen"), info("1.2")
BROKEN = info("1.3", verdict="missing", reason="6 mm between a and b")
STRAY = info("", None, "unreadable", reason="damaged: c.dcm")


def test_the_only_one_that_can_be_read():
    assert choose_series([BROKEN, MR]) is MR


def test_the_only_one_of_the_modality():
    assert choose_series([CT, MR, BROKEN], modality="CT") is CT


def test_several_are_refused_with_a_list():
    with pytest.raises(SeriesError) as caught:
        choose_series([CT, MR, BROKEN])
    assert caught.value.found == (
        "2 series that could be taken:\n"
        "  1.1  CT 'abdomen', 9 slices at 0.9766 x 0.9766 x 3.27 mm: could be taken\n"
        "  1.2  MR, 9 slices: could be taken\n"
        "  1.3  MR, 9 slices: missing: 6 mm between a and b"
    )
    assert "--series" in caught.value.fix


def test_none_is_refused_with_the_reasons():
    with pytest.raises(SeriesError) as caught:
        choose_series([CT, BROKEN], modality="MR")
    assert caught.value.found.startswith("no series that could be taken:")
    assert "modality CT, not MR" in caught.value.found
    assert "missing: 6 mm" in caught.value.found
    assert caught.value.expected == "one series of modality MR that can be read"


SEG, PAGE = info("3.1", "SEG", "not an image"), info("3.2", "CT", "not an image")
TILTED = info("3.3", "CT", "tilted")


@pytest.mark.parametrize(
    ("found", "rules", "advice"),
    [
        ([SEG], None, "voxmetry measure and voxmetry convert"),
        ([PAGE], None, "name the folder of the images"),
        ([PAGE, TILTED], None, "--resample-tilt"),
        ([BROKEN], None, "--allow-uneven"),
        ([CT, BROKEN], SeriesRules(description=("liver",)), "--series 1.1"),
        ([STRAY], None, "export the series again"),
    ],
)
def test_what_to_do_fits_what_is_there(found, rules, advice):
    with pytest.raises(SeriesError) as caught:
        choose_series(found, rules=rules)
    assert advice in caught.value.fix


def test_the_named_one():
    assert choose_series([CT, MR, STRAY], series_uid="1.2") is MR


@pytest.mark.parametrize(
    ("uid", "modality", "words"),
    [
        ("9.9", None, "no series 9.9"),
        ("1.3", None, "series 1.3 cannot be taken"),
        ("1.1", "MR", "modality CT, not MR"),
    ],
)
def test_a_named_one_that_cannot_be_taken(uid, modality, words):
    with pytest.raises(SeriesError, match=words):
        choose_series([CT, MR, BROKEN], series_uid=uid, modality=modality)


def test_damaged_files_are_in_the_way_until_the_series_is_named():
    with pytest.raises(SeriesError, match="9 damaged files beside 1 series"):
        choose_series([MR, STRAY])
    with pytest.raises(SeriesError, match=r"\(no series UID\)  \?, 9 slices: unreadable: damaged: c\.dcm"):
        choose_series([STRAY], modality="MR")


def test_a_series_with_a_blank_uid_is_no_stray():
    blank = info("")
    assert choose_series([blank], modality="MR") is blank


THIN = info("2.1", "CT", description="Abdomen arteriell 1.0 B30f", phase="arterial", thickness_mm=1.0, plane="axial")
THICK = info("2.2", "CT", description="Abdomen portal 5.0 B30f", phase="portal venous", thickness_mm=5.0, plane="axial")
LUNG = info("2.3", "CT", description="Thorax 1.0 B70f", body_part="CHEST", thickness_mm=1.0, plane="oblique coronal")


@pytest.mark.parametrize(
    ("rules", "chosen"),
    [
        (SeriesRules(phase=("portal venous",), plane=("axial",)), THICK),
        (SeriesRules(thickness_mm=Range(low=0, high=2), description=("abdomen",)), THIN),
        (SeriesRules(plane=("coronal",)), LUNG),
        (SeriesRules(not_description=("abdomen",)), LUNG),
        (SeriesRules(body_part=("Abdomen",), phase=("arterial",)), THIN),
    ],
)
def test_rules_choose(rules, chosen):
    assert choose_series([THIN, THICK, LUNG], modality="CT", rules=rules) is chosen


def test_ties_are_shown_with_the_rule_that_each_other_breaks():
    with pytest.raises(SeriesError) as caught:
        choose_series([THIN, THICK, LUNG], rules=SeriesRules(thickness_mm=Range(low=0.5, high=1.5)))
    assert caught.value.found.startswith("2 series that could be taken")
    assert "slices of 5 mm, not 0.5 to 1.5" in caught.value.found


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (SeriesRules(description=("liver", "hepat")), "its description matches none of liver, hepat"),
        (SeriesRules(not_description=("B30", "B70")), "its description matches B30, which is not wanted"),
        (SeriesRules(body_part=("ABDOMEN",), phase=("delayed",)), "body part CHEST, not ABDOMEN"),
        (SeriesRules(phase=("delayed",), plane=("axial",)), "portal venous phase, not delayed"),
        (SeriesRules(plane=("sagittal",)), "oblique coronal slices, not sagittal"),
    ],
)
def test_a_broken_rule_is_named(rules, words):
    with pytest.raises(SeriesError, match=words):
        choose_series([THIN, THICK, LUNG], rules=rules)


def test_a_named_series_need_not_keep_the_rules():
    assert choose_series([THIN, THICK], series_uid="2.1", rules=SeriesRules(phase=("delayed",))) is THIN


def test_a_pattern_that_is_none():
    with pytest.raises(ValueError, match="is no regular expression"):
        SeriesRules(description=("(",))


def test_a_volume_whose_siblings_cannot_be_read_must_be_named():
    whole = info("3.1", volume=1, n_volumes=2, differs={"Echo Time": "3"})
    lost = info("3.1", verdict="missing", reason="a gap", volume=2, n_volumes=2, differs={"Echo Time": "6"})
    with pytest.raises(SeriesError, match=r"one of the 2 volumes that series 3\.1 mixes") as caught:
        choose_series([whole, lost])
    assert "3.1#2  MR, 9 slices (Echo Time 6): missing: a gap" in caught.value.found
    assert choose_series([whole, lost], series_uid="3.1#1") is whole
