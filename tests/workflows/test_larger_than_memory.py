"""`voxmetry segment` of a study that is larger than memory: the same files, and by name what it goes without."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import models
from voxmetry import Geometry, StudySettings, Volume, save, segment_study
from voxmetry.io import memory as io_memory
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
        reference=tmp_path / "held" / "seg.nii.gz",
        prior=tmp_path / "held",
    )
    (flag,) = [flag for flag in large.flags if flag.code == "larger_than_memory"]
    assert flag.severity == "review"
    for what in (
        "comparison with the reference",
        "instances of structures",
        "match of lesions with those of the prior",
    ):
        assert what in flag.message
    assert not large.comparisons
    assert not large.instances_by
    assert large.measurements == held.measurements
    change = json.loads((tmp_path / "large" / "change.json").read_text())
    assert change["reason"] == "the study is larger than memory"
    assert [row["volume_change_ml"] for row in change["structures"]] == [0.0, 0.0]
    assert change["follow_up"] is None


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
