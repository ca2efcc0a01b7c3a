"""DICOM objects of many series, written here and read back by others: the same mL, mm, names and codes.

    python tests/round_trips.py        # every series in ../shared/data, all combinations; prints their number and
                                       # the largest differences

`tests/io/dicom/test_round_trips.py` runs a selection.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import SimpleITK
from matplotlib.path import Path as Polygon
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

sys.path.insert(0, str(Path(__file__).parent))
import phantoms
from frames import enhance, mosaics
from voxmetry import Label, LabelTable, Segmentation, Volume, list_series, measure, read_volume
from voxmetry.core.geometry import Geometry, swap_lps_ras
from voxmetry.core.labels import Code
from voxmetry.errors import VoxmetryError
from voxmetry.io import read_layers, read_series, write_series
from voxmetry.io.dicom.objects.encapsulated import write_encapsulated_pdf, write_secondary_capture
from voxmetry.io.dicom.objects.origin import Origin
from voxmetry.io.dicom.objects.source import read_source
from voxmetry.io.dicom.objects.structured_report import write_report_sr
from voxmetry.io.dicom.segmentations.rtstruct_write import write_rtstruct
from voxmetry.io.dicom.segmentations.seg_write import write_seg

ORIGIN = Origin("automatic", "phantom-model", "1.2.3", serial="f" * 64, software="0.1.0")
LIVER, LESION = Code(value="10200004", meaning="Liver"), Code(value="108369006", meaning="Neoplasm")
PDF = b"%PDF-1.4\n1 0 obj <<>> endobj\ntrailer <<>>\n%%EOF\n"
TOLERANCE_ML, TOLERANCE_MM = 0.001, 0.01
WRITERS = ("seg", "labelmap", "overlap", "rtstruct", "sr", "key", "pdf")

CHARACTERS = {
    # Specific Character Set: a patient's name, and the name of a structure, in it. PS3.3 C.12.1.1.2.
    "": ("Smith^John", "Läsion ß"),
    "ISO_IR 100": ("Müller^Jürgen", "Läsion ß"),
    "ISO_IR 101": ("Dvořák^Antonín", "Łódź"),
    "ISO_IR 109": ("Ĝis^Ĥoro", "Läsion ß"),
    "ISO_IR 110": ("Ģirts^Ķīla", "Läsion ß"),
    "ISO_IR 144": ("Люкceмбypг", "Läsion ß"),
    "ISO_IR 127": ("قباني^لنزار", "كبد"),
    "ISO_IR 126": ("Διονυσιος", "ήπαρ"),
    "ISO_IR 138": ("שרון^דבורה", "כבד"),
    "ISO_IR 148": ("Çavuşoğlu^Işıl", "Karaciğer"),
    "ISO_IR 203": ("Œuvre^Šárka", "5 € Läsion"),
    "ISO_IR 13": ("ﾔﾏﾀﾞ^ﾀﾛｳ", "ｶﾝｿﾞｳ"),
    "ISO_IR 166": ("นามสกุล^ชื่อ", "ตับ"),
    "ISO_IR 192": ("Wang^XiaoDong=王^小东", "肝臓 ß"),
    "GB18030": ("Wang^XiaoDong=王^小东", "肝脏"),
    "GBK": ("Wang^XiaoDong=王^小东", "肝脏"),
    "\\ISO 2022 IR 87": ("Yamada^Tarou=山田^太郎=やまだ^たろう", "肝臓"),
    "ISO 2022 IR 13\\ISO 2022 IR 87": ("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう", "肝臓"),
    "\\ISO 2022 IR 159": ("Yamada^Tarou=丂^丄", "Läsion ß"),
    "\\ISO 2022 IR 149": ("Hong^Gildong=洪^吉洞=홍^길동", "간"),
    "\\ISO 2022 IR 58": ("Zhang^XiaoDong=张^小东", "肝脏"),
    "ISO 2022 IR 100\\ISO 2022 IR 126": ("Müller^Ελένη", "Läsion ήπαρ"),
    "ISO 2022 IR 6\\ISO 2022 IR 144": ("Ivanov^Иван", "печень"),
    "ISO 2022 IR 101\\ISO 2022 IR 127": ("Novák^قباني", "كبد"),
    "ISO 2022 IR 6\\ISO 2022 IR 138": ("Sharon^שרון", "כבד"),
    "ISO 2022 IR 109\\ISO 2022 IR 148": ("Ĝis^Çelik", "Läsion"),
    "ISO 2022 IR 110\\ISO 2022 IR 166": ("Ķīla^ชื่อ", "ตับ"),
    "ISO 2022 IR 203\\ISO 2022 IR 6": ("Œuvre^Šárka", "5 €"),
}


RAW = {
    "ISO_IR 203": "Œuvre^Šárka".encode("iso8859_15"),
    "ISO 2022 IR 203\\ISO 2022 IR 6": "Œuvre^Šárka".encode("iso8859_15"),
    # PS3.5 K.2: the escape sequence stands again after each delimiter.
    "\\ISO 2022 IR 58": b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab",
}


@dataclass(frozen=True)
class Trip:
    """What one reader made of one object."""

    series: str
    writer: str
    reader: str
    ml: float = 0.0
    """Largest difference of a volume in mL."""
    mm: float = 0.0
    """Largest distance of a place or of a size in mm."""
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Truth:
    """What was written: layers on the series' grid, two structures in the first, what overlaps in the second."""

    layers: tuple[Segmentation, ...]
    volume: Volume
    patient: str
    found: dict[str, float] = field(default_factory=dict)

    @property
    def masks(self) -> dict[str, np.ndarray]:
        return {label.name: layer.array == label.value for layer in self.layers for label in layer.labels}

    def ml(self, name: str) -> float:
        return float(self.masks[name].sum()) * self.volume.geometry.voxel_ml


