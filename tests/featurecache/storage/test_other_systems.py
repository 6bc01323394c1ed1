"""The same commands where calls are missing that macOS or Windows does not have, in processes of their own."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import featurecache
import heads
from featurecache.backbones.fake import FakeBackbone

HERE = Path(__file__).parent
SYSTEMS = ("macos", "windows")
START = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
folder = Path(sys.argv[3])
import other_systems
other_systems.become(sys.argv[2], folder)
import featurecache
import featurecache.run.committer
import featurecache.run.units
from featurecache.backbones.fake import FakeBackbone
from featurecache.storage import platform
featurecache.run.units.SHARD_ROWS = 8
featurecache.run.committer.FIRST_SECONDS = featurecache.run.committer.SHARD_SECONDS = 1e6  # however busy the machine is
images, path = folder / "photos", folder / "photos.h5"
ledger = []
def extract(to=path, **options):
    return featurecache.extract(
        images, to, backbone=FakeBackbone(), batch_size=4, progress=lambda it: ledger.append(it.to_dict()), **options
    )
"""
KILLED = """
from featurecache.run.store import Store
commit, count = Store.commit, []
def killing(*arguments):
    commit(*arguments)
    count.append(None)
    if len(count) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
Store.commit = killing
extract()
"""
REST = """
import heads
from featurecache.cli.app import app
from featurecache.storage.directory_lock import lock_directory, turn_in
from typer.testing import CliRunner

platform._PAUSE_SECONDS = 0.001  # between tries while a file is open
said = {}

def error_of(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except featurecache.FeatureCacheError as e:
        return str(e)

def add(name):
    from PIL import Image
    Image.new("RGB", (9, 9), (ord(name), 7, 9)).save(images / "train" / "cats" / f"{name}.png")

def forwarded(**options):
    extract(**options)
    return ledger[-1]["forwarded"]

first = extract()
said["resumed"] = ledger[-1]["forwarded"]
said["same"] = [first.paths.tolist(), first.features("features").X.tolist()]
said["left"] = sorted(os.listdir(folder))
del first
said["again"] = forwarded()
add("a")
said["updated"] = forwarded()
add("b")
reader = featurecache.FeatureCache.open(path)
said["while open"] = error_of(extract)
del reader
said["afterwards"] = forwarded()
in_parts = folder / "parts.h5"
said["parts"] = forwarded(to=in_parts, part_rows=9)
add("c")
said["parts updated"] = forwarded(to=in_parts)
said["merged"] = len(featurecache.merge(folder / "merged.h5", [in_parts], parts=True))
said["damage"] = featurecache.verify(in_parts).problems

(folder / "work").mkdir()
held = lock_directory(folder / "work")
said["second run"] = error_of(lock_directory, folder / "work")
held.close()
with turn_in(folder / "work"):
    pass
lock_directory(folder / "work").close()
said["locks"] = [name for name in os.listdir(folder) if name.endswith(".lock")]

def command(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    return done.stdout
command("train", path, folder / "head", "--head", "logreg", "--tap", "features")
if sys.argv[2] == "windows":
    command("evaluate", folder / "head", path, "--split", "valid", "--report", folder / "report.html")
    command("sweep", path, folder / "sweep", "--jobs", "1", "--head", "ridge", "--tap", "features")
command("export-features", path, folder / "rows.csv", "--tap", "features")
head = heads.TrainedHead.load(folder / "head")
found = heads.predict(head, images / "valid", backbone=FakeBackbone())
said["predicted"] = [found.table.predicted.tolist(), found.table.probabilities.tolist()]
print(json.dumps(said))
"""


def run(program, system, folder):
    return subprocess.run(
        [sys.executable, "-c", START + program, str(HERE), system, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_extract_kill_resume_train_predict(system, photos, tmp_path, tmp_path_factory):
    killed = run(KILLED, system, tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list((tmp_path / "photos.h5.work" / "commits").glob("*.json"))) == 2
    expected = featurecache.extract(
        photos, tmp_path_factory.mktemp("plain") / "photos.h5", backbone=FakeBackbone(), batch_size=4
    )
    done = run(REST, system, tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["resumed"] == 4
    assert said["same"] == [expected.paths.tolist(), expected.features("features").X.tolist()]
    assert said["left"] == ["photos", "photos.h5"]
    assert [said[step] for step in ("again", "updated", "parts", "parts updated")] == [0, 1, 22, 1]
    if system == "windows":
        assert (
            "a program has it open, perhaps this one, or you may not write there: close it there" in said["while open"]
        )
        assert "\n" not in said["while open"]
        assert said["afterwards"] == 0
    else:
        assert said["while open"] is None
    assert said["merged"] == 23
    assert said["damage"] == []
    assert "another run is at work" in said["second run"]
    assert said["locks"] == []
    head = heads.TrainedHead.load(tmp_path / "head")
    found = heads.predict(head, photos / "valid", backbone=FakeBackbone())
    assert said["predicted"] == [found.table.predicted.tolist(), found.table.probabilities.tolist()]
    cache = featurecache.FeatureCache.open(tmp_path / "photos.h5")
    featurecache.export_features(cache, tmp_path / "here.csv", tap="features")
    assert (tmp_path / "rows.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
