"""NIfTI, NRRD and MetaImage: each image that comes back is the one that an independent reader finds in its file."""

from __future__ import annotations

import contextlib
import gzip
import random
import re
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

import phantoms
from voxmetry import Geometry, Volume, VoxmetryError, read_segmentation, read_volume, save
from voxmetry.core.geometry import swap_lps_ras

from .harness import Files, Kind, Mutation, Reference

NUMBERS = (
    "0",
    "-1",
    "1",
    "2",
    "7",
    "4096",
    "65536",
    "99999999999999999999",
    "1e400",
    "nan",
    "inf",
    "x",
    "",
    "1.5",
    "0x10",
)
NAMES = (
    "/etc/passwd",
    "../a.raw",
    "a.raw",
    "a\tb",
    "%s%s%n 1 11 1",
    "s%03d.raw 0 10 1",
    "LIST",
    "LOCAL",
    "/dev/zero",
    ".",
)
WORDS = (
    *NUMBERS,
    *NAMES,
    "none",
    "(1,0,0)",
    "true",
    "False",
    "gzip",
    "raw",
    "ascii",
    "hex",
    "bzip2",
    "short",
    "MET_CHAR",
)


def pick(r: random.Random, files: Files) -> bytearray:
    """Choose a file's content, never an empty one."""
    data = files[r.choice(sorted(files))]
    if not data:
        data += b"\0"
    return data


def flip(r: random.Random, files: Files) -> None:
    """Change bytes anywhere."""
    data = pick(r, files)
    for _ in range(r.choice((1, 4, 32))):
        data[r.randrange(len(data))] = r.randrange(256)


def flip_start(r: random.Random, files: Files) -> None:
    """Flip bits in what is likely a header."""
    data = pick(r, files)
    for _ in range(r.choice((1, 1, 2, 8))):
        data[r.randrange(min(len(data), 400))] ^= 1 << r.randrange(8)


def cut(r: random.Random, files: Files) -> None:
    """End a file too early."""
    data = pick(r, files)
    del data[r.randrange(len(data)) :]


def append(r: random.Random, files: Files) -> None:
    """Put something behind a file."""
    pick(r, files).extend(
        r.choice((b"\0" * 512, b"junk", b"\x1f\x8b", r.randbytes(100), b"\n", gzip.compress(b"more")))
    )


def lose(r: random.Random, files: Files) -> None:
    """Leave a file out, where there are several."""
    if len(files) > 1:
        del files[r.choice(sorted(files))]


BYTES: dict[str, Mutation] = {"flip": flip, "flip in header": flip_start, "cut": cut, "append": append, "lose": lose}


def nifti_field(r: random.Random, files: Files) -> None:
    """Set a field of a NIfTI header to something odd, inside the compression where there is one."""
    data = pick(r, files)
    packed = bytes(data[:2]) == b"\x1f\x8b"
    try:
        content = bytearray(gzip.decompress(bytes(data)) if packed else data)
    except (OSError, EOFError, zlib.error):
        return
    if len(content) < 348:
        return
    order = "<" if content[0] in (92, 28) else ">"
    for _ in range(r.choice((1, 1, 2))):
        if r.random() < 0.6:
            place = r.choice((*range(76, 124, 4), *range(252, 328, 4)))
            value = r.choice((0.0, -1.0, 1.0, 2.0, 1e30, -1e30, float("nan"), float("inf"), 352.0, 348.0, 1e-30))
            struct.pack_into(order + "f", content, place, value)
        else:
            place = r.choice((*range(40, 56, 2), 70, 72, 123, 252, 254, 344))
            struct.pack_into(order + "h", content, place, r.choice((0, 1, 2, 3, 4, 8, 16, 64, 255, 512, -1, 32767)))
    data[:] = gzip.compress(bytes(content), mtime=0) if packed else content


def text_header(data: bytearray) -> tuple[list[bytes], bytes]:
    """Take a header of lines apart from what follows it."""
    end = re.search(rb"\n\n|ElementDataFile[^\n]*\n", bytes(data))
    stop = end.end() if end else len(data)
    return bytes(data[:stop]).split(b"\n"), bytes(data[stop:])


def text_field(r: random.Random, files: Files) -> None:
    """Change, leave out, repeat or swap the fields of a header of lines."""
    data = (
        files[next(name for name in sorted(files) if name.startswith("a."))]
        if "a." in "".join(files)
        else pick(r, files)
    )
    lines, rest = text_header(data)
    fields = [index for index, line in enumerate(lines) if re.match(rb"[\w ]+(: |:=| = )", line)]
    if not fields:
        return
    index = r.choice(fields)
    match = re.match(rb"([\w ]+)(: |:=| = )(.*)", lines[index])
    how = r.random()
    if match is None or how < 0.1:
        del lines[index]
    elif how < 0.2:
        lines.insert(r.choice(fields), lines[index])
    elif how < 0.6:
        parts = match[3].split()
        place = r.randrange(len(parts) + 1)
        parts[place : place + 1] = [r.choice(NUMBERS).encode()]
        lines[index] = match[1] + match[2] + b" ".join(parts)
    else:
        lines[index] = match[1] + match[2] + r.choice(WORDS).encode()
    data[:] = b"\n".join(lines) + rest