def truth_of(volume: Volume, structure: str = "liver", patient: str = "") -> Truth:
    """Two boxes with a hole, off centre, that no symmetry maps onto themselves; a third one over both."""
    i, j, k = volume.geometry.shape
    first = np.zeros(volume.geometry.shape, np.uint8)
    first[i // 6 : i // 2, j // 4 : j - j // 8, : max(1, k - k // 4)] = 2
    first[i // 4 : i // 4 + 2, j // 2 : j // 2 + 2, :] = 0
    first[i // 2 : i // 2 + max(2, i // 5), j // 3 : j // 2, k // 5 :] = 7
    second = np.zeros_like(first)
    second[i // 3 : i // 3 * 2, j // 5 : max(2, j // 5 * 3), : max(1, k - k // 5)] = 9
    one = LabelTable(
        labels=(
            Label(value=2, name=structure, colour="#E69F00", code=LIVER),
            Label(value=7, name="lesion-1", colour="#56B4E9", kind="lesion", code=LESION),
        )
    )
    two = LabelTable(labels=(Label(value=9, name="margin", colour="#009E73"),))
    grid = volume.geometry
    return Truth((Segmentation(first, grid, one), Segmentation(second, grid, two)), volume, patient)


def write_all(truth: Truth, out: Path) -> dict[str, str]:
    """Write every object; what could not be written is told by its error."""
    source = read_source(truth.volume)
    one = truth.layers[0]
    (out / "report.pdf").write_bytes(PDF)
    picture = np.random.default_rng(1).integers(0, 255, (24, 32, 3)).astype(np.uint8)
    np.save(out / "picture.npy", picture)
    segs = {}

    def seg(name: str, what, **options) -> None:
        segs[name] = write_seg(what, source, out / f"{name}.dcm", origin=ORIGIN, **options)

    steps = {
        "seg": lambda: seg("seg", one),
        "labelmap": lambda: seg("labelmap", one, kind="labelmap"),
        "overlap": lambda: seg("overlap", truth.layers),
        "rtstruct": lambda: write_rtstruct(one, source, out / "rtstruct.dcm", origin=ORIGIN),
        "sr": lambda: write_report_sr(
            measure(one, truth.volume), one.labels, segs["seg"], source, out / "sr.dcm", origin=ORIGIN
        ),
        "key": lambda: write_secondary_capture(picture, source, out / "key.dcm", origin=ORIGIN),
        "pdf": lambda: write_encapsulated_pdf(out / "report.pdf", source, out / "pdf.dcm", origin=ORIGIN),
    }
    failed = {}
    for name, step in steps.items():
        try:
            step()
        except (VoxmetryError, KeyError) as error:
            failed[name] = str(error).replace("\n", " ")
    return failed


def trips(series: str, truth: Truth, out: Path) -> Iterator[Trip]:
    """Write every object of a series and read each with each reader that knows its kind."""
    failed = write_all(truth, out)
    for writer in WRITERS:
        if writer in failed:
            yield Trip(series, writer, "-", faults=(failed[writer],))
            continue
        path = out / f"{writer}.dcm"
        for reader, read in READERS[writer].items():
            try:
                yield read(truth, path, Trip(series, writer, reader))
            except SkippedError:
                continue
            except (VoxmetryError, ValueError, RuntimeError, subprocess.CalledProcessError, KeyError) as error:
                yield Trip(series, writer, reader, faults=(f"{type(error).__name__}: {error}"[:300],))


class SkippedError(Exception):
    """A reader that is known not to read this."""


def compared(trip: Trip, truth: Truth, found: dict[str, tuple[float, np.ndarray]], told: Sequence[str] = ()) -> Trip:
    """Compare volumes, and the box around each structure in mm; `found` has mL and RAS+ centres (n, 3) by name."""
    names = {x.name for layer in truth.layers[: 2 if trip.writer == "overlap" else 1] for x in layer.labels}
    faults = list(told)
    if set(found) != names:
        faults.append(f"names {sorted(found)} for {sorted(names)}")
    ml = mm = 0.0
    for name in names & set(found):
        volume_ml, centres = found[name]
        ml = max(ml, abs(volume_ml - truth.ml(name)))
        mine = truth.volume.geometry.to_mm(np.argwhere(truth.masks[name]))
        if len(centres) != len(mine):
            faults.append(f"{name}: {len(centres)} voxels for {len(mine)}")
        else:
            order = truth.volume.geometry.affine[:3, :3]
            mm = max(mm, float(np.linalg.norm(_sorted(centres, order) - _sorted(mine, order), axis=1).max()))
    return Trip(trip.series, trip.writer, trip.reader, ml, mm, tuple(faults))


def _sorted(points: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Sort points slice by slice, row by row, in the order of a grid's indices, which rounding does not upset."""
    index = np.rint(np.linalg.solve(directions, (points - points.mean(axis=0)).T).T * 2) / 2
    return points[np.lexsort((index[:, 0], index[:, 1], index[:, 2]))]


def by_voxmetry(truth: Truth, path: Path, trip: Trip) -> Trip:
    """With the image: voxel by voxel on its grid."""
    return _layers(truth, trip, read_layers(path, image=truth.volume))


def by_voxmetry_alone(truth: Truth, path: Path, trip: Trip) -> Trip:
    """Without the image: where the file itself says that it lies."""
    return _layers(truth, trip, read_layers(path))


def _layers(truth: Truth, trip: Trip, layers: Sequence[Segmentation]) -> Trip:
    found, told = {}, []
    codes = {x.name: x.code for layer in truth.layers for x in layer.labels}
    for layer in layers:
        for label in layer.labels:
            places = np.argwhere(layer.array == label.value)
            found[label.name] = (len(places) * layer.geometry.voxel_ml, layer.geometry.to_mm(places))
            known = codes.get(label.name)
            if known and label.code != known:
                told.append(f"{label.name}: code {label.code}")
    return compared(trip, truth, found, told)


def by_dcmqi(truth: Truth, path: Path, trip: Trip) -> Trip:
    """One NRRD a segment by segimage2itkimage, which SimpleITK opens; names and codes from its JSON."""
    out = path.parent / f"dcmqi-{path.stem}"
    out.mkdir()
    program = shutil.which("segimage2itkimage", path=str(Path(sys.executable).parent)) or "segimage2itkimage"
    arguments = ["--inputDICOM", path, "--outputDirectory", out, "-t", "nrrd", "-p", "x"]
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, check=False)
    if done.returncode:
        return Trip(trip.series, trip.writer, trip.reader, faults=(done.stderr.decode(errors="replace")[-300:],))
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    encodings = convert_encodings(dataset.get("SpecificCharacterSet", "ISO_IR 6"))
    described = json.loads(decode_bytes((out / "x-meta.json").read_bytes(), encodings, set()))
    found, told = {}, []
    codes = {x.name: x.code for layer in truth.layers for x in layer.labels}
    files = sorted(out.glob("x-*.nrrd"), key=lambda file: int(file.stem[2:]))
    for group, file in zip(described["segmentAttributes"], files, strict=True):
        image = SimpleITK.ReadImage(str(file))
        array, grid = SimpleITK.GetArrayFromImage(image).transpose(), _itk_grid(image)
        for item in group:
            places = np.argwhere(array == item["labelID"])
            name = item["SegmentLabel"]
            found[name] = (len(places) * grid.voxel_ml, grid.to_mm(places))
            code = item["SegmentedPropertyTypeCodeSequence"]["CodeValue"]
            known = codes.get(name)
            if known and code != known.value:
                told.append(f"{name}: code {code}")
    return compared(trip, truth, found, told)


def _itk_grid(image: SimpleITK.Image) -> Geometry:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Geometry(swap_lps_ras(affine), image.GetSize())


def by_highdicom(truth: Truth, path: Path, trip: Trip) -> Trip:
    """A volume by highdicom, a channel a segment."""
    header = pydicom.dcmread(path, stop_before_pixels=True)
    if "SliceThickness" not in header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]:
        # highdicom asks for a thickness, and a series that states none has none to write.
        raise SkippedError
    seg = highdicom.seg.segread(path)
    if len({tuple(x.PlanePositionSequence[0].ImagePositionPatient) for x in seg.PerFrameFunctionalGroupsSequence}) < 2:
        raise SkippedError
    # Positions that are rounded to tenths are no volume by its own tolerance, a hundredth of the step.
    volume = seg.get_volume(combine_segments=False, atol=0.1, skip_overlap_checks=True)
    places = np.argwhere(np.asarray(volume.array) > 0)
    affine = swap_lps_ras(np.array(volume.affine))
    ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    found, told = {}, []
    codes = {x.name: x.code for layer in truth.layers for x in layer.labels}
    for channel, number in enumerate(seg.segment_numbers):
        item = seg.get_segment_description(number)
        mine = places[places[:, 3] == channel][:, :3]
        found[str(item.segment_label)] = (len(mine) * ml, mine @ affine[:3, :3].T + affine[:3, 3])
        known = codes.get(str(item.segment_label))
        if known and item.segmented_property_type.value != known.value:
            told.append(f"{item.segment_label}: code {item.segmented_property_type.value}")
    return compared(trip, truth, found, told)


def by_simpleitk(truth: Truth, path: Path, trip: Trip) -> Trip:
    """Frames and spacing by SimpleITK, which knows nothing of segments: names are those of the header."""
    dataset = pydicom.dcmread(path)
    if trip.writer == "labelmap":
        # GDCM does not know the class yet.
        raise SkippedError
    if dataset.BitsAllocated == 1 and dataset.Rows * dataset.Columns % 8:
        # GDCM takes each frame to begin at a byte, which PS3.5 8.1.1 does not say.
        raise SkippedError
    if len(truth.volume.source.frames) == 1:
        # GDCM takes the distance between two frames for the step, which is 0 for two segments of one slice.
        raise SkippedError
    image = SimpleITK.ReadImage(str(path))
    frames, spacing = SimpleITK.GetArrayFromImage(image), image.GetSpacing()
    if frames.ndim == 2:
        frames = frames[None]
    voxel_ml = float(np.prod(spacing)) / 1000
    found_ml: dict[str, float] = {}
    segments = {int(x.SegmentNumber): str(x.SegmentLabel) for x in dataset.SegmentSequence}
    for frame, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        if "SegmentIdentificationSequence" in group:
            numbers = {group.SegmentIdentificationSequence[0].ReferencedSegmentNumber: np.count_nonzero(frame)}
        else:
            numbers = {n: np.count_nonzero(frame == n) for n in segments if n}
        for number, count in numbers.items():
            found_ml[segments[number]] = found_ml.get(segments[number], 0.0) + count * voxel_ml
    faults = []
    ml = 0.0
    for name, volume_ml in found_ml.items():
        if name not in truth.masks:
            faults.append(f"name {name}")
        else:
            ml = max(ml, abs(volume_ml - truth.ml(name)))
    mm = float(np.abs(np.sort(spacing) - np.sort(truth.volume.geometry.spacing_mm)).max())
    return Trip(trip.series, trip.writer, trip.reader, ml, mm, tuple(faults))


def by_polygons(truth: Truth, path: Path, trip: Trip) -> Trip:
    """Contours by pydicom, filled by matplotlib on the grid's voxel centres."""
    dataset = pydicom.dcmread(path)
    grid = truth.volume.geometry
    columns, rows, _ = grid.shape
    centres = np.stack(np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"), axis=-1).reshape(-1, 2)
    found = {}
    for roi, drawn in zip(dataset.StructureSetROISequence, dataset.ROIContourSequence, strict=True):
        mask = np.zeros(grid.shape, bool)
        for contour in drawn.ContourSequence:
            points = grid.to_ijk(swap_lps_ras(np.array(contour.ContourData, float).reshape(-1, 3)))
            k = round(float(points[:, 2].mean()))
            # By crossings along a slanted ray: matplotlib fills by winding number, which holes by a channel have too.
            inside = Polygon(points[:, :2]).contains_points(centres + 1e-7).reshape(columns, rows)
            mask[:, :, k] ^= inside
        places = np.argwhere(mask)
        found[str(roi.ROIName)] = (len(places) * grid.voxel_ml, grid.to_mm(places))
    return compared(trip, truth, found)


def by_tid1500reader(truth: Truth, path: Path, trip: Trip) -> Trip:
    """Measurements by dcmqi."""
    program = shutil.which("tid1500reader", path=str(Path(sys.executable).parent)) or "tid1500reader"
    out = path.parent / "tid1500.json"
    arguments = ["--inputDICOM", path, "--outputMetadata", out]
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, check=False)
    if done.returncode or not out.exists():
        return Trip(trip.series, trip.writer, trip.reader, faults=(done.stderr.decode(errors="replace")[-300:],))
    encodings = convert_encodings(pydicom.dcmread(path).get("SpecificCharacterSet", "ISO_IR 6"))
    groups = json.loads(decode_bytes(out.read_bytes(), encodings, set()))["Measurements"]
    read = {
        group["TrackingIdentifier"]: {
            (item["quantity"]["CodeValue"], item.get("derivationModifier", {}).get("CodeValue")): float(item["value"])
            for item in group["measurementItems"]
        }
        for group in groups
    }
    return _measured(truth, read, trip)


def by_srread(truth: Truth, path: Path, trip: Trip) -> Trip:
    """Measurements by highdicom."""
    report = highdicom.sr.srread(path)
    groups = report.content.get_volumetric_roi_measurement_groups()
    read = {}
    for group in groups:
        values = {}
        for item in group.get_measurements():
            values[(item.name.value, item.derivation.value if item.derivation else None)] = float(item.value)
        read[str(group.tracking_identifier)] = values
    return _measured(truth, read, trip)


VOLUME, DIAMETER = "YEKZ", "L0JK"
"""IBSI: volume by counting voxels, and the largest diameter in space."""


def _measured(truth: Truth, read: dict[str, dict[tuple[str, str | None], float]], trip: Trip) -> Trip:
    rows = {row.label: row for row in measure(truth.layers[0], truth.volume) if row.n_voxels}
    faults = [] if set(read) == set(rows) else [f"names {sorted(read)} for {sorted(rows)}"]
    ml = mm = 0.0
    for name in set(read) & set(rows):
        values = read[name]
        volumes = [value for (code, _), value in values.items() if code == VOLUME]
        if not volumes:
            faults.append(f"{name}: no volume among {sorted({code for code, _ in values})}")
        ml = max([ml, *(abs(value - rows[name].volume_ml) for value in volumes)])
        for (code, _), value in values.items():
            if code == DIAMETER:
                mm = max(mm, abs(value - rows[name].max_diameter_mm))
    return Trip(trip.series, trip.writer, trip.reader, ml, mm, tuple(faults))


def by_pixels(truth: Truth, path: Path, trip: Trip) -> Trip:
    """The picture by SimpleITK, the patient by pydicom."""
    picture = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    same = np.array_equal(picture.reshape(24, 32, 3), np.load(path.parent / "picture.npy"))
    return _of_patient(truth, path, trip, () if same else ("other pixels",))


def by_content(truth: Truth, path: Path, trip: Trip) -> Trip:
    """The document and the patient by pydicom."""
    same = bytes(pydicom.dcmread(path).EncapsulatedDocument)[: len(PDF)] == PDF
    return _of_patient(truth, path, trip, () if same else ("another document",))


def by_identity(truth: Truth, path: Path, trip: Trip) -> Trip:
    """Patient and study as the source has them."""
    return _of_patient(truth, path, trip, ())


def _of_patient(truth: Truth, path: Path, trip: Trip, told: tuple[str, ...]) -> Trip:
    dataset, first = pydicom.dcmread(path), pydicom.dcmread(truth.volume.source.files[0], stop_before_pixels=True)
    faults = list(told)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "AccessionNumber", "StudyInstanceUID"):
        mine, theirs = str(dataset.get(keyword, "") or ""), str(first.get(keyword, "") or "")
        if keyword == "PatientName" and truth.patient:
            theirs = truth.patient
        if mine != theirs:
            faults.append(f"{keyword} {mine!r} for {theirs!r}")
    return Trip(trip.series, trip.writer, trip.reader, faults=tuple(faults))


_OF_SEG = {
    "voxmetry": by_voxmetry,
    "voxmetry alone": by_voxmetry_alone,
    "dcmqi": by_dcmqi,
    "highdicom": by_highdicom,
    "SimpleITK": by_simpleitk,
    "identity": by_identity,
}
READERS = {
    "seg": _OF_SEG,
    "labelmap": _OF_SEG,
    "overlap": _OF_SEG,
    "rtstruct": {"voxmetry": by_voxmetry, "matplotlib": by_polygons, "identity": by_identity},
    "sr": {"dcmqi": by_tid1500reader, "highdicom": by_srread, "identity": by_identity},
    "key": {"SimpleITK": by_pixels},
    "pdf": {"pydicom": by_content},
}


def at_hand(root: Path) -> Iterator[tuple[str, Volume]]:
    """Every series below a folder that can be read, folder by folder."""
    leaves = sorted({file.parent for file in root.rglob("*") if file.is_file()})
    for leaf in leaves:
        try:
            found = list_series(leaf)
        except VoxmetryError:
            continue
        for series in found:
            if series.verdict in ("regular", "single") and Path(series.files[0]).parent == leaf:
                try:
                    volume = read_series(series, suv="none")
                    read_source(volume)
                except VoxmetryError as error:
                    say(f"left out: {leaf.relative_to(root)}: {error.found}")
                    continue
                yield f"{leaf.relative_to(root)}", volume


def _made() -> dict[str, Callable[[Path], tuple[Volume, str, str]]]:
    """What makes each series in a folder: its volume, the name of a structure, and the patient's."""
    found: dict[str, Callable[[Path], tuple[Volume, str, str]]] = {}
    for modality in ("CT", "MR"):
        for step in ("stated", "left out", "zero", "wrong"):
            for thickness in ("stated", "left out", "thin"):
                found[f"{modality}, spacing {step}, thickness {thickness}"] = partial(
                    _plain, make=partial(_classic, modality=modality, step=step, thickness=thickness)
                )
    for step_mm in (0.625, 1.25, 2.5, 3.0 / 1.1):
        for plane in ("axial", "sagittal"):
            found[f"rounded, {step_mm:.4g} mm, {plane}"] = partial(
                _plain, make=partial(_rounded, step_mm=step_mm, plane=plane)
            )
    found["single slice"] = partial(_plain, make=_single)
    found["enhanced"] = partial(_plain, make=_enhanced)
    for number in (0, 1):
        found[f"mosaic {number}"] = partial(_mosaic, number=number)
    for characters in CHARACTERS:
        found[f"characters {characters!r}"] = partial(_in_characters, characters=characters)
    return found


def _plain(folder: Path, make: Callable[[Path], Path]) -> tuple[Volume, str, str]:
    return read_volume(make(folder)), "liver", ""


def _enhanced(folder: Path) -> Path:
    files = sorted(_classic(folder, "MR", "stated", "stated").iterdir())
    return enhance(files, folder / f"enhanced-{len(list(folder.iterdir()))}" / "x")


def _single(folder: Path) -> Path:
    series = _classic(folder, "MR", "left out", "stated")
    for path in sorted(series.iterdir())[1:]:
        path.unlink()
    return series


def _mosaic(folder: Path, number: int) -> tuple[Volume, str, str]:
    series = list_series(mosaics(folder / f"mosaic-{len(list(folder.iterdir()))}"))[number]
    return read_series(series), "liver", ""


def _in_characters(folder: Path, characters: str) -> tuple[Volume, str, str]:
    patient, structure = CHARACTERS[characters]
    return read_volume(in_characters(folder, characters, patient)), structure, patient


def in_characters(folder: Path, characters: str, patient: str) -> Path:
    """A series whose text is in a character set."""
    series = folder / f"characters-{len(list(folder.iterdir()))}"
    grid = phantoms.geometry(shape=(16, 13, 5), degrees=(0, 0, 0), frame_uid="1.2.3.4")
    for path in write_series(phantoms.volume(grid), series, modality="MR"):
        dataset = pydicom.dcmread(path)
        dataset.SpecificCharacterSet = characters.split("\\") if "\\" in characters else characters
        if not characters:
            del dataset.SpecificCharacterSet
        if raw := RAW.get(characters):
            # pydicom does not write these as the standard has them; the bytes are put in as they are.
            raw += b" " * (len(raw) % 2)
            dataset.set_original_encoding(False, True, dataset._character_set)
            dataset[Tag("PatientName")] = RawDataElement(Tag("PatientName"), "PN", len(raw), raw, 0, False, True)
        else:
            dataset.PatientName = patient
        dataset.save_as(path)
    return series


def _classic(folder: Path, modality: str, step: str, thickness: str) -> Path:
    series = folder / f"{modality}-{step}-{thickness}-{len(list(folder.iterdir()))}".replace(" ", "-")
    grid = phantoms.geometry(shape=(16, 13, 11), frame_uid="1.2.3.4")
    for path in write_series(phantoms.volume(grid), series, modality=modality):
        dataset = pydicom.dcmread(path)
        dataset.SliceThickness = {"stated": "2.6", "left out": "", "thin": "1.0"}[thickness]
        if step == "left out":
            del dataset.SpacingBetweenSlices
        else:
            dataset.SpacingBetweenSlices = {"stated": "2.6", "zero": "0", "wrong": "1.3"}[step]
        dataset.save_as(path)
    return series


def _rounded(folder: Path, step_mm: float, plane: str) -> Path:
    """Positions in tenths of a mm, as some exports have them."""
    series = folder / f"rounded-{step_mm:.4g}-{plane}-{len(list(folder.iterdir()))}"
    grid = phantoms.geometry(
        shape=(24, 16, 20), spacing_mm=(step_mm,) * 3, degrees=(0, 0, 0), origin_mm=(1.3, 2.7, 0.25), frame_uid="1.2.3"
    )
    for path in write_series(phantoms.volume(grid), series, modality="CT", plane=plane):
        dataset = pydicom.dcmread(path)
        dataset.ImagePositionPatient = [f"{float(x):.1f}" for x in dataset.ImagePositionPatient]
        del dataset.SpacingBetweenSlices
        dataset.save_as(path)
    return series


MADE = _made()


def all_trips(root: Path | None) -> Iterator[Trip]:
    """Every combination of what is made here and of what lies below a folder."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "made").mkdir()
        cases = [(name, *make(folder / "made")) for name, make in MADE.items()]
        if root is not None and root.is_dir():
            cases += [(name, volume, "liver", "") for name, volume in at_hand(root)]
        for number, (name, volume, structure, patient) in enumerate(cases):
            out = folder / f"out-{number}"
            out.mkdir()
            yield from trips(name, truth_of(volume, structure, patient), out)
            shutil.rmtree(out)


def say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("VOXMETRY_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--all", action="store_true", help="print each combination")
    given = parser.parse_args()
    found = []
    for trip in all_trips(given.data):
        found.append(trip)
        if given.all or trip.faults or trip.ml > TOLERANCE_ML or trip.mm > TOLERANCE_MM:
            told = "; ".join(trip.faults)
            say(f"{trip.series} | {trip.writer} | {trip.reader} | {trip.ml:.4g} mL | {trip.mm:.4g} mm {told}")
    bad = [trip for trip in found if trip.faults]
    series = len({trip.series for trip in found})
    say(f"{len(found)} combinations of {series} series; {len(bad)} with another name, code or content")
    for what in ("ml", "mm"):
        worst = max(found, key=lambda trip: getattr(trip, what))
        say(f"largest difference: {getattr(worst, what):.3g} {what} ({worst.series}, {worst.writer}, {worst.reader})")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
