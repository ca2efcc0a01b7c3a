"""Strict YAML to records and back. Nothing is evaluated: a configuration is data.

An unknown key, a wrong type or a value out of range is a `ConfigError` that names the file and the key.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from voxmetry.core.base import Record
from voxmetry.core.strict_yaml import read_strict
from voxmetry.core.text import did_you_mean
from voxmetry.core.text_files import why_unreadable
from voxmetry.errors import ConfigError

R = TypeVar("R", bound=Record)

BASED_ON = "based_on"
"""Key of a file that changes another one and says no more than that."""


def load_yaml(path: Path | str, kind: type[R]) -> R:
    """Read a strict YAML file as a record.

    Parameters
    ----------
    path
        The file.
    kind
        The record type, such as `ModelSpec`.

    Raises
    ------
    ConfigError
        If the file is missing, is no YAML, or has an unknown, missing or unusable key; the message names each.
    """
    path = Path(path)
    data = _content(path, kind)
    if kind.MAY_BE_BASED_ON_ANOTHER and isinstance(data, dict) and BASED_ON in data:
        data = _on_its_base(path, data, kind)
    return parse_record(data, kind, where=str(path))


def _content(path: Path, kind: type[Record]) -> Any:
    try:
        return read_strict(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            found=f"{path} cannot be read: {why_unreadable(error)}",
            expected=f"a YAML file with the keys of {kind.__name__}",
            fix="check the path, and that it is a text file that you may read",
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(
            found=f"{path} is not valid YAML: {error}", expected="a YAML mapping", fix="fix the line that is named"
        ) from error


def _on_its_base(path: Path, data: dict[str, Any], kind: type[Record]) -> dict[str, Any]:
    """Put what a file says over the file that it is based on."""
    name = data[BASED_ON]
    if not isinstance(name, str) or Path(name).name != name:
        raise ConfigError(
            found=f"{path}: {BASED_ON}: {name!r}",
            expected="the name of a file in the same folder, as paths in both are relative to it",
            fix=f"put both into one folder, and write {BASED_ON}: NAME.yaml",
        )
    base = _content(path.parent / name, kind)
    if not isinstance(base, dict) or BASED_ON in base:
        what = "based on another" if isinstance(base, dict) else "no mapping"
        raise ConfigError(
            found=f"{path.parent / name}, which is {what}",
            expected="a configuration that stands alone",
            fix=f"name one that does in {path.name}",
        )
    return _over(base, {key: value for key, value in data.items() if key != BASED_ON})


def _over(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the keys of `change`; mappings are gone into, null takes a key away."""
    merged = dict(base)
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = _over(base[key], value)
        else:
            merged[key] = value
    return merged


def parse_record(data: object, kind: type[R], *, where: str) -> R:
    """Turn plain data into a record; `where` names its origin in an error.

    Raises
    ------
    ConfigError
        If a key is unknown, missing or unusable.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(
            found=f"{where}: " + "; ".join(_lines(error, kind)),
            expected=f"the keys and values of {kind.__name__}",
            fix="correct the keys that are named; an unknown key is often a typo",
        ) from error


def _lines(error: ValidationError, kind: type[Record]) -> list[str]:
    """Return what is wrong with each key, in words."""
    told: dict[str, dict[str, str]] = {}
    for item in error.errors(include_url=False):
        # Where a value may be of several kinds the validator names each, by words of its own such as 'dict[str,float]'.
        parts = [str(part) for part in item["loc"] if not _OF_VALIDATOR.search(str(part))]
        words = _WORDS.get(item["type"], item["msg"].removeprefix("Value error, "))
        if item["type"] == "extra_forbidden" and (meant := did_you_mean(parts[-1], kind.model_fields)):
            words += f" ({meant.strip()})"
        told.setdefault(".".join(parts) or "(top level)", {})[item["type"]] = words
    lines = []
    for key, by_type in told.items():
        # That it is no mapping says nothing where it may be a number, and is none that is taken.
        plain = [words for name, words in by_type.items() if name not in _WHOLE] or list(by_type.values())
        lines.append(f"{key}: {', or '.join(plain)}")
    return lines


_OF_VALIDATOR = re.compile(r"[\[\]]|^constrained-|^(function|tagged-union|lax-or-strict)-")
_WHOLE = frozenset({"model_type", "model_attributes_type", "dict_type"})
_WORDS = {
    "extra_forbidden": "no such key",
    **dict.fromkeys(sorted(_WHOLE), "keys with values are needed, such as 'key: value'"),
    "missing": "this key is needed",
}


def dump_yaml(record: Record) -> str:
    """Write a record as YAML that `load_yaml` reads back to an equal one."""
    text: str = yaml.safe_dump(
        record.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True, width=100
    )
    return text
