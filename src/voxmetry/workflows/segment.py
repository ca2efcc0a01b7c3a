"""The straight path: a study in, a measured report out."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from voxmetry import io, nn, report
from voxmetry._version import __version__
from voxmetry.classical import Baseline, BaselineSpec, is_baseline, load_baseline
from voxmetry.classical.spec import Channel
from voxmetry.config import InputSpec, MapName, ModelSpec, StudySettings, TrainingDomain
from voxmetry.core.records import (
    Comparison,
    Flag,
    Lesion,
    Measurement,
    MembersAgreement,
    OtherInput,
    PredictedDice,
    Provenance,
    SourceInfo,
    StudyResult,
)
from voxmetry.core.records.follow_up import PriorComparison
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError, InputError
from voxmetry.flags.image import flag_image
from voxmetry.flags.study import (
    flag_agreement,
    flag_asymmetry,
    flag_input,
    flag_islands,
    flag_measurements,
    flag_quality,
    flag_source,
    flag_units,
    predict_dice,
)
from voxmetry.io.atomic import claim_folder, replaced_together, write_bytes, write_text
from voxmetry.measurement import DEFINITIONS, compare, lesions, measure
from voxmetry.measurement.tables import named_records_csv, records_csv
from voxmetry.nn.grids import reorientation
from voxmetry.nn.uncertainty_maps import FILES as MAP_FILES
from voxmetry.nn.uncertainty_maps import require_maps
from voxmetry.ops.components import clean
from voxmetry.ops.resample import resample
from voxmetry.report.pictures.thumbnail import render_thumbnail
from voxmetry.workflows.dicom_objects import FILES as DICOM_FILES
from voxmetry.workflows.dicom_objects import require_dicom, write_objects
from voxmetry.workflows.prior import compare_with_prior
from voxmetry.workflows.privacy import Privacy
from voxmetry.workflows.run_folder import PDF, Outputs, read_result

OUTPUTS = {
    "segmentation": "seg.nii.gz",
    "measurements": "measurements.csv",
    "lesions": "lesions.csv",
    "other measurements": "other_measurements.csv",
    "other lesions": "other_lesions.csv",
    "comparison": "comparison.csv",
    "change": "change.json",
    **MAP_FILES,
    **DICOM_FILES,
    "report_pdf": PDF,
    "result": "result.json",
    "thumbnail": "thumbnail.png",
    "report": "report.html",
}
PACKAGES = ("voxmetry", "torch", "monai", "numpy", "nibabel", "SimpleITK", "pydicom", "connected-components-3d", "edt")

Input: TypeAlias = InputSpec | Channel

AIR_HU = -500
"""An image whose darkest voxel is below this holds Hounsfield units: MR magnitude and PET are never negative."""


def segment_study(
    study: Path | str | Sequence[Path | str],
    out: Path | str,
    model: nn.Predictor | nn.Model | Baseline | str | Path,
    *,
    reference: Path | str | None = None,
    prior: Path | str | None = None,
    settings: StudySettings = StudySettings(),  # noqa: B008  (frozen)
    tell: Callable[[str], None] | None = None,
    gate: AbstractContextManager[object] | None = None,
) -> StudyResult:
    """Segment and measure one study, and write everything that is known about it.

    Parameters
    ----------
    study
        A DICOM folder or file, or a NIfTI, NRRD or MHA file. For a model with several inputs, such as CT and PET: one
        DICOM folder with a series of each modality, or one path for each input in the model's order.
    out
        Folder for `seg.nii.gz`, `measurements.csv`, `result.json` and `report.html` (`comparison.csv` with a
        reference, `lesions.csv` where the model finds lesions, NIfTI files of `settings.maps`). Each appears whole
        or not at all, the report last.
    model
        A predictor or a loaded model (for many studies, load it once), a bundled model's name, a model folder, or a
        baseline's YAML file.
    reference
        A segmentation of the same study on the same grid to compare with.
    prior
        The folder of a run on an earlier study of the same patient: `change.json` and the report say what changed.
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
    clock, out, privacy = Clock(tell), Path(out), Privacy.of(settings)
    claim_folder(out, OUTPUTS.values(), overwrite=settings.overwrite)
    if prior is not None:
        read_result(prior)
    with clock.step("load model"):
        ready = load_any(model, settings, tell)
        require_maps_of(ready, settings)
    spec = ready.spec
    with clock.step("read"):
        paths = input_paths(study, spec, settings)
        volumes = [read_input(path, item, spec, settings) for path, item in zip(paths, inputs_of(spec), strict=True)]
        volume = volumes[0]
        truth = read_reference(reference, spec, volume) if reference else None
        require_dicom(volume, settings.dicom)
    with replaced_together(out, OUTPUTS.values()) as stage:
        segmentation, foretold, agreed = run_model(ready, volumes, clock, gate, maps=settings.maps, maps_to=stage)
        with clock.step("measure"):
            measurements = measure(segmentation, volume)
            found = lesions(segmentation, volume, organs=segmentation)
            others = measure_others(volumes, segmentation, spec, paths)
            comparisons = compare_with(truth, segmentation, settings) if truth else ()
        result = StudyResult(
            source=describe(volume, paths[0], inputs_of(spec)[0]),
            labels=spec.labels,
            measurements=measurements,
            lesions=found,
            others=others,
            comparisons=comparisons,
            predicted_dice=foretold,
            members_agreement=agreed,
            flags=(
                *flag_study(volumes, measurements, spec),
                *flag_islands(segmentation),
                *flag_quality(foretold),
                *flag_agreement(agreed),
            ),
            definitions=dict(DEFINITIONS),
            provenance=provenance(ready, settings, clock),
        )
        change = privacy.change(since(prior, result, segmentation, volume, clock))
        result = finished(privacy.result(result), settings, change)
        shown = Shown(volume, segmentation, truth, tuple(volumes[1:]), change)
        with clock.step("write"):
            earlier = any((out / name).exists() for name in OUTPUTS.values())
            outputs = Outputs(stage, keep_earlier=earlier)
            result = write_outputs(outputs, result, shown, settings, privacy)
    return result


