"""A look at which part of the body a study shows, before a network runs that was made for another."""

from __future__ import annotations

import re

from voxmetry.core.records import Flag, SeriesInfo
from voxmetry.errors import InputError

REGIONS = ("head", "neck", "chest", "abdomen", "pelvis", "leg")
"""From top to bottom: neighbours share slices, and a header that names one may well mean both."""

_WORDS = {
    "head": "head|skull|brain|cranium|cereb|hippocamp|face|orbit|eye|sella|tmj|jaw|maxilla|mandib|dental|teeth|ear|iac|"
    "pituitary|sinus|schaedel|kopf|cerebro|tete",
    "neck": "neck|cspine|cervical|larynx|pharynx|thyroid|carotid|hals",
    "chest": "chest|thorax|lung|heart|cardiac|coronary|breast|mediast|tspine|thoracic|torax|rib|sternum|poumon",
    "abdomen": "abdomen|abdominal|liver|spleen|kidney|renal|pancreas|stomach|bowel|lspine|lumbar|adrenal|bauch",
    "pelvis": "pelvis|pelvic|prostate|bladder|uterus|rectum|hip(?!poc)|sacrum|becken|ovary",
    "leg": "leg|knee|foot|ankle|thigh|calf|extremity|femur|tibia|toe|bein",
}
"""Beginnings of words in Body Part Examined (defined terms of DICOM PS3.16 annex L, and what sites write) and in
`body_part` of model.yaml."""


def regions_in(text: str) -> frozenset[str]:
    """Return the regions that a text names; none for a text that names no region, or the whole body.

    Examples
    --------
    >>> sorted(regions_in("CHESTABDPELVIS")), sorted(regions_in("hippocampus")), sorted(regions_in("WHOLEBODY"))
    (['abdomen', 'chest', 'pelvis'], ['head'], [])
    """
    plain = text.lower().replace("_", " ")
    if re.search(r"whole ?body|wholebody|\bbody\b|\bany\b", plain):
        return frozenset()
    found = {name for name, words in _WORDS.items() if re.search(rf"(?<![a-z])({words})", plain)}
    # Compound terms of DICOM, such as ABDOMENPELVIS, CHESTABDPELVIS, HEADNECK.
    compound = re.sub(r"[^a-z]", "", plain)
    found |= {name for name, part in (("chest", "chest"), ("abdomen", "abd"), ("pelvis", "pelvis"), ("neck", "neck"))
              if part in compound and len(compound) > len(part)}  # fmt: skip
    return frozenset(found)


def flag_region(source: SeriesInfo | None, model: str, body_part: str, *, any_region: bool) -> tuple[Flag, ...]:
    """Refuse a study whose header names a part of the body far from what the model is for.

    Parameters
    ----------
    source
        What the study's headers say; a file without headers says nothing and passes.
    model, body_part
        The model's name and what it is for, as model.yaml says it.
    any_region
        Run it all the same; then it is flagged.

    Returns
    -------
    tuple of Flag
        One where the header disagrees and `any_region` is on.

    Raises
    ------
    InputError
        If the header disagrees and `any_region` is off.
    """
    have, wanted = regions_in(source.body_part if source else ""), regions_in(body_part)
    if not have or not wanted or any(_near(a, b) for a in have for b in wanted):
        return ()
    shown = source.body_part if source else ""
    if not any_region:
        raise InputError(
            found=f"a study of {shown}, as its header says (Body Part Examined)",
            expected=f"{body_part}, which {model} is for",
            fix="use another model: voxmetry models list; or, if the header is wrong, add --any-region "
            "(any_region=True); in a settings file: any_region: true",
        )
    message = f"The header says {shown}; {model} is for {body_part}. It was run by choice."
    return (Flag(code="other_region", severity="review", message=message),)


def _near(a: str, b: str) -> bool:
    return abs(REGIONS.index(a) - REGIONS.index(b)) <= 1
