"""DICOM series: each volume that comes back is the one that pydicom and nibabel find in the same damaged files."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pydicom

import phantoms
from voxmetry import VoxmetryError, list_series
from voxmetry.core.geometry import swap_lps_ras
from voxmetry.io import read_series, write_series

from .damage import BYTES, ELEMENTS, SIZES, WRONG, rewritten
from .harness import Files, Kind, Mutation, Reference

MOST_BYTES = 3_000_000


def drop_tag(r: random.Random, data: pydicom.Dataset) -> None:
    if r.random() < 0.5:
        data.pop(pydicom.tag.Tag(r.choice((*ELEMENTS, *SIZES))), None)
    else:
        data.pop(r.choice(list(data.keys())), None)


def wrong_value(r: random.Random, data: pydicom.Dataset) -> None:
    with pydicom.config.disable_value_validation():
        element = pydicom.dataelem.DataElement(
            pydicom.tag.Tag(r.choice(ELEMENTS)), r.choice(("LO", "UN", "OB", "DS")), b""
        )
        value = r.choice(WRONG)
        element._value = value.encode() if element.VR in ("UN", "OB") else value
        data[element.tag] = element


def wrong_size(r: random.Random, data: pydicom.Dataset) -> None:
    setattr(data, r.choice(SIZES), r.choice((0, 1, 2, 3, 7, 8, 12, 16, 31, 32, 64, 1000, 65535)))


def move(r: random.Random, data: pydicom.Dataset) -> None:
    size = r.choice((1e-7, 1e-3, 0.05, 0.3, 2, 100, 1e9))
    items = [data]
    if "PerFrameFunctionalGroupsSequence" in data:
        items = [group.PlanePositionSequence[0] for group in data.PerFrameFunctionalGroupsSequence]
    item = r.choice(items)
    item.ImagePositionPatient = [f"{float(x) + r.gauss(0, size):.9g}" for x in item.ImagePositionPatient]


def turn(r: random.Random, data: pydicom.Dataset) -> None:
    size = r.choice((1e-7, 1e-4, 1e-3, 0.1, 2))
    data.ImageOrientationPatient = [f"{float(x) + r.gauss(0, size):.9g}" for x in data.ImageOrientationPatient]


def scale(r: random.Random, data: pydicom.Dataset) -> None:
    data.RescaleSlope = r.choice(("1", "2", "0.5", "-1", "1000", "1e6", "1e300", "1e-30", "0"))
    data.RescaleIntercept = r.choice(("0", "-1024", "0.25", "40000", "-1e5", "1e300"))


def encode_as(r: random.Random, data: pydicom.Dataset) -> None:
    data.file_meta.TransferSyntaxUID = r.choice(
        (
            "1.2.840.10008.1.2",
            "1.2.840.10008.1.2.1",
            "1.2.840.10008.1.2.2",
            "1.2.840.10008.1.2.1.99",
            "1.2.840.10008.1.2.4.90",
            "1.2.3",
            "x",
        )
    )


def remove_slice(r: random.Random, files: Files) -> None:
    if len(files) > 1:
        del files[r.choice(sorted(files))]


def double_slice(r: random.Random, files: Files) -> None:
    name = r.choice(sorted(files))
    files[f"{name}.copy{r.randrange(1000)}"] = bytearray(files[name])


def shuffle(r: random.Random, files: Files) -> None:
    names, contents = sorted(files), list(files.values())
    r.shuffle(contents)
    files.clear()
    files.update(zip(names, contents, strict=True))


def add_noise_file(r: random.Random, files: Files) -> None:
    head = r.choice((b"", bytes(128) + b"DICM", b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100"))
    files[f"noise{r.randrange(1000)}.dcm"] = bytearray(head + r.randbytes(r.choice((0, 3, 50, 5000))))


MUTATIONS: dict[str, Mutation] = BYTES | {
    "drop tag": rewritten(drop_tag, most=True),
    "wrong value": rewritten(wrong_value, most=True),
    "wrong size": rewritten(wrong_size, most=True),
    "position": rewritten(move, most=True),
    "orientation": rewritten(turn, most=True),
    "scale": rewritten(scale, most=True),
    "encoding": rewritten(encode_as, most=True),
    "removed slice": remove_slice,
    "doubled slice": double_slice,
    "shuffled": shuffle,
    "noise file": add_noise_file,
}


def readable_series(folder: Path) -> list[Files]:
    """Return the small series below a folder, as bytes by name."""
    found = []
    for parent in sorted({path.parent for path in folder.rglob("*") if path.is_file()}):
        paths = [path for path in sorted(parent.iterdir()) if path.is_file()]
        if sum(path.stat().st_size for path in paths) <= MOST_BYTES:
            try:
                usable = any(info.readable for info in list_series(parent))
            except VoxmetryError:
                continue
            if usable:
                found.append({path.name: bytearray(path.read_bytes()) for path in paths})
    return found


class Series:
    """Series from every maker at hand, and one made by code."""

    name = "series"
    share = 0.4
    mutations = MUTATIONS

    def sources(self, data: Path | None, scratch: Path) -> list[Files]:
        """Return a phantom, a mosaic, and the small series below `data`."""
        write_series(
            phantoms.volume(phantoms.geometry()), scratch / "phantom" / "ct", modality="MR", series_uid="1.2.3"
        )
        found = readable_series(scratch / "phantom")
        found += mosaics()
        return found + (readable_series(data) if data is not None else [])

    def judge(self, folder: Path, reference: Reference) -> tuple[Kind, str]:
        """List and read a folder, and compare each volume with what pydicom reads."""
        try:
            infos = list_series(folder)
        except VoxmetryError:
            return "refused", ""
        kind: Kind = "refused"
        for info in infos:
            if not info.readable:
                if not info.reason:
                    return "finding", f"{info.verdict} without a reason"
                continue
            try:
                volume = read_series(info, suv="none")
            except VoxmetryError:
                continue
            affine = swap_lps_ras(volume.geometry.affine)
            try:
                wrong = reference.call(difference, info.files, info.frames, affine, volume.array)
            except RuntimeError as error:
                return "unjudged", f"pydicom fails where this reads a volume, with {error}"
            if wrong:
                return "finding", wrong
            kind = "right"
        return kind, ""


def mosaics() -> list[Files]:
    """Return the two mosaics that nibabel brings for its own tests, each a series, with pixels of their own."""
    import gzip
    import importlib.resources
    import io

    found = []
    for b_value in (0, 1000):
        source = Path(str(importlib.resources.files("nibabel"))) / "nicom/tests/data" / f"siemens_dwi_{b_value}.dcm.gz"
        if source.is_file():
            dataset = pydicom.dcmread(io.BytesIO(gzip.decompress(source.read_bytes())))
            pixels = np.random.default_rng(b_value).integers(0, 4000, (dataset.Rows, dataset.Columns))
            dataset.PixelData = pixels.astype("<u2").tobytes()
            out = io.BytesIO()
            dataset.save_as(out)
            found.append({"mosaic.dcm": bytearray(out.getvalue())})
    return found


def difference(
    files: tuple[str, ...], frames: tuple[tuple[int, int], ...], affine: np.ndarray, array: np.ndarray
) -> str:
    """Say in what a volume differs from what pydicom finds in the same files; empty where it does not.

    Parameters
    ----------
    files, frames
        As `SeriesInfo` has them.
    affine
        Voxel index to LPS+ mm.
    array
        (I, J, K).
    """
    step = float(np.linalg.norm(affine[:3, 2]))
    opened: dict[int, tuple[pydicom.Dataset, np.ndarray]] = {}
    for k, (file, frame) in enumerate(frames):
        if file not in opened:
            data = pydicom.dcmread(files[file], force=True)
            stored = data.pixel_array
            opened[file] = data, stored[None] if stored.ndim == 2 else stored
        data, stored = opened[file]
        item, values = described(data, frame)
        if is_mosaic(data):
            item["position"], pixels = tile(data, frame)
        else:
            pixels = stored[frame]
        place = affine[:3, 3] + k * affine[:3, 2]
        off = float(np.linalg.norm(place - np.array(item["position"])))
        if off > min(0.11 + 0.011 * step, 0.21 * step) and len(frames) > 1:
            return f"slice {k} lies {off:.3g} mm from its position"
        along, down = np.reshape(item["orientation"], (2, 3))
        for axis, direction, size in ((0, along, item["spacing"][1]), (1, down, item["spacing"][0])):
            if not np.allclose(affine[:3, axis], direction * size, atol=3e-3 * size):
                return f"axis {axis} is {affine[:3, axis]} where the header says {direction * size}"
        expected = pixels.astype(np.float64) * values[0] + values[1]
        if expected.shape != array.shape[1::-1]:
            return f"slice {k} has {array.shape[1::-1]} pixels in place of {expected.shape}"
        if not np.allclose(array[:, :, k].T, expected, rtol=1e-6, atol=1e-6 * max(1.0, float(np.abs(expected).max()))):
            return f"values of slice {k} differ"
    return ""


def is_mosaic(data: pydicom.Dataset) -> bool:
    """Whether a picture holds the slices of a volume as tiles."""
    kinds = data.get("ImageType") or ()
    return "MOSAIC" in ([kinds] if isinstance(kinds, str) else list(kinds))


def tile(data: pydicom.Dataset, index: int) -> tuple[list[float], np.ndarray]:
    """Return the place and the pixels of one tile as nibabel finds them, which shares no code with the reader."""
    from nibabel.nicom.dicomwrappers import MosaicWrapper

    wrapped = MosaicWrapper(data)
    # Its axes are rows, columns and slices, in LPS+ mm.
    place = np.asarray(wrapped.affine) @ [0, 0, index, 1]
    return [float(x) for x in place[:3]], np.asarray(wrapped.get_unscaled_data())[:, :, index]


def described(data: pydicom.Dataset, frame: int) -> tuple[dict, tuple[float, float]]:
    """Return where pydicom finds a frame, and its slope and intercept."""
    items = [data]
    if "PerFrameFunctionalGroupsSequence" in data:
        groups = [data.PerFrameFunctionalGroupsSequence[frame], *data.get("SharedFunctionalGroupsSequence", [])]
        items = [item for group in groups for element in group if element.VR == "SQ" for item in element.value]

    def first(keyword: str, default: object = None) -> object:
        return next((item.get(keyword) for item in items if item.get(keyword) not in (None, "")), default)

    slope, intercept = float(first("RescaleSlope", 1)), float(first("RescaleIntercept", 0))
    place = {
        "position": [float(x) for x in first("ImagePositionPatient")],
        "orientation": [float(x) for x in first("ImageOrientationPatient")],
        "spacing": [float(x) for x in first("PixelSpacing")],
    }
    return place, (slope, intercept)


TARGETS = (Series(),)
