"""The straight path: a study in, a measured report out."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import voxmetry
from voxmetry import io, nn, report
from voxmetry.classical import Baseline, BaselineSpec, is_baseline, load_baseline
from voxmetry.config import ModelSpec, StudySettings
from voxmetry.core.labels import LabelTable
from voxmetry.core.records import Comparison, Flag, Lesion, Measurement, Provenance, SourceInfo, StudyResult
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.dicom_output import FILES as DICOM_FILES
from voxmetry.dicom_output import PDF, require_dicom, write_objects
from voxmetry.errors import ConfigError, InputError
from voxmetry.flags import flag_input, flag_measurements, flag_source
from voxmetry.io.atomic import claim_folder, replaced_together, write_bytes, write_text
from voxmetry.measure import DEFINITIONS, compare, lesions, measure
from voxmetry.measure.tables import records_csv
from voxmetry.nn.grids import reorientation
from voxmetry.ops.components import clean
from voxmetry.report.thumbnail import render_thumbnail

OUTPUTS = {
    "segmentation": "seg.nii.gz",
    "measurements": "measurements.csv",
    "lesions": "lesions.csv",
    "comparison": "comparison.csv",
    **DICOM_FILES,
    "report_pdf": PDF,
    "result": "result.json",
    "thumbnail": "thumbnail.png",
    "report": "report.html",
}
PACKAGES = ("voxmetry", "torch", "monai", "numpy", "nibabel", "SimpleITK", "pydicom", "connected-components-3d", "edt")

AIR_HU = -500
"""An image whose darkest voxel is below this holds Hounsfield units: MR magnitude and PET are never negative."""


def segment_study(
    study: Path | str,
    out: Path | str,
    model: nn.Predictor | nn.Model | Baseline | str | Path,
    *,
    reference: Path | str | None = None,
    settings: StudySettings = StudySettings(),  # noqa: B008  (frozen)
    tell: Callable[[str], None] | None = None,
    gate: AbstractContextManager[object] | None = None,
) -> StudyResult:
    """Segment and measure one study, and write everything that is known about it.

    Parameters
    ----------
    study
        A DICOM folder or file, or a NIfTI, NRRD or MHA file.
    out
        Folder for `seg.nii.gz`, `measurements.csv`, `result.json` and `report.html` (`comparison.csv` with a
        reference, `lesions.csv` where the model finds lesions). Each appears whole or not at all, the report last.
    model
        A predictor or a loaded model (for many studies, load it once), a bundled model's name, a model folder, or a
        baseline's YAML file.
    reference
        A segmentation of the same study on the same grid to compare with.
    settings
        Which series, which device, whether to overwrite.
    tell
        Called with the name of each step as it begins, for a progress display.
    gate
        Held while the network runs: threads that share a loaded model pass a lock, so that one study is in the network
        while others are read and written.

    Returns
    -------
    StudyResult
        The content of `result.json`.

    Raises
    ------
    VoxmetryError
        If the input, the model or the output cannot be used; nothing half-written is left.
    """
    clock, out = Clock(tell), Path(out)
    claim_folder(out, OUTPUTS.values(), overwrite=settings.overwrite)
    with clock.step("load model"):
        ready = load_any(model, settings, tell)
    spec = ready.spec
    with clock.step("read"):
        volume = read_input(study, spec, settings)
        truth = read_reference(reference, spec, volume) if reference else None
        require_dicom(volume, settings.dicom)
    segmentation = run_model(ready, volume, clock, gate)
    with clock.step("measure"):
        measurements = measure(segmentation, volume)
        found = lesions(segmentation, volume, organs=segmentation)
        comparisons = compare_with(truth, segmentation, settings) if truth else ()
    flags = flag_study(volume, measurements, spec)
    result = StudyResult(
        source=describe(volume, study, spec),
        labels=spec.labels,
        measurements=measurements,
        lesions=found,
        comparisons=comparisons,
        flags=flags,
        definitions=dict(DEFINITIONS),
        provenance=provenance(ready, settings, clock),
        files=output_files(spec.labels, settings, flags, compared=truth is not None),
    )
    with clock.step("write"), replaced_together(out, OUTPUTS.values()) as stage:
        objects = write_objects(
            stage, settings.dicom, result, volume=volume, segmentation=segmentation, reference=truth
        )
        result = result.model_copy(update={"files": result.files | objects})
        write_outputs(stage, result, volume=volume, segmentation=segmentation, reference=truth)
    return result


def output_files(
    labels: LabelTable, settings: StudySettings, flags: Sequence[Flag], *, compared: bool
) -> dict[str, str]:
    """Name the files of a study: lesions only where the model can find some, a comparison only where there is one."""
    left_out = {*DICOM_FILES, "report_pdf"} | (set() if compared else {"comparison"})
    if not any(label.kind == "lesion" for label in labels):
        left_out.add("lesions")
    if settings.report != "brief":
        left_out.add("thumbnail")
    if settings.report == "none" or (settings.report == "brief" and not any(f.severity == "review" for f in flags)):
        left_out.add("report")
    return {what: name for what, name in OUTPUTS.items() if what not in left_out}


def load_any(
    model: nn.Predictor | nn.Model | Baseline | str | Path,
    settings: StudySettings,
    tell: Callable[[str], None] | None = None,
) -> nn.Predictor | Baseline:
    """Load a network or a classical baseline; what is loaded already is returned as it is."""
    if isinstance(model, (nn.Predictor, Baseline)):
        return model
    if isinstance(model, nn.Model) or not is_baseline(model):
        return nn.Predictor(
            model, device=settings.device, precision=settings.precision, memory_gb=settings.memory_gb, tell=tell
        )
    return load_baseline(model)


def run_model(
    ready: nn.Predictor | Baseline, volume: Volume, clock: Clock, gate: AbstractContextManager[object] | None = None
) -> Segmentation:
    """Segment on the volume's own grid and clean up, each step under its own name; the gate is for the network."""
    if isinstance(ready, Baseline):
        with clock.step("segment"):
            return ready.segment(volume)
    with clock.step("preprocess"):
        prepared = ready.prepare(volume)
    with gate or nullcontext(), clock.step("network"):
        segmentation = ready.run(prepared)
    with clock.step("clean up"):
        return clean(segmentation, ready.spec.clean)


