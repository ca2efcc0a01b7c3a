"""One series among several, never the first that comes."""

from __future__ import annotations

import pytest

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
