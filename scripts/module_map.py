"""``python -m scripts.module_map``: writes ``docs/reference/modules.md`` from the layers and the module docstrings."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAP = ROOT / "docs" / "reference" / "modules.md"
PACKAGES = ("featurecache", "heads")

_OPENING = """\
# Modules

`python -m scripts.module_map` writes this page from the layers in `pyproject.toml` and the modules' first sentences.

The first column is the layer, counted from the top; 10.2 is the second layer inside the package of layer 10. Compare
the layers of two modules of one table up to the first number that differs: the module with the smaller number may
import the other one, never the reverse. Modules with the same layer do not import each other. The `__init__.py` of a
package may import from all modules of that package. `heads` imports from `featurecache`, but not from the command
line, `featurecache.cli`, which imports from both. `__main__`, which starts the command line, has no layer.
"""


def module_map() -> str:
    """Return all modules by layer, each with the first sentence of its docstring, as Markdown."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    layers = {
        container: contract["layers"]
        for contract in contracts
        if contract["type"] == "layers"
        for container in contract.get("containers", ())
    }
    return "\n".join([_OPENING, *(_section(package, layers) for package in PACKAGES)])


def _section(package: str, layers: dict[str, list[str]]) -> str:
    """Return the table of one top-level package."""
    rows = [f"| {layer} | {cells} |" for layer, cells in _inside(ROOT / package, layers, "")]
    return "\n".join([f"## {package}", "", "| layer | module | its job |", "|---|---|---|", *rows, ""])


def _inside(package: Path, layers: dict[str, list[str]], prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the layer and the cells of all modules of a package, from the top layer down; modules without one last."""
    names = {entry.stem for entry in package.iterdir() if _is_module(entry)}
    for number, layer in enumerate(layers[_dotted(package)], 1):
        for name in layer.split(" | "):
            names.remove(name)
            yield from _module(package / name, layers, f"{prefix}{number}")
    for name in sorted(names):
        yield from _module(package / name, layers, "")


def _module(path: Path, layers: dict[str, list[str]], layer: str) -> Iterator[tuple[str, str]]:
    """Yield the layer and the cells of a module, or of a package and all its modules."""
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    yield layer, f"`{_dotted(path)}` | {_job(file)}"
    if path.is_dir():
        yield from _inside(path, layers, f"{layer}.")


def _dotted(path: Path) -> str:
    return path.relative_to(ROOT).as_posix().replace("/", ".")


def _is_module(path: Path) -> bool:
    return (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").exists()


def _job(path: Path) -> str:
    """Return the first sentence of a module's docstring."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n\n")[0].split())
    sentence = text.partition(". ")[0].rstrip(".")
    return sentence.replace("``", "`").replace("|", r"\|")


if __name__ == "__main__":
    MAP.write_text(module_map(), "utf-8")