def since(
    prior: Path | str | None, result: StudyResult, segmentation: Segmentation, volume: Volume, clock: Clock
) -> PriorComparison | None:
    """Hold the result against an earlier run, where one was named."""
    if prior is None:
        return None
    with clock.step("compare with prior"):
        return compare_with_prior(result, prior, segmentation=segmentation, image=volume)


def finished(result: StudyResult, settings: StudySettings, change: PriorComparison | None) -> StudyResult:
    """Add what the comparison with a prior flags, and the names of the files, which follow from all flags."""
    flags = (*result.flags, *(change.flags if change is not None else ()))
    result = result.model_copy(update={"flags": flags})
    return result.model_copy(update={"files": output_files(result, settings, changed=change is not None)})


class Shown(NamedTuple):
    """What the report's pictures and words are made of, beside the result."""

    volume: Volume
    segmentation: Segmentation
    reference: Segmentation | None
    others: tuple[Volume, ...]
    prior: PriorComparison | None

    def of_image(self) -> dict[str, Any]:
        """Return all but the further images, which a DICOM object does not show."""
        return {name: thing for name, thing in self._asdict().items() if name != "others"}


def output_files(result: StudyResult, settings: StudySettings, *, changed: bool) -> dict[str, str]:
    """Name the files of a study: lesions only where the model can find some, a comparison only where there is one."""
    left_out = {*DICOM_FILES, "report_pdf"} | (set() if result.comparisons else {"comparison"})
    left_out |= {*MAP_FILES} - {*settings.maps, *(["maps"] if settings.maps else [])}
    if not changed:
        left_out.add("change")
    if not result.others:
        left_out |= {"other measurements", "other lesions"}
    if not any(label.kind == "lesion" for label in result.labels):
        left_out |= {"lesions", "other lesions"}
    if settings.report != "brief":
        left_out.add("thumbnail")
    if settings.report == "none" or (settings.report == "brief" and not result.needs_review):
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
            model,
            device=settings.device,
            precision=settings.precision,
            execution=settings.execution,
            memory_gb=settings.memory_gb,
            tell=tell,
        )
    return load_baseline(model)


def require_maps_of(ready: nn.Predictor | Baseline, settings: StudySettings) -> None:
    """Raise `ConfigError` where maps are asked for that the model cannot give."""
    if isinstance(ready, Baseline) and settings.maps:
        raise ConfigError(
            found=f"maps ({', '.join(settings.maps)}) of {ready.spec.name}, which decides by thresholds",
            expected="a model with a network, whose scores can be written",
            fix="leave out --maps, or use a model: voxmetry models list",
        )
    if isinstance(ready, nn.Predictor):
        require_maps(settings.maps, ready.spec)


