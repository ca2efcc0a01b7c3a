"""The language of a report: what its sentences, numbers and dates look like.

The English sentences in the code are the keys of the catalogues in `languages/`, so that English is complete by
construction and the code can be read. Numbers are put into a sentence after it was looked up.
"""

from __future__ import annotations

import datetime
import functools
import re
import string
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import PurePath

import yaml
from pydantic import Field

from voxmetry.core.base import Record
from voxmetry.errors import ConfigError
from voxmetry.report import text

FOLDER = files("voxmetry.report") / "languages"


class Language(Record):
    """A language of the report.

    Parameters
    ----------
    code
        BCP 47, such as "de".
    name
        The language in its own words.
    decimal
        The decimal mark.
    date
        Pattern of `datetime.strftime` for a date; %d and %m are written with two digits.
    messages
        Sentences by their English ones. What is not in it stays English.
    flags
        Sentences of flags, which come with their values in them, by the English ones with {names} in their places.
    parts
        The same for what stands inside of such sentences.

    Examples
    --------
    >>> german = load_language("de")
    >>> ENGLISH("Findings"), german("Findings"), german.decimals(-3.25, 1)
    ('Findings', 'Befunde', '−3,2')
    >>> ENGLISH.count(2, "{n} flag", "{n} flags")
    '2 flags'
    """

    code: str
    name: str
    decimal: str = "."
    date: str = "%Y-%m-%d"
    messages: dict[str, str] = Field(default_factory=dict)
    flags: dict[str, str] = Field(default_factory=dict)
    parts: dict[str, str] = Field(default_factory=dict)

    def __call__(self, message: str, **values: object) -> str:
        """Say a message, with values put in at its {names}."""
        said = self.messages.get(message, message)
        return said.format(**values) if values else said

    def count(self, n: int, one: str, many: str, **values: object) -> str:
        """Say a message about a number of things; both forms hold {n}."""
        return self(one if n == 1 else many, n=n, **values)

    def knows(self, message: str) -> bool:
        """Whether a message can be said in this language."""
        return self.code == ENGLISH.code or message in self.messages

    def retell(self, told: str) -> str | None:
        """Say the English message of a flag in this language; None where it is of no known form.

        Flags are written once, in English, into `result.json`, and a report may be written from it years later. So a
        message is taken apart by the sentences of `flags`: the one with the most words of its own that fits.

        Examples
        --------
        >>> load_language("de").retell("liver has 0.52 mL; ct-1.5 expects 800 to 2500 mL.")
        'liver hat 0,52 mL; ct-1.5 erwartet 800 bis 2500 mL.'
        """
        if self.code == ENGLISH.code:
            return told
        whole = _retold(told, {**self.parts, **self.flags}, self._value)
        if whole is not None:
            return whole
        # Remarks are joined by semicolons; one that is not known leaves all of them in English.
        pieces = [_retold(piece, self.parts, self._value) for piece in told.split("; ")]
        return "; ".join(piece or "" for piece in pieces) if len(pieces) > 1 and all(pieces) else None

    def _value(self, name: str, value: str) -> str:
        """Say what stands in a place of a flag's message: names as they are, numbers with the decimal mark."""
        if name in _AS_IT_IS:
            return value
        said = [_retold(piece, self.parts, self._value) or piece for piece in _LIST.split(value)]
        joined = "".join(said)
        return joined if joined != value else _NUMBER.sub(lambda found: self.number(found[0]), value)

    def number(self, written: str) -> str:
        """Put the decimal mark into a number that was written with a point."""
        return written.replace(".", self.decimal)

    def decimals(self, x: float, places: int) -> str:
        """Write a number with fixed decimals."""
        return self.number(text.decimals(x, places))

    def millilitres(self, x: float) -> str:
        """Write a volume in mL."""
        return self.number(text.millilitres(x))

    def millimetres(self, x: float) -> str:
        """Write a length in mm."""
        return self.number(text.millimetres(x))

    def ratio(self, x: float) -> str:
        """Write a share of 1, such as Dice."""
        return self.number(text.ratio(x))

    def times(self, values: tuple[float, ...] | tuple[int, ...], places: int = 0) -> str:
        """Join sizes by multiplication signs."""
        return self.number(text.times(values, places))

    def moment(self, started: str) -> str:
        """Write an ISO 8601 time to the minute, in UTC; show it as it is where it is none."""
        shown = text.clean(started)
        try:
            moment = datetime.datetime.fromisoformat(shown)
        except ValueError:
            return shown
        if moment.tzinfo is not None:
            moment = moment.astimezone(datetime.UTC)
        return f"{moment.strftime(self.date)} {moment:%H:%M} UTC"


_AS_IT_IS = ("name", "names", "model", "axis", "sides", "part")
"""Places of values that are names: a point in one is no decimal mark."""
_NUMBER = re.compile(r"\d+\.\d+")
_LIST = re.compile(r"(; |(?<=\)), )")
"""Between parts, kept: after a bracket, since a comma stands inside of parts too."""


def _retold(told: str, sentences: Mapping[str, str], value: Callable[[str, str], str]) -> str | None:
    fits = [(form, found) for form in sentences if (found := _pattern(form).fullmatch(told)) is not None]
    if not fits:
        return None
    form, found = max(fits, key=lambda fit: len(fit[0]))
    return sentences[form].format(**{name: value(name, text) for name, text in found.groupdict().items()})


@functools.cache
def _pattern(form: str) -> re.Pattern[str]:
    """Turn a sentence with {names} into a pattern whose groups are the values."""
    pieces = [(re.escape(words), name) for words, name, _, _ in string.Formatter().parse(form)]
    return re.compile("".join(words + (f"(?P<{name}>.+?)" if name else "") for words, name in pieces))


ENGLISH = Language(code="en", name="English")


def languages() -> tuple[str, ...]:
    """Return the codes of the languages that a report can be written in."""
    there = sorted(PurePath(entry.name).stem for entry in FOLDER.iterdir() if entry.name.endswith(".yaml"))
    return (ENGLISH.code, *there)


def load_language(code: str) -> Language:
    """Read the catalogue of a language.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if code == ENGLISH.code:
        return ENGLISH
    if code not in languages():
        raise ConfigError(
            found=f"the language {code!r}",
            expected=f"one of {', '.join(languages())}",
            fix="choose one of these, or add a catalogue to voxmetry/report/languages",
        )
    return Language.model_validate(yaml.safe_load((FOLDER / f"{code}.yaml").read_text(encoding="utf-8")))
