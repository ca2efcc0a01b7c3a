"""Other programs' word on a DICOM file."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from standard_tables import module_errors


def tool(name):
    """The path of a program of the test environment, or a skip that names it."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed: pip install voxmetry[test]")
    return found


def dciodvfy_errors(path):
    """What dciodvfy calls an error, without the values that differ from file to file."""
    done = subprocess.run([tool("dciodvfy"), "-new", str(path)], capture_output=True, text=True, errors="replace")
    told = done.stdout + done.stderr
    assert told.strip(), "dciodvfy told nothing, not even what the object is"
    # The same element stands in another module of another object: what counts is the element and the fault.
    lines = [line for line in told.splitlines() if line.startswith("Error")]
    return {re.sub(r" - Module=<\w+>", "", line) for line in lines}


def assert_valid(path, source_files):
    """No error that the source did not have already, by either validator."""
    for errors_of in (dciodvfy_errors, module_errors):
        new = errors_of(path) - errors_of(source_files[0])
        assert not new, "\n".join(sorted(new))
