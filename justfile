# Commands of every day; `just` lists them. They run in the current environment: pip install -e '.[dev]'.

default:
    @just --list

# The fast tests
test *ARGS:
    pytest {{ARGS}}

# Style, types and the direction of imports
lint:
    ruff check .
    ruff format --check .
    mypy
    lint-imports

# All tests, as CI runs them
slow *ARGS:
    pytest -m 'slow or not slow' {{ARGS}}

# Generated documents, and the site in site/
docs:
    python -m scripts.command_reference
    python -m scripts.module_map
    python -m scripts.network_table
    python -m scripts.notebook
    NO_MKDOCS_2_WARNING=1 mkdocs build --strict

# A benchmark: extract, heads, noop, open, store, ...
bench NAME *ARGS:
    python -m scripts.bench {{NAME}} {{ARGS}}
