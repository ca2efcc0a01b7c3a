import os

import pytest

from chaos import chaos


def test_a_run_that_is_killed_goes_on_and_ends_as_if_it_had_not_been():
    kills = chaos(studies=18, main_kills=1, worker_kills=1, seed=1, local=True)
    assert (kills["main"], kills["worker"]) == (1, 1)


@pytest.mark.slow
@pytest.mark.skipif("VOXMETRY_CHAOS" not in os.environ, reason="takes minutes: set VOXMETRY_CHAOS=1")
@pytest.mark.parametrize("local", [False, True], ids=["dask", "local"])
def test_five_kills_of_the_run_and_ten_of_its_workers(local):
    pytest.importorskip("distributed")
    kills = chaos(studies=200, main_kills=5, worker_kills=10, seed=0, local=local)
    assert (kills["main"], kills["worker"]) == (5, 10)
