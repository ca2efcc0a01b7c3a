"""Results among what is read would be read with it the next time, or take its place: every verb refuses that folder."""

import numpy as np
import pytest

import cases
import phantoms
from voxmetry import Segmentation, save
from voxmetry.cli import run
from voxmetry.io import write_series


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an input of each kind."""
    folder = tmp_path_factory.mktemp("apart")
    cases.write_cases(folder / "data", 2)
    write_series(phantoms.volume(), folder / "dicom", modality="MR")
    grid, mask = phantoms.geometry(), np.zeros(phantoms.geometry().shape, np.uint8)
    mask[2:5, 2:5, 2:5] = 1
    for name in ("masks/liver", "masks/spleen", "a/case_1", "b/case_1", "c/case_1", "earlier/seg"):
        (folder / name).parent.mkdir(exist_ok=True)
        save(Segmentation(mask, grid, phantoms.segmentation().labels), folder / f"{name}.nii.gz")
    save(phantoms.volume(), folder / "image.nii.gz")
    return folder


SAME = "is the folder that is read"
BELOW = "which is read with all that is below it"
REPLACED = "is read, and would be replaced"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("compare a b -o a", SAME),
        ("compare a b -o b", SAME),
        ("compare a b --other-prediction c -o a/../c", SAME),
        ("compare a b --images data/images -o data/images", SAME),
        ("measure masks -o masks", SAME),
        ("measure earlier/seg.nii.gz --image dicom -o dicom", SAME),
        ("follow-up earlier a/case_1.nii.gz -o earlier", SAME),
        ("data check data -o data", SAME),
        ("data check data --predictions a -o a", SAME),
        ("evaluate data -m configs/models/otsu.yaml -o data", SAME),
        ("evaluate data -m configs/models/otsu.yaml -o data/labels", SAME),
        ("calibrate data -m hippocampus-mr -o data/images", SAME),
        ("train data -o data", SAME),
        ("train data -o data/labels", SAME),
        ("cohort plan a -m hippocampus-mr -o a", SAME),
        ("cohort run data -m hippocampus-mr -o data", SAME),
        ("annotate plan b --images a -o b", SAME),
        ("annotate plan b --images a -o a/work", BELOW),
        ("segment image.nii.gz -m hippocampus-mr --prior earlier -o earlier --overwrite", SAME),
        ("segment image.nii.gz -m hippocampus-mr --reference earlier/seg.nii.gz -o earlier --overwrite", REPLACED),
        ("segment earlier/seg.nii.gz -m hippocampus-mr -o earlier --overwrite", REPLACED),
        ("convert dicom dicom/copy --deidentify", BELOW),
        ("convert masks masks/all.nii.gz", SAME),
        ("convert masks masks/all.seg.nrrd", SAME),
        ("convert masks image.nii.gz --image image.nii.gz --overwrite", REPLACED),
    ],
)
def test_results_among_what_is_read_are_refused_before_any_work(words, said, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert run(words.split()) == 2
    assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_a_folder_inside_of_what_is_read_alone_takes_results(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert run(["compare", "a", "b", "-o", "a/results"]) in (0, 3)
    assert run(["compare", "a", "b", "-o", "a/results", "--overwrite"]) in (0, 3)
    assert (place / "a" / "results" / "comparison.csv").is_file()
