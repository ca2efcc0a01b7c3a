from __future__ import annotations

import pytest

from voxmetry.errors import InputError
from voxmetry.measurement.match_files import match_files


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "p", tmp_path / "r"


def test_names_without_suffix_are_matched_and_leftovers_listed(folders):
    p, r = folders
    touch(p, "b.nii.gz", "a.nrrd", "only_p.nii", "notes.txt", ".a.nii.gz", ".hidden/c.nii.gz")
    touch(r, "a.nii.gz", "b.nii.gz", "only_r.mha", "dataset.json")
    matched = match_files(p, r)
    assert [pair.case for pair in matched.pairs] == ["a", "b"]
    assert (matched.pairs[0].prediction.name, matched.pairs[0].reference.name) == ("a.nrrd", "a.nii.gz")
    assert (matched.unmatched_predictions, matched.unmatched_references) == (("only_p",), ("only_r",))


def test_a_study_is_called_after_its_folder_and_subfolders_count(folders):
    p, r = folders
    touch(p, "case_1/seg.nii.gz", "site/case_2.nii.gz")
    touch(r, "case_1.nii.gz", "site/case_2.nii.gz")
    assert [pair.case for pair in match_files(p, r).pairs] == ["case_1", "site/case_2"]


def test_a_name_with_dots_keeps_them(folders):
    p, r = folders
    touch(p, "case.1.2.nii.gz"), touch(r, "case.1.2.nrrd")
    assert match_files(p, r).pairs[0].case == "case.1.2"


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (["a.nii.gz", "a.nrrd"], ["a.nii.gz"], "two prediction files of the case a"),
        (["a.nii.gz"], ["b.nii.gz"], "no name in both"),
        ([f"p{n}.nii.gz" for n in range(7)], ["b.nii.gz"], "and 2 more"),
        ([], ["b.nii.gz"], "no folder"),
    ],
)
def test_what_cannot_be_matched_is_refused(folders, ours, theirs, message):
    p, r = folders
    touch(p, *ours), touch(r, *theirs)
    with pytest.raises(InputError, match=message):
        match_files(p, r)
