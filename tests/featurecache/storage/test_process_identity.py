"""Whether a process has ended, as another one on the machine can tell."""

import json
import subprocess
import sys

from featurecache.storage.process_identity import has_ended, this_process

PROGRAM = "from featurecache.storage.process_identity import this_process; print(this_process(), flush=True); input()"


def test_a_process_has_ended_when_it_has():
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    identity = process.stdout.readline()
    assert not has_ended(identity)
    process.communicate("\n")
    assert has_ended(identity)


def test_another_process_with_the_same_number_is_not_taken_for_it():
    space, number, start = json.loads(this_process())
    assert not has_ended(this_process())
    assert has_ended(json.dumps([space, number, f"{start}0"]))


def test_of_processes_elsewhere_nothing_is_known():
    (_, numbers), number, start = json.loads(this_process())
    assert not has_ended(json.dumps([["another machine", numbers], number, f"{start}0"]))
    assert not has_ended("[]")
    assert not has_ended("half a na")
