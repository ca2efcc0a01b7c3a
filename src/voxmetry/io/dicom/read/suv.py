"""PET activity to standardised uptake values (SUV), following QIBA.

The steps are those of the vendor-neutral SUV calculation of the QIBA FDG-PET/CT profile (qibawiki.rsna.org,
"Standardized Uptake Value"): SUV is the activity concentration, times the body's size, over the dose that is left of
what was injected when the scan began. What is missing for it is named; nothing is assumed in its place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from voxmetry.errors import SeriesError
from voxmetry.io.dicom.read.elements import Elements
from voxmetry.io.dicom.read.headers import PARSING_ERRORS, number, seconds, text

SuvType: TypeAlias = Literal["bw", "lbm", "bsa"]
"""Normalised by body weight, lean body mass (James) or body surface area (Du Bois)."""

_PHILIPS = "Philips PET Private Group"
_GE = "GEMS_PETD_01"
_WORDS = {
    "weight": "Patient's Weight",
    "height": "Patient's Size",
    "sex": "Patient's Sex (M or F)",
    "dose": "Radionuclide Total Dose",
    "half_life": "Radionuclide Half Life",
    "injected": "Radiopharmaceutical Start Time, or Start DateTime",
}


@dataclass(frozen=True)
class Uptake:
    """How stored activity becomes SUV."""

    factor: float
    """What each value is multiplied by."""
    kind: SuvType
    how: str
    """In words, for provenance; no date and nothing of the patient."""


def uptake(headers: Sequence[Elements], kind: SuvType) -> Uptake:
    """Return the factor from a PET series' values to SUV.

    Parameters
    ----------
    headers
        Of all its files.
    kind
        Which SUV is wanted.

    Raises
    ------
    SeriesError
        If the series does not say what is needed; each missing element is named.

    Notes
    -----
    SUVbw is C * W / D in g/mL, SUVlbm is C * LBM / D with James' lean body mass, 1.10 W - 128 (W / H)^2 for men and
    1.07 W - 148 (W / H)^2 for women (W in kg, H in cm), and SUVbsa is C * BSA / D in cm2/mL with the body surface area
    of Du Bois, 0.007184 W^0.425 H^0.725 m2 [1]_. D is the injected dose, decayed to the time that the values are
    corrected to: the start of the scan, or, with Decay Correction ADMIN, the injection itself.

    References
    ----------
    .. [1] M. C. Adams et al., "A systematic review of the factors affecting accuracy of SUV measurements", AJR 195,
       2010, doi:10.2214/AJR.10.4923.
    """
    first = headers[0]
    units = text(first, "Units")
    if units == "GML":
        return _stored_as_suv(first, kind)
    if units == "CNTS":
        return _philips(headers, kind)
    if units != "BQML":
        raise _missing(f"its values are in {units or 'no stated unit'}", ["Units BQML, CNTS (Philips) or GML"])
    return _from_activity(headers, kind, 1.0, "from Bq/mL")


def _stored_as_suv(header: Elements, kind: SuvType) -> Uptake:
    stored = {None: "bw", "BW": "bw", "LBM": "lbm", "LBMJAMES128": "lbm", "BSA": "bsa"}.get(text(header, "SUVType"))
    if stored == kind:
        return Uptake(1.0, kind, "stored as SUV")
    raise _missing(
        f"it is stored as SUV of type {text(header, 'SUVType') or 'BW'}", [f"SUV{kind}, which was asked for"]
    )


def _philips(headers: Sequence[Elements], kind: SuvType) -> Uptake:
    """Turn counts to SUV by Philips' own factors: to SUVbw at once, or to Bq/mL first."""
    to_suv, to_activity = (_private_number(headers[0], 0x7053, _PHILIPS, element) for element in (0x00, 0x09))
    if kind == "bw" and to_suv:
        return Uptake(to_suv, kind, "from counts by the Philips SUV scale factor (7053,1000)")
    if to_activity:
        return _from_activity(
            headers, kind, to_activity, "from counts by the Philips activity scale factor (7053,1009)"
        )
    raise _missing("its values are counts", ["the Philips SUV scale factor (7053,1000) or activity factor (7053,1009)"])


def _from_activity(headers: Sequence[Elements], kind: SuvType, factor: float, how: str) -> Uptake:
    header = headers[0]
    corrected = (text(header, "CorrectedImage") or "").upper().split("\\")
    lacking = [f"{what} in Corrected Image" for what in ("ATTN", "DECY") if what not in corrected]
    known = _administration(header)
    body = {"weight": number(header, "PatientWeight"), "height": number(header, "PatientSize")}
    sex = (text(header, "PatientSex") or "").upper()
    needed = ["weight"] if kind == "bw" else ["weight", "height"]
    lacking += [_WORDS[what] for what in needed if not (body[what] or 0) > 0]
    if kind == "lbm" and sex not in ("M", "F"):
        lacking.append(_WORDS["sex"])
    correction = text(header, "DecayCorrection")
    wanted = ["dose"] if correction == "ADMIN" else ["dose", "half_life", "injected"]
    lacking += [_WORDS[what] for what in wanted if known[what] is None or (what != "injected" and not known[what] > 0)]
    if correction not in ("START", "ADMIN"):
        lacking.append("Decay Correction START or ADMIN")
    if lacking:
        raise _missing("", lacking)
    dose = float(known["dose"])
    if correction == "START":
        began, which = _scan_start(headers)
        elapsed = began - known["injected"]
        if known["undated"]:
            # A time of day alone is that of the last time the clock showed it before the scan.
            elapsed %= 86400.0
        if not 0 <= elapsed < 10 * known["half_life"]:
            raise _missing(f"the scan began {elapsed:.0f} s after the injection", ["0 s to ten half-lives"])
        dose *= 2.0 ** (-elapsed / known["half_life"])
        how += f", dose decayed over {elapsed:.0f} s to {which}"
    else:
        how += ", corrected for decay to the injection"
    return Uptake(factor * _size(kind, body["weight"] or 0.0, body["height"] or 0.0, sex) / dose, kind, how)


