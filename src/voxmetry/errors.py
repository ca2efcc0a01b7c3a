"""The one exception tree.

Every refusal says three things: what was found, what was expected, and what to do.
A message never holds a patient's name, an ID or a birth date.
"""

from __future__ import annotations


class VoxmetryError(Exception):
    """Base of everything that this package raises on purpose.

    Parameters
    ----------
    found
        What was seen, with the file or the value that it was seen in.
    expected
        What would have been accepted.
    fix
        What the caller can do about it.
    """

    exit_code = 1

    def __init__(self, *, found: str, expected: str, fix: str) -> None:
        self.found = found
        self.expected = expected
        self.fix = fix
        super().__init__(found, expected, fix)

    def __str__(self) -> str:
        return f"{self.found}\n  expected: {self.expected}\n  to do:    {self.fix}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling, which worker processes rely on.
        return (_rebuild, (type(self), self.found, self.expected, self.fix))

    def to_dict(self) -> dict[str, str]:
        """Return the error as a JSON-ready mapping."""
        return {
            "error": type(self).__name__,
            "found": self.found,
            "expected": self.expected,
            "fix": self.fix,
        }


class ReadingWarning(UserWarning):
    """A file was read, but not all of it: what was clipped or left out, by name."""


def _rebuild(kind: type[VoxmetryError], found: str, expected: str, fix: str) -> VoxmetryError:
    return kind(found=found, expected=expected, fix=fix)


class InputError(VoxmetryError):
    """The data that was handed in cannot be used."""


class SeriesError(InputError):
    """A DICOM series is incomplete, ambiguous or not what the model takes."""


class GeometryError(InputError):
    """A grid is unusable, or two grids that must agree do not."""


class LabelError(InputError):
    """A label map holds values that its table does not name, or none that it needs."""


class FormatError(InputError):
    """A file is not of the format that it claims, or is damaged."""


class ModelError(VoxmetryError):
    """A model folder is missing, incomplete or damaged."""

    exit_code = 2


class DownloadError(VoxmetryError):
    """A file cannot be fetched, or is not the one that was promised."""


class ConfigError(VoxmetryError):
    """A setting is unknown, of the wrong type or out of range."""

    exit_code = 2


class OutputError(VoxmetryError):
    """A result cannot be written."""


class OutputExistsError(OutputError):
    """The output is there already and overwriting was not asked for."""

    exit_code = 2


class LockedError(OutputError):
    """Another run holds the output folder."""

    exit_code = 2


class SchedulerError(VoxmetryError):
    """The cluster cannot be reached, or went away during a run."""


class InferenceError(VoxmetryError):
    """The network could not be run, or returned what cannot be used."""


class MissingExtraError(VoxmetryError):
    """An optional package is needed for this and is not installed."""

    exit_code = 2
