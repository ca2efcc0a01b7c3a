"""Images that clients know by an id, and the labels that they save: a folder as MONAI Label arranges it.

`datastore_v2.json` lists images and labels; a label lies in `labels/TAG/`. An id comes from this list, or names an
image below one of the service's roots: no path of a client is ever opened.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voxmetry import io
from voxmetry.core.geometry import Geometry
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import FormatError, InputError
from voxmetry.io.atomic import make_folder, output_error
from voxmetry.io.seg_nrrd import write_seg_nrrd
from voxmetry.service.datastore_index import key_of, read_index, write_index
from voxmetry.service.errors import not_found
from voxmetry.service.multipart import ReceivedFile
from voxmetry.workflows.cohort.discover import find_studies
from voxmetry.workflows.cohort.discover import key_of as key_of_header
from voxmetry.workflows.cohort.records import Candidate

LABELS, CONVERTED = "labels", "converted"
FINAL, ORIGINAL = "final", "original"
IMAGE_SUFFIXES = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha", ".zip")
"""Of one file that is an image."""
RESCAN_SECONDS = 60.0
FIRST_SCAN_SECONDS = 10.0
"""How long the first look at the roots is waited for; a large archive takes longer, and is listed when it is read."""
_TAG = re.compile(r"[A-Za-z0-9_-]{1,32}")


@dataclass(frozen=True)
class Image:
    """An image that a client can name.

    Parameters
    ----------
    id
        Its name: the client's for one that was uploaded, the Series Instance UID of a DICOM series, else root and
        path below it.
    path
        File, or folder of DICOM files.
    series
        Series Instance UID within the folder.
    kind
        'upload', 'root', or 'received'.
    study_uid
        Study Instance UID of a DICOM series.
    labels
        What is said about each label, by its tag.
    """

    id: str
    path: Path
    series: str | None = None
    kind: str = "upload"
    study_uid: str | None = None
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether a final label was saved for it."""
        return FINAL in self.labels


Resolve = Callable[[str], "Image | None"]
"""Finds an image of an id that is nowhere here, such as one that was received, or fetches it; None: not known."""


