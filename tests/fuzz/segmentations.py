"""DICOM SEG and RT structure sets: each mask that comes back is the one that pydicom and a polygon test find."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pydicom

import phantoms
from voxmetry import Geometry, VoxmetryError, list_series, read_volume
from voxmetry.core.geometry import swap_lps_ras
from voxmetry.io import read_layers, write_series
from voxmetry.io.dicom.objects.origin import Origin
from voxmetry.io.dicom.objects.source import read_source
from voxmetry.io.dicom.segmentations.rtstruct_write import write_rtstruct
from voxmetry.io.dicom.segmentations.seg_write import write_seg

from .damage import BYTES, rewritten
from .harness import Files, Kind, Mutation, Reference

MOST_BYTES = 400_000
FRAME_UID = "1.2.826.0.1.3680043.8.498.7"
_NUMBERS = (0, -1, 1, 2, 3, 7, 255, 65535)


def frames(data: pydicom.Dataset) -> list[pydicom.Dataset]:
    """Return the descriptions of a segmentation's frames."""
    return list(data.PerFrameFunctionalGroupsSequence)


def move_frame(r: random.Random, data: pydicom.Dataset) -> None:
    place = r.choice(frames(data)).PlanePositionSequence[0]
    size = r.choice((1e-6, 0.01, 0.05, 0.3, 2.6, 100))
    place.ImagePositionPatient = [f"{float(x) + r.gauss(0, size):.9g}" for x in place.ImagePositionPatient]


def move_all(r: random.Random, data: pydicom.Dataset) -> None:
    factor = r.choice((0.5, 2.0, 3.0, 1.0001))
    for frame in frames(data):
        place = frame.PlanePositionSequence[0]
        place.ImagePositionPatient = [f"{float(x) * factor:.9g}" for x in place.ImagePositionPatient]


def another_segment(r: random.Random, data: pydicom.Dataset) -> None:
    r.choice(frames(data)).SegmentIdentificationSequence[0].ReferencedSegmentNumber = r.choice(_NUMBERS[2:])


def another_spacing(r: random.Random, data: pydicom.Dataset) -> None:
    measures = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    keyword = r.choice(("SpacingBetweenSlices", "SliceThickness", "PixelSpacing"))
    value = r.choice(("0", "1", "0.5", "7.8", "-2.6", "1e9", "nan"))
    with pydicom.config.disable_value_validation():
        setattr(measures, keyword, [value, value] if keyword == "PixelSpacing" else value)


def fewer_frames(r: random.Random, data: pydicom.Dataset) -> None:
    kept = frames(data)
    kept.pop(r.randrange(len(kept)))
    data.PerFrameFunctionalGroupsSequence = kept
    if r.random() < 0.5:
        data.NumberOfFrames = len(kept)


def change_header(r: random.Random, data: pydicom.Dataset) -> None:
    keyword = r.choice(
        ("Rows", "Columns", "BitsAllocated", "NumberOfFrames", "SamplesPerPixel", "MaximumFractionalValue")
    )
    if r.random() < 0.4 and keyword in data:
        delattr(data, keyword)
    else:
        setattr(data, keyword, r.choice((0, 1, 2, 3, 8, 16, 1000, 65535)))


def change_kind(r: random.Random, data: pydicom.Dataset) -> None:
    data.SegmentationType = r.choice(("BINARY", "FRACTIONAL", "LABELMAP", "", "X"))


def drop_part(r: random.Random, data: pydicom.Dataset) -> None:
    """Remove an element somewhere: at the top, in an item, or in an item of an item."""
    while True:
        sequences = [element for element in data if element.VR == "SQ" and element.value]
        if not sequences or r.random() < 0.4:
            break
        data = r.choice(r.choice(sequences).value)
    if len(data):
        del data[r.choice(list(data.keys()))]


