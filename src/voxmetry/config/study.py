"""How one study is read, run and written: the content of a settings file."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from voxmetry.config.model import MapName
from voxmetry.core.base import Record
from voxmetry.core.devices import Device
from voxmetry.core.records.clicks import Click


class DicomOutput(Record):
    """Which DICOM objects are written of a study that is DICOM itself."""

    seg: bool = False
    """A DICOM segmentation, seg.dcm."""
    rtstruct: bool = False
    """An RT structure set, rtstruct.dcm."""
    sr: bool = False
    """A structured report of the measurements, sr.dcm, with the segmentation that it refers to."""
    pdf: bool = False
    """The report as a PDF file, and inside a DICOM object, report.dcm."""
    key_images: bool = False
    """The report's pictures with their words as Secondary Capture images, key_image_01.dcm and on."""
    deidentify: bool = False
    """Whether these objects lose the patient's identity, and all files of the run the identifiers and the free text of
    the source; a copy of the series that the objects refer to comes with them."""
    seg_kind: Literal["binary", "labelmap"] = "binary"
    keep_empty_frames: bool = False
    """Whether a segment has a frame on each slice, as some viewers need."""

    @property
    def any_object(self) -> bool:
        """Whether anything is written."""
        return self.seg or self.rtstruct or self.sr or self.pdf or self.key_images


class StudySettings(Record):
    """How one study is run. The content of a file in `configs/study`; each field is an option of `voxmetry segment`."""

    OF_LOADING: ClassVar[tuple[str, ...]] = (
        *("device", "precision", "engine", "execution"),
        *("memory_gb", "structures", "fast"),
    )
    """The fields that a model is loaded by: studies that are alike in them share one that is loaded."""

    series: str | None = None
    """Series Instance UID, where the folder holds more than one candidate."""
    modality: Literal["CT", "MR", "PT"] | None = None
    """What a file without DICOM headers is; None takes the model's word for it, after a look at the values."""
    unit: Literal["SUVbw"] | None = None
    """What a PET file without DICOM headers holds; None leaves it open, and no SUV is named."""
    device: Device = "auto"
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    engine: Literal["stream", "monai"] = "stream"
    """'stream': windows go to the study's own grid slab by slab. 'monai': MONAI's own parts, whole scores in memory,
    the reference that the first is compared with."""
    execution: Literal["eager", "compile", "graph"] = "eager"
    """How torch runs the network: operation by operation, compiled, or as a CUDA graph."""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """The most that the process may hold, in 10^9 bytes; None takes what the system has left."""
    tolerance_mm: Annotated[float, Field(gt=0)] = 1.0
    """Tolerance of the surface Dice against a reference."""
    names: dict[str, str] = Field(default_factory=dict)
    """Names (or values) in a reference or a prior, to the model's: `{"GTV_Mass_CT": "tumour"}`."""
    maps: tuple[MapName, ...] = ()
    """What is written for each voxel beside its label: probabilities.nii, entropy.nii, disagreement.nii."""
    structures: tuple[str, ...] = ()
    """Names of the structures that are wanted; of a model of models, only the members that give some of them run. None
    given: all."""
    instances: Literal["model", "components", "watershed", "none"] = "model"
    """How structures are told apart: as the model does it, by connected components, by watershed, or not."""
    instance_labels: tuple[str, ...] = ()
    """Which structures; none given: those of kind 'lesion', or all where the model has none."""
    clicks: tuple[Click, ...] = ()
    """What a person says is there, for a model that was trained with clicks."""
    any_region: bool = False
    """Run a study whose header names another part of the body than the model is for; it is flagged then."""
    fast: bool = False
    """Trade accuracy for time. A part of the windows is run, or they overlap by a quarter at most, and networks run in
    8 bits where `voxmetry models quantise` stored them so; of a model of models that names a coarse one, the members
    run inside the box that this finds, as they would without `fast`."""
    dicom: DicomOutput = DicomOutput()
    report: Literal["full", "brief", "none"] = "full"
    """A report; a thumbnail, and a report only if the study is flagged for review; neither."""
    with_identity: bool = False
    """Whether results repeat free text of the source, such as Series Description, which can hold a name."""
    overwrite: bool = False
    suv: Literal["bw", "lbm", "bsa", "none"] = "bw"
    """What a PET series becomes: SUV by body weight, lean body mass or body surface area, or its stored values."""
    allow_uneven: bool = False
    """Take a DICOM series with missing slices or uneven steps, interpolated onto a regular grid."""
    resample_tilt: bool = False
    """Take a DICOM series whose stack leans (gantry tilt), resampled onto a grid at right angles."""
