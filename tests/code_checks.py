"""Checks of source code by its syntax tree, for tests of rules that hold everywhere."""

import ast

WORDS = {"message", "fact", "reason"}  # attributes with text for people


def nodes(path):
    """Return all nodes of a file of source code."""
    return list(ast.walk(ast.parse(path.read_text("utf-8"))))


def reads_words(node):
    """Whether an expression compares a text for people, searches in it or cuts something out of it."""
    if isinstance(node, ast.Compare):
        return any(map(_is_words, (node.left, *node.comparators)))
    methods = {"startswith", "endswith", "replace", "removeprefix", "removesuffix", "partition", "split", "find"}
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(called, ast.Attribute) and called.attr in methods and _is_words(called.value)


def _is_words(node):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str" and node.args:
        return isinstance(node.args[0], ast.Name) and node.args[0].id in {"notice", "warning", "note", "failure"}
    return isinstance(node, ast.Attribute) and node.attr in WORDS


def prints_or_exits(node):
    """Whether an expression prints, or ends the process."""
    if isinstance(node, ast.Raise) and node.exc is not None:
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.unparse(raised) in {"SystemExit", "KeyboardInterrupt"}
    return isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "exit", "quit", "sys.exit", "os._exit"}


def opens_files(node):
    """Whether an expression joins a path to a root, or opens or reads a file.

    Opening a cache, or an object of an open HDF5 file, does not count.
    """
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return ast.unparse(node.left).rpartition(".")[2].strip("_").lower() == "root"
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name):
        return node.func.id == "open"
    if not isinstance(node.func, ast.Attribute):
        return False
    owner = ast.unparse(node.func.value).rpartition(".")[2]
    if node.func.attr == "open":
        return owner not in {"FeatureCache", "cache_rows", "h5o"}
    return node.func.attr in {"read_bytes", "read_text"} or (node.func.attr == "joinpath" and owner == "root")