def _size(kind: SuvType, weight_kg: float, height_m: float, sex: str) -> float:
    """Return the body's weight or lean body mass in g, or its surface in cm2.

    Examples
    --------
    >>> round(_size("bw", 70, 0, "")), round(_size("lbm", 70, 1.75, "M")), round(_size("bsa", 70, 1.75, "M"))
    (70000, 56520, 18481)
    """
    if kind == "bw":
        return weight_kg * 1000
    height_cm = height_m * 100
    if kind == "bsa":
        return float(0.007184 * weight_kg**0.425 * height_cm**0.725 * 1e4)
    by_weight, by_ratio = (1.10, 128.0) if sex == "M" else (1.07, 148.0)
    return (by_weight * weight_kg - by_ratio * (weight_kg / height_cm) ** 2) * 1000


def _administration(header: Elements) -> dict[str, Any]:
    """Return dose in Bq, half-life in s, and the time of injection; None where absent."""
    try:
        items = header.items("RadiopharmaceuticalInformationSequence")
    except ValueError:
        items = []
    known: dict[str, Any] = {"dose": None, "half_life": None, "injected": None, "undated": False}
    if not items:
        return known
    item = items[0]
    known |= {"dose": number(item, "RadionuclideTotalDose"), "half_life": number(item, "RadionuclideHalfLife")}
    injected = seconds(text(item, "RadiopharmaceuticalStartDateTime"))
    if injected is None:
        time, date = text(item, "RadiopharmaceuticalStartTime"), text(header, "SeriesDate")
        injected = seconds(date + time) if time and date else None
        known["undated"] = True
    known["injected"] = injected
    return known


def _scan_start(headers: Sequence[Elements]) -> tuple[float, str]:
    """Return when the scan began that the values are decay corrected to, in seconds, and where that was found.

    Series Date and Time are it, unless they are later than an acquisition: then the series was made afterwards from
    another, and GE's own element, or the frames' times, say it.
    """
    acquired = [moment for header in headers if (moment := _moment(header, "Acquisition")) is not None]
    series = _moment(headers[0], "Series")
    if series is not None and acquired and series <= min(acquired) + 1:
        return series, "the series' time"
    private = _private(headers[0], 0x0009, _GE, 0x0D, "DT")
    if isinstance(private, str) and (began := seconds(private)) is not None:
        return began, "GE's scan time (0009,100D)"
    starts = [start for header in headers if (start := _start_by_frame(header)) is not None]
    if starts and len(starts) == len(headers):
        return min(starts), "the start worked out from the frames' reference times"
    raise _missing(
        "the series' time is later than its acquisition, or absent",
        ["Series Time, GE's scan time (0009,100D), or Frame Reference Time and Actual Frame Duration"],
    )


def _start_by_frame(header: Elements) -> float | None:
    """Work the start of the scan out of one frame: its acquisition, less its reference time, plus the mean in it."""
    acquired, reference = _moment(header, "Acquisition"), number(header, "FrameReferenceTime")
    duration = number(header, "ActualFrameDuration")
    half_life = _half_life(header)
    if acquired is None or reference is None or duration is None or not half_life:
        return None
    constant = math.log(2) / half_life
    share = constant * duration / 1000
    mean = 0.0 if share == 0 else math.log(share / -math.expm1(-share)) / constant
    return acquired - reference / 1000 + mean


def _half_life(header: Elements) -> float | None:
    try:
        items = header.items("RadiopharmaceuticalInformationSequence")
    except ValueError:
        return None
    return number(items[0], "RadionuclideHalfLife") if items else None


def _moment(header: Elements, what: str) -> float | None:
    date, time = text(header, f"{what}Date"), text(header, f"{what}Time")
    return seconds(date + time) if date and time else None


def _private(header: Elements, group: int, creator: str, element: int, vr: str) -> Any:
    try:
        return header.private(group, creator, element, vr)
    except PARSING_ERRORS:
        return None


def _private_number(header: Elements, group: int, creator: str, element: int) -> float | None:
    try:
        value = float(_private(header, group, creator, element, "DS"))
    except PARSING_ERRORS:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _missing(why: str, what: Sequence[str]) -> SeriesError:
    lacking = "; ".join(what)
    return SeriesError(
        found=f"a PET series whose SUV cannot be worked out: {why + ', without ' if why else 'without '}{lacking}",
        expected="attenuation and decay corrected activity, with dose, half-life, times and the patient's size",
        fix="export the series with these elements, or read its values as they are stored (suv='none', --suv none)",
    )
