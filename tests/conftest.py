"""Fixtures and rules of all tests: number of processes, memory, real photographs and a real browser.

In CI the real photographs and the browser must be there.
"""

import ctypes
import gc
import inspect
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import chdir, contextmanager, redirect_stdout
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, settings

# a busy machine may take seconds for what otherwise takes a millisecond
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")

# TensorFlow's allocator for oneDNN keeps freed memory; malloc returns what it maps, here everything of 1 MiB or more
os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
# as load_keras does, for tests that import TensorFlow before it
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# workers and children get their memory in large pages: many small ones take a tenth of the processor time
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
# idle threads of OpenMP and OpenBLAS sleep: those that look for work take the processors from other tests
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
IS_LINUX = sys.platform == "linux"
M_MMAP_THRESHOLD = -3
if IS_LINUX:
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

MAX_WORKERS = 4
VGG16 = "VGG16"  # the files of tests that hold it, here or in a child, 1 GB or more: they run one after another
VGG16_FILES = {
    "tests/cli/test_demo.py",
    "tests/cli/test_real_data.py",
    "tests/cli/lesson/test_structure.py",
    "tests/featurecache/backbones/test_catalog.py",
    "tests/featurecache/backbones/test_conformance.py",
    "tests/featurecache/backbones/test_engines.py",
    "tests/featurecache/backbones/test_fidelity.py",
    "tests/featurecache/backbones/test_filters.py",
    "tests/featurecache/backbones/test_loading.py",
    "tests/featurecache/backbones/test_network.py",
    "tests/featurecache/backbones/test_numba_engine.py",
}
MEMORY_OF_A_WORKER = 2 << 30  # bytes
GROWTH = 200 << 20  # bytes by which a process may grow before networks are released


LINUX_MODULES = re.compile(r"^(import|from) (fcntl|resource|pwd|termios|pty)\b", re.MULTILINE)
LINUX_CALLS = re.compile(
    r"\b(mkfifo|setresuid|geteuid|RLIMIT_\w+|SIGKILL|SIGHUP|chmod|symlink_to|prlimit|unshare)\b|os\.(fork|kill)\b"
    r"|[\"']/(proc|dev|tmp)/"
)
LINUX_FIXTURES = frozenset(
    {"unprivileged", "open_folder", "memory_path", "drivers", "default_signals", "cats_and_dogs"}
)
"""What tests use that macOS or Windows does not have, or not in this way."""


def needs_linux(item):
    """Return whether a test uses what macOS or Windows does not have."""
    if not LINUX_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
        return True
    function = getattr(item, "function", None)
    return function is not None and bool(LINUX_CALLS.search(inspect.getsource(function)))


def pytest_ignore_collect(collection_path):
    """Leave out, on other systems, files that import modules that Linux has."""
    is_left_out = not IS_LINUX and collection_path.suffix == ".py" and collection_path.name.startswith("test_")
    return True if is_left_out and LINUX_MODULES.search(collection_path.read_text("utf-8")) else None


def _only_files(config):
    """Return whether files of tests are named, and no folder."""
    return not any(Path(argument.partition("::")[0]).is_dir() for argument in config.args)


def pytest_configure(config):
    """Run slow tests, too, where only files are named without ``-m``."""
    if _only_files(config) and "-m" not in config.invocation_params.args:
        config.option.markexpr = ""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Return how many processes ``-n auto`` starts: none (0) where only files are named, which run in this process.

    Slow tests often wait, for clusters and services: with them there is one process more than processors.
    """
    if _only_files(config):
        return 0
    waiting = int(config.option.markexpr != "not slow")
    from featurecache.processors import processor_count

    allowed = min(processor_count() + waiting, MAX_WORKERS)
    if not hasattr(os, "sysconf"):
        return allowed
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(allowed, memory // MEMORY_OF_A_WORKER))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Return a scheduler that gives a worker whole files, in their order, and all with VGG16 to the same worker."""
    if config.getoption("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False  # not by numbers of tests: long files have few of them
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return VGG16 if file in VGG16_FILES else file

    return Scheduling(config, log)


def _resident():
    """Return this process's resident memory in bytes; 0 where Linux does not tell."""
    if not IS_LINUX:
        return 0
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _release_memory():
    """Free Keras's networks that nothing refers to, and return freed memory to the system."""
    if "keras" in sys.modules:
        sys.modules["keras"].backend.clear_session(free_memory=False)
    _collect()


def _collect():
    gc.collect()
    if IS_LINUX:
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="module", autouse=True)
def _bounded_memory_of_a_module():
    """Release the networks of a module of tests when it has run."""
    before = _resident()
    yield
    if _resident() - before > GROWTH:
        _release_memory()


