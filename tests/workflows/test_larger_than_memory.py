"""`voxmetry segment` of a study that is larger than memory: the same files, and by name what it goes without."""

import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pydicom
import pytest

import models
from voxmetry import (
    Geometry,
    LabelTable,
    Segmentation,
    StudySettings,
    Volume,
    read_segmentation,
    read_volume,
    save,
    segment_study,
)
from voxmetry.config import DicomOutput
from voxmetry.io import memory as io_memory
from voxmetry.io import write_series
from voxmetry.nn import memory as nn_memory
from voxmetry.nn.memory import Hold
from voxmetry.workflows import study_measurements

ROOT = Path(__file__).parents[2]
SHAPE = (40, 36, 60)
CLEAN = [
    {"step": "drop_small", "min_volume_ml": 0.02},
    {"step": "fill_holes", "together": True},
    {"step": "largest", "labels": ["front"]},
]


def write_study(path, *, seed=0):
    """Three islands in air, of values down to where CT has them."""
    array = np.full(SHAPE, -1000, np.int16, order="F")
    rng = np.random.default_rng(seed)
    for k in (3, 22, 44):
        i, j = rng.integers(0, 18, 2)
        array[i : i + 20, j : j + 16, k : k + 12] = rng.integers(-60, 160, (20, 16, 12))
    save(Volume(array, Geometry(np.diag([-0.9, 1.1, 2.4, 1.0]), SHAPE), "HU"), path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    inputs = [{"name": "ct", "modality": "CT", "normalise": {"method": "zscore", "percentiles": [0.0, 100.0]}}]
    labels = models.spec().labels.model_dump(mode="json")
    labels["labels"][0]["kind"] = "organ"
    return models.write(
        tmp_path_factory.mktemp("model"), seed=4, inputs=inputs, spacing_mm=[1.0, 1.2, 2.5], clean=CLEAN, labels=labels
    )


@pytest.fixture
def little_memory(monkeypatch):
    """As if images had no room in memory, the label map neither, and slabs were of a few planes."""

    def begin():
        monkeypatch.setattr(io_memory, "free_bytes", lambda: 1000)
        monkeypatch.setattr(nn_memory, "HELD", Hold(streamed=True, on_disk=True))
        monkeypatch.setattr(study_measurements, "lesions", without_limit(study_measurements.lesions))
        for name in ("ops.parts.SLAB_VOXELS", "measurement.volumetry.SLAB_VOXELS", "flags.image.SLAB_VOXELS"):
            monkeypatch.setattr(f"voxmetry.{name}", 9000)
        for name in ("ops.boxes._AT_ONCE", "report.reduction._AT_ONCE"):
            monkeypatch.setattr(f"voxmetry.{name}", 9000)

    return begin


def without_limit(measure):
    """Measure all lesions, though what is left of the memory of these tests holds none."""

    def run(*given, skipped, **named):
        return measure(*given, **named)

    return run


def numbers(folder):
    """All that is said of a study but when, where and in how many seconds."""
    result = json.loads((folder / "result.json").read_text())
    for name in ("seconds", "peak_memory_mb", "started", "plan", "settings"):
        del result["provenance"][name]
    return result


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd"])
def test_numbers_and_pictures_are_those_of_a_study_that_is_held(tmp_path, model, little_memory, suffix):
    study = tmp_path / f"study.{suffix}"
    write_study(study)
    settings = StudySettings(device="cpu", report="full" if suffix == "nrrd" else "none")
    held = segment_study(study, tmp_path / "held", model, settings=settings)
    little_memory()
    said = []
    segment_study(study, tmp_path / "large", model, settings=settings, tell=said.append)
    assert any("label map in a temporary file" in line for line in said)
    assert numbers(tmp_path / "large") == numbers(tmp_path / "held")
    assert len(held.lesions) > 3
    assert min(row.n_voxels for row in held.measurements) > 50
    names = {path.name for path in (tmp_path / "held").iterdir()}
    assert {path.name for path in (tmp_path / "large").iterdir()} == names
    for name in names - {"result.json", "report.html"}:
        assert (tmp_path / "large" / name).read_bytes() == (tmp_path / "held" / name).read_bytes(), name


def test_what_it_goes_without_is_named(tmp_path, model, little_memory):
    study = tmp_path / "study.nii"
    write_study(study)
    settings = StudySettings(device="cpu", report="none")
    held = segment_study(study, tmp_path / "held", model, settings=settings)
    little_memory()
    large = segment_study(
        study,
        tmp_path / "large",
        model,
        settings=settings.model_copy(update={"instances": "components"}),
        prior=tmp_path / "held",
    )
    (flag,) = [flag for flag in large.flags if flag.code == "larger_than_memory"]
    assert flag.severity == "review"
    for what in (
        "instances of structures",
        "match of lesions with those of the prior",
    ):
        assert what in flag.message
    assert not large.instances_by
    assert large.measurements == held.measurements
    change = json.loads((tmp_path / "large" / "change.json").read_text())
    assert change["reason"] == "the study is larger than memory"
    assert [row["volume_change_ml"] for row in change["structures"]] == [0.0, 0.0]
    assert change["follow_up"] is None


def write_reference(held, path):
    """The held run's labels moved by a voxel, the names in another order and without one of many parts."""
    found = read_segmentation(held / "seg.nii.gz")
    array = np.zeros_like(found.array)
    array[1:, :, 1:] = found.array[:-1, :, :-1]
    array[:, :, 50:] = 0
    table = {label.value: label.name for label in found.labels}
    turned = dict(zip(table, reversed(table), strict=True))
    lookup = np.zeros(256, np.uint8)
    lookup[list(turned)] = list(turned.values())
    moved = lookup[array]
    names = LabelTable.from_names({turned[value]: name for value, name in table.items()})
    save(Segmentation(moved, found.geometry, names), path)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd"])
def test_the_comparison_is_that_of_a_study_that_is_held(tmp_path, model, little_memory, monkeypatch, suffix):
    study, reference = tmp_path / "study.nii", tmp_path / f"reference.{suffix}"
    write_study(study)
    settings = StudySettings(device="cpu", report="full" if suffix == "nii" else "none")
    segment_study(study, tmp_path / "first", model, settings=settings)
    write_reference(tmp_path / "first", reference)
    held = segment_study(study, tmp_path / "held", model, settings=settings, reference=reference)
    little_memory()
    monkeypatch.setattr(sys.modules["voxmetry.measurement.distance"], "fits_memory", lambda _: True)
    large = segment_study(study, tmp_path / "large", model, settings=settings, reference=reference)
    (flag,) = [flag for flag in large.flags if flag.code == "larger_than_memory"]
    assert flag.message.endswith("Left out: the pictures of where it differs from the reference.")
    assert len(held.comparisons) == 2
    assert all(0 < row.dice < 1 and 0 < row.hausdorff_mm < math.inf for row in held.comparisons)
    assert large.comparisons == held.comparisons
    assert (tmp_path / "large" / "comparison.csv").read_bytes() == (tmp_path / "held" / "comparison.csv").read_bytes()
    assert (tmp_path / "large" / "report.html").exists() == (suffix == "nii")


def test_surfaces_that_there_is_no_memory_for_have_no_distances(tmp_path, model, little_memory):
    study, reference = tmp_path / "study.nii", tmp_path / "reference.nii.gz"
    write_study(study)
    settings = StudySettings(device="cpu", report="none")
    segment_study(study, tmp_path / "first", model, settings=settings)
    write_reference(tmp_path / "first", reference)
    held = segment_study(study, tmp_path / "held", model, settings=settings, reference=reference)
    little_memory()
    large = segment_study(study, tmp_path / "large", model, settings=settings, reference=reference)
    for ours, theirs in zip(large.comparisons, held.comparisons, strict=True):
        assert (ours.dice, ours.volume_difference_ml, ours.status) == (theirs.dice, theirs.volume_difference_ml, "both")
        assert math.isnan(ours.hd95_mm)
        assert math.isnan(ours.surface_dice)
        assert "no memory" in ours.reason
    (flag,) = [flag for flag in large.flags if flag.code == "larger_than_memory"]
    assert f"the distances to the reference of {', '.join(large.labels.names)}" in flag.message


def test_a_reference_whose_structures_are_kept_apart_is_left_out_by_name(tmp_path, model, little_memory):
    study = tmp_path / "study.nii"
    write_study(study)
    settings = StudySettings(device="cpu", report="none")
    segment_study(study, tmp_path / "held", model, settings=settings)
    found = read_segmentation(tmp_path / "held" / "seg.nii.gz")
    (tmp_path / "masks").mkdir()
    for label in found.labels:
        one = LabelTable.from_names({1: label.name})
        mask = (found.array == label.value).astype(np.uint8)
        save(Segmentation(mask, found.geometry, one), tmp_path / "masks" / f"{label.name}.nii.gz")
    little_memory()
    large = segment_study(study, tmp_path / "large", model, settings=settings, reference=tmp_path / "masks")
    assert not large.comparisons
    (flag,) = [flag for flag in large.flags if flag.code == "larger_than_memory"]
    assert "the comparison with the reference, whose structures are kept apart" in flag.message


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_its_dicom_segmentation_is_that_of_a_study_that_is_held(tmp_path, model, little_memory, monkeypatch, kind):
    write_study(tmp_path / "study.nii")
    study = tmp_path / "series"
    write_series(read_volume(tmp_path / "study.nii", unit="HU"), study, modality="CT")
    wanted = DicomOutput(seg=True, rtstruct=True, seg_kind=kind)
    settings = StudySettings(device="cpu", report="none", dicom=wanted)
    held = segment_study(study, tmp_path / "held", model, settings=settings)
    assert not held.not_written
    little_memory()
    large = segment_study(study, tmp_path / "large", model, settings=settings)
    assert list(large.not_written) == ["rtstruct.dcm"]
    assert "larger than memory" in large.not_written["rtstruct.dcm"]
    ours, theirs = (pydicom.dcmread(tmp_path / name / "seg.dcm") for name in ("large", "held"))
    assert len(theirs.SegmentSequence) > 3
    assert [x.SegmentLabel for x in ours.SegmentSequence] == [x.SegmentLabel for x in theirs.SegmentSequence]
    assert ours.NumberOfFrames == theirs.NumberOfFrames
    assert ours.PerFrameFunctionalGroupsSequence == theirs.PerFrameFunctionalGroupsSequence
    assert ours.PixelData == theirs.PixelData
    assert any(ours.PixelData)
    assert not [path.name for path in (tmp_path / "large").iterdir() if path.name.startswith(".part-")]


def test_a_lesion_that_there_is_no_memory_for_is_named(tmp_path, model, little_memory, monkeypatch):
    study = tmp_path / "study.nii"
    write_study(study)
    settings = StudySettings(device="cpu", report="none")
    held = segment_study(study, tmp_path / "held", model, settings=settings)
    measure = study_measurements.lesions
    little_memory()
    monkeypatch.setattr(study_measurements, "lesions", measure)
    largest = held.lesions[0]
    # The package has a function of this name.
    module = sys.modules["voxmetry.measurement.lesions"]
    monkeypatch.setattr(module, "fits_memory", lambda needed: needed < 100 * largest.n_voxels)
    large = segment_study(study, tmp_path / "large", model, settings=settings)
    assert largest.id not in {row.id for row in large.lesions}
    assert large.lesions
    assert set(large.lesions) < set(held.lesions)
    (flag,) = [flag for flag in large.flags if flag.code == "larger_than_memory"]
    assert f"measurements of {largest.id}" in flag.message


LIMITED = """
    import gc, resource, sys, threading
    # The room that threads reserve counts as data.
    threading.stack_size(1 << 20)
    sys.path[:0] = [{src!r}, {tests!r}]
    import numpy as np, torch
    torch.set_num_threads(1)
    from voxmetry import Geometry, StudySettings, Volume, save, segment_study
    from voxmetry.core.memory import is_mapped
    import voxmetry.nn.streamed_input, voxmetry.report.reduction, voxmetry.flags.image
    for names, constant, value in (
        ("nn.preprocess nn.streamed_input nn.memory", "RESAMPLE_VALUES", 300_000),
        ("nn.corner_scores nn.memory", "CHUNK_VALUES", 300_000),
        ("nn.restore nn.memory", "SLAB_VALUES", 1_000_000),
        ("ops.parts measurement.volumetry flags.image nn.memory", "SLAB_VOXELS", 600_000),
        ("ops.boxes report.reduction", "_AT_ONCE", 600_000),
        ("ops.surface", "_SLAB_VOXELS", 200_000),
    ):
        for name in names.split():
            setattr(sys.modules["voxmetry." + name], constant, value)
    shape = (128, 128, 900)
    array = np.full(shape, -1000, np.int16, order="F")
    rng = np.random.default_rng(0)
    for k in (5, 400, 860):
        i, j = rng.integers(0, 80, 2)
        array[i : i + 40, j : j + 40, k : k + 16] = rng.integers(-60, 160, (40, 40, 16))
    save(Volume(array, Geometry(np.diag([1.0, 1.2, 2.5, 1.0]), shape), "HU"), {study!r})
    del array
    settings = StudySettings(device="cpu", report="full")
    plans = []
    for name in ("held", "large"):
        result = segment_study({study!r}, {out!r} + "/" + name, {model!r}, settings=settings)
        plans.append(result.provenance.plan)
        gc.collect()
        fields = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
        used = int(fields["VmData"].split()[0]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (used + {room}, resource.RLIM_INFINITY))
    print(*plans, sep="\\n")
    """


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets a limit of Linux")
@pytest.mark.slow
def test_it_runs_where_what_is_measured_has_no_room(tmp_path):
    # Voxels of 29 MB, and six bytes of each, 88 MB, while structures are measured as a whole: a room of 56 MB.
    normalise = {"method": "window", "low": -100, "high": 150, "mean": 20, "sd": 60}
    inputs = [{"name": "ct", "modality": "CT", "normalise": normalise}]
    window = {"patch": [32, 32, 16], "overlap": 0.25, "skip_up_to": -900.0}
    grid, clean = [1.0, 1.2, 2.5], [{"step": "drop_small", "min_volume_ml": 0.1}]
    model = models.write(tmp_path / "model", seed=4, inputs=inputs, spacing_mm=grid, window=window, clean=clean)
    given = {"src": str(ROOT / "src"), "tests": str(ROOT / "tests"), "study": str(tmp_path / "study.nii.gz")}
    code = LIMITED.format(**given, out=str(tmp_path), model=str(model), room=56_000_000)
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=600, check=False
    )
    assert ran.returncode == 0, ran.stderr
    held, large = ran.stdout.splitlines()
    assert "slab by slab" not in held
    assert "slab by slab" in large
    assert numbers(tmp_path / "large") == numbers(tmp_path / "held")
    assert max(row["n_voxels"] for row in numbers(tmp_path / "large")["measurements"]) > 1000
    for name in ("seg.nii.gz", "measurements.csv", "lesions.csv", "overview.nii.gz", "preview.png"):
        assert (tmp_path / "large" / name).read_bytes() == (tmp_path / "held" / name).read_bytes(), name
    assert (tmp_path / "large" / "report.html").is_file()
