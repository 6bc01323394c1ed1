"""The rules of the house: who imports whom, what is loaded when, and what no file may contain."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.code_checks import nodes, opens_files, prints_or_exits, reads_words

ROOT = Path(__file__).parents[1]
FRAMEWORKS = {"tensorflow", "keras", "keras_hub", "jax", "torch", "openvino", "onnx", "sklearn", "scipy", "matplotlib"}


def loaded_after(code):
    """Return the top-level modules that a fresh interpreter has loaded after some code."""
    code += "\nimport sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_imports_point_one_way():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout


def test_every_package_has_layers_that_name_all_its_modules():
    """So that `lint-imports` fails for a new module without a layer, wherever it is."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    layered = {name for contract in contracts if contract.get("exhaustive") for name in contract["containers"]}
    packages = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for package in ("featurecache", "heads")
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert packages == layered


@pytest.mark.parametrize("package", ["featurecache", "heads", "featurecache.cli.app"])
def test_importing_a_package_loads_no_framework(package):
    assert not loaded_after(f"import {package}") & (FRAMEWORKS | {"h5py"})


def test_every_public_name_can_be_imported():
    code = "import featurecache, heads\nfor p in (featurecache, heads):\n for n in p.__all__: getattr(p, n)"
    assert not loaded_after(code) & FRAMEWORKS


def test_opening_a_cache_loads_no_framework():
    loaded = loaded_after(
        "from featurecache import FeatureCache\n"
        "cache = FeatureCache.open('tests/data/cache-v1.h5')\n"
        "features = cache.features(next(iter(cache.taps)))\n"
        "assert len(features.X) == len(features.paths) > 0"
    )
    assert "h5py" in loaded
    assert not loaded & FRAMEWORKS


RIVALS = ("by_hand", "with_bentoml", "with_litserve", "with_mlserver")


@pytest.mark.parametrize("package", ["featurecache", "heads", "scripts"])
def test_no_code_can_unpickle(package):
    # a lesson loads the model that it has just exported, the rivals of a benchmark the one that it has written, and a
    # user's own model is checked first: it has layers of Keras alone
    loads = {
        "featurecache/backbones/model_file.py",
        "featurecache/cli/lesson/exported.py",
        *(f"scripts/bench/rivals/{name}.py" for name in RIVALS),
    }
    safe_load = re.compile(r"keras\.(saving|models)\.(load_model|deserialize_keras_object)\([^()]+, safe_mode=True\)")
    banned = re.compile(  # Keras's load_model, not the one of ncnn's networks, which reads numbers alone
        r"\b(pickle|dill|cloudpickle|joblib\.load|allow_pickle\s*=\s*True|(?<!net\.)load_model"
        r"|deserialize_keras_object|eval|exec)\b\s*[(.=]"
    )
    for path in (ROOT / package).rglob("*.py"):
        text = path.read_text("utf-8")
        if path.relative_to(ROOT).as_posix() in loads:
            text, count = safe_load.subn("", text)
            assert count == 1, path
        assert not banned.search(text), path


