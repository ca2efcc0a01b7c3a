"""What the system tells of memory, from files as Linux has them."""

from __future__ import annotations

import sys

import pytest

from voxmetry.core import memory


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine with 9 MB free and a process of 2 MB (peak 3), in a group of 8 MB with 5 taken, 1 of it cache."""
    process, group = tmp_path / "proc" / "self", tmp_path / "cgroup"
    process.mkdir(parents=True)
    group.mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 20000 kB\nMemAvailable: 9000 kB\n")
    (process / "status").write_text("Name:\tpython\nVmHWM:\t 3000 kB\nVmSize:\t 4000 kB\nVmData:\t 1000 kB\n")
    (process / "statm").write_text("4000 500 100\n")
    (group / "memory.max").write_text("8000000\n")
    (group / "memory.current").write_text("5000000\n")
    (group / "memory.stat").write_text("anon 4000000\ninactive_file 1000000\n")
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "CONTROL_GROUPS", group)
    return tmp_path


@pytest.mark.skipif(sys.platform == "win32", reason="reads what Linux has")
class TestLinux:
    def test_the_smallest_counts_without_the_cache_of_files(self, system):
        assert memory.free_bytes() == 4_000_000
        (system / "cgroup" / "memory.max").write_text("max\n")
        assert memory.free_bytes() == 9000 * 1024

    def test_a_group_of_the_first_kind_counts_too(self, system):
        old = system / "cgroup" / "memory"
        old.mkdir()
        (old / "memory.limit_in_bytes").write_text("3000000\n")
        (old / "memory.usage_in_bytes").write_text("2500000\n")
        assert (3_000_000, 2_500_000) in memory.limits()
        assert memory.free_bytes() == 500_000

    def test_more_taken_than_allowed_leaves_nothing(self, system):
        (system / "cgroup" / "memory.current").write_text("9500000\n")
        assert memory.free_bytes() == 0

    def test_the_limits_of_the_process_count(self, system, monkeypatch):
        import resource

        monkeypatch.setattr(
            resource,
            "getrlimit",
            lambda kind: (1_500_000 if kind == resource.RLIMIT_DATA else resource.RLIM_INFINITY, -1),
        )
        assert memory.free_bytes() == 1_500_000 - 1000 * 1024

    def test_what_it_holds_and_held(self, system):
        assert memory.resident_bytes() == 500 * memory.os.sysconf("SC_PAGE_SIZE")
        assert memory.peak_bytes() == 3000 * 1024


def test_a_system_that_tells_nothing_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "PROC", tmp_path)
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(memory.os, "sysconf", lambda _name: (_ for _ in ()).throw(ValueError), raising=False)
    assert memory.free_bytes() is None
    assert memory.resident_bytes() is None


def test_this_machine_tells():
    free, held, peak = memory.free_bytes(), memory.resident_bytes(), memory.peak_bytes()
    assert free is None or 10**6 < free < 10**15
    assert held is None or peak is None or 10**6 < held <= peak + 10**6
