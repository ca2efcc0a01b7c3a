"""Damage real DICOM series in many ways, and see that each gives the right volume or a refusal.

    python benchmarks/fuzz_dicom.py DATA --cases 20000

DATA is a folder of DICOM series, one a subfolder; small ones are taken. Each case copies a series, damages it by one
to three mutations, lists it, and reads every volume that is said to be readable. It passes if

- a `VoxmetryError` is raised, or a volume is refused with a reason, or
- each volume that comes back is the one that pydicom finds in the same damaged files: the position of each slice
  within the audit's tolerance, orientation, spacing, and every value.

Anything else is a finding: another exception, a warning, a volume that pydicom reads otherwise, more than SECONDS for a
case, or more memory than LIMIT. A finding names its seed, and `--only SEED` repeats it. Exit code 1 with any finding.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom

from voxmetry import VoxmetryError, list_series
from voxmetry.core.geometry import swap_lps_ras
from voxmetry.io import read_series
from voxmetry.workflows.provenance import peak_memory_mb

SECONDS = 20
LIMIT = 2 << 30
MOST_BYTES = 3_000_000

Files = dict[str, bytearray]
Mutation = Callable[[random.Random, Files], None]

_WRONG = ("0", "-1", "65535", "1e400", "nan", "", "abc", "1\\2", "0.000001", "999999999999")
_TARGETS = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope"),
    *("RescaleIntercept", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Modality", "ImageType", "EchoTime"),
    *("AcquisitionNumber", "InstanceNumber", "FrameOfReferenceUID", "SpecificCharacterSet", "SeriesDescription"),
)
_SIZES = (
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "SamplesPerPixel",
    "PixelRepresentation",
)


def pick(r: random.Random, files: Files) -> bytearray:
    data = files[r.choice(sorted(files))]
    if not data:
        data += b"\0"
    return data


def header_end(data: bytearray) -> int:
    place = data.find(b"\xe0\x7f\x10\x00")
    return place if place > 0 else len(data)


def flip_in_header(r: random.Random, files: Files) -> None:
    data = pick(r, files)
    for _ in range(r.choice((1, 1, 2, 8))):
        data[r.randrange(max(1, header_end(data)))] ^= 1 << r.randrange(8)


def flip_anywhere(r: random.Random, files: Files) -> None:
    data = pick(r, files)
    for _ in range(r.choice((1, 4, 32))):
        data[r.randrange(len(data))] = r.randrange(256)


def truncate(r: random.Random, files: Files) -> None:
    data = pick(r, files)
    del data[r.randrange(len(data)) if r.random() < 0.5 else r.randrange(header_end(data)) :]
    if not data:
        data += b"\0"


def blank(r: random.Random, files: Files) -> None:
    data = pick(r, files)
    at = r.randrange(len(data))
    end = min(len(data), at + r.choice((16, 512, 8192)))
    data[at:end] = bytes(end - at)


def insert(r: random.Random, files: Files) -> None:
    data = pick(r, files)
    at = r.randrange(max(1, header_end(data)))
    data[at:at] = r.randbytes(r.choice((1, 2, 8, 100)))


def lie_about_length(r: random.Random, files: Files) -> None:
    data = pick(r, files)
    places = [at for keyword in (*_TARGETS, *_SIZES, "PixelData") if (at := data.find(tag_bytes(keyword))) > 0]
    if places:
        at = r.choice(places)
        value = r.choice((0, 1, 2, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, r.randrange(1 << 16)))
        if r.random() < 0.5:
            data[at + 6 : at + 8] = struct.pack("<H", value & 0xFFFF)
        else:
            data[at + 8 : at + 12] = struct.pack("<I", value)


def tag_bytes(keyword: str) -> bytes:
    tag = pydicom.tag.Tag(keyword)
    return struct.pack("<HH", tag.group, tag.element)


def rewritten(change: Callable[[random.Random, pydicom.Dataset], None], *, most: bool = False) -> Mutation:
    """Turn a change of a data set into one of some of the files."""

    def mutate(r: random.Random, files: Files) -> None:
        names = sorted(files)
        for name in names if most and r.random() < 0.5 else [r.choice(names)]:
            with contextlib.suppress(Exception):  # what is damaged already may not be writable: then it stays so
                data = pydicom.dcmread(pydicom.filebase.DicomBytesIO(bytes(files[name])))
                change(r, data)
                out = pydicom.filebase.DicomBytesIO()
                data.save_as(out)
                files[name][:] = out.getvalue()

    return mutate


def drop_tag(r: random.Random, data: pydicom.Dataset) -> None:
    if r.random() < 0.5:
        data.pop(pydicom.tag.Tag(r.choice((*_TARGETS, *_SIZES))), None)
    else:
        data.pop(r.choice(list(data.keys())), None)


def wrong_value(r: random.Random, data: pydicom.Dataset) -> None:
    with pydicom.config.disable_value_validation():
        element = pydicom.dataelem.DataElement(
            pydicom.tag.Tag(r.choice(_TARGETS)), r.choice(("LO", "UN", "OB", "DS")), b""
        )
        value = r.choice(_WRONG)
        element._value = value.encode() if element.VR in ("UN", "OB") else value
        data[element.tag] = element


def wrong_size(r: random.Random, data: pydicom.Dataset) -> None:
    setattr(data, r.choice(_SIZES), r.choice((0, 1, 2, 3, 7, 8, 12, 16, 31, 32, 64, 1000, 65535)))


def nest(r: random.Random, files: Files) -> None:
    data = pick(r, files)
    at = data.find(tag_bytes("Modality"))
    if at > 0:
        head = tag_bytes("ReferencedImageSequence") + b"SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
        depth = r.choice((1, 3, 15, 17, 200, 5000))
        tail = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * (depth if r.random() < 0.7 else 0)
        data[at:at] = head * depth + tail


def double_tag(r: random.Random, files: Files) -> None:
    data = pick(r, files)
    at = data.find(tag_bytes(r.choice((*_TARGETS, *_SIZES))))
    if at > 0 and at + 8 < len(data):
        length = struct.unpack_from("<H", data, at + 6)[0]
        copy = bytearray(data[at : at + 8 + length])
        if len(copy) > 8 and r.random() < 0.6:
            copy[r.randrange(8, len(copy))] ^= 1
        data[at:at] = copy


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


def lie_about_syntax(r: random.Random, files: Files) -> None:
    data = pick(r, files)
    at = data.find(b"1.2.840.10008.1.2", 132, 800)
    if at > 0:
        end = at + r.choice((17, 19, 20, 22))
        data[at:end] = r.choice(
            (b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.2\0", b"1.2.840.10008.1.2.4.70", b"1.2.840.10008.1.2.5\0")
        )[: end - at]


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


MUTATIONS: dict[str, Mutation] = {
    "flip in header": flip_in_header,
    "flip anywhere": flip_anywhere,
    "truncate": truncate,
    "blank": blank,
    "insert": insert,
    "lying length": lie_about_length,
    "drop tag": rewritten(drop_tag, most=True),
    "wrong value": rewritten(wrong_value, most=True),
    "wrong size": rewritten(wrong_size, most=True),
    "nested sequences": nest,
    "doubled tag": double_tag,
    "position": rewritten(move, most=True),
    "orientation": rewritten(turn, most=True),
    "scale": rewritten(scale, most=True),
    "encoding": rewritten(encode_as, most=True),
    "lying syntax": lie_about_syntax,
    "removed slice": remove_slice,
    "doubled slice": double_slice,
    "shuffled": shuffle,
    "noise file": add_noise_file,
}


def sources(folder: Path) -> list[Files]:
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


class SlowError(Exception):
    """A case took too long."""


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise `SlowError` when the block takes longer."""

    def late(*_: object) -> None:
        raise SlowError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def unlimited_memory() -> Iterator[None]:
    """Lift the limit for pydicom, which takes memory for what a length says before it reads that much."""
    limit, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def run_case(seed: int, series: list[Files], scratch: Path) -> tuple[str, list[str], str]:
    """Run one case; return the outcome ('volume', 'refused' or 'finding'), its mutations, and what was found."""
    r = random.Random(seed)
    files = {name: bytearray(content) for name, content in r.choice(series).items()}
    names = [r.choice(sorted(MUTATIONS)) for _ in range(r.choice((1, 1, 1, 2, 3)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            MUTATIONS[name](r, files)
    folder = scratch / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        with limited(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("error")
            outcome, told = judge(folder)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is a finding)
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "finding", names, f"{type(error).__name__}: {error} at {Path(where.filename).name}:{where.lineno}"
    return outcome, names, told


def judge(folder: Path) -> tuple[str, str]:
    """List and read a folder, and hold each volume against pydicom."""
    try:
        infos = list_series(folder)
    except VoxmetryError:
        return "refused", ""
    outcome = "refused"
    for info in infos:
        if not info.readable:
            if not info.reason:
                return "finding", f"{info.verdict} without a reason"
            continue
        try:
            volume = read_series(info, suv="none")
        except VoxmetryError:
            continue
        with warnings.catch_warnings(), unlimited_memory():
            warnings.simplefilter("ignore")
            wrong = difference(volume, info)
        if wrong:
            return "finding", wrong
        outcome = "volume"
    return outcome, ""


def difference(volume, info) -> str:
    """Say in what a volume differs from what pydicom finds in the same files; empty where it does not."""
    affine = swap_lps_ras(volume.geometry.affine)
    step = float(np.linalg.norm(affine[:3, 2]))
    opened: dict[int, tuple[pydicom.Dataset, np.ndarray]] = {}
    for k, (file, frame) in enumerate(info.frames):
        if file not in opened:
            try:
                data = pydicom.dcmread(info.files[file], force=True)
                stored = data.pixel_array
            except Exception as error:  # noqa: BLE001  (pydicom's failure is told, whatever it is)
                return f"read, where pydicom fails: {type(error).__name__}: {str(error)[:100]}"
            opened[file] = data, stored[None] if stored.ndim == 2 else stored
        data, stored = opened[file]
        item, values = described(data, frame)
        place = affine[:3, 3] + k * affine[:3, 2]
        off = float(np.linalg.norm(place - np.array(item["position"])))
        if off > min(0.11 + 0.011 * step, 0.21 * step) and len(info.frames) > 1:
            return f"slice {k} lies {off:.3g} mm from its position"
        along, down = np.reshape(item["orientation"], (2, 3))
        for axis, direction, size in ((0, along, item["spacing"][1]), (1, down, item["spacing"][0])):
            if not np.allclose(affine[:3, axis], direction * size, atol=3e-3 * size):
                return f"axis {axis} is {affine[:3, axis]} where the header says {direction * size}"
        expected = stored[frame].astype(np.float64) * values[0] + values[1]
        if not np.allclose(
            volume.array[:, :, k].T, expected, rtol=1e-6, atol=1e-6 * max(1.0, float(np.abs(expected).max()))
        ):
            return f"values of slice {k} differ"
    return ""


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first case; the others follow")
    parser.add_argument("--only", type=int, default=None, help="run the case of one seed alone")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for the cases, such as /dev/shm")
    given = parser.parse_args()
    series = sources(given.data)
    resource.setrlimit(resource.RLIMIT_AS, (resource.getrlimit(resource.RLIMIT_AS)[0], resource.RLIM_INFINITY))
    used = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    )
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT, resource.RLIM_INFINITY))
    seeds = [given.only] if given.only is not None else range(given.seed, given.seed + given.cases)
    outcomes: collections.Counter[str] = collections.Counter()
    slowest, begin = 0.0, time.perf_counter()
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        for seed in seeds:
            start = time.perf_counter()
            outcome, names, told = run_case(seed, series, Path(scratch))
            slowest = max(slowest, time.perf_counter() - start)
            outcomes[outcome] += 1
            if outcome == "finding":
                print(f"seed {seed} ({', '.join(names)}): {told}", flush=True)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    print(f"{len(seeds)} cases over {len(series)} series: {counts}")
    peak = peak_memory_mb()
    print(f"{time.perf_counter() - begin:.0f} s, the slowest case {slowest:.2f} s, peak memory {peak:.0f} MB")
    return 1 if outcomes["finding"] else 0


if __name__ == "__main__":
    sys.exit(main())
