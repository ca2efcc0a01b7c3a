"""What is said about a study, a comparison and two time points: the records that become JSON and tables, and come back.

They hold no patient identity.
"""

from voxmetry.core.records.comparison import (
    CaseComparison,
    CohortComparison,
    CohortSettings,
    Comparison,
    ComparisonSummary,
    StructureSummary,
)
from voxmetry.core.records.correction import Correction, StructureCorrection
from voxmetry.core.records.follow_up import (
    FOLLOW_UP_VERSION,
    Category,
    Change,
    FollowUp,
    FollowUpSettings,
    LesionChange,
    PriorComparison,
    RegistrationInfo,
    Response,
    Row4,
    StructureChange,
)
from voxmetry.core.records.instances import Detection, Instance, InstanceMatching, PanopticQuality
from voxmetry.core.records.series import SeriesInfo, SeriesVerdict, SuvBasis
from voxmetry.core.records.statistics import BlandAltman, Distribution, MeanInterval, PairedComparison, Reliability
from voxmetry.core.records.study import (
    Flag,
    InstanceMeasurement,
    Lesion,
    Measurement,
    MembersAgreement,
    OtherInput,
    Part,
    Point,
    PredictedDice,
    Provenance,
    Region,
    SourceInfo,
    StudyResult,
)

__all__ = [
    "FOLLOW_UP_VERSION",
    "BlandAltman",
    "CaseComparison",
    "Category",
    "Change",
    "CohortComparison",
    "CohortSettings",
    "Comparison",
    "ComparisonSummary",
    "Correction",
    "Detection",
    "Distribution",
    "Flag",
    "FollowUp",
    "FollowUpSettings",
    "Instance",
    "InstanceMatching",
    "InstanceMeasurement",
    "Lesion",
    "LesionChange",
    "MeanInterval",
    "Measurement",
    "MembersAgreement",
    "OtherInput",
    "PairedComparison",
    "PanopticQuality",
    "Part",
    "Point",
    "PredictedDice",
    "PriorComparison",
    "Provenance",
    "Region",
    "RegistrationInfo",
    "Reliability",
    "Response",
    "Row4",
    "SeriesInfo",
    "SeriesVerdict",
    "SourceInfo",
    "StructureChange",
    "StructureCorrection",
    "StructureSummary",
    "StudyResult",
    "SuvBasis",
]
