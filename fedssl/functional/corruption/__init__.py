"""Masks of varying quality: operations, their registry, and the generator that draws them."""

from __future__ import annotations

from fedssl.functional.corruption.generator import (
    CLASS_PROBABILITIES,
    SCRIPT_PROBABILITIES,
    WEAK_PROBABILITY,
    Corrupted,
    CorruptedClasses,
    corrupt,
    corrupt_classes,
)
from fedssl.functional.corruption.masks import Mask, dice
from fedssl.functional.corruption.registry import (
    BLOBS,
    CATASTROPHIC,
    CHAINED,
    HEAVY,
    OPERATIONS,
    SINGLE,
    Operation,
)
from fedssl.functional.corruption.soft import SoftMask, soften

__all__ = [
    "BLOBS",
    "CATASTROPHIC",
    "CHAINED",
    "CLASS_PROBABILITIES",
    "HEAVY",
    "OPERATIONS",
    "SCRIPT_PROBABILITIES",
    "SINGLE",
    "WEAK_PROBABILITY",
    "Corrupted",
    "CorruptedClasses",
    "Mask",
    "Operation",
    "SoftMask",
    "corrupt",
    "corrupt_classes",
    "dice",
    "soften",
]
