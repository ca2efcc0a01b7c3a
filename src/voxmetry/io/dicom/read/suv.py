"""PET activity to standardised uptake values (SUV), following QIBA.

The steps are those of the vendor-neutral SUV calculation of the QIBA FDG-PET/CT profile (qibawiki.rsna.org,
"Standardized Uptake Value"): SUV is the activity concentration, times the body's size, over the dose that is left of
what was injected when the scan began. What is missing for it is named. What each quantity was taken from is kept with
the series, and so is what had to be taken for granted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from voxmetry.core.records import SuvBasis
from voxmetry.errors import SeriesError
from voxmetry.io.dicom.read.elements import Elements
from voxmetry.io.dicom.read.headers import PARSING_ERRORS, number, text
from voxmetry.io.dicom.read.moments import (
    Moment,
    UnclearError,
    apart_s,
    between,
    both_of,
    clock_of,
    dated_by,
    earliest,
    later,
    moment_of,
    same_clock,
    zone_of,
)
from voxmetry.io.dicom.read.plausible import ImplausibleError, dose_bq, half_life_s, size_m, weight_kg

SuvType: TypeAlias = Literal["bw", "lbm", "bsa"]
"""Normalised by body weight, lean body mass (James) or body surface area (Du Bois)."""

_PHILIPS = "Philips PET Private Group"
_GE = "GEMS_PETD_01"
_MOST_HALF_LIVES = 10
_MOST_UNDATED_HALF_LIVES = 6
"""The longest from injection to scan: with dates, and by times of day alone, which a slip changes more easily."""
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
    basis: SuvBasis
    size: float | None = None
    """The body's weight or lean body mass in g, or its surface in cm2; None where it was not needed."""


@dataclass(frozen=True)
class _Elapsed:
    """From the injection to the start of the scan."""

    seconds: float
    to: str
    sources: dict[str, str]
    assumptions: tuple[str, ...]


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
    return _from_activity(headers, kind, 1.0, "from Bq/mL", "Units BQML")


def _stored_as_suv(header: Elements, kind: SuvType) -> Uptake:
    stored = {None: "bw", "BW": "bw", "LBM": "lbm", "LBMJAMES128": "lbm", "BSA": "bsa"}.get(text(header, "SUVType"))
    if stored == kind:
        return _stated(1.0, kind, "stored as SUV", "Units GML")
    raise _missing(
        f"it is stored as SUV of type {text(header, 'SUVType') or 'BW'}", [f"SUV{kind}, which was asked for"]
    )


def _stated(factor: float, kind: SuvType, how: str, source: str) -> Uptake:
    return Uptake(factor, kind, how, SuvBasis(kind=kind, factor=factor, sources={"factor": source}))


def _philips(headers: Sequence[Elements], kind: SuvType) -> Uptake:
    """Turn counts to SUV by Philips' own factors: to SUVbw at once, or to Bq/mL first."""
    to_suv, to_activity = (_private_number(headers[0], 0x7053, _PHILIPS, element) for element in (0x00, 0x09))
    if kind == "bw" and to_suv:
        factor = "Philips SUV scale factor (7053,1000)"
        return _stated(to_suv, kind, f"from counts by the {factor}", factor)
    if to_activity:
        factor = "Philips activity scale factor (7053,1009)"
        return _from_activity(headers, kind, to_activity, f"from counts by the {factor}", factor)
    raise _missing("its values are counts", ["the Philips SUV scale factor (7053,1000) or activity factor (7053,1009)"])