def read_back(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Read an image, and as a label map too, which must fail in words or not at all; None where it is refused."""
    with contextlib.suppress(VoxmetryError):
        read_segmentation(path)
    try:
        volume = read_volume(path)
    except VoxmetryError:
        return None
    return np.asarray(volume.array), volume.geometry.affine


class Headers:
    """Images of one format, judged by a function that reads them in another way."""

    name = ""
    share = 0.1
    mutations: dict[str, Mutation]

    def sources(self, data: Path | None, scratch: Path) -> list[Files]:
        """Return images of a phantom in the forms of the format."""
        del data
        scratch.mkdir(parents=True, exist_ok=True)
        return [{name: bytearray(content) for name, content in files.items()} for files in self.made(scratch)]

    def made(self, scratch: Path) -> list[dict[str, bytes]]:
        """Write the sources."""
        raise NotImplementedError

    def judge(self, folder: Path, reference: Reference) -> tuple[Kind, str]:
        """Read the image, and compare values and places with what the reference finds."""
        paths = [path for path in sorted(folder.iterdir()) if path.name.startswith("a.") and path.suffix != ".raw"]
        if not paths:
            return "refused", ""
        found = read_back(paths[0])
        if found is None:
            return "refused", ""
        try:
            wrong = reference.call(difference, self.name, str(paths[0]), *found)
        except RuntimeError as error:
            return "unjudged", f"the reference fails where this reads an image, with {error}"
        return ("finding", wrong) if wrong else ("right", "")


def small(scratch: Path, name: str, dtype: str = "int16") -> dict[str, bytes]:
    """Write the phantom's image, small, and return its file."""
    grid = phantoms.geometry(shape=(11, 9, 7))
    volume = phantoms.volume(grid, dtype=dtype)
    save(Volume(volume.array, Geometry(grid.affine.astype(np.float32), grid.shape)), scratch / name)
    return {name: (scratch / name).read_bytes()}


class Nifti(Headers):
    """Single files, packed and not, of both versions and orders of bytes."""

    name = "nifti"
    mutations = BYTES | {"field": nifti_field, "field of the header": nifti_field}

    def made(self, scratch: Path) -> list[dict[str, bytes]]:
        """Write the sources."""
        found = [small(scratch, "a.nii"), small(scratch, "a.nii.gz"), small(scratch, "a.nii", "float32")]
        image = nib.load(scratch / "a.nii")
        array = np.asarray(image.dataobj)
        for kind, order in ((nib.Nifti1Image, ">"), (nib.Nifti2Image, "<")):
            header = kind.header_class(endianness=order)
            header.set_data_dtype(array.dtype.newbyteorder(order))
            other = kind(array, image.affine, header)
            nib.save(other, scratch / "b.nii")
            found.append({"a.nii": (scratch / "b.nii").read_bytes()})
        nib.save(nib.Nifti1Pair(array, image.affine), scratch / "a.img")
        found.append({name: (scratch / name).read_bytes() for name in ("a.hdr", "a.img")})
        return found


class Nrrd(Headers):
    """Files with their voxels inside, beside them and slice by slice."""

    name = "nrrd"
    mutations = BYTES | {"field": text_field, "another field": text_field, "one more field": text_field}

    def made(self, scratch: Path) -> list[dict[str, bytes]]:
        """Write the sources."""
        packed = small(scratch, "a.nrrd")["a.nrrd"]
        head, voxels = packed.split(b"\n\n", 1)
        raw = gzip.decompress(voxels)
        plain = head.replace(b"encoding: gzip", b"encoding: raw")
        slices = {f"s{k}.raw": raw[198 * k : 198 * (k + 1)] for k in range(7)}
        return [
            {"a.nrrd": packed},
            {"a.nrrd": plain + b"\n\n" + raw},
            {"a.nhdr": head + b"\ndata file: a.raw\n", "a.raw": voxels},
            {"a.nhdr": plain + b"\ndata file: s%d.raw 0 6 1 2\n", **slices},
        ]


class MetaImage(Headers):
    """Files with their voxels inside, beside them and slice by slice."""

    name = "metaimage"
    mutations = BYTES | {"field": text_field, "another field": text_field, "one more field": text_field}

    def made(self, scratch: Path) -> list[dict[str, bytes]]:
        """Write the sources."""
        packed = small(scratch, "a.mha")["a.mha"]
        head, voxels = packed.split(b"ElementDataFile = LOCAL\n", 1)
        raw = zlib.decompress(voxels)
        plain = re.sub(rb"CompressedDataSize = \d+\n", b"", head).replace(
            b"CompressedData = True", b"CompressedData = False"
        )
        slices = {f"s{k}.raw": raw[198 * k : 198 * (k + 1)] for k in range(7)}
        names = b"".join(f"{name}\n".encode() for name in slices)
        return [
            {"a.mha": packed},
            {"a.mha": plain + b"ElementDataFile = LOCAL\n" + raw},
            {"a.mhd": head + b"ElementDataFile = a.raw\n", "a.raw": voxels},
            {"a.mhd": plain + b"ElementDataFile = LIST\n" + names, **slices},
        ]


def difference(form: str, path: str, array: np.ndarray, affine: np.ndarray) -> str:
    """Say in what an image differs from what an independent reader finds in its file; empty where it does not."""
    expected, place = {"nifti": by_nibabel, "nrrd": by_pynrrd, "metaimage": by_hand}[form](path)
    if expected.shape != array.shape:
        return f"shape {array.shape} in place of {expected.shape}"
    scale = 1e-5 * float(np.abs(expected).max(initial=1.0))
    off = np.abs(array.astype(np.float64) - expected)
    if not off.max() <= scale:
        return f"{int((~(off <= scale)).sum())} of {array.size} values differ"
    apart = float(np.abs(affine - place).max())
    # A float32 quaternion of a large image is right to its seventh digit.
    return f"the affine is off by {apart:.3g}" if apart > 1e-4 * max(1.0, float(np.abs(place).max())) else ""


def by_nibabel(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Read with nibabel."""
    image = nib.load(path)
    values = np.asarray(image.dataobj).astype(np.float64)
    return values.reshape(values.shape[:3]) if values.ndim > 3 else values, image.affine


def by_pynrrd(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Read with pynrrd; three axes in space, LPS or one of its mirror images."""
    import nrrd

    data, header = nrrd.read(path)
    vectors = np.atleast_2d(np.array(header["space directions"], dtype=np.float64))
    spatial = [index for index, vector in enumerate(vectors) if np.isfinite(vector).all()]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = vectors[spatial].T, header["space origin"]
    signs = {"l": 1, "r": -1}[header["space"][0].lower()], {"p": 1, "a": -1}[header["space"].split("-")[-2][0].lower()]
    if "-" not in header["space"]:
        signs = {"l": 1, "r": -1}[header["space"][0].lower()], {"p": 1, "a": -1}[header["space"][1].lower()]
    values = np.squeeze(data, tuple(index for index in range(data.ndim) if index not in spatial))
    return values.astype(np.float64), swap_lps_ras(np.diag([*signs, 1, 1]) @ affine)


def by_hand(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a MetaImage by its definition: ITK's own reader returns memory that was never written for some of these."""
    content = Path(path).read_bytes()
    match = re.search(rb"^ElementDataFile *= *(\S*).*\n", content, re.MULTILINE)
    if match is None:
        raise ValueError("no ElementDataFile")
    lines = content[: match.start()].decode().splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    name = match[1].decode()
    if name == "LOCAL":
        stored = content[match.end() :]
    elif name == "LIST":
        names = content[match.end() :].decode().split()
        stored = b"".join((Path(path).parent / item).read_bytes()[:198] for item in names)
    else:
        stored = (Path(path).parent / name).read_bytes()
    if fields.get("CompressedData", "False")[0] in "Tt1":
        unpacker = zlib.decompressobj(47)
        stored = unpacker.decompress(stored)
    sizes = [int(x) for x in fields["DimSize"].split()]
    kinds = {"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_FLOAT": "f4"}
    msb = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False"))[0] in "Tt1"
    dtype = np.dtype(kinds[fields["ElementType"]]).newbyteorder(">" if msb else "<")
    skip = int(fields.get("HeaderSize", "0"))
    begin = len(stored) - int(np.prod(sizes)) * dtype.itemsize if skip == -1 else skip if name != "LOCAL" else 0
    values = np.frombuffer(stored, dtype, int(np.prod(sizes)), begin).reshape(sizes, order="F")
    affine = np.eye(4)
    affine[:3, :3] = np.reshape([float(x) for x in fields["TransformMatrix"].split()], (3, 3)).T
    affine[:3, :3] *= [float(x) for x in fields["ElementSpacing"].split()]
    affine[:3, 3] = [float(x) for x in fields.get("Offset", fields.get("Position", fields.get("Origin", ""))).split()]
    return values.astype(np.float64), swap_lps_ras(affine)


TARGETS = (Nifti(), Nrrd(), MetaImage())
