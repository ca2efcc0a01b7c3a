"""The options that `voxmetry cohort plan` and `run` share, and the settings that they make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

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
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps", "openvino"] | None,
    typer.Option(help="Where the network runs; auto picks what there is and suits the model."),
]
Precision = Annotated[
    Literal["auto", "float32", "bf16", "fp16"] | None,
    typer.Option(help="Of the network's products; auto takes the fastest that keeps the answer."),
]
Memory = Annotated[
    float | None, typer.Option("--memory-gb", help="The most that each process may hold, in 10^9 bytes.", min=1e-6)
]
Tolerance = Annotated[
    float | None, typer.Option("--tolerance-mm", help="Tolerance of the surface Dice; 1 if not given.", min=1e-6)
]
Unit = Annotated[Literal["SUVbw"] | None, typer.Option(help="What PET files without DICOM headers hold.")]
Suv = Annotated[
    Literal["bw", "lbm", "bsa", "none"] | None, typer.Option(help="What a PET series becomes; bw if not given.")
]
Uneven = Annotated[
    bool, typer.Option("--allow-uneven", help="Interpolate over missing slices and uneven steps; flagged.")
]
Tilt = Annotated[bool, typer.Option("--resample-tilt", help="Resample stacks that lean (gantry tilt); flagged.")]
Report = Annotated[
    Literal["full", "brief", "none"] | None,
    typer.Option(
        help="A report of each study; thumbnails, and reports of flagged studies alone; neither. brief if not given."
    ),
]


def study_settings(file: Path | None, **given: object) -> StudySettings:
    """Return the settings of each study: those of a file, else short reports, and what is given here above both.

    Raises
    ------
    ConfigError
        If the file cannot be used, or names one series or modality for all studies.
    """
    from voxmetry.config import StudySettings, load_yaml
    from voxmetry.errors import ConfigError

    settings = load_yaml(file, StudySettings) if file else StudySettings(report="brief")
    if settings.series or settings.modality:
        raise ConfigError(
            found="one series or modality for all studies",
            expected="study settings that fit each study of a cohort",
            fix="leave series and modality out; a manifest has columns for them, and a rule has its modality",
        )
    # A flag that is not given is no wish.
    return settings.model_copy(update={name: value for name, value in given.items() if value not in (None, False)})
