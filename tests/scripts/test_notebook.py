"""The notebook of a document: prose as it is, commands to be run, and the pictures that they draw."""

import subprocess
import sys

import nbformat
import pytest

from scripts import notebook as module
from scripts.notebook import notebook, write_notebook

TEXT = """\
# A title

What it is about.

## One

Prose with `code`, and a figure of this place:

```console
$ featurecache lesson one \\
    --out here
said at once

figure: here/one-a.png

figure: here/one-b.png
```

![what it shows](lesson/one-a.png)

More prose.

```console
said later; figure: none

one.png: 3 filters
$ featurecache heads | tail -n 2
```

```python
left = "as it is"
```
"""


@pytest.fixture
def cells():
    return [(cell.cell_type, cell.source) for cell in notebook(TEXT).cells]


def test_prose_commands_and_pictures_stand_in_the_order_of_the_text(cells):
    assert cells[0] == ("markdown", "# A title\n\nWhat it is about.")
    assert cells[2:] == [
        ("markdown", "## One\n\nProse with `code`, and a figure of this place:"),
        ("code", "!featurecache lesson one \\\n    --out here"),
        ("code", 'Image("here/one-a.png")'),
        ("code", 'Image("here/one-b.png")'),
        ("markdown", "More prose."),
        ("code", 'Image("one.png")'),
        ("code", "!featurecache heads | tail -n 2"),
        ("markdown", '```python\nleft = "as it is"\n```'),
    ]


def test_the_first_code_finds_the_commands_of_its_own_environment(cells, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("TERM", "xterm")
    assert cells[1][0] == "code"
    image = "from IPython.display import Image"
    assert image in cells[1][1]
    prepared = cells[1][1] + "\nimport shutil; print(shutil.which('featurecache'), os.environ['TERM'])"
    done = subprocess.run([sys.executable, "-c", prepared], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0].endswith("/bin/featurecache")
    assert done.stdout.split()[1] == "dumb"


def test_it_is_valid_without_outputs_and_the_same_each_time(tmp_path, monkeypatch):
    (tmp_path / "lesson.md").write_text(TEXT, "utf-8")
    monkeypatch.setattr(module, "DOCUMENTS", tmp_path)
    for name in ("first.ipynb", "second.ipynb"):
        write_notebook(tmp_path / name)
    assert (tmp_path / "first.ipynb").read_bytes() == (tmp_path / "second.ipynb").read_bytes()
    found = nbformat.read(tmp_path / "first.ipynb", as_version=nbformat.NO_CONVERT)
    nbformat.validate(found)
    assert found.metadata.kernelspec.name == "python3"
    assert all(not cell.outputs and cell.execution_count is None for cell in found.cells if cell.cell_type == "code")
