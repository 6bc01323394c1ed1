"""The gate and the wheel: real data is never left out silently, and only the two packages are installed."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
WITHOUT = {"CI": "", "FEATURECACHE_REAL_DATA": ""}


@pytest.fixture
def checkout(tmp_path):
    """Return a checkout without real data beside it, with the gate, the rule of the tests and one test of real data."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "tests" / "test_it.py").write_text(
        "import pytest\n\n@pytest.mark.real_data\ndef test_it(shared_data):\n    assert shared_data.is_dir()\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    real_data: as in the repository\n")
    return tmp_path


def test_tests_that_need_linux_are_left_out_elsewhere(tmp_path):
    """As on macOS and Windows, where the hosted workflow runs the others."""
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "elsewhere.py").write_text(
        "def pytest_configure(config):\n    for plugin in config.pluginmanager.get_plugins():\n"
        "        if hasattr(plugin, 'IS_LINUX'):\n            plugin.IS_LINUX = False\n"
    )
    (tmp_path / "test_locks.py").write_text("import fcntl\n\ndef test_it():\n    fcntl.nothing\n")
    (tmp_path / "test_it.py").write_text(
        "def test_rights(tmp_path):\n    tmp_path.chmod(0o100)\n    raise OSError\n\n"
        "def test_user(unprivileged):\n    raise OSError\n\n"
        "def test_all():\n    pass\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    real_data: as in the repository\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "elsewhere", "."],
        cwd=tmp_path,
        env=os.environ | WITHOUT | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed, 2 skipped" in done.stdout, done.stdout


def gate(checkout, **variables):
    """Run the gate up to its first step, which fails: there is no python3."""
    programs = checkout / "programs"
    programs.mkdir()
    (programs / "python3").write_text("#!/bin/sh\nexit 7\n")
    (programs / "python3").chmod(0o755)
    environment = os.environ | WITHOUT | variables | {"PATH": f"{programs}:{os.environ['PATH']}"}
    return subprocess.run(
        [shutil.which("bash"), str(checkout / ".ci" / "run")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def outcome(checkout, **variables):
    """Run the test of real data; return the last line of pytest."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=checkout,
        env=os.environ | WITHOUT | variables | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # starts four times as fast
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip().splitlines()[-1]


def test_ci_stops_where_real_data_is_missing(checkout):
    done = gate(checkout, CI="true")
    assert done.returncode == 1
    assert "../shared/data is not there" in done.stderr


def test_ci_says_that_real_data_is_left_out_where_a_variable_allows_it(checkout):
    done = gate(checkout, CI="true", FEATURECACHE_REAL_DATA="absent")
    assert done.returncode == 7  # the first step was reached
    assert "tests of real data are skipped" in done.stdout


@pytest.mark.slow
def test_tests_of_real_data_are_skipped_at_home_and_fail_in_ci_unless_a_variable_allows_it(checkout):
    assert outcome(checkout).startswith("1 skipped")
    assert outcome(checkout, CI="true").startswith("1 failed")
    assert outcome(checkout, CI="true", FEATURECACHE_REAL_DATA="absent").startswith("1 skipped")


def test_the_hosted_workflow_runs_the_gate_and_says_that_it_has_no_real_data():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    assert re.search(r"run: \.ci/run\n +env:\n +FEATURECACHE_REAL_DATA: absent", text)


def installed(requirements):
    """Return the names of the packages that come with these, as far as they are installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    own = project["dependencies"] + [
        f"{text} ; extra == '{extra}'" for extra, texts in project["optional-dependencies"].items() for text in texts
    ]
    found, left = set(), list(requirements)
    while left:
        requirement = Requirement(left.pop())
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) not in found:
                found.add((name, extra))
                try:
                    needed = map(Requirement, own if name == project["name"] else requires(name) or [])
                except PackageNotFoundError:
                    continue
                left += [
                    str(each).partition(";")[0]
                    for each in needed
                    if each.marker is None or each.marker.evaluate({"extra": extra})
                ]
    return {name for name, _ in found}


def imported(paths):
    """Return the packages of others that test modules import at their top, and one of the modules for each."""
    folders = {module.stem for module in (ROOT / "tests").rglob("*.py")} | {path.name for path in ROOT.iterdir()}
    found = {name: path for path in paths for name in imported_by(path)}
    return {name: path for name, path in found.items() if name not in folders | sys.stdlib_module_names}


@cache
def imported_by(path):
    names = []
    for statement in ast.parse(path.read_text("utf-8")).body:
        if isinstance(statement, ast.Import):
            names += [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            names.append(statement.module)
    return [name.partition(".")[0] for name in names]


def test_the_jobs_of_other_systems_and_of_the_oldest_versions_install_what_their_tests_import():
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    oldest = (ROOT / ".ci" / "oldest").read_text("utf-8")
    (extras,) = re.findall(r"pip install -e '\.\[(.*)\]'", workflow)
    (folders,) = re.findall(r"python -m pytest (tests.*)", workflow)
    tools = [tool for line in re.findall(r"tools\+?=\((.*)\)", oldest) for tool in shlex.split(line)]
    (arguments,) = re.findall(r"set -- (tests.*)", oldest)
    asked = ",".join(re.findall(r"--extra (\w+)", oldest))
    some, *without = arguments.split(" --ignore ")
    of_packages = packages_distributions()
    for run, left_out, requirements in (
        (folders, [], [f"featurecache[{extras}]"]),
        (some, without, [f"featurecache[{asked}]", *tools]),
    ):
        modules = [
            ROOT / "tests" / "conftest.py",
            *(path for name in run.split() for path in (ROOT / name).rglob("*.py")),
        ]
        ignored = [ROOT / name for name in left_out]
        modules = [path for path in modules if not {path, *path.parents}.intersection(ignored)]
        assert len(modules) > 100
        there = installed(requirements)
        for name, path in imported(modules).items():
            packages = {canonicalize_name(package) for package in of_packages.get(name, ())}
            assert packages & there, f"{path} imports {name}, which is not installed"


def test_the_wheel_holds_both_packages_whole_and_nothing_else(tmp_path):
    source = tmp_path / "source"
    for package in ("featurecache", "heads", "scripts"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == {
        path.relative_to(source).as_posix()
        for package in ("featurecache", "heads")
        for path in (source / package).rglob("*")
        if path.is_file()
    }
    assert {"heads/__init__.pyi", "heads/evaluation/imagenet_classes.txt", "featurecache/py.typed"} <= held
    assert any(name.startswith("heads/report/templates/") for name in held)


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
