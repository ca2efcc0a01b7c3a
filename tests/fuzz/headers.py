"""Headers of NIfTI, NRRD and MetaImage: each image that comes back is the one that another library reads."""

from __future__ import annotations

import gzip
import random
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np

import phantoms
from voxmetry import Volume, VoxmetryError, read_volume, save

from .harness import Files, Kind, Mutation, Reference

NIFTI_FIELDS = (0, 40, 42, 44, 46, 48, 50, 68, 70, 72, 76, 80, 84, 88, 92, 108, 112, 116, 123, 252, 254, 256, 280, 284)
_NUMBERS = ("0", "-1", "1", "2", "3", "7", "11", "13", "17", "65535", "1e400", "nan", "999999999999", "0.5", "")
_WORDS = ("raw", "gzip", "bzip2", "hex", "ascii", "big", "little", "float", "short", "uchar", "MET_SHORT", "MET_FLOAT")
_WORDS = (*_WORDS, "True", "False", "LOCAL", "LIST", "none", "space", "left-posterior-superior", "RAS", "../x", "%s%s")


def _texts(files: Files) -> list[str]:
    return [name for name in sorted(files) if Path(name).suffix in (".nrrd", ".nhdr", ".mha", ".mhd")]


def _header_length(data: bytearray) -> int:
    if data.startswith(b"NRRD"):
        end = data.find(b"\n\n")
        return end + 2 if end > 0 else len(data)
    end = data.find(b"ElementDataFile")
    return data.find(b"\n", end) + 1 if end > 0 else len(data)


def on_lines(change: Callable[[random.Random, list[bytes]], None]) -> Mutation:
    """Turn a change of the lines of a text header into one of a file; files without one get a byte flipped."""

    def mutate(r: random.Random, files: Files) -> None:
        names = _texts(files)
        if not names:
            flip(r, files)
            return
        data = files[r.choice(names)]
        length = _header_length(data)
        lines = bytes(data[:length]).split(b"\n")
        change(r, lines)
        data[:length] = b"\n".join(lines)

    return mutate


def _inside(files: Files, name: str) -> bytearray | None:
    """Return what a compressed file holds; None for another, and for one that is damaged already."""
    if not name.endswith(".nii.gz"):
        return None
    try:
        return bytearray(gzip.decompress(files[name]))
    except (OSError, EOFError, zlib.error):
        return None


def flip(r: random.Random, files: Files) -> None:
    name = r.choice(sorted(files))
    inside = _inside(files, name)
    data = files[name] if inside is None else inside
    length = min(352 if ".nii" in name else _header_length(data), len(data))
    for _ in range(r.choice((1, 1, 4)) if length else 0):
        data[r.randrange(length)] ^= 1 << r.randrange(8)
    if inside is not None:
        files[name][:] = gzip.compress(bytes(inside), 1)


def truncate(r: random.Random, files: Files) -> None:
    data = files[r.choice(sorted(files))]
    del data[r.randrange(len(data) + 1) :]


def append(r: random.Random, files: Files) -> None:
    files[r.choice(sorted(files))] += r.randbytes(r.choice((1, 7, 4000)))


def nifti_field(r: random.Random, files: Files) -> None:
    """Write another number over a field of a NIfTI header; another file gets a byte flipped."""
    names = [name for name in sorted(files) if ".nii" in name]
    if not names:
        flip(r, files)
        return
    name = r.choice(names)
    inside = _inside(files, name)
    data = files[name] if inside is None else inside
    if len(data) < 348:
        return
    at = r.choice(NIFTI_FIELDS)
    if r.random() < 0.5:
        struct.pack_into("<f", data, at, r.choice((0.0, -1.0, 1.0, float("nan"), float("inf"), 1e30, 352.0, 0.5)))
    else:
        struct.pack_into("<h", data, at, r.choice((0, 1, 2, 3, 4, 7, 16, 64, 255, 256, 512, -1, 32767)))
    if inside is not None:
        files[name][:] = gzip.compress(bytes(inside), 1)


def number(r: random.Random, lines: list[bytes]) -> None:
    places = [i for i, line in enumerate(lines) if re.search(rb"\d", line)]
    if not places:
        return
    i = r.choice(places)
    found = list(re.finditer(rb"[-+.\deE]*\d[-+.\deE]*", lines[i]))
    one = r.choice(found)
    lines[i] = lines[i][: one.start()] + r.choice(_NUMBERS).encode() + lines[i][one.end() :]


def word(r: random.Random, lines: list[bytes]) -> None:
    i = r.randrange(len(lines))
    parts = lines[i].split(b" ")
    parts[r.randrange(len(parts))] = r.choice(_WORDS).encode()
    lines[i] = b" ".join(parts)


def drop_line(r: random.Random, lines: list[bytes]) -> None:
    del lines[r.randrange(len(lines))]


def double_line(r: random.Random, lines: list[bytes]) -> None:
    i = r.randrange(len(lines))
    lines.insert(r.randrange(len(lines)), lines[i])


