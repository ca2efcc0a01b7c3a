"""A few hundred cases of the fuzz program, and that it can tell a wrong volume from a right one."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from voxmetry import list_series
from voxmetry.io import read_series

PROGRAM = Path(__file__).parents[3] / "benchmarks" / "fuzz_dicom.py"


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz_dicom", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def findings(fuzz, series, scratch, seeds):
    outcomes = {seed: fuzz.run_case(seed, series, scratch) for seed in seeds}
    assert {"volume", "refused"} <= {outcome for outcome, _, _ in outcomes.values()}
    return {seed: told for seed, told in outcomes.items() if told[0] == "finding"}


def test_a_damaged_phantom_is_right_or_refused(fuzz, files, tmp_path):
    series = [{file.name: bytearray(file.read_bytes()) for file in files}]
    assert findings(fuzz, series, tmp_path / "scratch", range(120)) == {}


@pytest.mark.real_data
def test_damaged_real_series_are_right_or_refused(fuzz, real_data, tmp_path):
    series = fuzz.sources(real_data / "dicom-seg") + fuzz.sources(real_data / "dicom-conversion/siemens_multiframe")
    series += fuzz.sources(real_data / "dicom-conversion/generic/compressed_jpegls")
    assert len(series) >= 5
    assert findings(fuzz, series, tmp_path / "scratch", range(1000, 1120)) == {}


def test_the_program_finds_a_wrong_volume(fuzz, files):
    (info,) = list_series(files[0].parent)
    volume = read_series(info)
    assert fuzz.difference(volume, info) == ""
    brighter = dataclasses.replace(volume, array=volume.array + np.int16(1))
    assert "values of slice 0 differ" in fuzz.difference(brighter, info)
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += 1
    shifted = dataclasses.replace(volume, geometry=dataclasses.replace(volume.geometry, affine=affine))
    assert "slice 0 lies 1.73 mm from its position" in fuzz.difference(shifted, info)
    flipped = dataclasses.replace(volume, array=volume.array[:, :, ::-1])
    assert "values of slice 0 differ" in fuzz.difference(flipped, info)
