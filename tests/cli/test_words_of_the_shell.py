"""At the shell, what to do is said in words of the shell."""

from __future__ import annotations

from voxmetry.cli import _at_the_shell
from voxmetry.errors import InputError


def told(fix: str, *arguments: str) -> str:
    error = InputError(found="x", expected="y", fix=fix)
    changed = _at_the_shell(error, arguments)
    assert changed.fix in str(changed)
    return changed.fix


def test_no_python_is_told_to_who_typed_a_command():
    fix = "say which one a shared voxel goes to (--overlap first); in Python: overlap='first'"
    assert told(fix, "convert", "a.nrrd", "b.nii.gz") == "say which one a shared voxel goes to (--overlap first)"


def test_an_option_that_the_verb_does_not_have_is_one_of_convert():
    fix = "read it with --overlap first"
    assert told(fix, "convert", "a.nrrd", "b.nii.gz") == fix
    assert told(fix, "measure", "a.nrrd") == (
        "write a file first, with an option of that verb: voxmetry convert SOURCE TARGET --overlap ..."
    )
