"""A run of a real network that is killed and continued."""

import shutil
import time

import pytest
from runs import Driver, contents, write_image

from featurecache import FeatureCache

NETWORK = ("--backbone", "mobilenet_v2")


def kill_and_go_on(images, folder, count):
    """Kill a run after its first features were committed, continue it, and compare with an uninterrupted run."""
    folder.mkdir()
    driver = Driver()
    try:
        killed = driver.start(images, folder / "c.h5", *NETWORK)
        while len(killed.acknowledged) < 24 and killed.status is None:  # the first commit may hold file records alone
            time.sleep(0.01)
        killed.kill()
        assert killed.end() < 0, killed.error
        assert not (folder / "c.h5").exists()
        resumed = driver.start(images, folder / "c.h5", *NETWORK)
        assert resumed.end() == 0, resumed.error
        whole = driver.start(images, folder / "whole.h5", *NETWORK)
        assert whole.end() == 0, whole.error
    finally:
        driver.close()
    assert len(killed.acknowledged) >= 24
    assert resumed.ledger["reused"] >= len(killed.acknowledged)
    assert resumed.ledger["reused"] + resumed.ledger["forwarded"] == whole.ledger["forwarded"] == count
    assert contents(folder / "c.h5") == contents(folder / "whole.h5")
    assert FeatureCache.open(folder / "c.h5").problems() == []


@pytest.mark.slow
def test_of_random_weights(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(48):
        write_image(tmp_path / "images" / f"{number}.png", number)
    kill_and_go_on(tmp_path / "images", tmp_path / "caches", 48)


@pytest.mark.slow
@pytest.mark.real_data
def test_of_photographs(shared_data, tmp_path):
    photographs = sorted((shared_data / "catsdogs").rglob("*.jpg"))
    for path in photographs[:: len(photographs) // 64][:64]:
        target = tmp_path / "images" / path.relative_to(shared_data / "catsdogs")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    kill_and_go_on(tmp_path / "images", tmp_path / "caches", 64)