class Headers:
    """A phantom in each format: compressed and not, in one file and in two."""

    name = "headers"
    share = 0.25
    mutations: ClassVar[dict[str, Mutation]] = {
        "flipped": flip,
        "truncated": truncate,
        "appended": append,
        "NIfTI field": nifti_field,
        "another number": on_lines(number),
        "another word": on_lines(word),
        "dropped line": on_lines(drop_line),
        "doubled line": on_lines(double_line),
    }

    def sources(self, data: Path | None, scratch: Path) -> list[Files]:
        """Return the phantom in each format; `data` has nothing to add."""
        del data
        scratch.mkdir(parents=True, exist_ok=True)
        volume = phantoms.volume(phantoms.geometry())
        small = Volume(volume.array[:6, :7, :5], phantoms.geometry(shape=(6, 7, 5)))
        found = []
        for name in ("image.nii", "image.nii.gz", "image.nrrd", "image.mha"):
            save(small, scratch / name)
            found.append({name: bytearray((scratch / name).read_bytes())})
        return found + _by_hand(small)

    def judge(self, folder: Path, reference: Reference) -> tuple[Kind, str]:
        """Read the image, and compare voxels and affine with another library's."""
        (path,) = [path for path in sorted(folder.iterdir()) if path.suffix not in (".raw", ".zraw")]
        try:
            volume = read_volume(path)
        except VoxmetryError:
            return "refused", ""
        try:
            wrong = reference.call(header_difference, str(path), volume.geometry.affine, volume.array)
        except RuntimeError as error:
            return "unjudged", f"the other library fails where this reads an image, with {error}"
        return ("finding", wrong) if wrong else ("right", "")


def _by_hand(volume: Volume) -> list[Files]:
    """Return raw and detached forms, written here so that each has a header of plain lines."""
    array = volume.array
    raw = np.asfortranarray(array).tobytes(order="F")
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.geometry.affine
    i, j, k = array.shape
    steps = [f"({','.join(f'{x:.9g}' for x in affine[:3, axis])})" for axis in range(3)]
    origin = ",".join(f"{x:.9g}" for x in affine[:3, 3])
    nrrd = (
        f"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: {i} {j} {k}\n"
        f"space directions: {' '.join(steps)}\nkinds: domain domain domain\nendian: little\n"
    )
    axes = affine[:3, :3] / volume.geometry.spacing_mm
    meta = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
        f"TransformMatrix = {' '.join(f'{x:.9g}' for x in axes.T.ravel())}\nOffset = {origin.replace(',', ' ')}\n"
        f"ElementSpacing = {' '.join(f'{x:.9g}' for x in volume.geometry.spacing_mm)}\nDimSize = {i} {j} {k}\n"
        "ElementType = MET_SHORT\n"
    )
    tail = f"encoding: raw\nspace origin: ({origin})\n"
    packed = f"encoding: gzip\nspace origin: ({origin})\n"

    def joined(text: str, content: bytes) -> bytearray:
        return bytearray(text.encode() + content)

    return [
        {"raw.nrrd": joined(f"{nrrd}{tail}\n", raw)},
        {"packed.nrrd": joined(f"{nrrd}{packed}\n", gzip.compress(raw))},
        {"two.nhdr": joined(f"{nrrd}{tail}data file: two.raw\n", b""), "two.raw": bytearray(raw)},
        {"raw.mha": joined(f"{meta}ElementDataFile = LOCAL\n", raw)},
        {"two.mhd": joined(f"{meta}ElementDataFile = two.raw\n", b""), "two.raw": bytearray(raw)},
    ]


def header_difference(path: str, affine: np.ndarray, array: np.ndarray) -> str:
    """Say in what an image differs from what nibabel, pynrrd or SimpleITK reads; empty where it does not."""
    other, place = _read_nrrd(path) if path.endswith((".nrrd", ".nhdr")) else _read_other(path)
    other = other.reshape(other.shape[:3]) if other.ndim > 3 else other
    if other.shape != array.shape:
        return f"its shape is {array.shape} where the other library finds {other.shape}"
    if not np.allclose(place, affine, atol=1e-3, equal_nan=True):
        return f"its affine is {affine.round(4).tolist()} where the other library finds {place.round(4).tolist()}"
    if not np.allclose(other.astype(np.float64), array.astype(np.float64), rtol=1e-5, atol=1e-5, equal_nan=True):
        return "its values differ from the other library's"
    return ""


def _read_nrrd(path: str) -> tuple[np.ndarray, np.ndarray]:
    import nrrd

    data, header = nrrd.read(path)
    directions = np.asarray(header["space directions"], float)
    turns = {
        "left-posterior-superior": (-1, -1, 1),
        "right-anterior-superior": (1, 1, 1),
        "left-anterior-superior": (-1, 1, 1),
    }
    names = {"lps": "left-posterior-superior", "ras": "right-anterior-superior", "las": "left-anterior-superior"}
    space = str(header["space"]).lower()
    turn = turns[names.get(space, space)]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions.T, np.asarray(header["space origin"], float)
    return data, np.diag([*turn, 1.0]) @ affine


def _read_other(path: str) -> tuple[np.ndarray, np.ndarray]:
    if path.endswith((".nii", ".nii.gz")):
        import nibabel as nib

        image = nib.load(path)
        return np.asanyarray(image.dataobj), image.affine
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(path)
    reader.ReadImageInformation()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * np.array(reader.GetSpacing())
    affine[:3, 3] = reader.GetOrigin()
    content = Path(path).read_bytes()
    header = content[: _header_length(bytearray(content))]
    if b"CompressedData = True" in header:
        # With a size that is absent or wrong SimpleITK returns memory that was never written (ITK 6692), up to 2.5.
        packed = content[len(header) :] if b"LOCAL" in header else Path(path).with_name("two.raw").read_bytes()
        order = ">" if b"ByteOrderMSB = True" in header else "<"
        kinds = {b"MET_SHORT": "i2", b"MET_FLOAT": "f4"}
        (kind,) = [code for name, code in kinds.items() if name in header]
        values = np.frombuffer(zlib.decompressobj().decompress(packed), order + kind)
        array = values[: np.prod(reader.GetSize())].reshape(reader.GetSize(), order="F")
    else:
        array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)).T
    return array, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


TARGETS = (Headers(),)
