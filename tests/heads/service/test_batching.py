"""The queue and the network's thread: every caller gets its own rows, nobody waits for nothing, bounds hold."""

import gc
import hashlib
import math
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import RecipeError
from featurecache.images.failures import Failure
from heads.service.answering import ImageFile, PendingImages
from heads.service.batching import Batcher, NotServingError, OverloadedError, UnusableFeaturesError, Work
from heads.service.waiting_room import WaitingRoom


class Watcher:
    def __init__(self):
        self.passes, self.failures, self.left = [], [], 0

    def passed(self, images, seconds):
        self.passes.append(images)

    def failed_to_decode(self, failure):
        self.failures.append(failure.code)

    def abandoned(self):
        self.left += 1


def decode(data):
    """Return pixels that all have the value of the first byte; nothing is a failure."""
    if not data:
        return Failure("empty", "nothing")
    return np.full((32, 32, 3), data[0], np.uint8)


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def make(slow_backbone):
    batchers = []

    def make_batcher(network=None, *, known=lambda _: None, start=None, decode=decode, as_stored=None, **options):
        network = network or slow_backbone()
        options = {"batch_size": 4, "room": WaitingRoom(64), "max_delay": 0.005, "workers": 2} | options
        batcher = Batcher(
            start or (lambda: network),
            decode=decode,
            known=known,
            keep=lambda *_: None,
            as_stored=as_stored or (lambda activations, tap: activations[tap]),
            watcher=Watcher(),
            **options,
        )
        batchers.append((batcher, network))
        batcher.start()
        return batcher

    yield make_batcher
    for batcher, network in batchers:
        network.may_pass.set()
        batcher.close()


def submit(batcher, *contents):
    taken = batcher.submit({digest(data): data for data in contents})
    return [taken[digest(data)] for data in contents]


def row(value):
    return FakeBackbone({"features": 16, "predictions": 4}).forward(np.full((1, 32, 32, 3), value, np.uint8))


@settings(max_examples=25, deadline=None)
@given(
    requests=st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6, unique=True), min_size=1, max_size=12),
    batch_size=st.integers(1, 9),
    delay=st.sampled_from([0.0, 0.002]),
)
def test_every_caller_gets_its_own_rows(requests, batch_size, delay):
    network = FakeBackbone({"features": 16, "predictions": 4})
    watcher = Watcher()
    batcher = Batcher(
        lambda: network,
        decode=decode,
        known=lambda _: None,
        keep=lambda *_: None,
        as_stored=lambda activations, tap: activations[tap],
        batch_size=batch_size,
        room=WaitingRoom(100),
        max_delay=delay,
        workers=3,
        watcher=watcher,
    )
    batcher.start()

    def ask(values):
        works = submit(batcher, *(bytes([value]) for value in values))
        results = [work.future.result(20) for work in works]
        for work in works:
            batcher.leave(work)
        return results

    with ThreadPoolExecutor(len(requests)) as pool:
        for values, results in zip(requests, pool.map(ask, requests), strict=True):
            for value, found in zip(values, results, strict=True):
                np.testing.assert_array_equal(found["features"], row(value)["features"][0])
    batcher.close()
    assert batcher.queued == 0
    assert sum(watcher.passes) >= len({value for values in requests for value in values})
    assert max(watcher.passes) <= batch_size


def test_a_content_that_several_ask_for_is_computed_once(make, slow_backbone):
    network = slow_backbone()
    network.may_pass.clear()
    batcher = make(network)
    (first,) = submit(batcher, b"a")
    assert network.is_in_pass.wait(60)
    works = [submit(batcher, b"b", b"a") for _ in range(5)]
    assert len({id(work) for pair in works for work in pair}) == 2
    assert works[0][1] is first
    network.may_pass.set()
    for work in works[0]:
        work.future.result(60)
    assert network.passes == [1, 1]


def test_the_queue_is_bounded_and_says_when_there_is_room(make, slow_backbone):
    network = slow_backbone(0.3)
    batcher = make(network, batch_size=1, room=WaitingRoom(4))
    (work,) = submit(batcher, b"a")
    work.future.result(60)  # the rate is known now
    network.may_pass.clear()
    network.is_in_pass.clear()
    held = submit(batcher, b"b")
    assert network.is_in_pass.wait(60)
    held += submit(batcher, b"c", b"d", b"e", b"f")
    with pytest.raises(OverloadedError, match="4 images are waiting, 4 may") as refusal:
        submit(batcher, b"g")
    assert refusal.value.retry_after == math.ceil(4 * batcher._seconds_per_image) >= 2  # 4 images of 0.3 s
    assert submit(batcher, b"c")[0] is held[1]  # what is queued already needs no room
    network.may_pass.set()
    for one in held:
        one.future.result(60)


