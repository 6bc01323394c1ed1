"""The simulation of many workers: everything is computed once, and what goes wrong costs little."""

import pytest

from scripts.bench.simulate_ import Scene, simulate

CALM = Scene(images=200_000, workers=50, stragglers=0.0, lifetime=1e12, killers=0)


def test_workers_that_never_fail_share_the_work_evenly():
    found = simulate(CALM)
    assert found["useful"] == CALM.images
    assert found["computed"] < 1.01 * CALM.images  # nothing is copied before the end, and the end is short
    assert found["seconds"] / found["ideal_seconds"] < 1.03


@pytest.mark.parametrize("seed", [0, 1])
def test_failures_stragglers_and_killers_lose_nothing(seed):
    scene = Scene(images=200_000, workers=50, stragglers=0.1, lifetime=30.0, restart=5.0, killers=3)
    found = simulate(scene, seed)
    assert found["useful"] == scene.images - scene.killers
    assert found["killers"] == scene.killers
    assert found["lost"] > 10
    assert found["computed"] < 1.2 * scene.images


def test_one_slow_worker_costs_at_most_a_unit():
    scene = Scene(images=100_000, workers=8, spread=0.0, stragglers=0.0, lifetime=1e12, killers=0)
    slow = simulate(scene, slow=1)
    unit = scene.shard / scene.rate
    assert slow["seconds"] < slow["ideal_seconds"] + unit
    assert slow["ideal_seconds"] == pytest.approx(scene.images / (7.1 * scene.rate), abs=0.1)
