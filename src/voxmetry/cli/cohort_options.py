"""The options that `voxmetry cohort plan` and `run` share, and the settings that they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from voxmetry.cli.options import AllowUneven, ResampleTilt, Suv, ToleranceMm, Unit, given
from voxmetry.cli.segment import Running

if TYPE_CHECKING:
    from voxmetry.config import StudySettings

Source = Annotated[
    Path, typer.Argument(help="A folder of DICOM and image files, a CSV manifest, or a BIDS data set.", metavar="IN")
]
Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", help="Folder of the results; for BIDS derivatives/voxmetry if not given."),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "-m", "--model", help="A bundled model's name, a model folder or a baseline's YAML file; repeat for more."
    ),
]
RulesFile = Annotated[Path | None, typer.Option("--rules", help="YAML file: which model takes which study.")]
References = Annotated[Path | None, typer.Option(help="Folder of label maps called as the cases are.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
OnlyFailed = Annotated[bool, typer.Option("--only-failed", help="Only studies that failed or were set aside.")]
SkipDone = Annotated[
    bool, typer.Option("--skip-done", help="Believe the record: do not hash the files of done studies.")
]
SettingsFile = Annotated[
    Path | None, typer.Option("--settings", help="Study settings as YAML; options given here win over it.")
]


@dataclass(frozen=True)
class CohortReading:
    """How each study is read: what is said of all of them at once."""

    unit: Unit = None
    suv: Suv = None
    allow_uneven: AllowUneven = False
    resample_tilt: ResampleTilt = False


@dataclass(frozen=True)
class CohortWriting:
    """What is made of each result."""

    report: Annotated[
        Literal["full", "brief", "none"] | None,
        typer.Option(help="A report of each study; a thumbnail, and a report only if flagged (default); neither."),
    ] = None
    tolerance_mm: ToleranceMm = None


def study_settings(file: Path | None, *groups: CohortReading | Running | CohortWriting) -> StudySettings:
    """Return the settings of each study: those of a file, else short reports, and what is given here above both.

    Raises
    ------
    ConfigError
        If the file cannot be used, or names one series or modality for all studies.
    """
    from voxmetry.config import StudySettings, load_yaml, parse_record
    from voxmetry.errors import ConfigError

    settings = load_yaml(file, StudySettings) if file else StudySettings(report="brief")
    if settings.series or settings.modality:
        raise ConfigError(
            found="one series or modality for all studies",
            expected="study settings that fit each study of a cohort",
            fix="leave series and modality out; a manifest has columns for them, and a rule has its modality",
        )
    options = {name: value for group in groups for name, value in given(group).items()}
    return parse_record(settings.model_dump() | options, StudySettings, where="options")
