"""List a folder of many files and read its CT series: seconds and peak memory, beside other readers.

    python benchmarks/bench_dicom.py --slices 600 --files 10000 --repeats 3

writes a 512 x 512 CT with pydicom, uncompressed and as JPEG 2000, and unrelated files until the folder holds as many
as asked for. Each reader runs in a process of its own, so that the peak memory is its own; the seconds leave out the
start of Python and the imports, but for dcm2niix, which is a program, they are those of the whole program. Beside the
median and the least of the seconds stand those of the processors: what else runs on the machine moves these least. A
reader that is not installed is left out.

What a reader is given: voxmetry, SimpleITK and dcm2niix find the slices in the folder by themselves. MONAI's readers
and dicom2nifti take every file of their folder for a slice, so they get a folder of the slices alone.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

READERS = ("voxmetry", "SimpleITK", "MONAI ITKReader", "MONAI PydicomReader", "dicom2nifti", "dcm2niix")
DISTRIBUTIONS = {"SimpleITK": "SimpleITK", "dicom2nifti": "dicom2nifti", "dcm2niix": "dcm2niix"}


def write_series(folder: Path, slices: int, size: int, *, compress: bool) -> None:
    """Write a CT of a noisy ellipsoid, one file a slice, with pydicom."""
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless

    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    noise = random.normal(0, 12, (size, size))
    for k in range(slices):
        z = 2 * k / max(slices - 1, 1) - 1
        body = (x / 0.8) ** 2 + (y / 0.6) ** 2 + (z / 1.1) ** 2 < 1
        pixels = np.where(body, 1064, 24) + np.roll(noise, 37 * k)
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, f"1.2.826.0.1.3680043.8.498.1.{k + 1}"
        data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.2", "1.2.826.0.1.3680043.8.498.3"
        data.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.4"
        data.PatientName, data.PatientID, data.Modality, data.Manufacturer = "", "", "CT", "benchmark"
        data.StudyDate, data.StudyTime, data.AcquisitionDate, data.AcquisitionTime = (
            "20200101",
            "120000",
            "20200101",
            "120000",
        )
        data.ImageType, data.SeriesDescription = ["ORIGINAL", "PRIMARY", "AXIAL"], "benchmark"
        data.SeriesNumber, data.InstanceNumber, data.AcquisitionNumber = 1, k + 1, 1
        data.ImagePositionPatient, data.ImageOrientationPatient = [-175, -175, k * 1.0], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness, data.SpacingBetweenSlices = [0.68359375] * 2, 1, 1
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.Rows, data.Columns = size, size
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
        data.RescaleIntercept, data.RescaleSlope, data.RescaleType, data.KVP = "-1024", "1", "HU", "120"
        data.PixelData = np.clip(pixels, 0, 4095).astype("<u2").tobytes()
        if compress:
            data.compress(JPEG2000Lossless, generate_instance_uid=False)
        data.save_as(folder / f"IM{(k * 7919) % 100003:06}", enforce_file_format=True)


def add_unrelated(folder: Path, files: int) -> None:
    """Fill a folder up to a number of files with what a study is often kept beside."""
    for index in range(max(0, files - sum(1 for _ in folder.iterdir()))):
        (folder / f"note{index:06}.txt").write_text(f"file {index} has nothing to do with the study\n" * 20)


def read_voxmetry(folder: Path, _: Path) -> tuple[int, ...]:
    from voxmetry import list_series
    from voxmetry.io import choose_series, read_series

    return read_series(choose_series(list_series(folder))).array.shape


def read_simpleitk(folder: Path, _: Path) -> tuple[int, ...]:
    import SimpleITK as sitk  # noqa: N813  (its own name for itself)

    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    return tuple(sitk.ReadImage(names).GetSize())


def read_monai_itk(_: Path, slices: Path) -> tuple[int, ...]:
    from monai.data import ITKReader

    reader = ITKReader()
    return tuple(reader.get_data(reader.read(str(slices)))[0].shape)


def read_monai_pydicom(_: Path, slices: Path) -> tuple[int, ...]:
    from monai.data import PydicomReader

    reader = PydicomReader()
    return tuple(reader.get_data(reader.read(str(slices)))[0].shape)


def read_dicom2nifti(_: Path, slices: Path) -> tuple[int, ...]:
    from dicom2nifti.convert_dicom import dicom_series_to_nifti

    with tempfile.TemporaryDirectory() as out:
        result = dicom_series_to_nifti(str(slices), str(Path(out) / "x.nii"), reorient_nifti=False)
        return tuple(result["NII"].shape)


FUNCTIONS = {
    "voxmetry": (read_voxmetry, "voxmetry.io.dicom.read.pixels voxmetry.io.dicom.read.series imagecodecs"),
    "SimpleITK": (read_simpleitk, "SimpleITK"),
    "MONAI ITKReader": (read_monai_itk, "monai.data itk"),
    "MONAI PydicomReader": (read_monai_pydicom, "monai.data pydicom"),
    "dicom2nifti": (read_dicom2nifti, "dicom2nifti.convert_dicom"),
}


def one(reader: str, folder: Path, slices: Path) -> None:
    """Run one reader in this process and print what it took as JSON."""
    function, modules = FUNCTIONS[reader]
    for module in modules.split():
        importlib.import_module(module)
    before = resource.getrusage(resource.RUSAGE_SELF)
    begin = time.perf_counter()
    shape = function(folder, slices)
    seconds = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_SELF)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = {"seconds": seconds, "processor": processor, "peak_mb": after.ru_maxrss * 1024 / 1e6, "shape": list(shape)}
    print(json.dumps(found))


def run(reader: str, folder: Path, slices: Path) -> dict[str, float] | None:
    """Run one reader in a process of its own; None where it is absent or fails."""
    if reader == "dcm2niix":
        return run_dcm2niix(folder)
    command = [sys.executable, __file__, "--one", reader, "--folder", str(folder), "--only-slices", str(slices)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{reader}: {done.stderr.strip().splitlines()[-1][:200]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_dcm2niix(folder: Path) -> dict[str, float] | None:
    program = shutil.which("dcm2niix", path=str(Path(sys.executable).parent)) or shutil.which("dcm2niix")
    if program is None:
        return None
    with tempfile.TemporaryDirectory(dir=folder.parent) as out:
        command = [program, "-z", "n", "-b", "n", "-o", out, str(folder)]
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        if status or not list(Path(out).glob("*.nii")):
            return None
    processor = usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "processor": processor, "peak_mb": usage.ru_maxrss * 1024 / 1e6, "shape": []}


def version(reader: str) -> str:
    if reader == "voxmetry":
        import voxmetry

        return voxmetry.__version__
    name = DISTRIBUTIONS.get(reader, "monai" if reader.startswith("MONAI") else reader)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=600)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--readers", nargs="*", default=list(READERS))
    parser.add_argument("--only", choices=("uncompressed", "JPEG 2000"), help="one of the two series")
    parser.add_argument("--scratch", type=Path, help="where the series are kept and found again; else they are removed")
    parser.add_argument("--only-write", action="store_true", help="write the series into --scratch and stop")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only-slices", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one, given.folder, given.only_slices)
        return
    volume_mb = given.slices * given.size**2 * 2 / 1e6
    print(
        f"{given.slices} slices of {given.size} x {given.size} among {given.files} files, {volume_mb:.0f} MB as int16; "
    )
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, median of {given.repeats}\n")
    print("| series | reader | version | seconds | least | processor seconds | peak MB | peak / volume |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        scratch = given.scratch or Path(temporary)
        for compress in {"uncompressed": (False,), "JPEG 2000": (True,)}.get(given.only, (False, True)):
            slices, study = scratch / f"slices{compress}", scratch / f"study{compress}"
            if not study.exists():
                write_series(slices, given.slices, given.size, compress=compress)
                study.mkdir()
                for file in slices.iterdir():
                    os.link(file, study / file.name)
                add_unrelated(study, given.files)
            if not given.only_write:
                compare("JPEG 2000" if compress else "uncompressed", study, slices, given, volume_mb)


def compare(series: str, study: Path, slices: Path, given: argparse.Namespace, volume_mb: float) -> None:
    """Run the readers in turn, as often as asked for, and print a row for each."""
    runs: dict[str, list[dict[str, float]]] = {reader: [] for reader in given.readers}
    for _ in range(given.repeats):
        for reader in given.readers:
            result = run(reader, study, slices)
            if result is not None:
                runs[reader].append(result)
    for reader, results in runs.items():
        if not results:
            print(f"| {series} | {reader} | {version(reader)} | not run | | | | |")
            continue

        def middle(what: str, results: list[dict[str, float]] = results) -> float:
            return statistics.median(float(result[what]) for result in results)

        row = (
            series,
            reader,
            version(reader),
            f"{middle('seconds'):.2f}",
            f"{min(float(result['seconds']) for result in results):.2f}",
            f"{middle('processor'):.2f}",
            f"{middle('peak_mb'):.0f}",
            f"{middle('peak_mb') / volume_mb:.2f}",
        )
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
