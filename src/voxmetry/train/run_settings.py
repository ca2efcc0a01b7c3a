"""The settings of a run in its folder: written where it begins, compared where it goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from voxmetry.config import TrainSettings, dump_yaml, load_yaml
from voxmetry.core.text import word
from voxmetry.errors import ConfigError
from voxmetry.io.atomic import make_folder, write_text
from voxmetry.train.cases import DataSet

SHOWN_KEYS = 4
SHOWN_CHARACTERS = 40
PLACES = ("start_from", "synthesis.label_maps", "synthesis.lesions.masks")
"""Keys that say where something lies."""


def start_folder(
    settings: TrainSettings,
    out: Path,
    *,
    resume: bool,
    data: Path | Sequence[Path] | DataSet = (),
    locate: Callable[[str], Path] = Path,
) -> None:
    """Make the run folder, or see that the one that is there belongs to these settings.

    Parameters
    ----------
    settings, out, resume
        As `voxmetry.train.train` takes them.
    data, locate
        Where the data set lies, and what finds the paths of the block `synthesis`. Where the data set lies is no
        setting: its cases are compared by their content.

    Raises
    ------
    ConfigError
        If a run is there and is not to be resumed, or was made with other settings; the keys are named.
    OutputError
        If the folder cannot be written.
    """
    saved = out / "settings.yaml"
    if not saved.exists():
        write_text(make_folder(out) / saved.name, dump_yaml(with_places(settings, data, locate)))
    elif not resume:
        raise ConfigError(
            found=f"{out} holds a training run already",
            expected="a new folder, or --resume (resume=True in Python)",
            fix="add --resume (resume=True) to continue it, or name another folder",
        )
    elif changed := _changes(load_yaml(saved, TrainSettings), settings, with_places(settings, data, locate)):
        more = f" and {len(changed) - SHOWN_KEYS} more" if len(changed) > SHOWN_KEYS else ""
        command = f"voxmetry train {word(saved)} -o {word(out)} --resume"
        raise ConfigError(
            found=f"the run in {out} was made with other settings: {'; '.join(changed[:SHOWN_KEYS])}{more}",
            expected="the settings that it was started with",
            fix=f"go on as it began: {command}; or start a new run in another folder; in Python: "
            "pass load_yaml(out / 'settings.yaml', TrainSettings)",
        )


def keep_places(
    settings: TrainSettings, out: Path, *, data: Path | Sequence[Path] | DataSet, locate: Callable[[str], Path] = Path
) -> None:
    """Note where a run that goes on has found its data set, which may have moved; one that is there already stays.

    Raises
    ------
    OutputError
        If the folder cannot be written.
    """
    saved, placed = out / "settings.yaml", with_places(settings, data, locate)
    if load_yaml(saved, TrainSettings) != placed:
        write_text(saved, dump_yaml(placed))


def with_places(
    settings: TrainSettings, data: Path | Sequence[Path] | DataSet, locate: Callable[[str], Path]
) -> TrainSettings:
    """Return settings whose paths lead there from any folder; what is not there, or has a name alone, stays."""
    if isinstance(data, DataSet) or not data:
        named = [settings.data] if isinstance(settings.data, str) else settings.data
        places = [_from_anywhere(locate(name), name) for name in named]
    else:
        places = [_from_anywhere(path, str(path)) for path in ([data] if isinstance(data, Path) else data)]
    change: dict[str, object] = {"data": places[0] if len(places) == 1 else tuple(places)}
    if settings.start_from:
        change["start_from"] = _from_anywhere(Path(settings.start_from), settings.start_from)
    if (made := settings.synthesis) is not None:
        new: dict[str, object] = {}
        if made.label_maps is not None:
            new["label_maps"] = _from_anywhere(locate(made.label_maps), made.label_maps)
        if (lesions := made.lesions) is not None:
            masks = _from_anywhere(locate(lesions.masks), lesions.masks)
            new["lesions"] = lesions.model_copy(update={"masks": masks})
        change["synthesis"] = made.model_copy(update=new)
    return settings.model_copy(update=change)


def _from_anywhere(place: Path, name: str) -> str:
    if not place.exists() and not any(place.parent.glob(place.name)):
        return name
    plain = Path(os.path.normpath(place.absolute()))
    # Behind a link '..' is another folder than the path's own parent.
    return str(plain if plain.parent.exists() and plain.parent.samefile(place.parent) else place.absolute())


def _changes(before: TrainSettings, given: TrainSettings, placed: TrainSettings) -> list[str]:
    """Return what differs, a text a key with both values."""
    old, new, there = (_flat(x.model_dump(mode="json", exclude_none=True)) for x in (before, given, placed))
    told = []
    for key in dict.fromkeys((*old, *new)):
        if key == "data" or old.get(key) == new.get(key):
            continue
        if key in PLACES and (old.get(key) == there.get(key) or _ends_alike(old.get(key), new.get(key))):
            continue
        told.append(f"{key} is {_shown(new, key)} and was {_shown(old, key)}")
    return told


def _ends_alike(before: object, now: object) -> bool:
    """Whether a full path is that of a relative one, from a folder that may have moved since."""
    if not (isinstance(before, str) and isinstance(now, str)) or PurePath(now).is_absolute():
        return False
    tail = [part for part in PurePath(now).parts if part != ".."]
    return PurePath(before).is_absolute() and bool(tail) and list(PurePath(before).parts[-len(tail) :]) == tail


def _flat(content: object, above: str = "") -> dict[str, object]:
    if not isinstance(content, dict) or not content:
        return {above: content}
    return {
        name: x
        for key, inner in content.items()
        for name, x in _flat(inner, f"{above}.{key}" * bool(above) or key).items()
    }


def _shown(values: dict[str, object], key: str) -> str:
    text = str(values[key]) if key in values else "not set"
    if len(text) <= SHOWN_CHARACTERS:
        return text
    # Of a path the end tells more.
    return "..." + text[3 - SHOWN_CHARACTERS :] if key in PLACES else text[: SHOWN_CHARACTERS - 3] + "..."
