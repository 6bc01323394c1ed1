"""Programs for developers that run from a clone: benchmarks and generated documents."""
