"""Which worker does what next: by hand, and with any order of events."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurecache.cluster.dealing import BATCH_KILLS, HELD, KILLS, UNIT_SECONDS, Dealer, Probe
from featurecache.errors import ClusterError


def batch(first, count=4):
    return {f"c{number}": f"{number}.png" for number in range(first, first + count)}


def dealer_of(batches, workers, *, most=1000, first=1):
    dealer = Dealer(most=most, first=first)
    for worker in workers:
        dealer.add_worker(worker)
    for number in range(batches):
        dealer.add(batch(4 * number))
    dealer.end()
    return dealer


def test_a_worker_holds_two_units_and_units_have_numbers():
    dealer = dealer_of(4, "ab", first=7)
    first, second = dealer.deal("a"), dealer.deal("a")
    assert (first.number, second.number, dealer.deal("a"), dealer.held("a")) == (7, 8, None, HELD)
    assert first.batches == (batch(0),)
    assert second.batches == (batch(4),)
    assert dealer.finish("a", first, seconds=1)
    assert dealer.deal("a").batches == (batch(8),)


def test_units_take_the_time_of_a_unit_and_become_smaller_at_the_end():
    dealer = dealer_of(100, "ab")
    dealer.finish("a", dealer.deal("a"), seconds=4 * UNIT_SECONDS / 40)  # 40 contents in the time of a unit
    sizes = [len(dealer.deal("a"))]
    assert sizes == [40]
    dealer = dealer_of(100, "ab")
    sizes = []
    task = dealer.deal("a")
    while task:
        sizes.append(len(task))
        dealer.finish("a", task, seconds=0.0001)
        task = dealer.deal("a")
    assert sizes[0] == 4  # it is not known yet how fast the worker is
    assert sizes[1] == (400 - 4) // (2 * 2) // 4 * 4
    assert sizes == [sizes[0], *sorted(sizes[1:], reverse=True)]
    assert sizes[-1] == 4
    assert sum(sizes) == 400


def test_a_unit_is_at_most_a_shard_but_a_whole_batch():
    dealer = dealer_of(100, "a", most=9)
    dealer.finish("a", dealer.deal("a"), seconds=0.0001)
    assert len(dealer.deal("a")) == 8
    dealer = dealer_of(2, "a", most=3)
    assert len(dealer.deal("a")) == 4


def test_an_idle_worker_gets_a_copy_at_the_end_and_the_faster_one_counts():
    dealer = dealer_of(2, "abc")
    one, two = dealer.deal("a"), dealer.deal("a")
    assert dealer.deal("b") == one
    assert dealer.deal("c") == two
    assert dealer.deal("b") is None
    assert dealer.finish("b", one, seconds=1)
    assert dealer.deal("b") is None  # unit two has two workers
    assert not dealer.finish("a", one, seconds=9)  # given up, and finished all the same
    assert dealer.finish("c", two, seconds=1)
    assert dealer.is_finished
    assert dealer.rows_left == 0


def test_nothing_is_copied_before_the_end():
    dealer = Dealer(most=10, first=1)
    for worker in "ab":
        dealer.add_worker(worker)
    dealer.add(batch(0))
    assert dealer.deal("a")
    assert dealer.deal("b") is None
    assert not dealer.is_finished


def test_a_lost_unit_with_a_copy_stays_with_its_other_worker():
    dealer = dealer_of(1, "ab")
    unit = dealer.deal("a")
    assert dealer.deal("b") == unit
    dealer.lose("a")
    assert dealer.finish("b", unit, seconds=1)
    assert dealer.is_finished


def test_images_of_a_lost_unit_are_probed_before_it_is_computed_alone():
    dealer = dealer_of(3, "ab")
    dealer.deal("a")
    other = dealer.deal("b")
    dealer.lose("a")
    assert dealer.rows_left == 12
    assert dealer.deal("b") is None  # it must hold nothing else
    dealer.finish("b", other, seconds=1)
    for content, path in batch(0).items():
        probe = dealer.deal("b")
        assert probe == Probe(content, path)
        assert dealer.deal("b") is None
        assert not dealer.finish("b", probe, seconds=0)
    unit = dealer.deal("b")
    assert unit.batches == (batch(0),)
    assert dealer.deal("b") is None
    assert dealer.finish("b", unit, seconds=1)
    last = dealer.deal("b")
    assert last.batches == (batch(8),)
    dealer.finish("b", last, seconds=1)
    assert dealer.is_finished


def contents_of(task):
    return {task.content} if isinstance(task, Probe) else {content for batch in task.batches for content in batch}


def work(dealer, killer=None, over=()):
    """Let workers come and end until all is done; return how many ended, and what was computed."""
    ended, computed = 0, []
    worker = "w0"
    dealer.add_worker(worker)
    while not dealer.is_finished:
        task = dealer.deal(worker)
        if task is None:
            continue
        contents = contents_of(task)
        if killer in contents or (not isinstance(task, Probe) and contents & set(over)):
            dealer.lose(worker)
            ended += 1
            worker = f"w{ended}"
            dealer.add_worker(worker)
        elif dealer.finish(worker, task, seconds=1):
            computed += contents
    return ended, computed


def test_an_image_that_ends_three_workers_is_left_out():
    dealer = dealer_of(5, "")
    ended, computed = work(dealer, killer="c6")
    assert ended == KILLS == 3
    assert dealer.killers == {"c6": "6.png"}
    assert sorted(computed) == sorted({f"c{number}" for number in range(20)} - {"c6"})


def test_a_unit_of_killers_alone_ends():
    dealer = Dealer(most=10, first=1)
    dealer.add({"c0": "0.png"})
    dealer.end()
    assert work(dealer, killer="c0") == (KILLS, [])
    assert dealer.is_finished


def test_batches_that_end_workers_are_divided_and_then_end_the_run():
    dealer = dealer_of(9, "a", most=12)
    dealer.finish("a", dealer.deal("a"), seconds=0.001)
    assert len(dealer.deal("a").batches) == 3
    dealer.lose("a")
    with pytest.raises(ClusterError, match=f"{BATCH_KILLS} workers ended over the same batch of 4 images, 8.png"):
        work(dealer, over={"c8"})
    assert dealer.rows_left == 9 * 4 - 2 * 4  # the first unit, and the batch before it in its own


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 30), st.none() | st.integers(0, 47), st.integers(0, 5), st.integers(0, 9**9))
def test_every_content_is_computed_once_whatever_happens(batches, most, killer, kills, seed):
    dealer = Dealer(most=most, first=1)
    random = Random(seed)  # noqa: S311 - nothing is secret
    held, computed, came, added, unlucky = {}, Counter(), 0, 0, kills // (KILLS - 1)
    for _ in range(20_000):
        if dealer.is_finished:
            break
        event = random.random()
        worker = random.choice(sorted(held)) if held else None
        if worker is None or (event < 0.1 and len(held) < 4):
            came += 1
            held[f"w{came}"] = []
            dealer.add_worker(f"w{came}")
        elif event < 0.2 and added <= batches:
            dealer.add(batch(4 * added)) if added < batches else dealer.end()
            added += 1
        elif event < 0.6:
            task = dealer.deal(worker)
            if task:
                held[worker].append(task)
                assert len(held[worker]) == dealer.held(worker) <= HELD
                assert not dealer.killers.keys() & contents_of(task)
        elif held[worker]:
            is_killed = event < 0.62 and kills > 0
            kills -= is_killed
            if is_killed or f"c{killer}" in contents_of(held[worker][0]):
                del held[worker]
                dealer.lose(worker)
            else:
                task = held[worker].pop(0)
                if dealer.finish(worker, task, seconds=0.01):
                    computed.update(contents_of(task))
    assert dealer.is_finished
    everything = {f"c{number}" for number in range(4 * batches)}
    assert set(computed) == everything - dealer.killers.keys()
    assert max(computed.values(), default=1) == 1
    assert dealer.killers.keys() >= {f"c{killer}"} & everything
    assert len(dealer.killers.keys() - {f"c{killer}"}) <= unlucky  # whose probes were killed by chance, again and again
    assert dealer.rows_left == 0
