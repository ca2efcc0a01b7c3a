"""Options of one verb in groups: a dataclass a group, whose fields become options of the command line."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from voxmetry.core.devices import Device

if TYPE_CHECKING:
    from voxmetry.config import StudySettings

FLAGGED = 3
"""Exit code of what is done and flagged for review."""

Unit = Annotated[
    Literal["SUVbw"] | None, typer.Option(help="What a PET file without DICOM headers holds.", hidden=True)
]
Suv = Annotated[
    Literal["bw", "lbm", "bsa", "none"] | None,
    typer.Option(help="What a PET series becomes; bw if not given.", hidden=True),
]
AllowUneven = Annotated[
    bool, typer.Option("--allow-uneven", help="Interpolate over missing slices and uneven steps; flagged.", hidden=True)
]
ResampleTilt = Annotated[
    bool, typer.Option("--resample-tilt", help="Resample a stack that leans (gantry tilt); flagged.", hidden=True)
]
NAMES_MAP_HELP = "A structure's name or value in the other file, and its name here; repeat."
NamesMap = Annotated[list[str] | None, typer.Option("--map", metavar="THEIRS=OURS", help=NAMES_MAP_HELP)]
SeldomNamesMap = Annotated[
    list[str] | None, typer.Option("--map", metavar="THEIRS=OURS", help=NAMES_MAP_HELP, hidden=True)
]
ToleranceMm = Annotated[
    float | None,
    typer.Option("--tolerance-mm", help="Tolerance of the surface Dice; 1 if not given.", min=1e-6, hidden=True),
]


OnDevice = Annotated[Device, typer.Option("--device", help="Where networks run; auto: the fastest that there is.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Show the plan of time and memory as well.")]


@dataclass(frozen=True)
class Reading:
    """How a study is read: one set of options for every verb that reads one."""

    series: Annotated[str | None, typer.Option(help="Series Instance UID, where there are several.")] = None
    modality: Annotated[
        Literal["CT", "MR", "PT"] | None, typer.Option(help="What a file without DICOM headers is.")
    ] = None
    unit: Unit = None
    suv: Suv = None
    allow_uneven: AllowUneven = False
    resample_tilt: ResampleTilt = False


def grouped(verb: Callable[..., None]) -> Callable[..., None]:
    """Let a verb take dataclasses of options; typer sees each field as a parameter in the group's place.

    Each field is `Annotated` with its `typer.Option` and has a default.
    """
    hints = get_type_hints(verb, include_extras=True)
    groups: dict[str, type] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(verb).parameters.items():
        kind = hints[name]
        if not is_dataclass(kind):
            parameters.append(
                parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY),
            )
            continue
        groups[name] = kind  # type: ignore[assignment]
        inside = get_type_hints(kind, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=inside[field.name]
            )
            for field in fields(kind)
        ]

    @functools.wraps(verb)
    def flat(**given: Any) -> None:
        made = {
            name: kind(**{field.name: given.pop(field.name) for field in fields(kind)}) for name, kind in groups.items()
        }
        verb(**given, **made)

    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat


def given(group: Any) -> dict[str, Any]:
    """Return what was set in a group: an option that was left out, or a switch that is off, sets nothing."""
    values = {field.name: getattr(group, field.name) for field in fields(group)}
    return {name: value for name, value in values.items() if value not in (None, False, [])}


def with_settings(settings: StudySettings, pairs: Sequence[str]) -> StudySettings:
    """Return study settings with those of `--set NAME=VALUE`; `dicom.seg_kind=labelmap` names one inside a group.

    Raises
    ------
    ConfigError
        If one is no pair, or no setting of this name takes the value.
    """
    import yaml

    from voxmetry.config import StudySettings, parse_record
    from voxmetry.errors import ConfigError

    content = settings.model_dump()
    for pair in pairs:
        name, equals, value = pair.partition("=")
        group, dot, inside = name.rpartition(".")
        place = content.get(group) if dot else content
        if not equals or not isinstance(place, dict):
            raise ConfigError(
                found=f"--set {pair}",
                expected="NAME=VALUE with the name of a study setting",
                fix="for example --set memory_gb=8, or --set dicom.seg_kind=labelmap",
            )
        try:
            place[inside if dot else name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(
                found=f"--set {pair}", expected="a number, a word or a list such as [a, b]", fix="quote the value"
            ) from error
    return parse_record(content, StudySettings, where="--set")


def names_of(pairs: list[str] | None) -> dict[str, str]:
    """Read the values of `--map`.

    Raises
    ------
    ConfigError
        If one is not THEIRS=OURS, or a name is given twice.
    """
    from voxmetry.errors import ConfigError

    names: dict[str, str] = {}
    for pair in pairs or ():
        theirs, sign, ours = (part.strip() for part in pair.rpartition("="))
        if not sign or not theirs or not ours or names.get(theirs, ours) != ours:
            raise ConfigError(
                found=f"--map {pair}",
                expected="THEIRS=OURS: a structure's name (or value) in the other file, and its name here, once each",
                fix="for example --map GTV_Mass_CT=tumour",
            )
        names[theirs] = ours
    return names
