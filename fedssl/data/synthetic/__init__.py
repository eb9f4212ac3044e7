"""Federations that are drawn instead of read: complete runs without a single real image."""

from __future__ import annotations

from fedssl.data.synthetic.cases import GENERATOR_VERSION, SyntheticSource
from fedssl.data.synthetic.tables import SYNTHETIC, synthetic_tables

__all__ = ["GENERATOR_VERSION", "SYNTHETIC", "SyntheticSource", "synthetic_tables"]
