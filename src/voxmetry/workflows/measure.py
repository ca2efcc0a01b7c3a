"""Measure what lies at a path, without any model: what stands behind `voxmetry measure`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from voxmetry import io
from voxmetry.core.base import Unit
from voxmetry.core.records import Lesion, Measurement
from voxmetry.io.atomic import write_text
from voxmetry.io.output_folder import output_folder
from voxmetry.io.read import Modality
from voxmetry.measurement import lesions, measure
from voxmetry.measurement.definitions import MEASURED as MEASURED
from voxmetry.measurement.tables import records_csv
from voxmetry.workflows.run_folder import label_map_of

OUTPUTS = ("measurements.csv", "lesions.csv")


@dataclass(frozen=True)
class MeasureInputs:
    """What is measured.

    Parameters
    ----------
    segmentation
        The label map, or the folder of a run that holds one.
    image
        The image that it belongs to, for intensities; None for none.
    modality, unit
        What an image file without DICOM headers is, as for `read_volume`.
    organs
        A label map of organs on the same grid, to say where a lesion lies; None takes `segmentation`.
    """

    segmentation: Path
    image: Path | None = None
    modality: Modality | None = None
    unit: Unit | None = None
    organs: Path | None = None


def measure_paths(
    inputs: MeasureInputs,
    *,
    lesion_names: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
    as_labels: bool = False,
    connectivity: int = 26,
    min_volume_ml: float = 0.0,
    out: Path | None = None,
    overwrite: bool = False,
) -> tuple[tuple[Measurement, ...], tuple[Lesion, ...], tuple[Path, ...]]:
    """Measure each structure of a label map, and each lesion.

    Parameters
    ----------
    inputs
        What is measured.
    lesion_names
        Structures whose connected components are lesions, by name or value.
    names
        New names by those that the structures have, or by their values.
    as_labels
        Take a map of many values without a table for a label map, though it looks like an image.
    connectivity
        6, 18 or 26: voxels of one lesion share a face, an edge or a corner.
    min_volume_ml
        Smaller lesions are left out.
    out
        Folder for `measurements.csv` and `lesions.csv`; None writes nothing.
    overwrite
        Whether earlier tables in `out` are replaced.

    Returns
    -------
    tuple of Measurement, tuple of Lesion, tuple of Path
        One row a structure, one row a lesion, and the files that were written.

    Raises
    ------
    VoxmetryError
        If something cannot be read, measured or written.
    """

    def work() -> tuple[tuple[Measurement, ...], tuple[Lesion, ...]]:
        volume = io.read_volume(inputs.image, modality=inputs.modality, unit=inputs.unit) if inputs.image else None
        source = label_map_of(inputs.segmentation)
        labels = io.read_segmentation(source, image=volume, names=names, as_labels=as_labels)
        for name in lesion_names:
            table = labels.labels
            labels = dataclasses.replace(labels, labels=table.with_kind(table.find(name).name, "lesion"))
        organs = io.read_segmentation(inputs.organs, image=labels.geometry) if inputs.organs else labels
        found = lesions(labels, volume, organs=organs, connectivity=connectivity, min_volume_ml=min_volume_ml)
        return measure(labels, volume), found

    if out is None:
        return (*work(), ())
    read = (inputs.segmentation, inputs.image, inputs.organs)
    with output_folder(out, OUTPUTS, overwrite=overwrite, apart_from=read) as stage:
        rows, found = work()
        write_text(stage / OUTPUTS[0], records_csv(rows, Measurement))
        write_text(stage / OUTPUTS[1], records_csv(found, Lesion))
    return rows, found, tuple(out / name for name in OUTPUTS)
