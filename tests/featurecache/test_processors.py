"""The number of processors: affinity and control groups."""

import os

import pytest

from featurecache import control_groups
from featurecache.processors import processor_count


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a function that makes a machine of 16 processors with the given control groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(control_groups, "_PROCESS", tmp_path / "process")
    monkeypatch.setattr(control_groups, "_CGROUPS", tmp_path / "cgroup")

    def make(process, files):
        (tmp_path / "process").write_text(process)
        for name, text in files.items():
            file = tmp_path / "cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    return make


def test_without_control_groups_the_affinity_counts(machine, monkeypatch):
    assert processor_count() == 16
    machine("0::/\n", {"cpu.max": "max 100000\n"})
    assert processor_count() == 16
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert processor_count() == 1


@pytest.mark.parametrize(("limit", "expected"), [("400000 100000", 4), ("150000 100000", 2), ("1000 100000", 1)])
def test_the_share_of_a_container_is_rounded_up(machine, limit, expected):
    machine("0::/\n", {"cpu.max": f"{limit}\n"})
    assert processor_count() == expected


def test_the_smallest_share_of_a_group_and_its_parents_counts(machine):
    machine("0::/slurm/job/step\n", {"slurm/cpu.max": "300000 100000", "slurm/job/cpu.max": "500000 100000"})
    assert processor_count() == 3


def test_a_share_never_adds_processors(machine):
    machine("0::/\n", {"cpu.max": "6400000 100000"})
    assert processor_count() == 16


@pytest.mark.parametrize(("quota", "expected"), [("250000", 3), ("-1", 16)])
def test_the_first_version_of_control_groups_is_understood(machine, quota, expected):
    files = {"cpu/box/cpu.cfs_quota_us": f"{quota}\n", "cpu/box/cpu.cfs_period_us": "100000\n"}
    machine("4:memory:/box\n3:cpu,cpuacct:/box\n", files)
    assert processor_count() == expected


@pytest.mark.parametrize("text", ["", "100000", "a b", "100000 0", "\0", "1 2 3"])
def test_what_cannot_be_understood_limits_nothing(machine, text):
    machine("0::/../..\nnonsense\n", {"cpu.max": text})
    assert processor_count() == 16


def test_a_system_without_affinity_has_its_processors(machine, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert processor_count() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processor_count() == 1
