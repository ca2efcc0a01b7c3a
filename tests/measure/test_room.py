from __future__ import annotations

import subprocess
import sys

import pytest

CHECK = """
import numpy as np
grid = voxmetry.Geometry(np.eye(4), (2, 2, 2))
seg = voxmetry.Segmentation(np.ones((2, 2, 2), np.uint8), grid, voxmetry.LabelTable.from_names({1: "a"}))
row, = voxmetry.measure(seg)
assert row.n_voxels == 8
row, = voxmetry.compare(prediction=seg, reference=seg)
assert row.dice == 1
assert voxmetry.measure.DEFINITIONS["dice"]
"""


@pytest.mark.parametrize(
    "first",
    [
        "import voxmetry",
        "import voxmetry; from voxmetry import measure",
        "import voxmetry; from voxmetry import compare",
        "import voxmetry.measure.compare, voxmetry.measure.volumetry; import voxmetry",
    ],
)
def test_the_room_and_its_verb_share_a_name_in_any_order_of_import(first):
    subprocess.run([sys.executable, "-c", first + CHECK], check=True, env={"PYTHONPATH": ":".join(sys.path)})