def rename_segment(r: random.Random, data: pydicom.Dataset) -> None:
    segment = r.choice(list(data.SegmentSequence))
    if r.random() < 0.5:
        segment.SegmentNumber = r.choice(_NUMBERS[2:])
    else:
        segment.SegmentLabel = r.choice(("", "a" * 64, "x [/left]", "\x1b[31m", "b"))


class Seg:
    """Segmentations of a phantom, one binary and one with overlap left out, and the small ones at hand."""

    name = "seg"
    share = 0.2
    mutations: dict[str, Mutation] = BYTES | {
        "moved frame": rewritten(move_frame),
        "moved frames": rewritten(move_all),
        "another segment": rewritten(another_segment),
        "another spacing": rewritten(another_spacing),
        "fewer frames": rewritten(fewer_frames),
        "header": rewritten(change_header),
        "another kind": rewritten(change_kind),
        "dropped element": rewritten(drop_part),
        "renamed segment": rewritten(rename_segment),
    }

    def sources(self, data: Path | None, scratch: Path) -> list[Files]:
        """Return a segmentation of the phantom, and those below `data`."""
        grid = phantoms.geometry(frame_uid=FRAME_UID)
        write_series(phantoms.volume(grid), scratch / "image", modality="MR", series_uid="1.2.3")
        (info,) = list_series(scratch / "image")
        write_seg(phantoms.segmentation(grid), read_source(info), scratch / "seg.dcm", origin=Origin("manual"))
        found = [{"seg.dcm": bytearray((scratch / "seg.dcm").read_bytes())}]
        for path in sorted((data / "dicom-seg").rglob("*")) if data is not None else ():
            if path.is_file() and path.stat().st_size <= MOST_BYTES and _is_class(path, "1.2.840.10008.5.1.4.1.1.66"):
                found.append({"seg.dcm": bytearray(path.read_bytes())})
        return found

    def judge(self, folder: Path, reference: Reference) -> tuple[Kind, str]:
        """Read it without the image, and compare each structure with the frames of its segment."""
        path = folder / "seg.dcm"
        try:
            layers = read_layers(path)
        except VoxmetryError:
            return "refused", ""
        affine = swap_lps_ras(layers[0].geometry.affine)
        masks = [(label.value, layer.mask(label.name)) for layer in layers for label in layer.labels]
        try:
            wrong = reference.call(seg_difference, str(path), affine, masks)
        except RuntimeError as error:
            return "unjudged", f"pydicom fails where this reads masks, with {error}"
        return ("finding", wrong) if wrong else ("right", "")


def seg_difference(path: str, affine: np.ndarray, masks: list[tuple[int, np.ndarray]]) -> str:
    """Say in what masks differ from the frames that pydicom decodes; empty where they do not."""
    data = pydicom.dcmread(path, force=True)
    stored = data.pixel_array.reshape(-1, data.Rows, data.Columns)
    shared = data.SharedFunctionalGroupsSequence[0] if data.get("SharedFunctionalGroupsSequence") else pydicom.Dataset()
    expected = {value: np.zeros(mask.shape, bool) for value, mask in masks}
    kind, most = data.SegmentationType, int(data.get("MaximumFractionalValue") or 255)
    for frame, group in zip(stored, data.PerFrameFunctionalGroupsSequence, strict=True):

        def item(sequence: str, group: pydicom.Dataset = group) -> pydicom.Dataset:
            return (group.get(sequence) or shared.get(sequence))[0]

        place = np.array([float(x) for x in item("PlanePositionSequence").ImagePositionPatient])
        index = np.linalg.solve(affine[:3, :3], place - affine[:3, 3])
        off = float(np.linalg.norm(affine[:3, :3] @ (index - np.rint(index))))
        step = float(np.linalg.norm(affine[:3, 2]))
        if off > min(0.11 + 0.011 * step, 0.21 * step) or np.rint(index[:2]).any():
            return f"a frame at {place} lies at {index} of the grid"
        k = round(float(index[2]))
        if kind == "LABELMAP":
            padding = data.get("PixelPaddingValue")
            for value, mask in expected.items():
                if value != padding:
                    mask[:, :, k] |= value == frame.T
            continue
        number = int(item("SegmentIdentificationSequence").ReferencedSegmentNumber)
        if number in expected:
            expected[number][:, :, k] |= (most / 2 if kind == "FRACTIONAL" else 1) <= frame.T
    for value, mask in masks:
        if not np.array_equal(mask, expected[value]):
            return f"segment {value} has {int(mask.sum())} voxels in place of {int(expected[value].sum())}"
    return ""


