"""Measurements of speed, one command each; they write JSON into `benchmarks/results`."""
