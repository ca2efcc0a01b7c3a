"""A few hundred cases of each target, and that the judges can tell wrong from right."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import pytest

from fuzz.__main__ import targets
from fuzz.dicom_series import Series, difference, mosaics, readable_series
from fuzz.harness import Reference, ReferenceDiedError, run, run_case
from fuzz.segmentations import Seg, StructureSet, contour_difference, seg_difference
from voxmetry import list_series, read_volume
from voxmetry.core.geometry import swap_lps_ras
from voxmetry.io import read_layers, read_series


@pytest.mark.parametrize("name", sorted(targets()))
def test_damage_is_read_right_or_refused(name, tmp_path):
    target = targets()[name]
    told: list[str] = []
    sources = target.sources(None, tmp_path / "made")
    # The mosaics among the series are megabytes each: they have a few cases of their own below.
    tally = run(target, range(80), sources[:1] if name == "series" else sources, tmp_path, say=told.append)
    assert told == []
    assert tally.counts["right"] > 0
    assert tally.counts["refused"] > 0
    assert tally.counts["unjudged"] <= 8


@pytest.mark.real_data
def test_damaged_real_series_are_right_or_refused(real_data, tmp_path):
    sources = readable_series(real_data / "dicom-conversion/siemens_multiframe")
    sources += readable_series(real_data / "dicom-conversion/generic/compressed_jpegls")
    sources += readable_series(real_data / "dicom-seg/data/segmentations/24x38x3")
    assert len(sources) >= 3
    told: list[str] = []
    run(Series(), range(1000, 1080), sources, tmp_path, say=told.append)
    assert told == []


def test_undamaged_mosaics_are_right(tmp_path):
    """The sheet's own position is not that of its first tile: a judge that takes it calls every mosaic wrong."""
    found = mosaics()
    if not found:
        pytest.skip("this nibabel came without its test data")
    for files in found:
        path = tmp_path / "mosaic.dcm"
        path.write_bytes(files["mosaic.dcm"])
        (info,) = list_series(path)
        volume = read_series(info)
        affine = swap_lps_ras(volume.geometry.affine)
        assert difference(info.files, info.frames, affine, volume.array) == ""
        affine[:3, 3] += affine[:3, 2]
        assert "from its position" in difference(info.files, info.frames, affine, volume.array)
        turned = np.roll(volume.array, 1, axis=2)
        assert "values of slice 0 differ" in difference(
            info.files, info.frames, swap_lps_ras(volume.geometry.affine), turned
        )


def test_damaged_mosaics_are_right_or_refused(tmp_path):
    told: list[str] = []
    run(Series(), range(200, 212), mosaics(), tmp_path, say=told.append) if mosaics() else None
    assert told == []


def test_the_judge_of_series_finds_a_wrong_volume(tmp_path):
    (files, *_) = Series().sources(None, tmp_path)
    folder = tmp_path / "case"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (info,) = list_series(folder)
    volume = read_series(info)
    affine = swap_lps_ras(volume.geometry.affine)
    assert difference(info.files, info.frames, affine, volume.array) == ""
    assert "values of slice 0 differ" in difference(info.files, info.frames, affine, volume.array + np.int16(1))
    assert "values of slice 0 differ" in difference(info.files, info.frames, affine, volume.array[:, :, ::-1])
    affine[:3, 3] += 1
    assert "slice 0 lies 1.73 mm from its position" in difference(info.files, info.frames, affine, volume.array)


def test_the_judge_of_segmentations_finds_a_wrong_mask(tmp_path):
    (files,) = Seg().sources(None, tmp_path)
    path = tmp_path / "seg.dcm"
    path.write_bytes(files["seg.dcm"])
    (layer,) = read_layers(path)
    affine = swap_lps_ras(layer.geometry.affine)
    masks = [(label.value, layer.mask(label.name)) for label in layer.labels]
    assert seg_difference(str(path), affine, masks) == ""
    assert "voxels in place of" in seg_difference(str(path), affine, [(masks[0][0], ~masks[0][1])])
    affine[:3, 2] *= 3
    assert "of the grid" in seg_difference(str(path), affine, masks)


def test_the_judge_of_structure_sets_finds_a_wrong_mask(tmp_path):
    target = StructureSet()
    (files,) = target.sources(None, tmp_path)
    path = tmp_path / "rs2.dcm"
    path.write_bytes(files["rs.dcm"])
    image = read_volume(tmp_path / "image")
    (layer,) = read_layers(path, image=image)
    affine = swap_lps_ras(image.geometry.affine)
    masks = [(label.name, layer.mask(label.name)) for label in layer.labels]
    assert contour_difference(str(path), affine, masks) == ""
    assert "outside of its contours" in contour_difference(str(path), affine, [(masks[0][0], ~masks[0][1])])
    fewer = masks[0][1].copy()
    fewer[tuple(np.argwhere(fewer)[0])] = False
    assert "lacks 1 voxels" in contour_difference(str(path), affine, [(masks[0][0], fewer)])


def abort(how: str) -> str:
    """Stand for a reference whose decoder aborts, fails, or answers."""
    if how == "abort":
        os.kill(os.getpid(), signal.SIGABRT)
    if how == "fail":
        raise ValueError("no such code")
    return how


@pytest.mark.skipif(sys.platform == "win32", reason="signals are other ones there")
def test_a_reference_that_aborts_takes_nothing_with_it():
    reference = Reference()
    try:
        assert reference.call(abort, "answer") == "answer"
        with pytest.raises(ReferenceDiedError, match="ended with code -6"):
            reference.call(abort, "abort")
        with pytest.raises(RuntimeError, match="ValueError: no such code"):
            reference.call(abort, "fail")
        assert reference.call(abort, "again") == "again"
    finally:
        reference.close()


def test_what_the_reference_cannot_judge_is_no_finding(tmp_path):
    class Dying(Series):
        def judge(self, folder, reference):
            raise ReferenceDiedError("ended with code -6")

    outcome = run_case(Dying(), 0, Series().sources(None, tmp_path / "made"), tmp_path, Reference())
    assert (outcome.kind, outcome.told) == ("unjudged", "the reference ended with code -6")
