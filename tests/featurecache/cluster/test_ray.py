"""Real clusters of Ray on this machine: the same bytes, nothing left running, and what is said when there is none."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest
from runs import contents, make_images

import featurecache.cluster.ray_workers
from featurecache import extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.cluster.ray_workers import (
    RayPool,
    _fair_cpus,
    _folder_of_sockets,
    _found_address,
    _room,
    _without_services,
    _words_of,
)
from featurecache.errors import ClusterError
from scripts.bench.kills import Driver, run_with_kills, still_running
from scripts.bench.sleeping import SleepingBackbone

ROOT = Path(__file__).parents[3]
BATCH = 8


def test_without_ray_one_line_says_what_to_install(monkeypatch, tmp_path, plain):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"Ray is not installed, .* pip install 'featurecache\[ray\]'"):
        extract(plain[1], tmp_path / "c.h5", backbone=FakeBackbone(), cluster="local")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("nodes", "gpus", "workers", "cpus"),
    [
        ([{"CPU": 8.0}], 0, 1, 4),
        ([{"CPU": 2.0}, {"CPU": 16.0}], 0, 1, 2),
        ([{"CPU": 2.0}], 0, 5, 1),
        ([{"CPU": 32.0, "GPU": 4.0}, {"CPU": 4.0}], 1, 1, 8),
        ([{"CPU": 2.0, "GPU": 4.0}], 1, 1, 1),
        ([{}], 1, 1, 1),
    ],
)
def test_processors_of_a_worker(nodes, gpus, workers, cpus):
    assert _fair_cpus(nodes, gpus, workers) == cpus


def test_room_for_workers_counts_whole_ones_on_each_node():
    assert _room({"CPU": 7.0}, 3, 0) == 2
    assert _room({"CPU": 64.0, "GPU": 2.0}, 4, 1) == 2
    assert _room({"CPU": 64.0}, 4, 1) == 0


def test_other_versions_are_named():
    from ray._private.utils import check_version_info

    with pytest.raises(RuntimeError) as caught:
        check_version_info({"ray_version": "2.1.0", "python_version": "3.8.0"}, "here")
    words = _words_of(caught.value, "head:6379")
    assert words.startswith("the cluster at head:6379 has other versions than this machine, and both must be the same")
    assert "2.1.0" in words
    assert "3.8.0" in words
    assert "\n" not in words


@pytest.mark.parametrize(
    ("error", "beginning"),
    [
        (ConnectionError("Failed to connect to GCS"), "no cluster answers at head:6379, or it wants another token: "),
        (ConnectionError("InvalidAuthToken: it is incorrect"), "the cluster at head:6379 wants another token: "),
        (RuntimeError("odd"), "no cluster at head:6379: odd"),
        (OSError("AF_UNIX path length cannot exceed 107 bytes"), "the folder for temporary files has too long a name "),
    ],
)
def test_a_wrong_token_is_thought_of(error, beginning):
    words = _words_of(error, "head:6379")
    assert words.startswith(beginning)
    assert ("RAY_AUTH_TOKEN" in words) == ("token" in beginning or "another" in beginning)


def test_sockets_are_in_a_folder_with_a_short_name(monkeypatch, tmp_path):
    long = tmp_path / ("long" * 20)
    long.mkdir()
    for folder, expected in (("/tmp", "/tmp"), ("/dev/shm", "/dev/shm"), (str(long), "/tmp")):  # noqa: S108
        monkeypatch.setattr(tempfile, "tempdir", folder)
        assert _folder_of_sockets() == expected
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert _folder_of_sockets() == str(long)


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "ray://head:10001/x"])
def test_an_address_that_is_none(address):
    with pytest.raises(ClusterError, match="is no address of a cluster: give HOST:PORT of its head"):
        RayPool(address, workers=None, gpus=None, cpus=None)


def test_auto_is_a_given_cluster_or_the_last_one_that_ray_start_started(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ClusterError, match=r"^no cluster was started on this machine, and RAY_ADDRESS names none; "):
        _found_address()
    (tmp_path / "ray").mkdir()
    import_module("ray._private.utils").write_ray_address("10.0.0.1:6379")  # as ray start does
    assert _found_address() == "10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert _found_address() == "10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert _found_address() == "head:6379"


@pytest.fixture(scope="class")
def ray_cluster():
    """Start a cluster in this process, which runs find and leave; five workers have room."""
    import ray

    with _without_services():
        ray.init(
            address="local",
            num_cpus=5,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=80 << 20,
            _system_config={"prestart_worker_first_driver": False},
        )
    yield ray
    ray.shutdown()


@pytest.fixture
def run(plain, tmp_path):
    """Return a function that extracts the images with a cluster, and compares the cache with the plain one."""

    def extract_and_compare(*, watch=lambda _: None, **options):
        messages, ledger = [], []

        def report(progress):
            ledger.append(progress.to_dict())
            watch(progress)

        cache = extract(
            plain[1],
            tmp_path / "cache.h5",
            **{"backbone": FakeBackbone(), "batch_size": BATCH, "cluster": "local", "cpus_per_worker": 1} | options,
            notify=messages.append,
            progress=report,
        )
        assert contents(cache.path) == contents(plain[0].path)
        assert os.listdir(tmp_path) == ["cache.h5"]
        return ledger[-1], messages

    return extract_and_compare


@pytest.mark.slow
class TestOnACluster:
    """With a cluster that is there already; it stays."""

    @pytest.mark.parametrize("workers", [1, 5])  # and 2 below
    def test_the_cache_has_the_bytes_of_a_plain_run(self, ray_cluster, run, workers):
        ledger, _ = run(workers=workers)
        assert len(ledger["workers"]) == workers
        assert sum(worker["images"] for worker in ledger["workers"]) >= 107
        assert ray_cluster.is_initialized()

    def test_the_object_store_is_not_used(self, ray_cluster, run):
        run(workers=2)
        resources = ray_cluster.available_resources()
        assert resources["object_store_memory"] == ray_cluster.cluster_resources()["object_store_memory"]

    def test_a_gpu_that_nobody_has(self, ray_cluster, run, monkeypatch):
        monkeypatch.setattr(featurecache.cluster.ray_workers, "_PATIENCE", 0.0)
        with pytest.raises(ClusterError, match="no room for a worker of 1 processor and 1 GPU"):
            run(gpus_per_worker=1)

    def test_killed_workers_are_replaced(self, ray_cluster, run):
        killed = []

        def kill(progress):
            pids = [worker.process for worker in progress.workers if worker.is_ready and not worker.end]
            if pids and len(killed) < 2 and progress.forwarded >= 20 * len(killed):
                killed.append(pids[0])
                with suppress(ProcessLookupError):
                    os.kill(pids[0], signal.SIGKILL)

        ledger, messages = run(workers=2, watch=kill)
        ended = [worker for worker in ledger["workers"] if worker["ended"]]
        assert {worker["process"] for worker in ended} == set(killed)
        assert {worker["ended"] for worker in ended} == {"its process has ended"}
        assert sum("a worker was lost: its process has ended" in message for message in messages) == 2


@pytest.mark.slow
class TestNodes:
    """Clusters of several nodes, each with processes of its own."""

    @pytest.fixture
    def cluster(self, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", str(ROOT))  # workers import the network of the benchmarks
        from ray.cluster_utils import Cluster

        nodes = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
        with _without_services():
            cluster = Cluster(initialize_head=True, head_node_args=nodes)
        cluster.more = {name: value for name, value in nodes.items() if name != "include_dashboard"}
        yield cluster
        cluster.shutdown()

    def test_a_node_that_dies_costs_what_its_workers_held(self, cluster, run, tmp_path):
        node = cluster.add_node(**cluster.more)
        removed = []

        def remove(progress):
            if not removed and all(worker.units for worker in progress.workers) and len(progress.workers) == 2:
                removed.append(True)
                cluster.remove_node(node, allow_graceful=False)

        backbone = SleepingBackbone(0.1, tmp_path.with_suffix(".log"))
        ledger, _ = run(watch=remove, cluster=cluster.address, backbone=backbone)
        assert removed
        ended = [worker["ended"] for worker in ledger["workers"] if worker["ended"]]
        assert ended in (["its machine is gone"], ["its process has ended"])  # whichever Ray notices first


@pytest.mark.slow
class TestProcesses:
    """Runs in processes of their own, each with a cluster that is started for it."""

    @pytest.fixture
    def driver(self, tmp_path):
        from scripts.bench.images import write_images

        write_images(tmp_path / "images", 600)
        driver = Driver(tmp_path / "images", tmp_path / "cache.h5")
        yield driver
        driver.process.kill()
        driver.end()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])  # by SIGKILL: the random kills below
    def test_nothing_runs_after_a_driver_that_was_ended(self, driver, number, tmp_path):
        assert driver.wait_for_rows(1)
        services = driver.cluster()
        assert len(services) == 2  # the head, and what starts workers; no dashboard, autoscaler or reader of logs
        assert driver.workers
        pids = {*driver.workers, *services}
        driver.process.send_signal(number)
        driver.end()
        assert still_running(pids) == 0
        has_ended = (tmp_path / "cache.h5").exists()  # before the signal came
        assert has_ended or any((tmp_path / "cache.h5.work" / "commits").iterdir())
        plain = extract(tmp_path / "images", tmp_path / "cache.h5", backbone=FakeBackbone(), batch_size=8)
        assert len(plain) == 600

    @pytest.mark.timeout(1200)
    def test_random_kills_lose_nothing(self, tmp_path):
        found = run_with_kills(tmp_path, 20)
        assert found["kills"] == {"worker": 16, "driver": 2, "head": 2}
        assert (found["lost"], found["wrong"], found["left"]) == (0, 0, 0)


@pytest.mark.slow
def test_the_command_line_starts_a_cluster_and_ends_it(tmp_path):
    program = Path(sys.executable).with_name("featurecache")
    images = make_images(tmp_path / "images", range(40))
    common = ("--backbone", "mobilenet_v2", "--weights", "random:0", "--json")

    def command(cache, *options):
        arguments = [program, "extract", images, tmp_path / cache, *common, *options]
        ended = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    command("plain.h5")
    ledger = command("cluster.h5", "--workers", "2", "--cluster")
    assert contents(tmp_path / "plain.h5") == contents(tmp_path / "cluster.h5")
    assert len(ledger["workers"]) == 2
    assert still_running({worker["process"] for worker in ledger["workers"]}) == 0
    assert sorted(os.listdir(tmp_path)) == ["cluster.h5", "images", "plain.h5"]


@pytest.mark.slow
def test_no_cluster_at_the_address(plain, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("featurecache")
    arguments = [program, "extract", plain[1], tmp_path / "c.h5", "--weights", "random:0", "--cluster"]
    ended = subprocess.run([*arguments, f"127.0.0.1:{port}"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"error: no cluster answers at 127.0.0.1:{port}")
    assert os.listdir(tmp_path) == []
