"""Packages that add a network or a head: installed by pip, then used through the command line in real processes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heads.artifact.description import checksum

pytestmark = pytest.mark.slow

PROGRAM = Path(sys.executable).with_name("featurecache")
ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "tests" / "data" / "example_backbone_package", ROOT / "docs" / "examples" / "new_head_package")


def featurecache(*args, packages, code=0):
    """Run a command with packages on the path; return standard output and standard error."""
    environment = os.environ | {"PYTHONPATH": str(packages), "COLUMNS": "100"}
    done = subprocess.run(
        [PROGRAM, *map(str, args)], capture_output=True, text=True, env=environment, check=False, timeout=120
    )
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def declare(folder, group, **entries):
    """Declare a package with entry points, as pip would leave it in this folder."""
    info = folder / f"stranger_{len(list(folder.iterdir()))}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {info.name.partition('-')[0]}\nVersion: 1.0\n")
    lines = [f"{name} = {target}" for name, target in entries.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The folder that pip has installed the example packages in."""
    folder = tmp_path_factory.mktemp("packages")
    sources = [shutil.copytree(package, folder / package.name) for package in PACKAGES]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    options = ["--no-deps", "--no-build-isolation", "--target", folder / "installed"]
    subprocess.run([*pip, *options, *sources], check=True, timeout=120)
    return folder / "installed"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Twelve red and twelve blue images."""
    folder = tmp_path_factory.mktemp("plugins") / "images"
    generator = np.random.default_rng(0)
    for name, color in (("blue", (50, 50, 200)), ("red", (200, 50, 50))):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = color + generator.integers(-50, 50, (20, 20, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def cache(packages, images):
    """A cache of those images, made by the network of the example package."""
    file = images.parent / "cache.h5"
    out, _ = featurecache("extract", images, file, "--backbone", "color_histogram", packages=packages)
    assert "24 images forwarded" in out
    return file


def test_the_document_shows_the_example_packages():
    """Every code block of docs/plugins.md is text of an example package."""
    document = (ROOT / "docs" / "plugins.md").read_text("utf-8")
    sources = [file.read_text("utf-8") for package in PACKAGES for file in package.iterdir() if file.is_file()]
    blocks = re.findall(r"^```(?:python|toml)\n(.*?)^```", document, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    assert all(any(block in source for source in sources) for block in blocks)


# Networks


def test_a_network_of_a_package_is_listed(packages):
    out, err = featurecache("backbones", "--json", packages=packages)
    networks = json.loads(out)
    assert next(iter(networks)) == "vgg16"
    assert networks["color_histogram"] == {
        "taps": {"quarters": 96, "image": 24},
        "default_taps": ["quarters"],
        "input_size": [64, 64],
        "preprocessing": "none",
        "parameters": None,
        "stages": [],
        "weights_url": None,
    }
    assert err == ""
    assert re.search(r"^color_histogram +64x64 +-  quarters 96$", featurecache("backbones", packages=packages)[0], re.M)


def test_a_network_of_a_package_makes_a_cache_that_a_head_learns_from(packages, images, cache, tmp_path):
    recipe = json.loads(featurecache("info", cache, "--json", packages=tmp_path)[0])["recipe"]
    assert (recipe["backbone"], recipe["weights"], recipe["preprocessing"]) == ("color_histogram", "none", "none")
    assert recipe["taps"] == {"quarters": 96}
    featurecache("train", cache, tmp_path / "head", "--head", "centroid", packages=packages)
    out, _ = featurecache("predict", tmp_path / "head", images / "red" / "3.png", packages=packages)
    assert "red" in out.splitlines()[1]


def test_a_cache_is_read_where_its_network_is_not_installed_and_a_run_says_what_is_missing(images, cache, tmp_path):
    featurecache("train", cache, tmp_path / "head", packages=tmp_path)
    _, err = featurecache("predict", tmp_path / "head", images, packages=tmp_path, code=1)
    assert "error: unknown backbone 'color_histogram'" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--engine", "keras"], "the package that adds color_histogram runs it itself"),
        (["--precision", "mixed"], "leave out --engine and --precision"),
        (["--weights", "random:0"], "weights 'random:0': color_histogram has no weights"),
        (["--taps", "fc2"], "unknown tap of color_histogram 'fc2' (known: image, quarters)"),
    ],
)
def test_what_a_network_of_a_package_cannot_do_is_refused(options, said, packages, images, tmp_path):
    command = ["extract", images, tmp_path / "cache.h5", "--backbone", "color_histogram", *options]
    _, err = featurecache(*command, packages=packages, code=1)
    assert said in err.splitlines()[-1]


def test_keras_is_not_asked_for_a_network_of_a_package(packages, cache, tmp_path):
    featurecache("train", cache, tmp_path / "head", packages=packages)
    _, err = featurecache("export", tmp_path / "head", tmp_path / "model.keras", packages=packages, code=1)
    assert "error: color_histogram is not a Keras network" in err


def test_a_network_that_starts_as_another_than_described_is_refused(images, tmp_path):
    (tmp_path / "liar.py").write_text(
        "from featurecache import ExternalNetwork\n"
        "from featurecache.backbones.fake import FakeBackbone\n"
        "NETWORK = ExternalNetwork(name='liar', input_size=(32, 32), preprocessing='none', taps={'features': 16},\n"
        "    default_taps=('features',), identify=lambda weights: 'random:1', start=lambda **_: FakeBackbone())\n"
    )
    declare(tmp_path, "featurecache.backbones", liar="liar:NETWORK")
    _, err = featurecache("extract", images, tmp_path / "cache.h5", "--backbone", "liar", packages=tmp_path, code=1)
    assert "error: the package that adds liar started another network than it described" in err


# Heads


def test_a_head_of_a_package_is_listed(packages):
    out, err = featurecache("heads", "--json", packages=packages)
    assert json.loads(out)["nearest_mean"]["params"]["sharpness"]["default"] == 1.0
    assert err == ""
    out, _ = featurecache("heads", "nearest_mean", packages=packages)
    assert "-p sharpness=1.0" in out


def test_a_head_of_a_package_is_trained_evaluated_swept_and_used(packages, images, cache, tmp_path):
    command = ["train", cache, tmp_path / "head", "--head", "nearest_mean", "-p", "sharpness=2.5", "--json"]
    trained = json.loads(featurecache(*command, packages=packages)[0])
    assert (trained["head"], trained["params"]) == ("nearest_mean", {"sharpness": 2.5})
    evaluated = json.loads(featurecache("evaluate", tmp_path / "head", cache, "--json", packages=packages)[0])
    assert evaluated["accuracy"]["value"] == 1
    out, _ = featurecache("predict", tmp_path / "head", images / "blue" / "3.png", packages=packages)
    assert "blue" in out.splitlines()[1]
    options = ["--head", "nearest_mean", "--jobs", "1", "--json"]
    swept = json.loads(featurecache("sweep", cache, tmp_path / "sweep", *options, packages=packages)[0])
    assert swept["best"]["head"] == "nearest_mean"


def test_a_head_file_never_names_what_is_imported(packages, cache, tmp_path):
    head, imported = tmp_path / "head", tmp_path / "imported"
    featurecache("train", cache, head, "--head", "nearest_mean", packages=packages)
    (tmp_path / "evil.py").write_text(f"open({str(imported)!r}, 'w')\n")
    description = json.loads((head / "head.json").read_text())
    for name in ("evil", "evil:Head", "example_head:NearestMeanHead"):
        changed = {field: value for field, value in description.items() if field != "sha256"} | {"head": name}
        changed["sha256"] = checksum(changed)
        (head / "head.json").write_text(json.dumps(changed))
        path = f"{packages}{os.pathsep}{tmp_path}"
        _, err = featurecache("evaluate", head, cache, packages=path, code=1)
        assert f"head.json: unknown head {name!r}" in err
    assert not imported.exists()


def test_a_head_of_a_package_that_is_not_installed_says_so(packages, cache, tmp_path):
    featurecache("train", cache, tmp_path / "head", "--head", "nearest_mean", packages=packages)
    _, err = featurecache("evaluate", tmp_path / "head", cache, packages=tmp_path, code=1)
    assert "head.json: unknown head 'nearest_mean'" in err


# Packages that are broken, or take a name


@pytest.fixture
def strangers(tmp_path):
    """Packages with entry points that cannot be used."""
    (tmp_path / "broken.py").write_text("import not_there\n")
    (tmp_path / "quits.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "other.py").write_text("THING = 3\n")
    for group, taken in (("featurecache.backbones", "vgg16"), ("featurecache.heads", "softmax")):
        broken = {"broken": "broken:THING", "quits": "quits:THING", "absent": "other:NOTHING"}
        declare(tmp_path, group, **broken, thing="other:THING", other="other:THING")
        declare(tmp_path, group, thing="other:THING", **{taken: "other:THING"})
    return tmp_path


@pytest.mark.parametrize(
    ("command", "kind", "taken"), [("backbones", "backbone", "vgg16"), ("heads", "head", "softmax")]
)
def test_a_list_says_which_entry_points_failed_and_why(command, kind, taken, strangers):
    out, err = featurecache(command, "--json", packages=strangers)
    assert not {"broken", "quits", "thing", "absent", "other"} & set(json.loads(out))
    lines = err.splitlines()
    assert len(lines) == 7
    assert all(line.startswith(f"warning: the {kind} ") for line in lines)
    for name, why in {
        "broken": "cannot be loaded (ModuleNotFoundError: No module named 'not_there')",
        "quits": "cannot be loaded (SystemExit: 3)",
        "other": "cannot be loaded (TypeError: ",
        "absent": "cannot be loaded (AttributeError: ",
        "thing": "has the same name; uninstall one of them",
        taken: "is refused: featurecache itself has the same name",
    }.items():
        assert [line for line in lines if line.startswith(f"warning: the {kind} {name!r}") and why in line]


def test_a_broken_head_does_not_stop_others(strangers, cache, tmp_path):
    featurecache("train", cache, tmp_path / "head", "--head", "softmax", packages=strangers)
    _, err = featurecache("train", cache, tmp_path / "broken", "--head", "broken", packages=strangers, code=1)
    assert "error: the head 'broken' of the package stranger_" in err


def test_a_broken_network_is_named_when_it_is_used(strangers, images):
    command = ["extract", images, strangers / "cache.h5", "--backbone"]
    _, err = featurecache(*command, "broken", packages=strangers, code=1)
    assert "No module named 'not_there'" in err
    _, err = featurecache(*command, "quits", packages=strangers, code=1)
    assert "error: the backbone 'quits' of the package stranger_" in err
