"""Codes of structures by their names: what reaches a label, and that left and right stay apart."""

from __future__ import annotations

import re

import pytest

import nnunet_folders
from voxmetry.core.labels import Code, LabelTable
from voxmetry.errors import ConfigError, LabelError
from voxmetry.models.structures import (
    CATEGORIES,
    GROUPS,
    find_structure,
    group_of,
    key_of,
    known_structures,
    read_structures,
    require_sides,
    side_of,
    with_codes,
)


def test_the_table_names_every_structure_once_and_no_code_contradicts_its_side():
    rows = known_structures()
    assert len(rows) > 300
    for row in rows.values():
        assert row.group in GROUPS
        assert row.category in CATEGORIES
        named = side_of(row.name)
        assert row.side in ("", named), row.name
        # Where the name has a side and the code is not of that side alone, the row says which.
        sided = re.search(rf"\b{named}\b", row.meaning.lower()) if named and row.code else True
        assert row.side == named or sided, row.name


def test_opposite_sides_of_the_whole_table_never_share_a_concept():
    names = {value: row.name for value, row in enumerate(known_structures().values(), start=1)}
    require_sides(with_codes(LabelTable.from_names(names)))


def test_codes_agree_with_dicoms_own_dictionary_on_left_and_right():
    concepts = pytest.importorskip("pydicom.sr._concepts_dict").concepts["SCT"]
    meanings: dict[str, set[str]] = {}
    for entry in concepts.values():
        for code, (meaning, _) in entry.items():
            meanings.setdefault(code, set()).update(re.findall(r"[a-z]+", meaning.lower()))
    for row in known_structures().values():
        words = meanings.get(row.code, set())
        for side in {"left", "right"} & words:
            assert (side_of(row.name), row.side) == (side, ""), f"{row.name} is coded as the {side} one"


@pytest.mark.parametrize("name", ["kidney_left", "Left Kidney", "KIDNEY-LEFT", "left_kidney", "LeftKidney"])
def test_a_name_is_found_however_it_is_written(name):
    found = find_structure(name)
    assert found is not None
    assert (found.code, found.side) == ("64033007", "left")


def test_numbers_are_part_of_a_name():
    assert key_of("rib_left_1") != key_of("rib_left_11")
    assert find_structure("rib_left_1").meaning == "First rib"
    assert find_structure("Left-Thalamus-Proper").meaning == "Thalamus"


def test_labels_get_code_side_colour_category_and_region():
    names = {1: "kidney_left", 2: "kidney_cyst_right", 3: "liver_tumor", 4: "subcutaneous_fat", 5: "gadget_right"}
    table = with_codes(LabelTable.from_names(names))
    kidney, cyst, tumour, fat, gadget = table
    assert (kidney.code.value, kidney.laterality, kidney.colour) == ("64033007", "left", "#2E8AB8")
    assert (cyst.code.meaning, cyst.region.meaning, cyst.laterality, cyst.kind) == ("Cyst", "Kidney", "right", "lesion")
    assert (tumour.kind, tumour.region.value) == ("lesion", "10200004")
    assert fat.category.meaning == "Tissue"
    assert (gadget.code, gadget.laterality) == (None, "right")


def test_a_left_atrium_has_no_further_side():
    left, right = with_codes(LabelTable.from_names({1: "heart_atrium_left", 2: "heart_atrium_right"}))
    assert left.laterality is None
    assert right.laterality is None
    assert left.code != right.code


def test_an_imported_models_structures_are_coded_in_its_folder(tmp_path):
    from voxmetry.models import read_spec
    from voxmetry.nn.interop import ImportOptions, import_model

    codes = tmp_path / "codes.csv"
    codes.write_text("name,code,meaning\nspleen,1234,My spleen\n")
    model = nnunet_folders.write(tmp_path / "source", "ct")
    import_model(model, tmp_path / "out", ImportOptions(orientation="RAS", codes=read_structures(codes)))
    labels = read_spec(tmp_path / "out").labels
    assert next((label.code.value, label.colour) for label in labels) == ("10200004", "#288C28")
    assert labels["spleen"].code.meaning == "My spleen"


def test_what_a_model_says_itself_stays():
    own = LabelTable.from_names({1: "liver"})
    label = own.labels[0].model_copy(update={"code": Code(value="1", meaning="Mine")})
    assert with_codes(LabelTable(labels=(label,))).labels[0] == label


def test_a_users_table_wins(tmp_path):
    path = tmp_path / "codes.csv"
    path.write_text("name,code,meaning,side,colour\nliver,1234,My liver,,#010203\ngadget_left,99,Gadget,left,\n")
    liver, gadget = with_codes(LabelTable.from_names({1: "liver", 2: "gadget_left"}), read_structures(path))
    assert (liver.code.meaning, liver.colour) == ("My liver", "#010203")
    assert (gadget.code.value, gadget.laterality) == ("99", "left")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,code,meaning\nliver,12,\n", "go together"),
        ("name,code,meaning\nliver,T-62000,Liver\n", "is no SNOMED CT code"),
        ("name,kode\nliver,1\n", "kode"),
        ("name,side\nliver,both\n", "side"),
        ("name\nliver\nLIVER\n", "more than once"),
        ("name\n", "no rows"),
    ],
)
def test_a_damaged_table_is_refused_by_line_and_column(tmp_path, text, says):
    path = tmp_path / "codes.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_structures(path)


def test_left_and_right_of_one_code_without_a_side_are_refused(tmp_path):
    path = tmp_path / "codes.csv"
    path.write_text("name,code,meaning\ngadget_left,99,Gadget\ngadget_right,99,Gadget\n")
    with pytest.raises(LabelError, match="gadget_left and gadget_right both coded 99"):
        with_codes(LabelTable.from_names({1: "gadget_left", 2: "gadget_right"}), read_structures(path))


def test_the_parts_of_a_brain_are_of_the_brain_by_either_way_of_writing():
    names = ("cerebellar_cortex_left", "Left-Cerebellum-Cortex", "accumbens_right", "inferior_lateral_ventricle_left")
    assert {group_of(name) for name in names} == {"brain"}
    assert find_structure("accumbens_left").code == find_structure("Left-Accumbens-area").code != ""


def test_the_parts_of_an_organ_model_fall_into_groups():
    assert [group_of(name) for name in ("spleen", "iliac_vena_left", "vertebrae_L6", "iliopsoas_right", "x")] == [
        "organs",
        "vessels",
        "bones",
        "muscles",
        "other",
    ]
