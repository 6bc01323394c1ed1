"""``docs/service.md``: its examples run as they stand, its routes and options exist, its files can be read."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from featurecache.cli.app import app
from featurecache.options import ServiceOptions

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "service.md").read_text("utf-8")
DEPLOY = ROOT / "docs" / "deploy"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def documented(run_server, dataset, tmp_path, png, monkeypatch):
    """A server with the heads of the document, and a folder with its images."""
    for old, new in (("blue", "logreg"), ("red", "centroid")):
        shutil.copytree(dataset.heads / old, tmp_path / "heads" / new)
    for number, name in enumerate(("cat.jpg", "dog.jpg")):
        (tmp_path / name).write_bytes(png(number))
    shutil.copy(dataset.cache, tmp_path / "photos.h5")  # corrections lie beside it
    monkeypatch.chdir(tmp_path)
    return run_server(tmp_path / "heads", cache=tmp_path / "photos.h5")


def test_the_commands_run(documented):
    asked = [line for block in blocks("sh") for line in re.sub(r"\\\n", " ", block).splitlines() if "curl" in line]
    assert len(asked) >= 8
    for command in asked:
        here = command.replace("http://127.0.0.1:8000", documented.url).replace("avg_pool", "features")
        done = subprocess.run(
            ["/bin/bash", "-c", here.replace("curl ", "curl -sS --fail-with-body ")], capture_output=True, check=False
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        if "-o " not in command:
            assert json.loads(done.stdout), command
    assert (Path("cat.npy")).read_bytes().startswith(b"\x93NUMPY")


def test_the_answer_has_the_fields_of_the_example(documented, png):
    [example] = map(json.loads, blocks("json"))
    answer = documented.client.post("/predict", content=png(9)).json()
    assert answer.keys() == example.keys()
    [shown], [found] = example["results"], answer["results"]
    assert list(found) == list(shown)
    assert list(found["heads"]["logreg"]) == list(shown["heads"]["logreg"])


def test_the_python_example_runs(documented):
    [code] = blocks("python")
    here = "import warnings; warnings.simplefilter('ignore')\n" + code.replace("http://127.0.0.1:8000", documented.url)
    done = subprocess.run([sys.executable, "-c", here], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"cat\.jpg (dark|light) \w+\ndog\.jpg (dark|light) \w+\n", done.stdout)


def test_the_javascript_example_runs_in_the_page(documented, browser, png):
    [code] = blocks("javascript")
    context = browser.new_context()
    page = context.new_page()
    page.goto(documented.url)
    contents = [list(png(number)) for number in range(2)]
    results = page.evaluate(
        "async (contents) => { const files = contents.map((c, n) => new File([new Uint8Array(c)], `${n}.png`));"
        f"{code}; return results; }}",
        contents,
    )
    context.close()
    assert [result["name"] for result in results] == ["0.png", "1.png"]
    assert all(result["heads"]["logreg"]["class"] in {"dark", "light"} for result in results)


def test_routes_and_options_of_the_document_exist(documented):
    paths = documented.client.get("/openapi.json").json()["paths"]
    patterns = [re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)) for path in [*paths, "/", "/docs", "/openapi.json"]]
    named = {route for _, route in re.findall(r"`(GET|POST|DELETE) (/[^`]*)`", TEXT)}
    named |= {route.partition("?")[0] for route in re.findall(r"127\.0\.0\.1:8000(/[\w/.]*)", TEXT)}
    assert len(named) > 10
    assert [route for route in named if not any(re.fullmatch(pattern, route) for pattern in patterns)] == []
    command = typer.main.get_command(app).commands["serve"]
    options = {flag for parameter in command.params for flag in parameter.opts}
    assert set(re.findall(r"`(--[\w-]+)`", TEXT)) <= options
    defaults = dict(re.findall(r"\| `--([\w-]+)` \| (\d+) \|", TEXT))
    assert len(defaults) > 6
    for name, value in defaults.items():
        assert int(value) == getattr(ServiceOptions(), name.replace("-", "_")), name


def test_statuses_of_the_document_are_those_of_the_routes(documented):
    listed = set(re.findall(r"^\| (\d{3}) \|", TEXT, re.MULTILINE))
    paths = documented.client.get("/openapi.json").json()["paths"]
    declared = {status for methods in paths.values() for item in methods.values() for status in item["responses"]}
    assert listed <= declared


@pytest.mark.parametrize("name", ["featurecache-serve.service", "featurecache-serve.container"])
def test_units_call_the_command_with_options_that_it_has(name):
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / name).read_text("utf-8"))
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",), strict=False)
    parser.optionxform = str
    parser.read_string(text)
    call = parser["Service"]["ExecStart"] if name.endswith(".service") else parser["Container"]["Exec"]
    arguments = shlex.split(call.partition("serve ")[2])
    command = typer.main.get_command(app).commands["serve"]
    context = command.make_context("serve", arguments)
    assert context.params["head_dirs"]
    assert context.params["token_file"]


def test_nginx_passes_on_what_the_service_needs():
    text = (DEPLOY / "nginx.conf").read_text("utf-8")
    assert "proxy_set_header Host $host;" in text
    assert f"client_max_body_size {ServiceOptions().request_mb}m;" in text
    assert int(re.search(r"proxy_read_timeout (\d+)s;", text)[1]) > ServiceOptions().timeout
    assert text.count("{") == text.count("}")