@pytest.fixture(autouse=True)
def _bounded_memory_of_a_test():
    """Release the networks of a test when it has run, so that the next one can build its own."""
    before = _resident()
    yield
    if _resident() - before > GROWTH:
        _collect()


@pytest.fixture(scope="session")
def release_memory():
    """Return a function that frees networks that nothing refers to."""
    return _release_memory


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect tests without Python's garbage collector, which leaves them and what they import alone afterwards, too.

    There are a million objects. To look through them all takes a second, again and again.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items):
    """Begin with the files that take most memory or time; skip tests of real data where it is missing.

    In CI tests of real data fail then, unless FEATURECACHE_REAL_DATA=absent.
    """
    here = Path(__file__).parent
    longest = {here, here / "scripts", here / "featurecache" / "cluster"}  # whole programs, benchmarks, real clusters
    longest |= {here / "heads" / "finetuning", here / "heads" / "test_beyond_memory.py"}
    largest = here / "featurecache" / "backbones" / "test_numba_engine.py"  # two networks of 550 MB beside each other
    items.sort(key=lambda item: (item.path != largest, longest.isdisjoint({item.path, item.path.parent})))
    if not IS_LINUX:
        for item in filter(needs_linux, items):
            item.add_marker(pytest.mark.skip(reason="needs Linux"))
    must_run = os.environ.get("CI") and os.environ.get("FEATURECACHE_REAL_DATA") != "absent"
    if SHARED_DATA.is_dir() or must_run:
        return
    skip = pytest.mark.skip(reason=f"no real data at {SHARED_DATA}")
    for item in items:
        if "real_data" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared_data():
    """Return the folder of real photographs and weights beside the repository."""
    return SHARED_DATA


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Return a function that fills a folder once, for all processes of this test run.

    Called with the folder's name and with a function that takes the empty folder and fills it; returns the folder.
    """
    base = tmp_path_factory.getbasetemp()
    base = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made-once"
    base.mkdir(exist_ok=True)

    def make(name, fill):
        from featurecache.storage.directory_lock import turn_in

        folder, finished, turn = (base / f"{name}{suffix}" for suffix in ("", ".finished", ".turn"))
        turn.mkdir(exist_ok=True)
        with turn_in(turn):
            if not finished.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                finished.touch()
        return folder

    return make


def _extract_photographs(folder, weights):
    """Run the documents' first command on ``catsdogs``: it writes ``catsdogs.h5``, and here ``extracted.txt``."""
    shutil.copy(weights, folder)
    program = Path(sys.executable).with_name("featurecache")
    options = ("--backbone", "mobilenet_v2", "--weights", weights.name)
    environment = os.environ | {"KERAS_HOME": str(folder / "keras")}
    with (folder / "extracted.txt").open("w") as out:
        subprocess.run(
            [program, "extract", "catsdogs", "catsdogs.h5", *options],
            stdout=out,
            cwd=folder,
            env=environment,
            check=True,
        )


@pytest.fixture(scope="session")
def mobilenet_weights(shared_data):
    """Return the file of MobileNetV2's ImageNet weights."""
    return shared_data / "weights" / "mobilenet_v2_1.0_224.weights.h5"


