"""A run of a real network that is killed and continued."""

import shutil
import time
from pathlib import Path

import pytest
from runs import Driver, contents, write_image

from featurecache import FeatureCache

COUNT = 48


def kill_and_go_on(images, folder, *network):
    """Kill a run after its first features were committed, continue it, and compare with an uninterrupted run."""
    folder.mkdir()
    driver = Driver()
    try:
        killed = driver.start(images, folder / "c.h5", *network)
        while len(killed.acknowledged) < 24 and killed.status is None:  # the first commit may hold file records alone
            time.sleep(0.01)
        killed.kill()
        assert killed.end() < 0, killed.error
        assert not (folder / "c.h5").exists()
        resumed = driver.start(images, folder / "c.h5", *network)
        assert resumed.end() == 0, resumed.error
        whole = driver.start(images, folder / "whole.h5", *network)
        assert whole.end() == 0, whole.error
    finally:
        driver.close()
    assert len(killed.acknowledged) >= 24
    assert resumed.ledger["reused"] >= len(killed.acknowledged)
    assert resumed.ledger["reused"] + resumed.ledger["forwarded"] == whole.ledger["forwarded"] == COUNT
    assert contents(folder / "c.h5") == contents(folder / "whole.h5")
    assert FeatureCache.open(folder / "c.h5").problems() == []


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["keras", "openvino"])
def test_a_network_of_keras(engine, shared_data, tmp_path):
    """On photographs, where they are; they differ from other images by their sizes alone."""
    photographs = sorted((shared_data / "catsdogs").rglob("*.jpg"))
    for number in range(COUNT):
        source = photographs[number * len(photographs) // COUNT] if photographs else Path(f"{number}.png")
        target = tmp_path / "images" / source.name
        target.parent.mkdir(exist_ok=True)
        if photographs:
            shutil.copy(source, target)
        else:
            write_image(target, number)
    network = ("--backbone", "mobilenet_v2", "--engine", engine)
    kill_and_go_on(tmp_path / "images", tmp_path / "caches", *network)
