"""Files that hold many slices: Enhanced multi-frame of classic ones, and Siemens mosaics."""

from __future__ import annotations

import gzip
import importlib.resources
import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage


def item(sequence: str, **elements) -> Dataset:
    """One functional group: a data set with one sequence of one item."""
    inner, outer = Dataset(), Dataset()
    for keyword, value in elements.items():
        setattr(inner, keyword, value)
    setattr(outer, sequence, Sequence([inner]))
    return outer


def merge(*groups: Dataset) -> Dataset:
    merged = Dataset()
    for group in groups:
        merged.update(group)
    return merged


def enhance(files, path, *, order=(3, 0, 10, 1, 2, 9, 4, 8, 5, 7, 6), shared_spacing=True, slopes=None, notes=None):
    """Put classic slices into one enhanced file, frames in this order."""
    slices = [pydicom.dcmread(files[index]) for index in order]
    dataset = pydicom.dcmread(files[0])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(dataset, keyword)
    del dataset.SpacingBetweenSlices
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    dataset.NumberOfFrames = len(slices)
    measures = item("PixelMeasuresSequence", PixelSpacing=slices[0].PixelSpacing, SliceThickness=2.6)
    turned = item("PlaneOrientationSequence", ImageOrientationPatient=slices[0].ImageOrientationPatient)
    dataset.SharedFunctionalGroupsSequence = Sequence([merge(turned, measures) if shared_spacing else turned])
    groups = []
    for index, one in enumerate(slices):
        group = item("PlanePositionSequence", ImagePositionPatient=one.ImagePositionPatient)
        parts = [group] if shared_spacing else [group, measures]
        if slopes:
            scale = {"RescaleSlope": str(slopes[index]), "RescaleIntercept": "1", "RescaleType": "US"}
            parts.append(item("PixelValueTransformationSequence", **scale))
        if notes:
            parts.append(item("MREchoSequence", EffectiveEchoTime=notes[index]))
        groups.append(merge(*parts))
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    dataset.PixelData = b"".join(one.PixelData for one in slices)
    path.parent.mkdir()
    dataset.save_as(path)
    return path


def nested(sequence: str, inner: Dataset) -> Dataset:
    """One functional group whose item is `inner`."""
    outer = Dataset()
    setattr(outer, sequence, Sequence([inner]))
    return outer


def stacked(files, path, volumes, *, pointers=(), sop_class=EnhancedMRImageStorage, **elements):
    """Put several volumes of the classic slices into one enhanced file, place by place.

    `volumes` holds, for each, its functional groups and its index in each dimension of `pointers`, which are tags of an
    element and of its functional group. Volume `n` is brighter by `n` than the classic slices.
    """
    slices = [pydicom.dcmread(file) for file in files]
    dataset = pydicom.dcmread(files[0])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(dataset, keyword)
    del dataset.SpacingBetweenSlices
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    measures = item("PixelMeasuresSequence", PixelSpacing=slices[0].PixelSpacing, SliceThickness=2.6)
    turned = item("PlaneOrientationSequence", ImageOrientationPatient=slices[0].ImageOrientationPatient)
    dataset.SharedFunctionalGroupsSequence = Sequence([merge(turned, measures)])
    groups, pixels = [], []
    for place, one in enumerate(slices):
        for number, (own, index) in enumerate(volumes):
            content = own.FrameContentSequence[0] if "FrameContentSequence" in own else Dataset()
            content = merge(content)
            content.InStackPositionNumber = place + 1
            if pointers:
                content.DimensionIndexValues = [place + 1, *index]
            position = item("PlanePositionSequence", ImagePositionPatient=one.ImagePositionPatient)
            groups.append(merge(position, own, nested("FrameContentSequence", content)))
            pixels.append((np.frombuffer(one.PixelData, "<i2") + number).astype("<i2").tobytes())
    if pointers:
        dimensions = []
        for tag, parent in ((0x00209057, 0x00209111), *pointers):
            entry = Dataset()
            entry.DimensionIndexPointer, entry.FunctionalGroupPointer = tag, parent
            dimensions.append(entry)
        dataset.DimensionIndexSequence = Sequence(dimensions)
    dataset.NumberOfFrames = len(groups)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    dataset.PixelData = b"".join(pixels)
    path.parent.mkdir(exist_ok=True)
    dataset.save_as(path)
    return path


def mosaics(folder):
    """Two diffusion volumes of 48 slices, each in one picture, which nibabel brings along for its own tests."""
    data = Path(str(importlib.resources.files("nibabel"))) / "nicom" / "tests" / "data"
    sources = [data / f"siemens_dwi_{b}.dcm.gz" for b in (0, 1000)]
    if not all(source.is_file() for source in sources):
        pytest.skip("this nibabel came without its test data")
    folder.mkdir()
    for source in sources:
        dataset = pydicom.dcmread(io.BytesIO(gzip.decompress(source.read_bytes())))
        # Their pixels are blank: numbers of their own show where each tile goes.
        pixels = np.random.default_rng(len(source.name)).integers(0, 4000, (dataset.Rows, dataset.Columns))
        dataset.PixelData = pixels.astype("<u2").tobytes()
        dataset.save_as(folder / source.stem)
    return folder
