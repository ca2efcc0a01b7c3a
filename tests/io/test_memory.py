from __future__ import annotations

import pytest

from voxmetry.errors import InputError
from voxmetry.io import memory


def test_the_smaller_of_machine_and_container_counts(monkeypatch):
    monkeypatch.setattr(memory, "_meminfo", lambda: 8_000)
    monkeypatch.setattr(memory, "_cgroup", lambda: 3_000)
    assert memory.free_bytes() == 3_000
    memory.require_memory(1_500, "a.nii")
    with pytest.raises(InputError, match=r"a\.nii unpacks to"):
        memory.require_memory(1_501, "a.nii")


def test_a_system_that_does_not_tell_refuses_nothing(monkeypatch):
    for name in ("_meminfo", "_cgroup"):
        monkeypatch.setattr(memory, name, lambda: None)
    monkeypatch.setattr(memory.os, "sysconf", lambda _name: (_ for _ in ()).throw(ValueError), raising=False)
    assert memory.free_bytes() is None
    memory.require_memory(10**18, "a.nii")


def test_this_machine_tells():
    free = memory.free_bytes()
    assert free is None or 10**7 < free < 10**14