@pytest.fixture(scope="session")
def cats_and_dogs(request, made_once, shared_data, mobilenet_weights):
    """Return a folder with a fifth of the real photographs, `catsdogs`, their cache, `catsdogs.h5`, and the weights.

    ``featurecache extract`` made the cache with the pretrained MobileNetV2, and said `extracted.txt`. All is only to be
    read.
    """
    if any("all_cats_and_dogs" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("all_cats_and_dogs")  # first: a fifth then needs no pass

    def fill(folder):
        for directory in sorted((shared_data / "catsdogs").glob("*/*")):
            chosen = folder / "catsdogs" / directory.relative_to(shared_data / "catsdogs")
            chosen.mkdir(parents=True)
            for path in sorted(directory.iterdir())[::5]:
                (chosen / path.name).symlink_to(path)
        whole = folder.with_name("all_cats_and_dogs")
        if whole.with_suffix(".finished").exists():  # then no image passes through the network again
            shutil.copy(whole / "catsdogs.h5", folder)
        _extract_photographs(folder, mobilenet_weights)

    return made_once("cats_and_dogs", fill)


@pytest.fixture(scope="session")
def all_cats_and_dogs(made_once, shared_data, mobilenet_weights):
    """Return the same of all 1,500 photographs; it takes five times as long."""

    def fill(folder):
        (folder / "catsdogs").symlink_to(shared_data / "catsdogs")
        _extract_photographs(folder, mobilenet_weights)

    return made_once("all_cats_and_dogs", fill)


@pytest.fixture(scope="session")
def lesson_on_photographs(made_once, all_cats_and_dogs):
    """Return a function that gives a lesson on all photographs, once for its own tests and for the document.

    It returns a folder: what the lesson said is in `said.txt`, what it found in `results.json`, and its figures are in
    `featurecache-lesson`.
    """

    def give(name):
        from featurecache.cli.lesson.catalog import load_lesson
        from featurecache.cli.lesson.lesson_writer import LessonWriter

        def fill(folder):
            writer = LessonWriter(folder / "featurecache-lesson")
            with chdir(all_cats_and_dogs), redirect_stdout(io.StringIO()) as out:
                results = load_lesson(name)(writer, Path("catsdogs.h5"))
            (folder / "said.txt").write_text(out.getvalue().replace(f"{folder}/", ""), "utf-8")
            (folder / "results.json").write_text(json.dumps(results), "utf-8")

        return made_once(f"lesson-{name}", fill)

    return give


@pytest.fixture(autouse=True)
def _no_home(tmp_path_factory, monkeypatch):
    """Keep tests away from the user's own weights and caches."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path_factory.getbasetemp() / "keras"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def default_signals():
    """Return a context manager in which signals have their usual effect on this process and its children.

    A shell that starts pytest in the background makes it ignore SIGINT, nohup SIGHUP, and child processes inherit that.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL, signal.SIGTERM: signal.SIG_DFL}

    @contextmanager
    def restored():
        before = {number: signal.signal(number, handler) for number, handler in usual.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    return restored


@pytest.fixture(scope="session")
def browser_path():
    """Return the path of Chromium."""
    if CHROMIUM is None:
        _unavailable("there is no chromium, chromium-browser or google-chrome")
    return CHROMIUM


@pytest.fixture(scope="module")
def browser(browser_path):
    """Return a real Chromium."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _unavailable("playwright is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        yield browser
        browser.close()


def _unavailable(reason):
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI looks at reports in a real browser, and {reason}")
    pytest.skip(reason)


@pytest.fixture
def open_page(browser):
    """Open a page; whatever it then says on the console, asks of others or throws is a fault.

    A service may answer with an error, which the browser itself notes on the console.
    """
    contexts, faults = [], []

    def visit(url, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: _is_answer(message) or faults.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("request", lambda request: faults.append(request.url) if _is_from_outside(request.url, url) else None)
        page.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))
        page.goto(url)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert faults == []


def _is_answer(message):
    return message.type == "error" and message.text.startswith("Failed to load resource: ")


def _is_from_outside(url, page):
    """Whether a request leaves the page: the file that it is, or the service that it comes from."""
    if url.startswith(("data:", "blob:")):
        return False
    ours, theirs = urlsplit(page), urlsplit(url)
    return url != page if ours.scheme == "file" else (theirs.scheme, theirs.netloc) != (ours.scheme, ours.netloc)
