"""Processes that work: what they return, and that none of them outlives its purpose."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from featurecache.errors import OutputError
from featurecache.processors import processor_count
from featurecache.storage.output_errors import require_place
from heads.base import require_trainable
from heads.errors import HeadError, TrainingError
from heads.search.workers import TimeOverError, Workers


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stream:  # noqa: PTH123 - a device of the kernel
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids, seconds=60.0):
    end = time.monotonic() + seconds
    while any(map(is_alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(is_alive, pids))


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_call_has_its_result(jobs):
    with Workers(jobs) as workers:
        assert dict(workers.each(pow, {n: (n, 2) for n in range(20)})) == {n: n**2 for n in range(20)}
        assert workers.call(divmod, 7, 3) == (2, 1)


def test_a_single_job_is_done_in_this_process():
    with Workers(1) as workers:
        assert workers.call(os.getpid) == os.getpid()


def test_several_processes_work_with_their_share_of_threads_and_are_gone_afterwards():
    with Workers(2) as workers:
        pids = {pid for _, pid in workers.each(os.getpid, dict.fromkeys(range(40), ()))}
        assert os.getpid() not in pids
        assert workers.call(os.getenv, "OMP_NUM_THREADS") == str(max(1, processor_count() // 2))
    assert gone(pids)


def test_a_single_job_with_a_limit_of_time_is_done_in_a_process_with_one_thread():
    with Workers(1, until=time.monotonic() + 3600) as workers:
        assert workers.call(os.getpid) != os.getpid()
        assert workers.call(os.getenv, "OMP_NUM_THREADS") == "1"


@pytest.mark.parametrize("jobs", [1, 2])
def test_calls_are_given_up_when_the_time_is_over(jobs, monkeypatch):
    pids = set()
    with pytest.raises(TimeOverError), Workers(jobs, until=time.monotonic() + 3600) as workers:  # noqa: PT012
        pids = {pid for _, pid in workers.each(os.getpid, dict.fromkeys(range(40), ()))}
        monkeypatch.setattr(workers, "_until", time.monotonic())
        workers.call(time.sleep, 3600)
    assert gone(pids)


def test_signals_reach_the_first_process_alone(fresh_python):
    code = (
        "import signal\n"
        "from heads.search.workers import Workers\n"
        "with Workers(2) as workers:\n"
        "    blocked = workers.call(signal.pthread_sigmask, signal.SIG_BLOCK, ())\n"
        "print(*sorted(map(int, blocked)), '|', *signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    )
    assert fresh_python(code) == f"{signal.SIGHUP:d} {signal.SIGINT:d} {signal.SIGTERM:d} |"


@pytest.mark.parametrize("jobs", [1, 2])
def test_errors_come_through(jobs, tmp_path):
    X, y = np.zeros((5, 2), np.float32), np.array([0, 1, 0, 1, 0])
    X[3] = np.nan
    with Workers(jobs) as workers:
        with pytest.raises(TrainingError, match="row 3 holds features that are not finite") as caught:
            workers.call(require_trainable, X, y)
        assert caught.value.row == 3
        with pytest.raises(OutputError, match="does not exist; make it first"):
            workers.call(require_place, tmp_path / "nowhere" / "file")


def test_processes_that_are_at_work_end_when_the_block_is_left_by_an_error(capfd):
    pids = set()

    def interrupted():
        with Workers(2) as workers:
            pids.update(pid for _, pid in workers.each(os.getpid, dict.fromkeys(range(40), ())))
            for _ in workers.each(time.sleep, {number: (250 * bool(number),) for number in range(9)}):
                raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert gone(pids)
    assert time.monotonic() - began < 120
    assert capfd.readouterr() == ("", "")


def test_the_others_end_when_one_was_killed():
    """The pool sends them SIGTERM, which they have blocked; they are killed when the block is left."""
    pids = set()

    def killed():
        with Workers(2) as workers:
            pids.update(pid for _, pid in workers.each(os.getpid, dict.fromkeys(range(40), ())))
            calls = {"busy": (250,), "killed": (0,)}
            for _ in workers.each(time.sleep, calls):
                os.kill(min(pids), signal.SIGKILL)

    began = time.monotonic()
    with pytest.raises(HeadError, match="a worker process was killed"):
        killed()
    assert time.monotonic() - began < 120
    assert gone(pids)


def test_a_process_that_was_killed_is_an_error_that_says_what_to_do():
    def killed():
        with Workers(2) as workers:
            workers.call(os.kill, workers.call(os.getpid), signal.SIGKILL)
            workers.call(time.sleep, 5)

    with pytest.raises(HeadError, match=r"a worker process was killed, .* fewer --jobs"):
        killed()


def test_a_single_thread_computes_while_the_block_lasts(fresh_python):
    code = (
        "import numpy\n"
        "from threadpoolctl import threadpool_info\n"
        "from heads.search.workers import single_threaded\n"
        "def threads():\n"
        "    return sorted(each['num_threads'] for each in threadpool_info() if each['user_api'] == 'blas')\n"
        "import scipy.linalg\n"
        "before = threads()\n"
        "with single_threaded():\n"
        "    inside = threads()\n"
        "print(set(inside) == {1}, len(inside), threads() == before)"
    )
    limited, libraries, restored = fresh_python(code).split()
    assert (limited, restored) == ("True", "True")
    assert int(libraries) >= 1


def test_a_script_needs_no_guard_of_its_main_module(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "from heads.search.workers import Workers\n"
        "print('started')\n"
        "with Workers(2) as workers:\n"
        "    print(workers.call(os.getpid) != os.getpid())\n"
    )
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert (run.stdout, run.stderr) == ("started\nTrue\n", "")


def test_the_environment_of_this_process_stays_as_it_was(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with Workers(2) as workers:
        assert workers.call(os.getenv, "MKL_NUM_THREADS") == workers.call(os.getenv, "OMP_NUM_THREADS")
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_processes_end_when_the_first_one_is_killed(tmp_path):
    code = (
        "import os, time\n"
        "from heads.search.workers import Workers\n"
        "with Workers(2) as workers:\n"
        "    print(*{pid for _, pid in workers.each(os.getpid, dict.fromkeys(range(20), ()))}, flush=True)\n"
        "    workers.call(time.sleep, 60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        process.kill()
    assert pids
    assert gone(pids)
