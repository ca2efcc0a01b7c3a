"""What of the source may stand in the files of a run: free text and identifiers, which can lead back to a patient."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from voxmetry.config import StudySettings
from voxmetry.core.records import Provenance, SourceInfo, StudyResult
from voxmetry.core.records.follow_up import PriorComparison
from voxmetry.errors import ConfigError
from voxmetry.io.dicom.objects.deidentify import UidMap

_DATE = re.compile(r"\b(19|20)\d{2}-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])([T ]?\d{2}:?\d{2}(:?\d{2}(\.\d+)?)?)?")
_LUT_LABEL = re.compile(r"(Real World Value Mapping to \S+|real-world values in \S+) \(.*\)")
"""A mapping is named by its unit and by the LUT Label, which is free text."""
_REMOVED = "(date removed)"


@dataclass(frozen=True)
class Privacy:
    """How much of the source a run repeats.

    Parameters
    ----------
    with_identity
        Whether free text of the source, such as Series Description, is repeated: it can hold a name.
    uids
        What UIDs of the source become, the same as in the de-identified objects beside; None to keep them.
    """

    with_identity: bool = False
    uids: UidMap | None = None

    @classmethod
    def of(cls, settings: StudySettings) -> Privacy:
        """Return what the settings ask for.

        Raises
        ------
        ConfigError
            If they ask for both the patient's identity and its removal.
        """
        if settings.with_identity and settings.dicom.deidentify:
            raise ConfigError(
                found="--with-identity and --deidentify",
                expected="one of them: they say the opposite",
                fix="leave one out",
            )
        return cls(settings.with_identity, UidMap() if settings.dicom.deidentify else None)

    def result(self, result: StudyResult) -> StudyResult:
        """Return the result without what may not be repeated."""
        others = tuple(x.model_copy(update={"source": self._source(x.source)}) for x in result.others)
        update = {
            "source": self._source(result.source),
            "others": others,
            "provenance": self._provenance(result.provenance),
        }
        return result.model_copy(update=update)

    def change(self, change: PriorComparison | None) -> PriorComparison | None:
        """Return a comparison with an earlier run without that run's identifiers."""
        if change is None:
            return None
        return change.model_copy(update={"prior": self._provenance(change.prior)})

    def _source(self, source: SourceInfo) -> SourceInfo:
        update: dict[str, object] = {}
        if not self.with_identity:
            update |= {"description": "", "processing": tuple(_LUT_LABEL.sub(r"\1", x) for x in source.processing)}
        if self.uids is not None:
            update |= {
                "series_uid": self._uid(source.series_uid),
                "frame_uid": self._uid(source.frame_uid),
                "processing": tuple(_DATE.sub(_REMOVED, _LUT_LABEL.sub(r"\1", x)) for x in source.processing),
            }
        return source.model_copy(update=update)

    def _provenance(self, made: Provenance) -> Provenance:
        if self.uids is None:
            return made
        return made.model_copy(update={"settings": self._settings(made.settings)})

    def _settings(self, settings: Mapping[str, object]) -> dict[str, object]:
        series = settings.get("series")
        return {**settings, "series": self._uid(series)} if isinstance(series, str) else dict(settings)

    def _uid(self, uid: str | None) -> str | None:
        """Map a UID; `1.2.3#2` names the second volume of a series."""
        if uid is None or self.uids is None:
            return uid
        own, mark, volume = uid.partition("#")
        return self.uids(own) + mark + volume