def contours(data: pydicom.Dataset) -> list[pydicom.Dataset]:
    """Return all contours of a structure set."""
    return [contour for roi in data.ROIContourSequence for contour in roi.get("ContourSequence", [])]


def move_points(r: random.Random, data: pydicom.Dataset) -> None:
    contour = r.choice(contours(data))
    points = [float(x) for x in contour.ContourData]
    size = r.choice((1e-4, 0.05, 1, 30, 1e6))
    for _ in range(r.choice((1, 3, len(points)))):
        points[r.randrange(len(points))] += r.gauss(0, size)
    contour.ContourData = [f"{x:.9g}" for x in points]


def lift(r: random.Random, data: pydicom.Dataset) -> None:
    shift = r.choice((0.01, 0.4, 1.3, 2.6, 500.0))
    for contour in contours(data) if r.random() < 0.5 else [r.choice(contours(data))]:
        points = np.reshape([float(x) for x in contour.ContourData], (-1, 3)) + np.array((0, 0, shift))
        contour.ContourData = [f"{x:.9g}" for x in points.ravel()]


def cut_points(r: random.Random, data: pydicom.Dataset) -> None:
    contour = r.choice(contours(data))
    contour.ContourData = list(contour.ContourData)[: r.choice((0, 1, 3, 6, 7))]


def wrong_points(r: random.Random, data: pydicom.Dataset) -> None:
    contour = r.choice(contours(data))
    with pydicom.config.disable_value_validation():
        element = contour["ContourData"]
        element._value = r.choice(("", "nan", "1\\2\\x", "1e400\\0\\0", ["0"] * 9, "1\\1\\1\\1\\1\\1\\1\\1\\1"))
        contour[element.tag] = element


