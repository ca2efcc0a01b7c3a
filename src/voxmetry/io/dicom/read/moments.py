"""Points in time as headers say them: dates, times of day, both in one, offsets from UTC, and what of it is absent.

DICOM PS3.5 6.2: a time may end after its hour or minute, a date and time may end in an offset from UTC, and without one
the data set's own Timezone Offset From UTC holds (PS3.3 C.12.1.1.8). Tools that remove identities empty dates and leave
times, or write a date of long before there were scanners.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from voxmetry.io.dicom.read.elements import Elements
from voxmetry.io.dicom.read.headers import text

DAY_S = 86400.0
_FIRST_YEAR = 1970
"""A date before is a placeholder: no such scanner existed."""
_TIME = re.compile(r"(\d{2})(?::?(\d{2})(?::?(\d{2}(?:\.\d{1,6})?))?)?")
_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_BOTH = re.compile(r"(\d{8})(\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?)([+-]\d{4})?")
_OFFSET = re.compile(r"([+-])(\d{2})(\d{2})")
_SAME_CLOCK_S = 60.0
_QUARTER_S = 900.0


class UnclearError(Exception):
    """Times that contradict each other, or leave several answers; the text says how."""


@dataclass(frozen=True)
class Moment:
    """A point in time, as far as a header says it."""

    clock_s: float
    """Time of day in seconds, on the clock of its own time zone."""
    day: int | None
    """Its date as a number of days; None where the header has none."""
    offset_s: float | None
    """How far its clock is ahead of UTC; None where nothing says so."""
    source: str
    """The elements that it was taken from."""

    @property
    def seconds(self) -> float:
        """Seconds on its own clock, after midnight of some day; of the day that is meant where there is a date."""
        return (self.day or 0) * DAY_S + self.clock_s


def clock_of(value: str | None) -> float | None:
    """Return a time of day (TM) in seconds; None where it is none.

    Examples
    --------
    >>> clock_of("0900"), clock_of("09"), clock_of("090000.50"), clock_of("09:00:00"), clock_of("2500")
    (32400.0, 32400.0, 32400.5, 32400.0, None)
    """
    found = _TIME.fullmatch((value or "").strip())
    if found is None:
        return None
    hour, minute, second = int(found.group(1)), int(found.group(2) or 0), float(found.group(3) or 0)
    # PS3.5 allows a leap second.
    return hour * 3600.0 + minute * 60.0 + second if hour < 24 and minute < 60 and second < 61 else None


def day_of(value: str | None) -> int | None:
    """Return a date (DA) as a number of days; None where it is none, or a placeholder.

    Examples
    --------
    >>> day_of("20200102") - day_of("20200101"), day_of("19000101"), day_of("")
    (1, None, None)
    """
    found = _DATE.fullmatch((value or "").strip())
    if found is None or int(found.group(1)) < _FIRST_YEAR:
        return None
    try:
        return datetime.date(*(int(part) for part in found.groups())).toordinal()
    except ValueError:
        return None


def offset_of(value: str | None) -> float | None:
    """Return an offset from UTC, such as +0200, in seconds; None where it is none."""
    found = _OFFSET.fullmatch((value or "").strip())
    if found is None:
        return None
    seconds = int(found.group(2)) * 3600.0 + int(found.group(3)) * 60.0
    return -seconds if found.group(1) == "-" else seconds


def both_of(value: str | None, zone_s: float | None, source: str) -> Moment | None:
    """Return a date and time (DT); None where it is none, or a date alone."""
    found = _BOTH.fullmatch((value or "").strip())
    clock = clock_of(found.group(2)) if found else None
    if found is None or clock is None:
        return None
    own = offset_of(found.group(3))
    return Moment(clock, day_of(found.group(1)), zone_s if own is None else own, source)


def zone_of(header: Elements) -> float | None:
    """Return how far the clocks of a data set are ahead of UTC, in seconds; None where it does not say."""
    return offset_of(text(header, "TimezoneOffsetFromUTC"))


def moment_of(header: Elements, what: str, words: str | None = None) -> Moment | None:
    """Return the moment of an event from its DateTime, its Date and Time, or its Time alone.

    Parameters
    ----------
    header
        The data set.
    what
        The event as keywords begin with it, such as "Acquisition".
    words
        What it is called in messages.
    """
    words, zone = words or what, zone_of(header)
    clock = clock_of(text(header, f"{what}Time"))
    day = day_of(text(header, f"{what}Date"))
    whole = both_of(_text_or_none(header, f"{what}DateTime"), zone, f"{words} DateTime")
    if clock is None or (day is None and whole is not None):
        return whole
    return Moment(clock, day, zone, f"{words} Date and Time" if day is not None else f"{words} Time")


def _text_or_none(header: Elements, keyword: str) -> str | None:
    try:
        return text(header, keyword)
    except KeyError:
        return None


def between(first: Moment, second: Moment, longest_s: float) -> float:
    """Return the seconds from one moment to another.

    Parameters
    ----------
    first, second
        In the order in which they happened, both on clocks of which the same is known, see `same_clock`.
    longest_s
        The longest that can lie between them where a date is absent: the times of day are enough if they leave one
        answer within it.

    Raises
    ------
    UnclearError
        If a date is absent, and the times of day leave several answers or none.
    """
    span = second.clock_s - first.clock_s
    if first.offset_s is not None and second.offset_s is not None:
        span += first.offset_s - second.offset_s
    if first.day is not None and second.day is not None:
        return span + (second.day - first.day) * DAY_S
    span %= DAY_S
    lacking = " and ".join(dict.fromkeys(x.source for x in (first, second) if x.day is None))
    if span > longest_s or span + DAY_S <= longest_s:
        why = f"is longer than the {longest_s:.0f} s that are plausible" if span > longest_s else "may be days longer"
        raise UnclearError(
            f"the scan began {span:.0f} s after the injection by the times of day alone, which {why}; {lacking} "
            "without a date"
        )
    return span


def same_clock(
    event: Moment, time_of_day: Moment | None, zone_s: float | None, others: str
) -> tuple[Moment, float | None, tuple[str, ...]]:
    """Find out the time zone of an event's clock and of the other times in its data set.

    Parameters
    ----------
    event
        With an offset of its own, or that of the data set.
    time_of_day
        The same event on the data set's own clock, where that is there as well.
    zone_s
        What the data set says of its clock.
    others
        The other times in words, for messages.

    Returns
    -------
    Moment
        The event.
    float or None
        How far the other clocks are ahead of UTC; None where neither says so, and all are one clock.
    tuple of str
        What had to be taken for granted.

    Raises
    ------
    UnclearError
        If the event is in UTC and nothing says what the other clocks are, or two elements contradict each other.
    """
    if event.offset_s is None or zone_s is not None:
        if time_of_day is not None:
            ahead = (event.offset_s or 0.0) - (zone_s or 0.0)
            _agree(event.clock_s - ahead, time_of_day, event)
        return event, zone_s, ()
    if time_of_day is not None:
        # How far the wall clock is ahead of UTC follows from the same event on both.
        ahead = (time_of_day.clock_s - event.clock_s + event.offset_s + DAY_S / 2) % DAY_S - DAY_S / 2
        nearest = round(ahead / _QUARTER_S) * _QUARTER_S
        _agree(event.clock_s - event.offset_s + nearest, time_of_day, event)
        return event, nearest, ()
    if event.offset_s == 0:
        raise UnclearError(
            f"{event.source} is in UTC, and nothing says the time zone of {others} (Timezone Offset From UTC)"
        )
    return event, event.offset_s, (f"the offset from UTC of {event.source} for {others} as well",)


def _agree(clock_s: float, time_of_day: Moment, event: Moment) -> None:
    apart = abs((clock_s - time_of_day.clock_s + DAY_S / 2) % DAY_S - DAY_S / 2)
    if apart > _SAME_CLOCK_S:
        raise UnclearError(f"{event.source} and {time_of_day.source} are {apart:.0f} s apart")


def earliest(moments: Sequence[Moment]) -> Moment:
    """Return the first of the moments of one scan, which is shorter than half a day."""
    start = moments[0]
    return min(moments, key=lambda moment: apart_s(start, moment))


def apart_s(first: Moment, second: Moment) -> float:
    """Return the seconds from one moment to another, negative where it is earlier.

    Where a date is absent they are counted by the nearer way round the clock.
    """
    span = second.clock_s - first.clock_s
    if first.offset_s is not None and second.offset_s is not None:
        span += first.offset_s - second.offset_s
    if first.day is not None and second.day is not None:
        return span + (second.day - first.day) * DAY_S
    return (span + DAY_S / 2) % DAY_S - DAY_S / 2


def dated_by(moment: Moment, other: Moment) -> Moment:
    """Return a moment whose date is absent on the day on which it lies nearest to another."""
    if moment.day is not None or other.day is None:
        return moment
    days = round((other.clock_s - moment.clock_s) / DAY_S)
    return replace(moment, day=other.day + days)


def later(moment: Moment, seconds: float, source: str) -> Moment:
    """Return a moment that lies some seconds after another."""
    total = moment.clock_s + seconds
    days = int(total // DAY_S)
    day = None if moment.day is None else moment.day + days
    return replace(moment, clock_s=total - days * DAY_S, day=day, source=source)
