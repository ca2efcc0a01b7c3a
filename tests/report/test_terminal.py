"""What the terminal shows of a result."""

from __future__ import annotations

import pytest

import phantoms
from voxmetry.cli import show


@pytest.fixture
def result(make_result):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    return make_result(volume, segmentation, plan="0.55 GB of 23.11 GB (ring in float32)")


@pytest.mark.parametrize("verbose", [False, True])
def test_the_plan_of_memory_is_told_where_it_is_asked_for(result, tmp_path, capsys, verbose):
    show.study(result, tmp_path, as_json=False, verbose=verbose)
    printed = capsys.readouterr()
    assert ("ring in float32" in printed.out + printed.err) is verbose
