"""Which model takes which study."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field, field_validator

from voxmetry.config import ModelSpec, StudySettings, load_yaml
from voxmetry.core.base import Record
from voxmetry.workflows.cohort.multi_input import inputs_in_words, inputs_of
from voxmetry.workflows.cohort.records import Candidate, Fault

if TYPE_CHECKING:
    from voxmetry.classical.spec import BaselineSpec
    from voxmetry.models.composite import CompositeSpec

RuleSpec: TypeAlias = "ModelSpec | CompositeSpec | BaselineSpec"


class Rule(Record):
    """A model and the studies that it takes: those for which everything that is given here is true."""

    model: str
    """A bundled model's name, a model folder or a baseline's YAML file."""
    modality: Literal["CT", "MR", "PT"] | None = None
    """Of a study whose modality is known; None takes that of the model."""
    case: str | None = None
    """Pattern of the case's name with * and ?, such as 'site_a/*'."""
    description: str | None = None
    """Regular expression that the series description must hold, in any case."""
    body_part: str | None = None
    """As `description`, for the body part examined."""
    entities: dict[str, str] = Field(default_factory=dict)
    """BIDS entities, such as {suffix: T1w}."""

    @field_validator("description", "body_part")
    @classmethod
    def _compiles(cls, text: str | None) -> str | None:
        try:
            re.compile(text or "")
        except re.error as error:
            raise ValueError(f"{text!r} is no regular expression: {error}") from error
        return text


class Rules(Record):
    """The content of a rules file: a study is run with the model of each rule that it fits."""

    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]


def load_rules(path: Path) -> Rules:
    """Read a rules file.

    Raises
    ------
    ConfigError
        If it cannot be read, or has an unknown or unusable key.
    """
    return load_yaml(path, Rules)


def rules_for(models: Sequence[str]) -> Rules:
    """Return the rules that take each study of a model's modality with each of the models."""
    return Rules(rules=tuple(Rule(model=model) for model in models))


def fits(rule: Rule, spec: RuleSpec, candidate: Candidate) -> str:
    """Return why a rule does not take a study; empty where it does.

    A study whose modality is not known, as of a NIfTI file without more, is taken for what the model expects: its
    values are looked at when it is read.
    """
    images = candidate.images
    if len(images) != len(spec.inputs) or candidate.loose:
        one = len(images) == 1
        return f"{len(images)} {'image' if one else 'images'}; it takes {inputs_in_words(spec)}"
    for image, item in zip(images, inputs_of(spec), strict=True):
        wanted = (rule.modality if len(images) == 1 else None) or item.modality
        if image.modality is not None and image.modality != wanted:
            return f"modality {image.modality}, not {wanted}"
    if rule.case is not None and not fnmatch.fnmatchcase(candidate.case, rule.case):
        return f"its name does not fit {rule.case}"
    for what, pattern, text in (
        ("series description", rule.description, candidate.description),
        ("body part", rule.body_part, candidate.body_part),
    ):
        if pattern is not None and not re.search(pattern, text, re.IGNORECASE):
            return f"its {what} does not hold {pattern!r}"
    for name, value in rule.entities.items():
        if candidate.entities.get(name) != value:
            return f"its {name} is {candidate.entities.get(name, 'not given')}, not {value}"
    return ""


def no_model(refusals: Sequence[tuple[str, str]]) -> Fault:
    """Say why no model takes a study."""
    return Fault(
        error="InputError",
        found="no model takes it: " + "; ".join(f"{model}: {why}" for model, why in refusals),
        expected="a study that fits a rule",
        fix="leave it out, or name a model for it (--model, a rules file, or the column model of a manifest)",
    )


def settings_of(candidate: Candidate, settings: StudySettings) -> StudySettings:
    """Return the settings for one study: its own series, and its modality where a file does not say it."""
    change: dict[str, object] = {"overwrite": True, "series": None if candidate.parts else candidate.series}
    if candidate.format != "DICOM" and candidate.modality in ("CT", "MR", "PT"):
        change["modality"] = candidate.modality
    return settings.model_copy(update=change)
