"""Measurements, each a script that anyone can run: ``python -m benchmarks.NAME --help``."""
