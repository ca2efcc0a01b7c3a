"""The language of a report: what its sentences, numbers and dates look like.

The English sentences in the code are the keys of the catalogues in `languages/`, so that English is complete by
construction and the code can be read. Numbers are put into a sentence after it was looked up.
"""

from __future__ import annotations

import datetime
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
