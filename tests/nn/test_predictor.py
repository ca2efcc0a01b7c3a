import numpy as np
import pytest

import models
import phantoms
from voxmetry import Predictor, segment


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return Predictor(models.write(tmp_path_factory.mktemp("model")), device="cpu")


def volumes(n):
    return [phantoms.volume(phantoms.geometry(shape=(21 + index, 19, 13)), seed=index) for index in range(n)]


def test_one_predictor_gives_what_each_single_call_gives(predictor):
    for volume in volumes(3):
        assert np.array_equal(predictor(volume).array, segment(volume, predictor.model).array)