class Datastore:
    """Images and labels of the service; safe to call from several threads.

    Parameters
    ----------
    folder
        Where uploaded images and labels lie.
    roots
        Folders whose images can be named, each under a name.
    """

    def __init__(self, folder: Path, roots: Mapping[str, Path]) -> None:
        self._folder, self._roots = folder, dict(roots)
        self._lock = threading.RLock()
        self.resolvers: list[Resolve] = []
        make_folder(folder)
        self._index = read_index(folder)
        self._below: dict[str, Image] = {}
        self._headers: dict[str, tuple[Candidate, ...]] = {}
        self._is_scanning, self._scanned = False, float("-inf")
        self._first = threading.Event()
        self._scan(wait=0)

    # --- images

    def images(self) -> list[Image]:
        """Return all images that are known, in the order of their ids."""
        self._scan()
        with self._lock:
            found = {image.id: image for image in self._uploaded()}
            found |= {name: self._with_labels(image) for name, image in self._below.items() if name not in found}
        return [found[name] for name in sorted(found)]

    def find(self, name: str) -> Image:
        """Return an image by its id.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        for look in (self._known, self._scanned_anew, self._resolved):
            if (image := look(name)) is not None:
                return image
        raise not_found(
            "image", "upload it first: PUT /datastore/?image=NAME; or list them: GET /datastore/?output=all"
        )

    def _known(self, name: str) -> Image | None:
        with self._lock:
            entry = self._index.get(key_of(name))
            if entry is not None and entry["image"].get("ext"):
                return self._image(key_of(name), entry)
            below = self._below.get(name)
            return self._with_labels(below) if below is not None else None

    def _scanned_anew(self, name: str) -> Image | None:
        self._scan()
        return self._known(name)

    def _resolved(self, name: str) -> Image | None:
        for resolve in self.resolvers:
            if (image := resolve(name)) is not None:
                with self._lock:
                    return self._with_labels(image)
        return None

    def of_uid(self, uid: str) -> list[Image]:
        """Return the series of a Series or Study Instance UID."""
        self._scan()
        with self._lock:
            return [image for image in self._below.values() if uid in (image.series, image.study_uid)]

    def id_of(self, path: Path) -> str | None:
        """Return the id of an image below a root by its path; None where none is known, or several are."""
        with self._lock:
            found = [image.id for image in self._below.values() if image.path == path]
        return found[0] if len(found) == 1 else None

    def add(self, name: str, file: ReceivedFile) -> Image:
        """Take an uploaded file as an image; one of the same name is replaced, and its labels are kept.

        Raises
        ------
        FormatError
            If its suffix is that of no image.
        OutputError
            If it cannot be moved into place.
        """
        if file.suffix not in IMAGE_SUFFIXES:
            raise FormatError(
                found="a file of no format that is known by its name",
                expected=f"a name that ends in {', '.join(IMAGE_SUFFIXES)}",
                fix="send the image as .nii.gz or .nrrd; DICOM series as a .zip",
            )
        key = key_of(name)
        with self._lock:
            before = self._index.get(key, {})
            old = before.get("image", {}).get("ext", "")
            target = self._folder / f"{key}{file.suffix}"
            _move(file.path, target)
            info = {"id": name, "ts": int(time.time()), "name": target.name}
            entry = {"image": {"ext": file.suffix, "info": info}, "labels": before.get("labels", {})}
            self._write({**self._index, key: entry})
            if old and old != file.suffix:
                (self._folder / f"{key}{old}").unlink(missing_ok=True)
            return self._image(key, entry)

    def remove(self, name: str) -> None:
        """Delete an uploaded image with its labels.

        Raises
        ------
        NotFoundError
            If no image of this id was uploaded.
        """
        key = key_of(name)
        with self._lock:
            entry = self._index.get(key)
            if entry is None or not entry["image"].get("ext"):
                raise not_found("uploaded image", "list them: GET /datastore/?output=all")
            self._write({other: content for other, content in self._index.items() if other != key})
            (self._folder / f"{key}{entry['image']['ext']}").unlink(missing_ok=True)
            for tag, label in entry["labels"].items():
                (self._folder / LABELS / tag / f"{key}{label['ext']}").unlink(missing_ok=True)

    def image_file(self, image: Image) -> Path:
        """Return the image as one file; a DICOM series is converted to NIfTI, once.

        Raises
        ------
        VoxmetryError
            If it cannot be read.
        """
        if image.path.is_file() and image.path.suffix.lower() not in (".zip", ".dcm", ""):
            return image.path
        target = self._folder / CONVERTED / f"{key_of(image.id)}.nii.gz"
        if not target.is_file():
            make_folder(target.parent)
            io.save(io.read_volume(image.path, series=image.series), target)
        return target

    def grid(self, image: Image) -> Geometry:
        """Return the grid of an image."""
        return io.read_volume(image.path, series=image.series).geometry

    # --- labels

    def save_label(self, image: Image, tag: str, layers: Sequence[Segmentation], info: Mapping[str, Any]) -> str:
        """Keep a label of an image; one of the same tag is replaced.

        Parameters
        ----------
        image
            The image.
        tag
            'final' for what a person has corrected, 'original' for what a model returned, or a name of one's own.
        layers
            The label map, several where structures overlap.
        info
            What is said about it: who, when, from which model.

        Returns
        -------
        str
            Name of the file.
        """
        require_tag(tag)
        key, suffix = key_of(image.id), ".nii.gz" if len(layers) == 1 else ".seg.nrrd"
        folder = make_folder(self._folder / LABELS / tag)
        target = folder / f"{key}{suffix}"
        with self._lock:
            if len(layers) == 1:
                io.save(layers[0], target)
            else:
                write_seg_nrrd(layers, target)
            entry = self._index.get(key) or {"image": {"ext": "", "info": {"id": image.id}}, "labels": {}}
            old = entry["labels"].get(tag, {}).get("ext", suffix)
            label = {"ext": suffix, "info": {"ts": int(time.time()), "name": target.name, **info}}
            self._write({**self._index, key: {**entry, "labels": {**entry["labels"], tag: label}}})
            if old != suffix:
                (folder / f"{key}{old}").unlink(missing_ok=True)
        return target.name

    def label_file(self, name: str, tag: str) -> Path:
        """Return the file of a label.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        require_tag(tag)
        key = key_of(name)
        with self._lock:
            label = self._index.get(key, {}).get("labels", {}).get(tag)
        path = self._folder / LABELS / tag / f"{key}{label['ext']}" if label else None
        if path is None or not path.is_file():
            raise not_found("label", "list them: GET /datastore/?output=all")
        return path

    def facts(self) -> dict[str, Any]:
        """Return how many images there are, how many are done, and how many have a label of each tag."""
        images = self.images()
        tags: dict[str, int] = {}
        for image in images:
            for tag in image.labels:
                tags[tag] = tags.get(tag, 0) + 1
        return {
            "total": len(images),
            "completed": sum(image.is_done for image in images),
            "label_tags": tags,
            "train": [],
        }

    # --- index and roots

    def _uploaded(self) -> list[Image]:
        return [self._image(key, entry) for key, entry in self._index.items() if entry["image"].get("ext")]

    def _image(self, key: str, entry: Mapping[str, Any]) -> Image:
        path = self._folder / f"{key}{entry['image']['ext']}"
        return Image(entry["image"]["info"]["id"], path, labels=_infos(entry))

    def _with_labels(self, image: Image) -> Image:
        entry = self._index.get(key_of(image.id))
        if entry is None:
            return image
        return Image(image.id, image.path, image.series, image.kind, image.study_uid, _infos(entry))

    def _write(self, index: dict[str, Any]) -> None:
        write_index(self._folder, index)
        self._index = index

    def _scan(self, *, wait: float = FIRST_SCAN_SECONDS) -> None:
        """Have the roots looked at where that was a while ago; only the first time is waited for, and not for ever."""
        if not self._roots:
            return
        with self._lock:
            if not self._is_scanning and time.monotonic() - self._scanned > RESCAN_SECONDS:
                self._is_scanning = True
                threading.Thread(target=self._look, name="voxmetry-roots", daemon=True).start()
        self._first.wait(wait)

    def _look(self) -> None:
        below: dict[str, Image] = {}
        headers: dict[str, tuple[Candidate, ...]] = {}
        try:
            for name, root in self._roots.items():
                found = _below(root, self._headers)
                below |= {image.id: image for image in (_image_of(name, each) for each in found if each.fault is None)}
                for each in found:
                    key = key_of_header(each.path, each.fingerprint)
                    headers[key] = (*headers.get(key, ()), each)
        finally:
            with self._lock:
                self._below, self._headers = below, headers
                self._scanned, self._is_scanning = time.monotonic(), False
            self._first.set()


def _below(root: Path, headers: Mapping[str, tuple[Candidate, ...]]) -> tuple[Candidate, ...]:
    try:
        return find_studies(root, known=headers).candidates
    except InputError:
        # An empty root, or one that is not mounted now.
        return ()


def _image_of(root: str, found: Candidate) -> Image:
    return Image(found.series or f"{root}/{found.case}", Path(found.path), found.series, "root", found.study_uid)


def _infos(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {tag: label["info"] for tag, label in entry["labels"].items()}


def require_tag(tag: str) -> None:
    """Raise `FormatError` where a tag is no plain word."""
    if not _TAG.fullmatch(tag):
        raise FormatError(
            found="a tag that is no plain word", expected="1 to 32 letters, digits, _ or -", fix="use final or original"
        )


def _move(source: Path, target: Path) -> None:
    try:
        shutil.move(source, target)
    except OSError as error:
        raise output_error(target, error) from error