def _from_activity(headers: Sequence[Elements], kind: SuvType, factor: float, how: str, source: str) -> Uptake:
    header = headers[0]
    item = _administration(header)
    dose, half_life = number(item, "RadionuclideTotalDose"), number(item, "RadionuclideHalfLife")
    correction, sex = text(header, "DecayCorrection"), (text(header, "PatientSex") or "").upper()
    lacking = _lacking(header, item, kind)
    if lacking:
        raise _missing("", lacking)
    try:
        weight, height, assumptions = _body(header, kind)
        injected = dose_bq(dose or 0.0, weight)
        if half_life and correction == "START":
            lasts = half_life_s(half_life, _nuclide(item))
            half_life, assumptions = lasts.value, assumptions + ((lasts.converted,) if lasts.converted else ())
        elapsed = _elapsed(headers, item, half_life or 0.0) if correction == "START" else None
    except (ImplausibleError, UnclearError) as error:
        raise _unclear(str(error)) from error
    assumptions += (injected.converted,) if injected.converted else ()
    left = injected.value
    sources = {"activity": source, "dose": "Radionuclide Total Dose", "body": "Patient's Weight"}
    if kind != "bw":
        sources["body"] += ", Patient's Size" + (", Patient's Sex" if kind == "lbm" else "")
    if elapsed is not None:
        left *= 2.0 ** (-elapsed.seconds / (half_life or 1.0))
        how += f", dose decayed over {elapsed.seconds:.0f} s to {elapsed.to}"
        sources |= {"half-life": "Radionuclide Half Life", **elapsed.sources}
        assumptions += elapsed.assumptions
    else:
        how += ", corrected for decay to the injection"
    size = _size(kind, weight, height or 0.0, sex)
    if size <= 0:
        raise _unclear(f"Patient's Weight {weight:g} kg and Size {height or 0:g} m have no lean body mass")
    basis = SuvBasis(
        kind=kind,
        factor=factor * size / left,
        elapsed_s=elapsed.seconds if elapsed else math.nan,
        half_life_s=half_life if elapsed and half_life else math.nan,
        sources=sources,
        assumptions=assumptions,
    )
    return Uptake(factor * size / left, kind, "; ".join((how, *assumptions)), basis, size)


def _lacking(header: Elements, item: Any, kind: SuvType) -> list[str]:
    """Name what is absent of what SUV needs."""
    corrected = (text(header, "CorrectedImage") or "").upper().split("\\")
    lacking = [f"{what} in Corrected Image" for what in ("ATTN", "DECY") if what not in corrected]
    body = {"weight": number(header, "PatientWeight"), "height": number(header, "PatientSize")}
    lacking += [
        _WORDS[what] for what in (["weight"] if kind == "bw" else ["weight", "height"]) if not (body[what] or 0) > 0
    ]
    if kind == "lbm" and (text(header, "PatientSex") or "").upper() not in ("M", "F"):
        lacking.append(_WORDS["sex"])
    correction = text(header, "DecayCorrection")
    known = {"dose": number(item, "RadionuclideTotalDose"), "half_life": number(item, "RadionuclideHalfLife")}
    wanted = ["dose"] if correction == "ADMIN" else ["dose", "half_life"]
    lacking += [_WORDS[what] for what in wanted if not (known[what] or 0) > 0]
    if correction != "ADMIN" and _injection(header, item) is None:
        lacking.append(_WORDS["injected"])
    if correction not in ("START", "ADMIN"):
        lacking.append("Decay Correction START or ADMIN")
    return lacking


def _body(header: Elements, kind: SuvType) -> tuple[float, float | None, tuple[str, ...]]:
    """Return weight in kg and size in m, and in words what was converted; raises ImplausibleError."""
    stated, told = number(header, "PatientSize"), []
    height = None
    if stated is not None and stated > 0:
        try:
            taken = size_m(stated, number(header, "PatientWeight") or 0.0)
        except ImplausibleError:
            if kind != "bw":
                raise
        else:
            height = taken.value
            if kind != "bw" and taken.converted:
                told.append(taken.converted)
    weight = weight_kg(number(header, "PatientWeight") or 0.0, height)
    return weight.value, height, (*told, *((weight.converted,) if weight.converted else ()))


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


def _administration(header: Elements) -> Any:
    """Return what was injected and when: an item, or something empty."""
    try:
        items = header.items("RadiopharmaceuticalInformationSequence")
    except ValueError:
        items = []
    return items[0] if items else {}


def _nuclide(item: Any) -> str | None:
    """Return what the header calls the nuclide."""
    try:
        codes = item.items("RadionuclideCodeSequence")
    except ValueError:
        codes = []
    return text(codes[0], "CodeMeaning") if codes else None


def _injection(header: Elements, item: Any) -> tuple[Moment, Moment | None] | None:
    """Return when the tracer was given, and the same on the series' own clock where it is there as well."""
    zone, begins = zone_of(header), "Radiopharmaceutical Start"
    clock = clock_of(text(item, "RadiopharmaceuticalStartTime"))
    # The element has no date. That of the scan is meant, or the day before it.
    time = None if clock is None else Moment(clock, None, zone, f"{begins} Time")
    whole = both_of(text(item, "RadiopharmaceuticalStartDateTime"), zone, f"{begins} DateTime")
    if whole is not None:
        return whole, time
    return (time, None) if time is not None else None


