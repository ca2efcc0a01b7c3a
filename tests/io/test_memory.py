from __future__ import annotations

import pytest

from voxmetry.errors import InputError
from voxmetry.io import memory


def test_an_image_may_take_half_of_what_is_free(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 3_000)
    memory.require_memory(1_500, "a.nii")
    with pytest.raises(InputError, match=r"a\.nii unpacks to"):
        memory.require_memory(1_501, "a.nii")


def test_a_system_that_does_not_tell_refuses_nothing(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    memory.require_memory(10**18, "a.nii")