def another_type(r: random.Random, data: pydicom.Dataset) -> None:
    contour = r.choice(contours(data))
    contour.ContourGeometricType = r.choice(("POINT", "OPEN_PLANAR", "CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "", "X"))


def another_roi(r: random.Random, data: pydicom.Dataset) -> None:
    r.choice(list(data.ROIContourSequence)).ReferencedROINumber = r.choice(_NUMBERS)


def another_frame(r: random.Random, data: pydicom.Dataset) -> None:
    uid = r.choice(("1.2.3.4", "", FRAME_UID))
    for roi in data.StructureSetROISequence:
        roi.ReferencedFrameOfReferenceUID = uid
    if r.random() < 0.5:
        data.FrameOfReferenceUID = uid


class StructureSet:
    """A structure set of a phantom on its image, and those at hand on theirs."""

    name = "rtstruct"
    share = 0.15
    mutations: dict[str, Mutation] = BYTES | {
        "moved points": rewritten(move_points),
        "lifted": rewritten(lift),
        "fewer points": rewritten(cut_points),
        "wrong points": rewritten(wrong_points),
        "another type": rewritten(another_type),
        "another ROI": rewritten(another_roi),
        "another frame": rewritten(another_frame),
        "dropped element": rewritten(drop_part),
    }

    def __init__(self) -> None:
        self._grid: Geometry | None = None

    def sources(self, data: Path | None, scratch: Path) -> list[Files]:
        """Return a structure set of the phantom; its image stands upright, so that contours lie in its slices."""
        del data
        grid = phantoms.geometry(degrees=(0, 0, 0), frame_uid=FRAME_UID)
        write_series(phantoms.volume(grid), scratch / "image", modality="MR", series_uid="1.2.3")
        self._grid = read_volume(scratch / "image").geometry
        (info,) = list_series(scratch / "image")
        write_rtstruct(phantoms.segmentation(grid), read_source(info), scratch / "rs.dcm", origin=Origin("manual"))
        return [{"rs.dcm": bytearray((scratch / "rs.dcm").read_bytes())}]

    def judge(self, folder: Path, reference: Reference) -> tuple[Kind, str]:
        """Read it on its image, and compare each structure with a test of voxel centres against its polygons."""
        path, grid = folder / "rs.dcm", self._grid
        if grid is None:
            raise RuntimeError("sources were not made")
        try:
            layers = read_layers(path, image=grid)
        except VoxmetryError:
            return "refused", ""
        masks = [(label.name, layer.mask(label.name)) for layer in layers for label in layer.labels]
        try:
            wrong = reference.call(contour_difference, str(path), swap_lps_ras(grid.affine), masks)
        except RuntimeError as error:
            return "unjudged", f"pydicom fails where this reads masks, with {error}"
        return ("finding", wrong) if wrong else ("right", "")


def contour_difference(path: str, affine: np.ndarray, masks: list[tuple[str, np.ndarray]]) -> str:
    """Say where a mask holds voxels outside of the box of all its points, or lacks those well inside one contour."""
    from matplotlib.path import Path as Polygon

    data = pydicom.dcmread(path, force=True)
    numbers = {str(roi.get("ROIName", "")): roi.ROINumber for roi in data.StructureSetROISequence}
    for name, mask in masks:
        if name not in numbers:
            continue
        rois = [roi for roi in data.ROIContourSequence if roi.ReferencedROINumber == numbers[name]]
        closed = [
            np.reshape([float(x) for x in contour.ContourData], (-1, 3))
            for roi in rois
            for contour in roi.get("ContourSequence", [])
            if str(contour.get("ContourGeometricType", "")).startswith("CLOSED")
        ]
        if not closed:
            return f"{name} has {int(mask.sum())} voxels and no contour" if mask.any() else ""
        index = [np.linalg.solve(affine[:3, :3], (points - affine[:3, 3]).T).T for points in closed]
        every = np.concatenate(index)
        spare = np.array((0.01, 0.01, 1.01))
        low, high = every.min(axis=0) - spare, every.max(axis=0) + spare
        found = np.argwhere(mask)
        if len(found) and ((found < low) | (found > high)).any():
            return f"{name} has voxels outside of its contours"
        if len(index) == len({round(float(points[:, 2].mean())) for points in index}):
            for points in index:
                k = round(float(points[:, 2].mean()))
                if not 0 <= k < mask.shape[2] or np.ptp(points[:, 2]) > 0.02 or abs(points[0, 2] - k) > 0.02:
                    continue
                centres = np.stack(np.meshgrid(*map(np.arange, mask.shape[:2]), indexing="ij"), axis=-1).reshape(-1, 2)
                polygon = Polygon(points[:, :2])
                sure_in = polygon.contains_points(centres, radius=-0.01) & polygon.contains_points(centres, radius=0.01)
                sure_out = ~polygon.contains_points(centres, radius=-0.01) & ~polygon.contains_points(
                    centres, radius=0.01
                )
                inside = mask[:, :, k].reshape(-1)
                if (sure_in & ~inside).any() or (sure_out & inside).any():
                    wrong = int((sure_in & ~inside).sum()), int((sure_out & inside).sum())
                    return f"{name} lacks {wrong[0]} voxels of slice {k} and has {wrong[1]} too many"
    return ""


def _is_class(path: Path, start: str) -> bool:
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
    except Exception:  # noqa: BLE001  (what is no DICOM file is none of this class)
        return False
    return str(header.get("SOPClassUID", "")).startswith(start)


TARGETS = (Seg(), StructureSet())
