"""Studies of several images, such as CT and PET, put together for the models that take them all."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from voxmetry.io.suffixes import suffix_of
from voxmetry.workflows.cohort.records import Candidate

if TYPE_CHECKING:
    from voxmetry.classical.spec import BaselineInput
    from voxmetry.config import InputSpec
    from voxmetry.models.composite import CompositeInput
    from voxmetry.workflows.cohort.rules import RuleSpec

WORDS = {"CT": ("ct",), "MR": ("mr", "mri"), "PT": ("pt", "pet", "suv")}
"""Words in a file's name that say its modality, beside the names of the model's own inputs."""

Image = tuple[str, str]
"""Path and series of an image: what it is known by within one plan."""


def image_of(candidate: Candidate) -> Image:
    """Return path and series."""
    return candidate.path, candidate.series or ""


def join(
    found: Iterable[Candidate], spec: RuleSpec
) -> tuple[dict[Image, Candidate], dict[Image, Image], dict[Image, str]]:
    """Put images together that make one study for a model of several inputs.

    Series of one DICOM study belong together, images of one BIDS session, and files of one folder whose names differ
    in the word for the input alone: `p7_ct.nii.gz` and `p7_pet.nii.gz`, or `p7_0000` and `p7_0001` in their order.

    Parameters
    ----------
    found
        Single images that can be used.
    spec
        A model of several inputs.

    Returns
    -------
    joined
        Each whole study, by its first image.
    leads
        Of each image that is part of one, the first one.
    why_not
        Of each other image, why it is part of none.
    """
    groups: dict[tuple[str, ...], list[tuple[Candidate, int]]] = {}
    why_not: dict[Image, str] = {}
    for candidate in found:
        key, place = _key(candidate, spec)
        if place is None:
            why_not[image_of(candidate)] = f"it is none of its inputs, {inputs_in_words(spec)}"
        else:
            groups.setdefault(key, []).append((candidate, place))
    joined: dict[Image, Candidate] = {}
    leads: dict[Image, Image] = {}
    for key, group in groups.items():
        by_input = [[candidate for candidate, at in group if at == place] for place in range(len(spec.inputs))]
        why = _incomplete(by_input, spec)
        if why:
            why_not |= {image_of(candidate): why for candidate, _ in group}
            continue
        parts = [only for (only,) in by_input]
        joined[image_of(parts[0])] = combine(parts, _case(parts, key))
        leads |= dict.fromkeys(map(image_of, parts), image_of(parts[0]))
    return _named_apart(joined), leads, why_not


def _key(candidate: Candidate, spec: RuleSpec) -> tuple[tuple[str, ...], int | None]:
    """Return what an image shares with the others of its study, and which input it is."""
    if candidate.format == "DICOM":
        return ("study", candidate.study_uid or candidate.path), _by_modality(candidate.modality, spec)
    if candidate.entities:
        session = [f"{name}-{candidate.entities[name]}" for name in ("sub", "ses") if name in candidate.entities]
        named = _by_name([candidate.entities.get("suffix", "").lower()], spec)
        return ("session", *session), named if named is not None else _by_modality(candidate.modality, spec)
    folder, name = os.path.split(candidate.path)
    words = re.split(r"[^A-Za-z0-9]+", name[: len(name) - len(suffix_of(Path(name)))])
    if re.fullmatch(r"\d{4}", words[-1]) and int(words[-1]) < len(spec.inputs):
        return ("files", folder, "_".join(words[:-1])), int(words[-1])
    place = _by_name([word.lower() for word in words], spec)
    kept = [word for word in words if place is None or _by_name([word.lower()], spec) != place]
    return ("files", folder, "_".join(kept)), place


def _by_name(words: Sequence[str], spec: RuleSpec) -> int | None:
    """Return the one input that the words name, by its own name or, where that is clear, by its modality."""
    found = {place for place, item in enumerate(inputs_of(spec)) if item.name.lower() in words}
    if not found:
        kinds = {kind for kind, names in WORDS.items() if set(names) & set(words)}
        found = {place for kind in kinds if (place := _by_modality(kind, spec)) is not None}
        if len(kinds) != 1:
            return None
    return found.pop() if len(found) == 1 else None


def _by_modality(modality: str | None, spec: RuleSpec) -> int | None:
    places = [place for place, item in enumerate(inputs_of(spec)) if item.modality == modality]
    return places[0] if len(places) == 1 else None


def _incomplete(by_input: Sequence[Sequence[Candidate]], spec: RuleSpec) -> str:
    for item, images in zip(inputs_of(spec), by_input, strict=True):
        what = f"{item.name} ({item.modality})"
        if not images:
            return f"no image for its input {what} goes with it"
        if len(images) > 1:
            return f"{len(images)} images could be its input {what}: name one in a manifest"
    return ""


def _case(parts: Sequence[Candidate], key: tuple[str, ...]) -> str:
    """Name a study after what the names of its images share, and where that is nothing, after all of them."""
    shared = posixpath.commonpath([part.case for part in parts])
    if key[0] == "files" and key[2]:
        return "/".join(filter(None, (posixpath.dirname(parts[0].case), key[2])))
    return shared or "+".join(part.case.replace("/", "_") for part in parts)


def _named_apart(joined: dict[Image, Candidate]) -> dict[Image, Candidate]:
    """Add the end of a hash to the names of several DICOM studies in one folder."""
    times = Counter(study.case for study in joined.values())
    apart = {}
    for image, study in joined.items():
        if times[study.case] > 1 and study.study_uid:
            tail = hashlib.sha256(study.study_uid.encode()).hexdigest()[:6]
            apart[image] = study.model_copy(update={"case": f"{study.case}/study-{tail}"})
        else:
            apart[image] = study
    return apart


def combine(parts: Sequence[Candidate], case: str, *, loose: bool = False) -> Candidate:
    """Make one study of several images; it is called `case`, and is else what its first image is."""
    mark = hashlib.sha256("\0".join(f"{part.fingerprint} {part.series}" for part in parts).encode()).hexdigest()[:24]
    return parts[0].model_copy(
        update={
            "case": case,
            "parts": tuple(parts),
            "loose": loose,
            "modality": "+".join(part.modality or "?" for part in parts),
            "description": "; ".join(dict.fromkeys(part.description for part in parts if part.description)),
            "body_part": "; ".join(dict.fromkeys(part.body_part for part in parts if part.body_part)),
            "fingerprint": mark,
        }
    )


def pick(candidate: Candidate, spec: RuleSpec) -> Candidate:
    """Return what a model takes of a folder with several series: the one of each of its modalities, if there is one.

    What is not such a folder is returned as it is, and so is what has too few or too many.
    """
    if not candidate.loose:
        return candidate
    chosen: list[Candidate] = []
    for item in inputs_of(spec):
        images = [part for part in candidate.parts if part.modality == item.modality]
        if len(images) != 1 or images[0] in chosen:
            return candidate
        chosen += images
    given = {"case": candidate.case, "reference": candidate.reference, "patient": candidate.patient}
    if len(chosen) == 1:
        return chosen[0].model_copy(update=given)
    return combine(chosen, candidate.case).model_copy(update=given)


def inputs_of(spec: RuleSpec) -> tuple[InputSpec | CompositeInput | BaselineInput, ...]:
    """Return what a model or a baseline takes."""
    return tuple(spec.inputs)


def inputs_in_words(spec: RuleSpec) -> str:
    """Name a model's inputs in its order."""
    return ", ".join(f"{item.name} ({item.modality})" for item in inputs_of(spec))
