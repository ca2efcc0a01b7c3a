from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

import voxmetry


@pytest.mark.parametrize(
    "first",
    [
        "import voxmetry",
        "import voxmetry; from voxmetry import measure",
        "import voxmetry; from voxmetry import compare",
        "import voxmetry.measurement.compare, voxmetry.measurement.volumetry; import voxmetry",
    ],
)
def test_measure_is_a_function_in_any_order_of_import(first):
    check = "; import types; assert isinstance(voxmetry.measure, types.FunctionType)"
    subprocess.run([sys.executable, "-c", first + check], check=True, env={"PYTHONPATH": ":".join(sys.path)})


@pytest.mark.parametrize("name", ["measure", "compare", "segment", "cohort", "follow_up", "lesions"])
def test_a_function_of_the_front_door_pickles_as_itself(name):
    function = getattr(voxmetry, name)
    assert pickle.loads(pickle.dumps(function)) is function
