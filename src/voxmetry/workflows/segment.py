"""The straight path: a study in, a measured report out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from voxmetry.config import StudySettings
from voxmetry.core.base import require_settings
from voxmetry.core.records import StudyResult
from voxmetry.core.records.follow_up import PriorComparison
from voxmetry.core.segmentation import Segmentation
from voxmetry.io.label_maps import existing
from voxmetry.io.output_folder import output_folder, results_in
from voxmetry.io.segmentations import is_structures
from voxmetry.measurement import DEFINITIONS
from voxmetry.workflows.dicom_objects import require_dicom
from voxmetry.workflows.inputs import StudyInputs, read_inputs
from voxmetry.workflows.instances import instance_rule, with_instances
from voxmetry.workflows.larger_than_memory import APART, flag_left_out_of_large, is_larger, left_out_of_comparison
from voxmetry.workflows.loading import load_beside
from voxmetry.workflows.models import Answer, Chosen, Ready, require_maps_of, run_model
from voxmetry.workflows.prior import LARGER_THAN_MEMORY, compare_with_prior
from voxmetry.workflows.privacy import Privacy
from voxmetry.workflows.provenance import Clock, provenance
from voxmetry.workflows.reference import read_reference
from voxmetry.workflows.run_folder import OUTPUTS, Outputs, read_result
from voxmetry.workflows.study_flags import flag_before, flag_left_out, flag_study, warn_early
from voxmetry.workflows.study_measurements import StudyMeasurements, measure_study, total_rule
from voxmetry.workflows.write_run import ReportInputs, write_outputs


def segment_study(
    study: Path | str | Sequence[Path | str],
    out: Path | str,
    model: Chosen | Sequence[str | Path],
    *,
    reference: Path | str | None = None,
    structures: Sequence[str] = (),
    prior: Path | str | None = None,
    settings: StudySettings = StudySettings(),  # noqa: B008  (frozen)
    tell: Callable[[str], None] | None = None,
    gate: AbstractContextManager[object] | None = None,
    whole: bool = False,
) -> StudyResult:
    """Segment and measure one study, and write everything that is known about it.

    Parameters
    ----------
    study
        A DICOM folder or file, or a NIfTI, NRRD or MHA file. For a model with several inputs, such as CT and PET: one
        DICOM folder with a series of each modality, or one path for each input in the model's order.
    out
        Folder for `seg.nii.gz`, `measurements.csv`, `result.json` and `report.html` (`comparison.csv` with a
        reference, `lesions.csv` where the model finds lesions, `instances.nii.gz`, `panoptic.nii.gz` and
        `instances.csv` where structures are told apart, NIfTI files of `settings.maps`). Each appears whole
        or not at all, the report last.
    model
        A predictor or a loaded model (for many studies, load it once), a model's name, a model folder, or a baseline's
        YAML file. Several names become one map, if their labels do not collide.
    reference
        A segmentation of the same study on the same grid to compare with. Its structures may overlap.
    structures
        Names of the structures of the reference to compare with, in any case, with `*` and `?`; all that the model
        names if not given.
    prior
        The folder of a run on an earlier study of the same patient: `change.json` and the report say what changed.
    settings
        Which series, which device, whether to overwrite.
    tell
        Called with the name of each step as it begins, for a progress display.
    gate
        Held while the network runs: threads that share a loaded model pass a lock, so that one study is in the network
        while others are read and written.
    whole
        Whether a file that the system will not write, as on a full disk, fails the study; else it is left out and
        named, unless earlier results would be replaced. A cohort stops there, and does the study again.

    Returns
    -------
    StudyResult
        The content of `result.json`.

    Raises
    ------
    VoxmetryError
        If the input, the model or the output cannot be used; nothing half-written is left.
    """
    require_settings(settings, StudySettings)
    clock, privacy = Clock(tell), Privacy.of(settings)
    read = [study] if isinstance(study, (str, Path)) else study
    sources = (*read, reference, prior)
    with output_folder(out, OUTPUTS.values(), overwrite=settings.overwrite, apart_from=sources) as stage:
        if prior is not None:
            read_result(prior)
        ready, inputs = load_beside(
            model,
            settings,
            clock,
            tell,
            check=lambda loaded: _require_of(loaded, settings),
            read=lambda spec: read_inputs(study, spec, settings),
            # A path with a slip in it waits for no model.
            first=lambda: [existing(path) for path in read],
        )
        with clock.step("read"):
            left_out = _left_out_of_reading(inputs, reference)
            truth, unknown = read_reference(
                None if left_out else reference,
                ready.spec.labels,
                inputs.first.geometry,
                names=settings.names,
                structures=structures,
                mapped=True,
            )
            require_dicom(inputs.first, settings.dicom)
            early = flag_before(ready, inputs, reference, settings)
        warn_early(inputs, ready.spec, tell)
        answer = run_model(ready, inputs.volumes, settings, clock, gate, maps_to=stage)
        with clock.step("measure"):
            answer, found = _measure(answer, inputs, truth, ready, settings, left_out)
        change = _compare_with_prior(found, prior, answer, inputs, settings, clock)
        if change is not None and change.reason == LARGER_THAN_MEMORY:
            left_out.append("the match of lesions with those of the prior")
        flags = (*early, *flag_study(inputs, found, answer, change, ready), *flag_left_out(unknown))
        flags = (*flags, *flag_left_out_of_large(left_out))
        made = provenance(ready, settings, clock)
        result = StudyResult(**vars(found), flags=flags, definitions=dict(DEFINITIONS), provenance=made)
        with clock.step("write"):
            shown = ReportInputs.of(inputs, answer, truth, change)
            outputs = Outputs(stage, keep_earlier=whole or bool(results_in(out, OUTPUTS.values())))
            return write_outputs(outputs, privacy.result(result), shown, settings, privacy)


def _require_of(ready: Ready, settings: StudySettings) -> None:
    """Refuse what a model cannot do, before the network runs."""
    require_maps_of(ready, settings)
    instance_rule(ready.spec, settings)


def _left_out_of_reading(inputs: StudyInputs, reference: Path | str | None) -> list[str]:
    """Say that there is no comparison with a reference whose structures would each be held as a whole."""
    apart = is_larger(inputs.volumes) and reference is not None and is_structures(existing(reference))
    return [APART] if apart else []


def _measure(
    answer: Answer,
    inputs: StudyInputs,
    truth: tuple[Segmentation, ...],
    ready: Ready,
    settings: StudySettings,
    left_out: list[str],
) -> tuple[Answer, StudyMeasurements]:
    """Tell instances apart and measure; `left_out` takes what there is no memory for."""
    large = is_larger(inputs.volumes, answer.segmentation)
    if not large:
        answer = with_instances(answer, ready.spec, settings)
    elif instance_rule(ready.spec, settings) is not None:
        left_out.append("the instances of structures")
    skipped = left_out if large else None
    found = measure_study(answer, inputs, truth, settings, total_rule(ready.spec), skipped=skipped)
    left_out += left_out_of_comparison(found.comparisons, (answer.segmentation, *truth))
    return answer, found


def _compare_with_prior(
    found: StudyMeasurements,
    prior: Path | str | None,
    answer: Answer,
    inputs: StudyInputs,
    settings: StudySettings,
    clock: Clock,
) -> PriorComparison | None:
    if prior is None:
        return None
    with clock.step("compare with prior"):
        segmentation = None if is_larger(inputs.volumes, answer.segmentation) else answer.segmentation
        change = compare_with_prior(found, prior, segmentation=segmentation, image=inputs.first, names=settings.names)
        return Privacy.of(settings).change(change)