def run_model(
    ready: nn.Predictor | Baseline,
    volumes: Sequence[Volume],
    clock: Clock,
    gate: AbstractContextManager[object] | None = None,
    *,
    maps: Sequence[MapName] = (),
    maps_to: Path | None = None,
) -> tuple[Segmentation, tuple[PredictedDice, ...], tuple[MembersAgreement, ...]]:
    """Segment on the first volume's own grid and clean up, each step under its own name.

    Beside the label map come the Dice that is foretold, and how far the networks of an ensemble agree. The gate is held
    while the network runs. Maps are written to a folder as it does.
    """
    if isinstance(ready, Baseline):
        with clock.step("segment"):
            return ready.segment(volumes), (), ()
    with clock.step("preprocess"):
        prepared = ready.prepare(volumes, maps=maps, measured=True)
    confidence = nn.Confidence(ready.spec) if ready.spec.quality else None
    agreement = nn.Agreement(ready.spec)
    with gate or nullcontext(), clock.step("network"):
        segmentation = ready.run(prepared, maps=maps, maps_to=maps_to, confidence=confidence, agreement=agreement)
    with clock.step("clean up"):
        cleaned = clean(segmentation, ready.spec.clean)
    foretold = predict_dice(confidence.expected_dice(), ready.spec) if confidence else ()
    agreed = tuple(
        MembersAgreement(label=name, mean_dice=dice, members=ready.spec.members)
        for name, dice in agreement.mean_dice().items()
        if math.isfinite(dice)
    )
    return cleaned, foretold, agreed


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


def inputs_of(spec: ModelSpec | BaselineSpec) -> tuple[Input, ...]:
    """Return what a model or a baseline takes."""
    return tuple(spec.inputs)


def input_paths(
    study: Path | str | Sequence[Path | str], spec: ModelSpec | BaselineSpec, settings: StudySettings
) -> list[Path]:
    """Return where the image of each input of the model is.

    Raises
    ------
    InputError
        If there is not one path for each input.
    ConfigError
        If one series or modality is named for several inputs.
    """
    paths = [Path(study)] if isinstance(study, (str, Path)) else [Path(path) for path in study]
    named = ", ".join(f"{item.name} ({item.modality})" for item in spec.inputs)
    if len(paths) == 1 and (len(spec.inputs) == 1 or paths[0].is_dir()):
        # A folder holds a series of each modality.
        paths *= len(spec.inputs)
    if len(paths) != len(spec.inputs):
        raise InputError(
            found=f"{len(paths)} {'image' if len(paths) == 1 else 'images'} for {spec.name}",
            expected=f"one for each input, in this order: {named}; or one DICOM folder with a series of each modality",
            fix=f"voxmetry segment {' '.join(item.name.upper() for item in spec.inputs)} -m {spec.name} -o OUT",
        )
    if len(paths) > 1 and (settings.series or settings.modality):
        raise ConfigError(
            found=f"one series or modality for {len(paths)} inputs",
            expected="neither with a model of several inputs",
            fix="pass the folder or file of each input instead",
        )
    return paths


def read_input(path: Path, item: Input, spec: ModelSpec | BaselineSpec, settings: StudySettings) -> Volume:
    """Read the one series or file that an input of the model takes.

    Raises
    ------
    InputError
        If the image is of another modality, or a file's values cannot be of the modality that the model takes.
    """
    declared = settings.modality or item.modality
    if declared != item.modality:
        raise InputError(
            found=f"an image of modality {declared}",
            expected=f"{item.modality}, which {spec.name} was trained on",
            fix="use a model for this modality: voxmetry models list",
        )
    volume = io.read_volume(
        path,
        modality=item.modality,
        series=settings.series,
        unit=settings.unit if item.modality == "PT" else None,
        rules=item.series if isinstance(item, InputSpec) else None,
        suv=settings.suv,
        allow_uneven=settings.allow_uneven,
        resample_tilt=settings.resample_tilt,
    )
    darkest = float(volume.array.min())
    if volume.source is None and settings.modality is None and item.modality != "CT" and darkest < AIR_HU:
        raise InputError(
            found=f"values down to {darkest:g}, as Hounsfield units of a CT have",
            expected=f"{item.modality} intensities, which {spec.name} was trained on",
            fix=f"use a model for CT, or pass --modality {item.modality} if the image is {item.modality} after all",
        )
    return volume


def measure_others(
    volumes: Sequence[Volume], segmentation: Segmentation, spec: ModelSpec | BaselineSpec, paths: Sequence[Path]
) -> tuple[OtherInput, ...]:
    """Measure the labels on each further input's own voxels, which are not interpolated: SUV belongs to the PET.

    The label map is moved onto that input's grid by nearest neighbour.
    """
    made = []
    for volume, item, path in list(zip(volumes, inputs_of(spec), paths, strict=True))[1:]:
        moved = resample(segmentation, to=volume.geometry)
        made.append(
            OtherInput(
                name=item.name,
                source=describe(volume, path, item),
                measurements=measure(moved, volume),
                lesions=lesions(moved, volume, organs=moved),
            )
        )
    return tuple(made)


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


