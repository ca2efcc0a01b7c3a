# The public names, declared once: type checkers read them here, and `__init__` imports each when it is first used.
from .config import ModelSpec as ModelSpec
from .config import StudySettings as StudySettings
from .core.geometry import Geometry as Geometry
from .core.labels import Label as Label
from .core.labels import LabelTable as LabelTable
from .core.records import Comparison as Comparison
from .core.records import Flag as Flag
from .core.records import Lesion as Lesion
from .core.records import Measurement as Measurement
from .core.records import StudyResult as StudyResult
from .core.segmentation import Segmentation as Segmentation
from .core.volume import Volume as Volume
from .errors import VoxmetryError as VoxmetryError
from .io import list_series as list_series
from .io import read_segmentation as read_segmentation
from .io import read_volume as read_volume
from .io import save as save
from .measurement import compare as compare
from .measurement import lesions as lesions
from .measurement import measure as measure
from .measurement.follow_up import TimePoint as TimePoint
from .measurement.follow_up import follow_up as follow_up
from .models import list_models as list_models
from .nn import Predictor as Predictor
from .nn import load_model as load_model
from .nn import segment as segment
from .ops.components import clean as clean
from .ops.resample import resample as resample
from .report import write_report as write_report
from .workflows.cohort import cohort as cohort
from .workflows.segment import segment_study as segment_study

__version__: str
