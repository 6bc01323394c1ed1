"""How many images may wait, at usual times and when there are too many."""

import pytest

from heads.service.waiting_room import BURST, FEWEST, LARGEST, WaitingRoom


def test_a_burst_of_clients_is_admitted():
    room = WaitingRoom()
    assert all(room.admit(1, waiting, 0.02, now=5.0) for waiting in range(BURST))
    assert not room.admit(1, BURST, 0.02, now=5.0)


def test_after_a_refusal_few_may_wait_until_none_has_been_refused_for_a_second():
    room = WaitingRoom()
    assert not room.admit(1, BURST, 0.02, now=5.0)
    assert room.size(0.01, now=5.1) == 15  # what the network computes in 0.15 s
    assert room.admit(1, 14, 0.01, now=5.1)
    assert not room.admit(1, 15, 0.01, now=5.9)
    assert room.size(0.01, now=6.8) == 15
    assert room.size(0.02, now=6.9) == BURST


@pytest.mark.parametrize(("seconds", "size"), [(0.0, BURST), (0.0001, BURST), (0.08, FEWEST), (9.0, FEWEST)])
def test_few_are_at_least_a_small_pass_and_at_most_a_burst(seconds, size):
    room = WaitingRoom()
    assert not room.admit(1, BURST, seconds, now=5.0)
    assert room.size(seconds, now=5.5) == size


def test_a_large_request_comes_in_when_nobody_waits():
    room = WaitingRoom()
    assert room.largest == LARGEST
    assert room.admit(LARGEST, 0, 0.02, now=5.0)
    assert not room.admit(LARGEST, 1, 0.02, now=5.0)
    assert room.admit(LARGEST, 0, 0.02, now=5.1)


def test_images_that_are_on_their_way_already_need_no_room():
    assert WaitingRoom().admit(0, 2 * BURST, 0.02, now=5.0)


def test_a_fixed_bound_never_changes():
    room = WaitingRoom(3)
    assert room.largest == 3
    assert not room.admit(1, 3, 0.02, now=5.0)
    assert room.size(0.02, now=5.1) == 3
    assert room.admit(1, 2, 0.02, now=5.1)


def test_while_images_are_refused_passes_are_as_short_as_the_queue():
    room = WaitingRoom()
    assert room.at_once(64, 0.03, now=5.0) == 64
    assert not room.admit(1, BURST, 0.03, now=5.0)
    assert room.at_once(64, 0.01, now=5.5) == 15
    assert room.at_once(2, 0.01, now=5.5) == 2
    assert room.at_once(64, 0.03, now=6.0) == 64
    assert WaitingRoom(3).at_once(64, 0.03, now=5.0) == 64
