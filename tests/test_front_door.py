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


def test_settings_of_another_function_are_refused_in_words(tmp_path):
    """They are records with other fields: `cohort(settings=CohortSettings())` was an AttributeError."""
    from voxmetry.core.records import CohortSettings
    from voxmetry.errors import ConfigError

    wrong = CohortSettings()
    calls = {
        "RunSettings": lambda: list(voxmetry.cohort(tmp_path, tmp_path / "out", "hippocampus-mr", settings=wrong)),
        "StudySettings": lambda: voxmetry.segment_study(tmp_path, tmp_path / "out", "hippocampus-mr", settings=wrong),
        "FollowUpSettings": lambda: voxmetry.follow_up(baseline=None, current=None, settings=wrong),
    }
    for kind, call in calls.items():
        with pytest.raises(ConfigError, match=f"settings of type CohortSettings(?s:.*){kind}"):
            call()
    assert not (tmp_path / "out").exists()
