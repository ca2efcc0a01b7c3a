"""Names of structures and cases as names of files: each can be held by any file system, and apart from the others."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest

import cases
import phantoms
from voxmetry import LabelTable, Segmentation, read_segmentation, save
from voxmetry.core.text import file_names
from voxmetry.workflows.convert import Conversion, convert
from voxmetry.workflows.evaluate import evaluate

OTSU = Path(__file__).parents[2] / "configs" / "models" / "otsu.yaml"
ODD = ["Liver", "liver", "LIVER", "CON", "con", "nul.nii", "COM1", "a.", "a ", "a", "a/b", "a_b", "..", "x" * 300, "~"]
RESERVED = {"con", "prn", "aux", "nul", "com1", "lpt1"}


def require_apart(names):
    disk = [unicodedata.normalize("NFC", name).casefold() for name in names]
    assert len(set(disk)) == len(names), disk
    for name in names:
        assert name.split(".")[0].lower() not in RESERVED
        assert not name.startswith(".")
        assert not set('<>:"|?*\\/') & set(name)
        assert len(name.encode()) < 255


def test_names_that_a_disk_takes_for_one_get_files_of_their_own():
    names = [*ODD, "é", "e\u0301", "É", "a", "ß", "SS"]
    made = file_names(names)
    require_apart(made)
    assert not any(name.endswith((".", " ")) for name in made)
    assert made[:2] == ["Liver", "liver_2"]
    # What can be kept is, wherever it stands.
    assert made[names.index("a")] == "a"
    assert made[names.index("a_b")] == "a_b"
    assert file_names(["evaluation", "b"], taken=["Evaluation"]) == ["evaluation_2", "b"]


def test_a_mask_for_each_structure_whatever_it_is_called(tmp_path):
    names = [name for name in ODD if name == name.strip()]
    grid = phantoms.geometry(shape=(20, 4, 4))
    array = np.zeros(grid.shape, np.uint8)
    for value in range(1, len(names) + 1):
        array[value] = value
    table = LabelTable.from_names(dict(enumerate(names, start=1)))
    save(Segmentation(array, grid, table), tmp_path / "all.nii.gz")
    written = convert(tmp_path / "all.nii.gz", tmp_path / "masks", Conversion(split=True))
    require_apart([path.name for path in written])
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == sorted(path.name for path in written)
    back = read_segmentation(tmp_path / "masks")
    assert sorted(back.labels.names) == sorted(table.names)
    for label in table:
        assert (back.mask(label.name) == (array == label.value)).all()


@pytest.mark.parametrize("names", [("site/7", "SITE_7", "CON"), ("a.", "../../a", "A")])
def test_cases_of_a_manifest_are_evaluated_whatever_they_are_called(names, tmp_path):
    cases.write_cases(tmp_path / "data", len(names))
    rows = [f"{name},labels/case_{n}.nii.gz,images/case_{n}.nii.gz" for n, name in enumerate(names)]
    (tmp_path / "data" / "list.csv").write_text("\n".join(["case,label,mr", *rows]) + "\n")
    text = OTSU.read_text(encoding="utf-8").replace("bright, ", "front, ")
    (tmp_path / "otsu.yaml").write_text(text, encoding="utf-8")
    found, _ = evaluate(tmp_path / "data" / "list.csv", [tmp_path / "otsu.yaml"], tmp_path / "out")
    assert sorted(row.case for row in found.models[0].cohort.cases) == sorted(names)
    assert [row.error for row in found.models[0].cohort.cases] == [None] * len(names)
    (folder,) = (tmp_path / "out" / "predictions").iterdir()
    require_apart([path.name for path in folder.iterdir()])
    assert len(list(folder.iterdir())) == len(names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "otsu.yaml", "out"]


def test_a_mask_that_somebody_renamed_or_copied_is_called_as_its_file(tmp_path):
    grid = phantoms.geometry(shape=(6, 4, 4))
    for place, (file, name) in enumerate((("tumour", "liver"), ("lesion", "lesion"), ("lesion_2", "lesion"))):
        mask = np.zeros(grid.shape, np.uint8)
        mask[place] = 1
        save(Segmentation(mask, grid, LabelTable.from_names({1: name})), tmp_path / f"{file}.nii.gz")
    back = read_segmentation(tmp_path)
    assert sorted(back.labels.names) == ["lesion", "lesion_2", "tumour"]
    assert back.mask("lesion_2")[2].all()