def _elapsed(headers: Sequence[Elements], item: Any, half_life: float) -> _Elapsed:
    """Return how long before the scan the tracer was given, and from which elements that follows.

    The one place where times, dates and offsets from UTC of a PET series come together.

    Raises
    ------
    UnclearError
        If they contradict each other, leave several answers, or lie further apart than the tracer lasts.
    SeriesError
        If nothing says when the scan began.
    """
    known = _injection(headers[0], item)
    if known is None:
        raise _missing("", [_WORDS["injected"]])
    began, which = _scan_start(headers, half_life)
    given, zone, assumptions = same_clock(*known, began.offset_s, "the scan")
    began = replace(began, offset_s=zone)
    undated = began.day is None or given.day is None
    longest = (_MOST_UNDATED_HALF_LIVES if undated else _MOST_HALF_LIVES) * half_life
    seconds = between(given, began, longest)
    if not 0 <= seconds < longest:
        raise UnclearError(f"the scan began {seconds:.0f} s after the injection, without 0 s to ten half-lives")
    if began.day is None or (given.day is None and given.source.endswith("DateTime")):
        lacking = " and ".join(x.source for x in (given, began) if x.day is None)
        assumptions += (f"the times of day alone, since {lacking} has no usable date",)
    return _Elapsed(seconds, which, {"injection": given.source, "scan": began.source}, assumptions)


def _scan_start(headers: Sequence[Elements], half_life: float) -> tuple[Moment, str]:
    """Return when the scan began that the values are decay corrected to, and where that was found.

    Series Date and Time are it, unless they are later than an acquisition: then the series was made afterwards from
    another, and GE's own element, or the frames' times, say it.
    """
    acquired = [moment for header in headers if (moment := moment_of(header, "Acquisition")) is not None]
    series = moment_of(headers[0], "Series")
    if series is not None and acquired and apart_s(series, earliest(acquired)) >= -1:
        return dated_by(series, acquired[0]), "the series' time"
    private = _private(headers[0], 0x0009, _GE, 0x0D, "DT")
    source = "GE's scan time (0009,100D)"
    if isinstance(private, str) and (began := both_of(private, zone_of(headers[0]), source)) is not None:
        return began, source
    starts = [start for header in headers if (start := _start_by_frame(header, half_life)) is not None]
    if starts and len(starts) == len(headers):
        first = earliest(starts)
        return dated_by(
            first, series
        ) if series is not None else first, "the start worked out from the frames' reference times"
    raise _missing(
        "the series' time is later than its acquisition, or absent",
        ["Series Time, GE's scan time (0009,100D), or Frame Reference Time and Actual Frame Duration"],
    )


def _start_by_frame(header: Elements, half_life: float) -> Moment | None:
    """Work the start of the scan out of one frame: its acquisition, less its reference time, plus the mean in it."""
    acquired, reference = moment_of(header, "Acquisition"), number(header, "FrameReferenceTime")
    duration = number(header, "ActualFrameDuration")
    if acquired is None or reference is None or duration is None or not half_life:
        return None
    constant = math.log(2) / half_life
    share = constant * duration / 1000
    mean = 0.0 if share == 0 else math.log(share / -math.expm1(-share)) / constant
    return later(acquired, mean - reference / 1000, f"{acquired.source}, Frame Reference Time, Actual Frame Duration")


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


def _unclear(why: str) -> SeriesError:
    return SeriesError(
        found=f"a PET series whose SUV cannot be worked out: {why}",
        expected="times that leave one answer; weight in kg, size in m and dose in Bq, of one body",
        fix="correct the headers, or read its values as they are stored: --suv none; in Python: suv='none'",
    )


def _missing(why: str, what: Sequence[str]) -> SeriesError:
    lacking = "; ".join(what)
    return SeriesError(
        found=f"a PET series whose SUV cannot be worked out: {why + ', without ' if why else 'without '}{lacking}",
        expected="attenuation and decay corrected activity, with dose, half-life, times and the patient's size",
        fix="export the series with these elements, or read its values as they are stored: --suv none; "
        "in Python: suv='none'",
    )