def flag_study(
    volumes: Sequence[Volume], measurements: Sequence[Measurement], spec: ModelSpec | BaselineSpec
) -> tuple[Flag, ...]:
    """Collect what a person should know: about the images first, then about each structure."""
    domain = spec.training_domain if isinstance(spec, ModelSpec) else TrainingDomain()
    inputs = inputs_of(spec)
    named = zip(volumes, inputs, strict=True)
    images = [flag for volume, item in named for flag in flag_image(volume, item.name, item.modality, domain)]
    units = flag_units([volume.unit for volume in volumes], [(item.name, item.modality) for item in inputs])
    structures = (*flag_measurements(measurements, spec), *flag_asymmetry(measurements, spec.labels))
    if isinstance(spec, BaselineSpec):
        return (*images, *units, *structures)
    _, oriented = reorientation(volumes[0].geometry, spec.orientation)
    sources = [flag for volume in volumes for flag in flag_source(volume.source)]
    return (*sources, *images, *units, *flag_input(oriented, spec), *structures)


def describe(volume: Volume, path: Path, item: Input) -> SourceInfo:
    """Say what was segmented, without its path or its patient."""
    series = volume.source
    name = path.name.lower()
    formats = {".nii.gz": "NIfTI", ".nii": "NIfTI", ".nrrd": "NRRD", ".nhdr": "NRRD", ".mha": "MHA", ".mhd": "MHA"}
    return SourceInfo(
        format="DICOM" if series else next((kind for end, kind in formats.items() if name.endswith(end)), "file"),
        modality=series.modality if series else item.modality,
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
        voxmetry_version=__version__,
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
    versions = {"voxmetry": __version__}
    for name in PACKAGES[1:]:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far in 10^6 bytes; nan where the system does not tell."""
    status = Path("/proc/self/status")
    # Where it is there; ru_maxrss begins at what the process that started this one held.
    known = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    if known:
        return round(int(known[1]) * 1024 / 1e6, 1)
    if sys.platform == "win32":
        return float("nan")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)


def write_outputs(
    outputs: Outputs, result: StudyResult, shown: Shown, settings: StudySettings, privacy: Privacy
) -> StudyResult:
    """Write all files, each atomically and on its own, and return the result as it was written.

    One that cannot be written costs none of the others: `not_written` of the result and a flag name it. Without the
    label map, the table or the result there is no run, and the error is raised.
    """
    out, files = outputs.folder, result.files
    io.save(shown.segmentation, out / OUTPUTS["segmentation"])
    write_text(out / OUTPUTS["measurements"], records_csv(result.measurements, Measurement))
    for what, text in tables(result, shown).items():
        with outputs.each(what, OUTPUTS[what]) as path:
            write_text(path, text())
    write_objects(outputs, settings.dicom, result, **shown.of_image(), uids=privacy.uids)
    if "thumbnail" in files:
        with outputs.each("thumbnail", OUTPUTS["thumbnail"]) as path:
            write_bytes(path, render_thumbnail(shown.volume, shown.segmentation))
    result = with_failures(result, outputs)
    if "report" in output_files(result, settings, changed=shown.prior is not None):
        with outputs.each("report", OUTPUTS["report"]) as path:
            report.write_report(result, path, **shown._asdict())
        result = with_failures(result, outputs)
    write_text(out / OUTPUTS["result"], result.model_dump_json(indent=1))
    return result


def tables(result: StudyResult, shown: Shown) -> dict[str, Callable[[], str]]:
    """Return what makes the text of each further table that the run has."""
    made: dict[str, Callable[[], str]] = {}
    if "lesions" in result.files:
        made["lesions"] = lambda: records_csv(result.lesions, Lesion)
    if "other measurements" in result.files:
        rows = {other.name: other.measurements for other in result.others}
        made["other measurements"] = lambda: named_records_csv(rows, Measurement, name="input")
    if "other lesions" in result.files:
        spots = {other.name: other.lesions for other in result.others}
        made["other lesions"] = lambda: named_records_csv(spots, Lesion, name="input")
    if result.comparisons:
        made["comparison"] = lambda: records_csv(result.comparisons, Comparison)
    prior = shown.prior
    if prior is not None:
        made["change"] = lambda: prior.model_dump_json(indent=1)
    return made


def with_failures(result: StudyResult, outputs: Outputs) -> StudyResult:
    """Name the files that are there, and flag each that was asked for and is not."""
    lost = outputs.not_written
    files = {what: name for what, name in {**result.files, **outputs.files}.items() if name not in lost}
    new = {name: why for name, why in lost.items() if name not in result.not_written}
    flags = tuple(
        Flag(code="not_written", severity="review", message=f"{name} was not written: {why}.")
        for name, why in new.items()
    )
    return result.model_copy(
        update={"files": files, "not_written": dict(lost), "flags": (*result.flags, *flags)},
    )