def test_all_contents_of_a_request_are_queued_or_none(make, slow_backbone):
    network = slow_backbone()
    network.may_pass.clear()
    batcher = make(network, room=WaitingRoom(2))
    with pytest.raises(OverloadedError):
        submit(batcher, b"a", b"b", b"c")
    assert batcher.queued == 0
    assert len(submit(batcher, b"a", b"b")) == 2


def test_what_its_callers_left_is_never_computed(make, slow_backbone, wait_for):
    network = slow_backbone()
    network.may_pass.clear()
    batcher = make(network)
    submit(batcher, b"a")
    assert network.is_in_pass.wait(60)
    left, kept = submit(batcher, b"b", b"c")
    (again,) = submit(batcher, b"c")
    assert again is kept
    wait_for(lambda: kept.pixels is not None and left.pixels is not None)
    for work in (left, kept):
        batcher.leave(work)  # one of two callers of the second
    assert batcher.queued == 1
    assert left.data is left.pixels is None
    network.may_pass.set()
    kept.future.result(60)
    assert left.future.cancelled()
    wait_for(lambda: network.passes == [1, 1])
    (new,) = submit(batcher, b"b")  # asked for again, it is computed
    assert new is not left
    new.future.result(60)


def test_what_is_asked_for_again_during_a_pass_that_its_callers_left_is_counted_once(make, slow_backbone):
    network = slow_backbone()
    network.may_pass.clear()
    batcher = make(network)
    (work,) = submit(batcher, b"a")
    assert network.is_in_pass.wait(60)
    batcher.leave(work)
    (again,) = submit(batcher, b"a")
    assert again is work
    assert batcher.queued == 0
    network.may_pass.set()
    again.future.result(60)
    assert network.passes == [1]


def test_an_image_that_is_alone_does_not_wait_for_company(make):
    batcher = make(max_delay=60.0)
    began = time.monotonic()
    (work,) = submit(batcher, b"a")
    work.future.result(50)
    assert time.monotonic() - began < 30


def test_an_image_waits_at_most_the_delay_for_one_that_is_being_decoded(make, slow_backbone):
    release = threading.Event()

    def slowly(data):
        if data == b"slow":
            release.wait(60)
        return decode(data)

    network = slow_backbone()
    batcher = make(network, max_delay=0.2, decode=slowly)
    submit(batcher, b"slow")
    began = time.monotonic()
    (work,) = submit(batcher, b"a")
    work.future.result(50)
    assert 0.15 < time.monotonic() - began < 30
    release.set()


def test_images_that_are_decoded_together_share_a_pass(make, slow_backbone, wait_for):
    network = slow_backbone()
    network.may_pass.clear()
    batcher = make(network, batch_size=8)
    submit(batcher, b"a")
    assert network.is_in_pass.wait(60)
    works = submit(batcher, *(bytes([value]) for value in range(1, 9)))
    wait_for(lambda: all(work.pixels is not None for work in works))
    network.may_pass.set()
    for work in works:
        work.future.result(60)
    assert network.passes == [1, 8]


def test_known_contents_are_not_queued(make):
    batcher = make(known={digest(b"a"): {"features": 1}}.get)
    found, work = submit(batcher, b"a", b"b")
    assert found == {"features": 1}
    assert isinstance(work, Work)
    work.future.result(60)
    assert batcher._watcher.passes == [1]


def test_failures_of_decoding_reach_their_callers_alone(make):
    def fails(data):
        if data == b"!":
            raise ValueError("a fault of a library")
        return decode(data)

    batcher = make(decode=fails)
    bad, good, worse = submit(batcher, b"", b"a", b"!")
    assert bad.future.result(60).code == "empty"
    assert worse.future.result(60).code == "damaged"
    assert set(good.future.result(60)) == {"features", "predictions"}
    assert sorted(batcher._watcher.failures) == ["damaged", "empty"]
    assert batcher.queued == 0


