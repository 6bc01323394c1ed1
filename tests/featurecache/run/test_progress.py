"""What a run says of its images and its workers, compared with what is counted by hand."""

import pytest

from featurecache import Progress
from featurecache.run.progress import Member

BUSY = Member("a", 7, tasks=2, units=3, images=31, seconds=12.0, computing=9.0, is_ready=True)
SLOW = Member("b", 8, tasks=1, units=1, images=5, seconds=10.0, computing=9.0, is_ready=True)
IDLE = Member("c", 9, units=2, images=8, seconds=2.0, computing=1.0, is_ready=True)
NEW = Member("d", 10, tasks=1, is_ready=True)
LOST = Member("e", 11, images=1, seconds=100.0, end="its machine has gone", is_ready=True)


@pytest.mark.parametrize(
    ("workers", "doing"),
    [
        ([], ""),
        ([Member()], "1 worker: 1 starting"),
        ([SLOW], "1 worker: 1 at work"),
        ([NEW, NEW], "2 workers: 2 at work"),
        ([BUSY, IDLE], "2 workers: 1 at work, 1 idle; slowest a with 2.6 images/s"),
        ([LOST, BUSY], "1 worker: 1 at work, 1 lost"),
        (
            [LOST, LOST, BUSY, SLOW, IDLE, NEW, Member(), Member(), Member()],
            "7 workers: 3 at work, 3 starting, 1 idle, 2 lost; slowest b with 0.5 images/s",
        ),
    ],
)
def test_workers_are_counted_by_what_they_do(workers, doing):
    assert Progress(total=100, workers=workers).doing == doing


def test_the_ledger_lists_what_each_worker_has_done():
    (lost, busy, starting) = Progress(total=100, workers=[LOST, BUSY, Member()]).to_dict()["workers"]
    assert lost["ended"] == "its machine has gone"
    assert busy == {"host": "a", "process": 7, "units": 3, "images": 31, "images_per_second": 2.58, "ended": None}
    assert starting == {"host": "", "process": 0, "units": 0, "images": 0, "images_per_second": 0.0, "ended": None}


def test_images_of_other_parts_do_not_count():
    ledger = Progress(total=100, done=90, failures=3, elsewhere=60, forwarded=20).to_dict()
    assert {name: ledger[name] for name in ("images", "rows", "failures", "forwarded", "reused")} == {
        "images": 40,
        "rows": 27,
        "failures": 3,
        "forwarded": 20,
        "reused": 7,
    }


def test_before_its_first_image_a_run_has_done_nothing():
    ledger = Progress(total=100).to_dict()
    assert ledger["images"] == 100
    assert {ledger[name] for name in ("rows", "failures", "forwarded", "reused", "seconds", "images_per_second")} == {0}
    assert ledger["bound"] == "decode"
    assert Progress(total=100, forwarded=10, computing=4.0).rate == 2.5
    assert (Member().seconds, Member().computing) == (0, 0)
