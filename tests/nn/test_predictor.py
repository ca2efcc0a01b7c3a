import threading

import numpy as np
import pytest

import models
import phantoms
from voxmetry import Predictor, segment
from voxmetry.errors import InputError, OutputError


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return Predictor(models.write(tmp_path_factory.mktemp("model")), device="cpu")


def volumes(n):
    return [phantoms.volume(phantoms.geometry(shape=(21 + index, 19, 13)), seed=index) for index in range(n)]


def test_one_predictor_gives_what_each_single_call_gives(predictor):
    for volume in volumes(3):
        assert np.array_equal(predictor(volume).array, segment(volume, predictor.model).array)


class TestEach:
    def test_cases_come_in_their_order_written_and_equal_to_single_calls(self, predictor):
        cases, written = volumes(4), []
        outcomes = list(
            predictor.each(range(4), read=cases.__getitem__, write=lambda index, found: written.append((index, found)))
        )
        assert [outcome.item for outcome in outcomes] == [0, 1, 2, 3]
        assert [index for index, _ in written] == [0, 1, 2, 3]
        for outcome, volume in zip(outcomes, cases, strict=True):
            assert np.array_equal(outcome.segmentation.array, predictor(volume).array)

    def test_a_case_that_cannot_be_read_or_written_does_not_stop_the_others(self, predictor):
        cases = volumes(3)

        def read(index):
            if index == 1:
                raise InputError(found="a", expected="b", fix="c")
            return cases[index]

        def write(index, _found):
            if index == 2:
                raise OutputError(found="a", expected="b", fix="c")

        outcomes = list(predictor.each(range(3), read=read, write=write))
        assert [type(outcome.error) for outcome in outcomes] == [type(None), InputError, OutputError]
        assert outcomes[1].segmentation is None

    def test_the_next_case_is_read_while_the_network_works_on_this_one(self, predictor, monkeypatch):
        cases, next_was_read, run = volumes(2), threading.Event(), Predictor.run

        def read(index):
            if index == 1:
                next_was_read.set()
            return cases[index]

        def wait(self, prepared, **options):
            # Without reading ahead, this would wait in vain.
            assert next_was_read.wait(timeout=60)
            return run(self, prepared, **options)

        monkeypatch.setattr(Predictor, "run", wait)
        assert len(list(predictor.each(range(2), read=read))) == 2