def test_features_that_are_not_finite_fail_their_image_alone(make):
    def stored(activations, tap):
        if (activations[tap] == row(7)[tap]).all(axis=1).any():
            raise RecipeError("not finite")
        return activations[tap]

    def slowly(data):
        time.sleep(0.05)
        return decode(data)

    batcher = make(as_stored=stored, decode=slowly, max_delay=1.0)
    good, bad = submit(batcher, b"\x01", b"\x07")
    np.testing.assert_array_equal(good.future.result(60)["features"], row(1)["features"][0])
    with pytest.raises(UnusableFeaturesError, match="not finite"):
        bad.future.result(60)
    assert batcher._watcher.passes in ([2], [1, 1])


def test_a_failed_pass_fails_its_images_and_the_next_one_is_right(make, slow_backbone):
    network = slow_backbone()
    network.fault = RuntimeError("the device is lost")
    batcher = make(network)
    (work,) = submit(batcher, b"a")
    with pytest.raises(NotServingError, match="the pass has failed: the device is lost"):
        work.future.result(60)
    network.fault = None
    (work,) = submit(batcher, b"a")
    np.testing.assert_array_equal(work.future.result(60)["features"], row(ord("a"))["features"][0])


def test_a_network_that_does_not_start_fails_what_waits_and_what_comes(make, wait_for):
    may_fail = threading.Event()

    def start():
        may_fail.wait(60)
        raise RuntimeError("no weights")

    batcher = make(start=start)
    assert batcher.fault(1) == "the network is starting"
    (work,) = submit(batcher, b"a")
    may_fail.set()
    with pytest.raises(NotServingError, match="no weights"):
        work.future.result(60)
    with pytest.raises(NotServingError, match="no weights"):
        submit(batcher, b"b")
    assert batcher.fault(1) == "the network has failed: no weights"
    assert batcher.queued == 0


def test_a_pass_that_stands_still_is_a_fault(make, slow_backbone, wait_for):
    network = slow_backbone()
    network.may_pass.clear()
    batcher = make(network)
    wait_for(lambda: not batcher.fault(60))
    submit(batcher, b"a")
    assert network.is_in_pass.wait(60)
    wait_for(lambda: batcher.fault(0.05).startswith("a pass has been standing still for"))
    network.may_pass.set()
    wait_for(lambda: not batcher.fault(0.05))


def test_closing_computes_what_is_queued_and_refuses_what_comes(make, slow_backbone, wait_for):
    network = slow_backbone()
    network.may_pass.clear()
    batcher = make(network)
    works = submit(batcher, *(bytes([value]) for value in range(1, 11)))
    closing = threading.Thread(target=batcher.close)
    closing.start()
    wait_for(lambda: batcher.fault(60) == "the service is ending")
    with pytest.raises(NotServingError, match="ending"):
        submit(batcher, b"z")
    network.may_pass.set()
    closing.join(60)
    assert not closing.is_alive()
    assert all(work.future.done() for work in works)


def test_two_passes_run_at_once_where_the_network_allows_it(make, slow_backbone, wait_for):
    network = slow_backbone()
    network.passes_at_once = 2
    network.may_pass.clear()
    batcher = make(network, batch_size=1)
    submit(batcher, b"a", b"b", b"c")
    wait_for(lambda: len(batcher._pass_began) == 2)
    assert batcher.queued == 1
    network.may_pass.set()


def test_collections_of_garbage_leave_the_network_out(make, wait_for):
    gc.unfreeze()  # what the collection of tests left alone
    batcher = make()
    wait_for(lambda: gc.get_freeze_count() > 0)
    batcher.close()
    assert gc.get_freeze_count() == 0


def test_a_pass_leaves_the_processor_to_requests_that_need_none(make, slow_backbone):
    network, seen = slow_backbone(), []
    forward = network.forward
    network.forward = lambda images: (
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())) or forward(images)
    )
    [work] = submit(make(network), b"a")
    work.future.result(60)
    assert seen[0] > os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_a_content_that_becomes_known_before_it_is_queued_is_found_in_memory(make):
    rows = {"features": np.zeros(16, np.float32)}
    pending = PendingImages([ImageFile(b"a")], SimpleNamespace(memory={}), make(known=lambda _: rows))
    assert (pending.is_known, pending.hits) == (False, {})
    assert pending.submit() == []
    assert pending.hits == {"memory": 1}
    [result] = pending.results()
    assert (result.rows, result.found, result.passed) == (rows, "memory", False)
