"""Cases of a data set: their files, patients and channels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from voxmetry.core.labels import LabelTable
from voxmetry.errors import ConfigError, InputError
from voxmetry.io.read import Modality
from voxmetry.train.partial import Labelling

SHOWN = 10
"""Names that an error lists before it says how many more there are."""


@dataclass(frozen=True)
class Channel:
    """One input channel: its name, and what scanner it is from where the data set says so."""

    name: str
    modality: Modality | None = None


@dataclass(frozen=True)
class Case:
    """The files of one labelled case.

    Parameters
    ----------
    name
        Unique within the data set.
    patient
        Whose case it is; cases of one patient never end up on two sides of a split.
    images
        One path a channel: a file, or a folder of DICOM files. The first sets the grid.
    label
        The label map on the first image's grid, a DICOM SEG or an RT structure set.
    other_labels
        The same structures drawn by others, for the agreement between raters.
    labelling
        What was looked for in it, where that is not all of the label table everywhere.
    instances
        A map beside the label map that tells the instances of its structures apart; None: there is none.
    held_out
        Whether a run that is no fold of a cross-validation holds it out, as the data set's own split says.
    """

    name: str
    patient: str
    images: tuple[Path, ...]
    label: Path
    other_labels: tuple[Path, ...] = ()
    labelling: Labelling = field(default_factory=Labelling)
    held_out: bool = False
    instances: Path | None = None


@dataclass(frozen=True)
class DataSet:
    """Labelled cases with the same channels and labels.

    Parameters
    ----------
    name
        Lower-case letters, digits, dots, dashes; a model that is trained on it is called so too.
    channels
        What each of a case's images is.
    labels
        What the values of the label maps mean; None where nothing says it.
    cases
        Sorted by name.
    """

    name: str
    channels: tuple[Channel, ...]
    labels: LabelTable | None
    cases: tuple[Case, ...]

    def __post_init__(self) -> None:
        names = [case.name for case in self.cases]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(
                found=f"{listed(twice)} more than once in the data set {self.name}",
                expected="one entry a case",
                fix="remove the others, or give them names of their own",
            )

    @property
    def patients(self) -> dict[str, str]:
        """Whose case each one is, by the case's name."""
        return {case.name: case.patient for case in self.cases}

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where its files lie."""
        files = (path for case in self.cases for path in (*case.images, case.label, *case.other_labels))
        return tuple(sorted({path if path.is_dir() else path.parent for path in files}))

    def select(self, names: Iterable[str]) -> DataSet:
        """Return the data set of these cases alone.

        Raises
        ------
        ConfigError
            If one of them is not in the data set.
        """
        wanted = set(names)
        unknown = sorted(wanted - {case.name for case in self.cases})
        if unknown:
            raise ConfigError(
                found=f"cases that are not in the data set {self.name}: {listed(unknown)}",
                expected="names of its cases",
                fix="correct the names, or point at the data set that has them",
            )
        return replace(self, cases=tuple(case for case in self.cases if case.name in wanted))


def listed(names: Sequence[str]) -> str:
    """Return names as a text that stays short."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
