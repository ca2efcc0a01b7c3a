"""At the shell, what to do is said in words of the shell."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import voxmetry
from voxmetry.cli import _at_the_shell, without_python
from voxmetry.errors import InputError


def told(fix: str, *arguments: str) -> str:
    error = InputError(found="x", expected="y", fix=fix)
    changed = _at_the_shell(error, arguments)
    assert changed.fix in str(changed)
    return changed.fix


def test_no_python_is_told_to_who_typed_a_command():
    fix = "say which one a shared voxel goes to (--overlap first); in Python: overlap='first'"
    assert told(fix, "convert", "a.nrrd", "b.nii.gz") == "say which one a shared voxel goes to (--overlap first)"


def fixes():
    """What to do, of every error in the source; a value that is put in is an X."""
    for path in Path(voxmetry.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "fix":
                if isinstance(node.value, ast.Constant):
                    yield str(node.value.value)
                elif isinstance(node.value, ast.JoinedStr):
                    yield "".join(str(x.value) if isinstance(x, ast.Constant) else "X" for x in node.value.values)


def test_no_error_that_names_an_option_speaks_of_python_at_the_shell():
    told = [fix for fix in fixes() if "--" in fix]
    assert len(told) > 100
    assert sum(without_python(fix) != fix for fix in told) > 10
    assert [fix for fix in told if re.search(r"Python|\w=(True|\(|\[)", without_python(fix))] == []


def test_an_option_that_the_verb_does_not_have_is_one_of_convert():
    fix = "read it with --overlap first"
    assert told(fix, "convert", "a.nrrd", "b.nii.gz") == fix
    assert told(fix, "measure", "a.nrrd") == (
        "write a file first, with an option of that verb: voxmetry convert SOURCE TARGET --overlap ..."
    )