class Clock:
    """Wall-clock seconds of named steps, each told as it begins."""

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self._tell = tell
        self.started = datetime.datetime.now(datetime.UTC)
        self.seconds: dict[str, float] = {}
        self._begin = time.perf_counter()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the block under a name."""
        if self._tell:
            self._tell(name)
        begin = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begin, 4)

    def total(self) -> dict[str, float]:
        """Return the steps and the time since the clock was made."""
        return self.seconds | {"total": round(time.perf_counter() - self._begin, 4)}


def read_input(study: Path | str, spec: ModelSpec | BaselineSpec, settings: StudySettings) -> Volume:
    """Read the one series or file that the model takes.

    Raises
    ------
    InputError
        If the study is of another modality, or a file's values cannot be of the modality that the model takes.
    ConfigError
        If the model takes more than one input.
    """
    if len(spec.inputs) != 1:
        raise ConfigError(
            found=f"{spec.name} takes {len(spec.inputs)} inputs",
            expected="a model with one input",
            fix="use the Python function voxmetry.segment with one volume for each input",
        )
    wanted = spec.inputs[0].modality
    declared = settings.modality or wanted
    if declared != wanted:
        raise InputError(
            found=f"an image of modality {declared}",
            expected=f"{wanted}, which {spec.name} was trained on",
            fix="use a model for this modality: voxmetry models list",
        )
    volume = io.read_volume(
        study,
        modality=wanted,
        series=settings.series,
        rules=spec.inputs[0].series if isinstance(spec, ModelSpec) else None,
        suv=settings.suv,
        allow_uneven=settings.allow_uneven,
        resample_tilt=settings.resample_tilt,
    )
    darkest = float(volume.array.min())
    if volume.source is None and settings.modality is None and wanted != "CT" and darkest < AIR_HU:
        raise InputError(
            found=f"values down to {darkest:g}, as Hounsfield units of a CT have",
            expected=f"{wanted} intensities, which {spec.name} was trained on",
            fix=f"use a model for CT, or pass --modality {wanted} if the image is {wanted} after all",
        )
    return volume


def read_reference(path: Path | str, spec: ModelSpec | BaselineSpec, volume: Volume) -> Segmentation:
    """Read the reference segmentation and see that it lies on the image's grid."""
    reference = io.read_segmentation(path, labels=spec.labels, image=volume)
    volume.geometry.require_same(reference.geometry, what="the image and the reference")
    return reference


