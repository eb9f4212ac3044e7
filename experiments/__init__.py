"""Experiments that anyone can rerun: TOML files, a runner over grids and seeds, and its tables."""
