"""Pictures for a notebook or a paper, good without tuning.

Figures are matplotlib's own and need no `pyplot`: save one with `figure.savefig("slices.pdf")`; as the last line of a
notebook's cell it shows itself.
"""

from voxmetry.plot.curves import bland_altman, calibration, training_curve
from voxmetry.plot.meshes import surfaces
from voxmetry.plot.outlines import compare, lesions, slices

__all__ = ["bland_altman", "calibration", "compare", "lesions", "slices", "surfaces", "training_curve"]
