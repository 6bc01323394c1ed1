"""Free memory: the machine, its control groups and the limits of ulimit."""

import subprocess
import sys
import tracemalloc

import pytest

from featurecache import control_groups, extract, from_source, memory
from featurecache.backbones.fake import FakeBackbone
from featurecache.memory import free_memory
from scripts.bench.cluster_ import NumberedImages

VERSIONS = {
    "0::/job\n": ("", "memory.max", "memory.current", "active_file 100\ninactive_file 200"),
    "4:memory:/job\n": (
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "active_file 7\ntotal_active_file 100\ntotal_inactive_file 200",
    ),
}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return the folder of control groups of a machine with 4,096 bytes."""
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemAvailable:  4 kB\n")
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    monkeypatch.setattr(control_groups, "_PROCESS", tmp_path / "process")
    monkeypatch.setattr(control_groups, "_CGROUPS", tmp_path / "cgroup")
    return tmp_path / "cgroup"


@pytest.mark.parametrize("process", VERSIONS)
@pytest.mark.parametrize("group", ["job", ""])
def test_the_machine_or_a_control_group_limits_it(machine, tmp_path, process, group):
    assert free_memory() == 4096
    folder, limit, used, statistics = VERSIONS[process]
    (tmp_path / "process").write_text(process)
    container = machine / folder / group
    container.mkdir(parents=True)
    (container / limit).write_text("max\n")
    (container / used).write_text("1000\n")
    (container / "memory.stat").write_text(f"anon 5\n{statistics}\n")
    assert free_memory() == 4096
    (container / limit).write_text("3000\n")
    assert free_memory() == 3000 - 1000 + 300
    (container / limit).write_text("9223372036854771712\n")
    assert free_memory() == 4096
    (container / limit).write_text("500\n")
    assert free_memory() == 0


def test_a_system_that_does_not_tell_has_memory(machine, tmp_path):
    (tmp_path / "meminfo").unlink()
    assert free_memory() == sys.maxsize


MEMORY = """
import resource
import numpy as np
from featurecache.memory import free_memory, resident_memory
before = resident_memory()
kept = np.ones(5_000_000)
print(free_memory(), resident_memory() - before)
for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
    resource.setrlimit(kind, (2 << 30, resource.getrlimit(kind)[1]))
    print(free_memory())
"""


def test_memory_of_this_process():
    """In a process of its own: what others free in the meantime would count."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    free, taken, *limited = map(int, done.stdout.split())
    assert 10**7 < free < 10**14
    assert taken == pytest.approx(8 * 5_000_000, rel=0.2)
    assert 0 < limited[1] < limited[0] < (2 << 30) - 8 * 5_000_000


def traced_peak(rows, folder):
    """Return the bytes that Python allocates, at most, from the list of images to their cache."""
    source = NumberedImages(rows)
    tracemalloc.start()
    manifest = from_source(source, ((path, None, "train") for path in source.list_images()[0]))
    backbone = FakeBackbone({"features": 4}, input_size=(8, 8))
    extract(manifest, folder / f"{rows}.h5", backbone=backbone, batch_size=64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.slow
def test_a_run_needs_some_hundred_bytes_for_each_image(tmp_path):
    """The driver of a run with workers needs little more, and HDF5 some memory of its own.

    Eight peaks lay between 232 and 288 bytes an image: what is read ahead at the peak differs from run to run.
    """
    few, many = (traced_peak(rows, tmp_path) for rows in (4_000, 16_000))
    assert (many - few) / 12_000 < 330