def found_in(check, *packages, without=()):
    """Return the nodes of packages that a check finds, as source code, by module."""
    found = {}
    for path in sorted(path for package in packages for path in (ROOT / package).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        lines = [ast.unparse(node) for node in nodes(path) if check(node)]
        if lines and not name.startswith(tuple(without)):
            found[name] = lines
    return found


def finds(check, code):
    return any(map(check, ast.walk(ast.parse(code))))


def test_library_code_neither_prints_nor_exits():
    found = found_in(prints_or_exits, "featurecache", "heads", without=["featurecache/cli/"])
    assert found.pop("heads/search/workers.py") == ["os._exit(1)"]  # a worker process whose parent has ended
    assert found == {}


@pytest.mark.parametrize("code", ["print(1)", "sys.exit(1)", "os._exit(1)", "raise SystemExit", "raise SystemExit(2)"])
def test_printing_and_exiting_are_found(code):
    assert finds(prints_or_exits, code)


@pytest.mark.parametrize("package", ["featurecache", "heads", "scripts"])
def test_processors_are_counted_in_one_place(package):
    counting = re.compile(r"\b(sched_getaffinity|cpu_count|process_cpu_count)\b")
    for path in (ROOT / package).rglob("*.py"):
        if path != ROOT / "featurecache" / "processors.py":
            assert not counting.search(path.read_text("utf-8")), path


@pytest.mark.parametrize("package", ["featurecache", "heads", "scripts"])
def test_images_are_read_through_their_source_alone(package):
    by_hand = re.compile(r"\b(decode_name|read_file|stat_file|fsencode)\b|os\.path\.join\(")
    for path in (ROOT / package).rglob("*.py"):
        if not path.is_relative_to(ROOT / "featurecache" / "images"):
            assert not by_hand.search(path.read_text("utf-8")), path


SYSTEM_CALLS = re.compile(
    r"\b(import|from) (fcntl|msvcrt|resource|pwd|grp|termios|pty)\b|\bfcntl\.|\bmsvcrt\.|pthread_sigmask|\bmadvise\b"
    r"|\bos\.(link|fsync|p(read|write)v?|posix_\w+|memfd_create|getppid|getuid|geteuid|setpriority|fork|mkfifo|O_\w+)\b"
)


@pytest.mark.parametrize("package", ["featurecache", "heads"])
def test_calls_that_some_systems_lack_are_in_one_module(package):
    for path in (ROOT / package).rglob("*.py"):
        if path != ROOT / "featurecache" / "storage" / "platform.py":
            assert not SYSTEM_CALLS.search(path.read_text("utf-8")), path


@pytest.mark.parametrize("code", ["import fcntl", "os.pread(1, 2, 3)", "os.open(path, os.O_RDONLY)", "os.link(a, b)"])
def test_a_call_that_some_systems_lack_is_found(code):
    assert SYSTEM_CALLS.search(code)


OPENERS = {
    "featurecache/backbones/model_file.py": "the members of a model file, in its archive",
    "featurecache/control_groups.py": "control groups",
    "featurecache/memory.py": "memory of the process and of the machine",
    "featurecache/processors.py": "what processors they are",
    "featurecache/run/store.py": "the recipe of an unfinished run",
    "featurecache/storage/digests.py": "remembered digests",
    "featurecache/storage/external_writers.py": "the file that a library has written",
    "featurecache/storage/files.py": "a regular file, for all who read caches and records",
    "featurecache/storage/platform.py": "a directory that it locks or writes to the disk",
    "featurecache/storage/process_identity.py": "the start of the machine and of processes",
    "featurecache/storage/publish.py": "the file that it writes",
    "featurecache/cli/app.py": "the null device, in place of a terminal that is gone",
    "featurecache/cli/console/pictures.py": "the beginning of a file that it would replace",
    "featurecache/cli/console/predictions_file.py": "the beginning of a file that it would replace",
    "featurecache/cli/console/report_formats.py": "the beginning of a file that it would replace",
    "heads/artifact/files.py": "the files of a head",
    "heads/evaluation/imagenet.py": "the names of ImageNet's classes, in the package",
    "heads/exporting/litert_model.py": "the file that Keras has written",
    "heads/exporting/openvino_model.py": "the file that OpenVINO has written",
    "heads/report/html.py": "templates, in the package",
    "heads/search/prepared.py": "its scratch file",
    "heads/service/app.py": "the files of the page, in the package",
    "heads/search/work.py": "the records of an unfinished sweep",
}


def test_files_are_opened_in_the_listed_modules_alone():
    """No module but an image source reads an image; `featurecache.cli.lesson` writes and reads its own files."""
    found = found_in(opens_files, "featurecache", "heads", without=["featurecache/images/", "featurecache/cli/lesson/"])
    assert {name: lines for name, lines in found.items() if name not in OPENERS} == {}
    assert found.keys() == OPENERS.keys(), "a module opens no file any more: remove it from the list"


@pytest.mark.parametrize(
    "code", ["(root / path).read_bytes()", "self.root / path", "open(path)", "path.open('rb')", "os.open(path, 0)"]
)
def test_opening_a_file_is_found(code):
    assert finds(opens_files, code)


def test_nothing_is_decided_by_a_text_for_people():
    assert found_in(reads_words, "featurecache", "heads") == {}


@pytest.mark.parametrize(
    "code",
    [
        "failure.reason == 'no such file'",
        "failure.reason.startswith('no')",
        "'limit' in found.reason",
        "'did not converge' in notice.message",
        "warning.fact == 'x'",
        "str(note).startswith('x')",
        "notice.message.replace('set standardize=true, ', '')",
        "any(UNFINISHED in str(warning) for warning in entry.warnings)",
    ],
)
def test_deciding_by_a_text_for_people_is_found(code):
    assert finds(reads_words, code)


PUBLIC_MODULES = {
    "featurecache": {"featurecache.errors", "featurecache.options", "featurecache.text"},
    "heads": {"heads.errors", "heads.figures"},
}


def test_the_public_names_are_those_of_the_list():
    listed = (ROOT / "tests" / "data" / "public_names.txt").read_text("ascii").split()
    public = [
        f"{package}.{name}" for package in PUBLIC_MODULES for name in sorted(importlib.import_module(package).__all__)
    ]
    assert public == listed, "a public name was added or removed: change tests/data/public_names.txt and CHANGELOG.md"


@pytest.mark.parametrize("package", PUBLIC_MODULES)
def test_a_public_name_is_not_the_name_of_a_module(package):
    modules = {path.stem for path in (ROOT / package).iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not modules & set(importlib.import_module(package).__all__)


def imported_from(path):
    """Yield the module and the name of every import and attribute of both packages, with its line."""
    packages = {}
    for node in nodes(path):
        for alias in node.names if isinstance(node, ast.Import) else ():
            package, _, inside = alias.name.partition(".")
            if package in PUBLIC_MODULES and not (inside and alias.asname):
                packages[alias.asname or package] = package
    for node in nodes(path):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in packages:
            yield packages[node.value.id], node.attr, node.lineno
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PUBLIC_MODULES:
            yield from ((node.module, alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.partition(".")[0] in PUBLIC_MODULES]
            yield from ((name, None, node.lineno) for name in names if name not in PUBLIC_MODULES)


def private_imports(paths):
    """Return the imports of private names in these files, one line each; the command line's own do not count."""
    public_modules = set.union(*PUBLIC_MODULES.values())
    return [
        f"{path.relative_to(ROOT)}:{line}: {module}.{name}"
        for path in paths
        for module, name, line in imported_from(path)
        if not module.startswith("featurecache.cli")
        and module not in public_modules
        and f"{module}.{name}" not in public_modules
        and not (module in PUBLIC_MODULES and name in importlib.import_module(module).__all__)
    ]


def test_the_command_line_imports_public_names_alone():
    """Lessons are exempt: they show how the project works inside, such as one step of gradient descent."""
    cli = ROOT / "featurecache" / "cli"
    assert private_imports(path for path in cli.rglob("*.py") if not path.is_relative_to(cli / "lesson")) == []


@pytest.mark.parametrize(
    "code",
    [
        "from heads.search import run",
        "from heads import search",
        "import heads.search",
        "import heads\nheads.search.run",
        "import heads as h\nh.search.run",
        "import featurecache.errors\nfeaturecache.cache.FeatureCache",
    ],
)
def test_private_names_are_found(code, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "private.py").write_text(code)
    (tmp_path / "public.py").write_text(
        "import heads, featurecache.errors\nheads.train\nfeaturecache.errors.OptionError"
    )
    assert len(private_imports([tmp_path / "private.py"])) == 1
    assert private_imports([tmp_path / "public.py"]) == []


def docstrings():
    """Yield the name and the docstring of every public class, method and function."""
    for package in PUBLIC_MODULES:
        for name in importlib.import_module(package).__all__:
            value = getattr(importlib.import_module(package), name)
            members = vars(value).items() if inspect.isclass(value) else ()
            yield f"{package}.{name}", value.__doc__ or ""
            for member, described in members:
                if not member.startswith("_"):
                    yield f"{package}.{name}.{member}", getattr(described, "__doc__", None) or ""


def is_public(name):
    """Whether a dotted name is a public module, or a name in one."""
    package, _, rest = name.partition(".")
    for module in PUBLIC_MODULES[package]:
        if name == module or name.startswith(f"{module}."):
            inside = name.removeprefix(module).strip(".").partition(".")[0]
            return not inside or hasattr(importlib.import_module(module), inside)
    return rest.partition(".")[0] in importlib.import_module(package).__all__


def test_docstrings_of_public_names_refer_to_public_names():
    private = [
        f"{where}: {name}"
        for where, text in docstrings()
        for name in re.findall(r"`((?:featurecache|heads)\.[\w.]+)`", text)
        if not is_public(name)
    ]
    assert private == []


@pytest.mark.parametrize("folder", ["docs/examples", "tests/data"])
def test_examples_import_public_names_alone(folder):
    paths = list((ROOT / folder).rglob("*.py"))
    assert paths
    assert private_imports(paths) == []


@pytest.mark.parametrize("package", PUBLIC_MODULES)
def test_modules_say_whether_they_are_public(package):
    described = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text("utf-8")))
    assert all(f"`{module}`" in described for module in PUBLIC_MODULES[package])
    for path in (ROOT / package).glob("*/__init__.py"):
        word = "Public" if f"{package}.{path.parent.name}" in PUBLIC_MODULES[package] else "Private"
        assert f"\n\n{word}: " in ast.get_docstring(ast.parse(path.read_text("utf-8"))), path
