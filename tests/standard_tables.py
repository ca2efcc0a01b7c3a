"""A second validator beside dciodvfy: dicom-validator, with the tables of the standard that highdicom carries.

By itself dicom-validator fetches the standard's text from the network. Here its rules run on the same tables in another
form: which modules an object has, which attributes a module has at each level of nesting, and their types. What these
tables do not hold is not checked: the conditions of types 1C and 2C, enumerated values, the content tree of reports.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import warnings

import pydicom
import pytest
from pydicom.datadict import tag_for_keyword

_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
# Of an image of a patient; the tables leave out the use of a macro (PS3.3 A.51.5-1, A.89.5-1).
_MACROS = frozenset(("PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence"))
_PER_FRAME = frozenset(("FrameContentSequence",))
_SEGMENTS = "SegmentIdentificationSequence"
_TREE = "sr-document-content"
_LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"


def _name(keyword):
    tag = tag_for_keyword(keyword)
    return None if tag is None else f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _attribute(kind):
    found = {"name": "", "type": kind if kind in ("1", "1C", "2", "2C", "3") else "3"}
    return found | {"cond": {"type": "U"}} if kind in ("1C", "2C") else found


def _nested(rows):
    """The attributes of a module as dicom-validator wants them: by tag, with those of a sequence inside it."""
    top: dict = {}
    for row in rows:
        level = top
        for keyword in row["path"]:
            level = level.setdefault(_name(keyword), _attribute("3")).setdefault("items", {})
        if (name := _name(row["keyword"])) is not None:
            level[name] = level.get(name, {}) | _attribute(row["type"])
    return top


@functools.cache
def _table(name):
    return json.loads((importlib.resources.files("highdicom") / "_standard" / f"{name}.json").read_text())


@functools.cache
def _information(uid):
    """What dicom-validator needs to know of one class of objects."""
    from dicom_validator.validator.dicom_info import DicomInfo

    used = {module["key"]: module["usage"] for module in _table("iod_module_map")[_table("sop_class_iod_map")[uid]]}
    modules = {key: _nested(_table("module_attribute_map")[key]) for key in used}
    # The tree's macros depend on the type of each item, which the tables do not say.
    for name in modules.get(_TREE, ()):
        modules[_TREE][name] = _attribute("3")
    macros = {}
    for content in list(modules.values()):
        for group in (content[_name(keyword)] for keyword in _GROUPS if _name(keyword) in content):
            for name, macro in group["items"].items():
                modules[f"macro {name}"] = {name: macro | {"type": "1"}}
                macros[name] = {"ref": f"macro {name}", **_use(name, uid)}
            group["items"] = {"include": [{"ref": "FuncGroup"}]}
    iod = {"modules": {key: {"ref": key, "use": usage} for key, usage in used.items()}, "group_macros": macros}
    return DicomInfo({}, {uid: iod}, modules)


def _use(name, uid):
    wanted = {_name(keyword) for keyword in _MACROS} | ({_name(_SEGMENTS)} if uid != _LABEL_MAP else set())
    if name in {_name(keyword) for keyword in _PER_FRAME}:
        return {"use": "M", "cond": {"type": "MF"}}
    return {"use": "M" if name in wanted else "U"}


def module_errors(path):
    """What dicom-validator finds: `module: tag below sequences: fault`."""
    pytest.importorskip("dicom_validator", reason="pip install voxmetry[test]")
    from dicom_validator.validator.error_handler import NullValidationResultHandler
    from dicom_validator.validator.iod_validator import IODValidator

    with warnings.catch_warnings():
        # Of values that a scanner wrote too long.
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path)
        information = _information(dataset.SOPClassUID)
        result = IODValidator(dataset, information, error_handler=NullValidationResultHandler()).validate()
    assert result.status.name in ("Passed", "Failed"), result.status
    return {
        f"{module}: {tag}: {error.code.name}"
        for module, errors in result.module_errors.items()
        for tag, error in errors.items()
    }