def compare_with(
    reference: Segmentation, segmentation: Segmentation, settings: StudySettings
) -> tuple[Comparison, ...]:
    """Hold the result against the reference, structure by structure."""
    return compare(prediction=segmentation, reference=reference, tolerance_mm=settings.tolerance_mm)


def flag_study(volume: Volume, measurements: Sequence[Measurement], spec: ModelSpec | BaselineSpec) -> tuple[Flag, ...]:
    """Collect what a person should know: about the image first, then about each structure."""
    if isinstance(spec, BaselineSpec):
        return flag_measurements(measurements, spec)
    _, oriented = reorientation(volume.geometry, spec.orientation)
    return (*flag_source(volume.source), *flag_input(oriented, spec), *flag_measurements(measurements, spec))


def describe(volume: Volume, study: Path | str, spec: ModelSpec | BaselineSpec) -> SourceInfo:
    """Say what was segmented, without its path or its patient."""
    series = volume.source
    name = Path(study).name.lower()
    formats = {".nii.gz": "NIfTI", ".nii": "NIfTI", ".nrrd": "NRRD", ".nhdr": "NRRD", ".mha": "MHA", ".mhd": "MHA"}
    return SourceInfo(
        format="DICOM" if series else next((kind for end, kind in formats.items() if name.endswith(end)), "file"),
        modality=series.modality if series else spec.inputs[0].modality,
        unit=volume.unit,
        shape=volume.geometry.shape,
        spacing_mm=volume.geometry.spacing_mm,
        axcodes=volume.geometry.axcodes,
        series_uid=series.series_uid if series else None,
        frame_uid=volume.geometry.frame_uid,
        description=series.description if series else "",
        processing=series.processing if series else (),
    )


def provenance(model: nn.Predictor | Baseline, settings: StudySettings, clock: Clock) -> Provenance:
    """Write down how the result came to be."""
    return Provenance(
        voxmetry_version=voxmetry.__version__,
        packages=package_versions(),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        model=model.spec.name,
        model_version=model.spec.version,
        weights_sha256=model.weights.sha256,
        settings=settings.model_dump(mode="json"),
        device=model.device,
        precision=model.precision if isinstance(model, nn.Predictor) else "float32",
        plan=str(model.last_plan) if isinstance(model, nn.Predictor) and model.last_plan else "",
        started=clock.started.isoformat(timespec="seconds"),
        seconds=clock.total(),
        peak_memory_mb=peak_memory_mb(),
    )


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that have a hand in the numbers."""
    versions = {"voxmetry": voxmetry.__version__}
    for name in PACKAGES[1:]:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far in 10^6 bytes; nan where the system does not tell."""
    if sys.platform == "win32":
        return float("nan")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)


def write_outputs(
    out: Path, result: StudyResult, *, volume: Volume, segmentation: Segmentation, reference: Segmentation | None
) -> None:
    """Write all files, each atomically, the report last: it exists only if everything else does."""
    io.save(segmentation, out / OUTPUTS["segmentation"])
    write_text(out / OUTPUTS["measurements"], records_csv(result.measurements, Measurement))
    if "lesions" in result.files:
        write_text(out / OUTPUTS["lesions"], records_csv(result.lesions, Lesion))
    if result.comparisons:
        write_text(out / OUTPUTS["comparison"], records_csv(result.comparisons, Comparison))
    write_text(out / OUTPUTS["result"], result.model_dump_json(indent=1))
    if "thumbnail" in result.files:
        write_bytes(out / OUTPUTS["thumbnail"], render_thumbnail(volume, segmentation))
    if "report" in result.files:
        path = out / OUTPUTS["report"]
        report.write_report(result, path, volume=volume, segmentation=segmentation, reference=reference)
