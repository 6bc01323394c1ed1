"""Benchmarks: ``python -m scripts.bench NAME``; each measures one promise and prints a table, or JSON with --json."""
